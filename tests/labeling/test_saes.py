"""How well an SAE reconstructs, with and without the few tokens that attention rests on."""

from pathlib import Path

import pytest
import torch

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
