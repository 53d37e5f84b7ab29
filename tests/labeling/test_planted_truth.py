"""Planted truth, from text to ranking: a model whose residual stream names the concept, an SAE that reads it.

Blocks are emptied, so the stream is the embedding. Five dimensions each stand for some tokens that only
clinical text has, three more for such tokens and biology's (near misses); the other latents read noise.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from labeling.discovery import discover, open_table
from labeling.harvest import StoreDocument, harvest, open_reference
from labeling.store import Store
from labeling.trial import activations_on
from tests.fakes import SIDES, corpus, tiny_reference, tiny_sae

PLANTED, NEAR_MISS, D_SAE = range(5), range(5, 8), 64


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    folder = tmp_path_factory.mktemp("pair")
    sae_folder = tiny_sae(folder / "sae", d_sae=D_SAE, k=12)
    reference, sae = open_reference(str(tiny_reference(folder / "model")), str(sae_folder), dtype=torch.float32)
    documents = corpus(150)
    tokens = reference.tokenize([d.text for d in documents])
    of = {f: {int(i) for d, t in zip(documents, tokens, strict=True) if d.family == f for i in t.ids} for f in SIDES}
    clinical = sorted(of["clinic"] - of["sport"] - of["biology"])
    biological = sorted(of["biology"] - of["sport"] - of["clinic"])
    assert len(clinical) > 20 and len(biological) > 10
    with torch.no_grad():
        for block in reference.blocks:
            block.self_attn.o_proj.weight.zero_(), block.mlp.down_proj.weight.zero_()
        embedding = reference.model.get_input_embeddings().weight
        embedding[:, :8] = 0
        for d in PLANTED:
            embedding[clinical[d :: len(PLANTED)], d] = 3
        for d in NEAR_MISS:
            embedding[clinical[d - 5 :: 9] + biological[d - 5 :: 3], d] = 3
        sae.sae.W_enc[:, :8] = torch.eye(32, 8)
        sae.sae.W_enc[:8, 8:] = 0
        sae.sae.b_enc.zero_(), sae.sae.b_dec.zero_()
    return reference, sae, documents


def test_discovery_s_top_k_holds_all_planted_latents(pair: tuple, tmp_path: Path) -> None:
    reference, sae, documents = pair
    rows = [StoreDocument(d.id, d.text, d.family, "test" if i % 6 == 5 else "train") for i, d in enumerate(documents)]
    for _ in harvest(rows, reference, sae, tmp_path / "store"):
        pass
    texts = {d.id: d.text for d in documents}
    for _ in discover(tmp_path / "store", SIDES, tmp_path / "discovery", z=2.0, text_of=texts.__getitem__):
        pass
    table, info, words = open_table(tmp_path / "discovery")
    best = np.argsort(-table["ratio"], kind="stable")[: len(PLANTED)]
    assert set(best.tolist()) == set(PLANTED)
    nearest = np.argsort(-table["ratio_nearest"], kind="stable")[: len(PLANTED)]
    assert set(nearest.tolist()) == set(PLANTED)
    biology, sport = (table["family_ratio"][:, info["families"].index(f)] for f in ("biology", "sport"))
    for n in NEAR_MISS:
        assert table["ratio_nearest"][n] == biology[n] < min(5, sport[n]), n
    assert words is not None and all(words[int(table["top_tokens"][n, 0])] for n in PLANTED)


def test_own_text_reads_as_a_harvest_would(pair: tuple, tmp_path: Path) -> None:
    reference, sae, documents = pair
    text = max((d.text for d in documents if d.family == "clinic"), key=len) * 3  # several windows
    for _ in harvest([StoreDocument("a", text, "clinic", "train")], reference, sae, tmp_path / "store"):
        pass
    store = Store.open(tmp_path / "store")
    where, values = store.latent(0)
    found = activations_on(reference, sae, 0, text)
    assert [(a, b) for a, b, _ in found] == list(zip(store.starts.tolist(), store.ends.tolist(), strict=True))
    np.testing.assert_allclose(np.array([v for *_, v in found])[where], values, rtol=2e-3)
    assert sum(v > 0 for *_, v in found) == len(where) > 0
    with pytest.raises(ValueError, match="0 to 63"):
        activations_on(reference, sae, 64, text)
