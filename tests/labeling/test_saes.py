"""How well an SAE reconstructs, with and without the few tokens that attention rests on."""

import json
from pathlib import Path

import pytest
import torch

from labeling.events import Metric
from labeling.sae_training import evaluate_on_text
from labeling.saes import LoadedSAE, evaluate_reconstruction, fvu, load_sae, unexplained, usual
from tests import fakes

torch.set_num_threads(1)  # on matrices this small, threads only wait for each other


@pytest.fixture
def sae(tmp_path: Path) -> LoadedSAE:
    return load_sae(str(fakes.tiny_sae(tmp_path / "sae")))


@pytest.fixture
def acts(sae: LoadedSAE) -> torch.Tensor:
    return torch.randn(200, sae.d_in, generator=torch.Generator().manual_seed(0))


def with_sinks(sae: LoadedSAE, acts: torch.Tensor) -> torch.Tensor:
    """Three states of a thousand times the norm in front, along one latent: reconstructed well."""
    direction = torch.nn.functional.normalize(sae.sae.W_dec[:1].detach(), dim=1)
    return torch.cat([1000 * direction * acts.norm(dim=1).median() * torch.tensor([[1.0], [1.1], [0.9]]), acts])


def perfect_sae(folder: Path, d_in: int = 32) -> Path:
    """Each dimension has a latent for either sign, so that nothing is lost."""
    from sae_lens import StandardSAE, StandardSAEConfig

    made = StandardSAE(StandardSAEConfig(d_in=d_in, d_sae=2 * d_in, dtype="float32", device="cpu", apply_b_dec_to_input=False))  # fmt: skip
    with torch.no_grad():
        made.W_enc.copy_(torch.cat([torch.eye(d_in), -torch.eye(d_in)], dim=1))
        made.W_dec.copy_(made.W_enc.T)
    made.cfg.metadata.hook_name = "blocks.2.hook_resid_post"
    made.save_model(str(folder))
    return folder


def test_what_reconstructs_everything_costs_no_loss(tmp_path: Path) -> None:
    model, sae, text = fakes.tiny_reference(tmp_path / "model"), perfect_sae(tmp_path / "sae"), tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for d in fakes.corpus(9)))
    events = evaluate_on_text([f"{text}=250"], str(model), str(sae))
    figures = {e.name: e.value for e in events if isinstance(e, Metric)}
    assert 250 <= figures["tokens"] < 500
    assert figures["held_out_fvu"] < 1e-9 and figures["held_out_fvu_usual"] < 1e-9
    assert figures["loss_reconstructed"] == pytest.approx(figures["loss_clean"], rel=1e-3)
    assert figures["loss_recovered"] == pytest.approx(1, abs=0.05)
    assert abs(figures["loss_zeroed"] - figures["loss_clean"]) > 0.1
    text.write_text("{}\n")
    with pytest.raises(ValueError, match="no documents to evaluate on"):
        list(evaluate_on_text([str(text)], str(model), str(sae)))


def test_fvu_by_hand() -> None:
    states = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert unexplained(torch.tensor([0.5, 0.0]), states) == 0.25
    assert unexplained(states.pow(2).sum(1), states) == 1.0  # predicting the mean


def test_tokens_that_attention_rests_on_do_not_drown_the_rest(sae: LoadedSAE, acts: torch.Tensor) -> None:
    both = with_sinks(sae, acts)
    assert usual(both).tolist() == [False] * 3 + [True] * 200
    assert fvu(sae, both) == pytest.approx(fvu(sae, acts))


def test_an_evaluation_says_both_and_counts_them(sae: LoadedSAE, acts: torch.Tensor) -> None:
    plain, report = evaluate_reconstruction(sae, acts), evaluate_reconstruction(sae, with_sinks(sae, acts))
    assert plain["held_out_massive"] == 0 and plain["held_out_fvu"] == plain["held_out_fvu_usual"]
    assert report["held_out_massive"] == 3
    assert report["held_out_fvu_usual"] == pytest.approx(plain["held_out_fvu"])
    assert report["held_out_fvu_usual"] == pytest.approx(fvu(sae, acts))
    assert abs(report["held_out_fvu"] - plain["held_out_fvu"]) > 0.1
