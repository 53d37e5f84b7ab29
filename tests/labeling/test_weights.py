"""Promoted tokens and nearest directions, against the model itself and against sae-lens's weights."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from labeling.events import Artifact
from labeling.harvest import open_reference
from labeling.weights import describe, norm_scale, unembedding
from tests.fakes import tiny_reference, tiny_sae


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    folder = tmp_path_factory.mktemp("weights")
    model, sae = open_reference(str(tiny_reference(folder / "m")), str(tiny_sae(folder / "s")), dtype=torch.float32)
    with torch.no_grad():  # a final norm that matters
        model.model.model.norm.weight.copy_(torch.linspace(0.2, 3, 32))
    *_, last = describe(model, sae, folder / "out", {"reference_id": 7})
    assert isinstance(last, Artifact) and last.info["reference_id"] == 7 and last.info["logits"]
    with np.load(folder / "out" / "weights.npz") as table:
        return model, sae, dict(table), json.loads((folder / "out" / "tokens.json").read_text())


def test_promoted_tokens_are_what_the_model_s_own_head_makes_of_the_direction(described: tuple) -> None:
    model, sae, table, names = described
    with torch.inference_mode():
        direction = sae.sae.W_dec[5]
        # RMSNorm of a vector of mean square 1 only scales it.
        unit = direction * (32**0.5 / direction.norm())
        effect = model.model.lm_head(model.model.model.norm(unit)) * (direction.norm() / 32**0.5)
        effect[model.tokenizer.all_special_ids] = 0
    assert table["promoted"][5].tolist() == effect.topk(10).indices.tolist()
    assert table["suppressed"][5].tolist() == effect.topk(10, largest=False).indices.tolist()
    np.testing.assert_allclose(table["promoted_logit"][5], effect.topk(10).values, rtol=1e-3, atol=1e-4)
    assert all(names[str(token)] for token in table["promoted"][5])


def test_the_nearest_direction_is_by_cosine_and_never_itself(described: tuple) -> None:
    _, sae, table, _ = described
    unit = nn.functional.normalize(sae.sae.W_dec.detach(), dim=1)
    cosine = (unit @ unit.T).fill_diagonal_(-2)
    assert table["near"][:, 0].tolist() == cosine.argmax(1).tolist()
    np.testing.assert_allclose(table["near_cosine"][:, 0], cosine.max(1).values, rtol=1e-5)


def test_the_scale_of_any_norm_is_found_by_asking_it() -> None:
    weight = torch.linspace(0.5, 2, 8)
    layer, rms = nn.LayerNorm(8), nn.RMSNorm(8)
    with torch.no_grad():
        layer.weight.copy_(weight), layer.bias.fill_(3), rms.weight.copy_(weight)
        for norm in (layer, rms):
            torch.testing.assert_close(norm_scale(norm, 8), weight, rtol=1e-4, atol=1e-4)


def test_without_an_output_head_or_off_the_residual_stream_there_are_no_logits(described: tuple) -> None:
    model = described[0]
    assert unembedding(model, "blocks.2.attn.hook_z") is None
    head = model.model.lm_head
    try:
        model.model.get_output_embeddings = lambda: None
        assert unembedding(model, "blocks.2.hook_resid_post") is None
    finally:
        del model.model.get_output_embeddings
    assert model.model.get_output_embeddings() is head
