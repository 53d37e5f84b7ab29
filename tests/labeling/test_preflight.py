"""The checklist tells a fitting SAE from one that reads another block, another BOS or another model."""

from pathlib import Path
from typing import Any

import pytest
import torch

from labeling.harvest import open_reference
from labeling.preflight import Report, preflight
from labeling.references import Reference
from labeling.saes import LoadedSAE
from tests import fakes

TEXTS = [d.text for d in fakes.corpus(30)]
torch.set_num_threads(1)  # on matrices this small, threads only wait for each other


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(fakes.tiny_gemma2(tmp_path_factory.mktemp("models") / "gemma-2-tiny"))


def fitted(model: str, folder: Path, layer: int = 2, says: int = 2, bos: bool = True) -> tuple[Reference, LoadedSAE]:
    """An SAE fitted to block `layer` that says it reads block `says`, and the reference opened with it."""
    fakes.fitted_gemma_scope(folder / f"layer_{says}", model, layer, TEXTS, prepend_bos=bos)
    return open_reference(model, str(folder / f"layer_{says}"), dtype=torch.float32)


def run(reference: Reference, sae: LoadedSAE, texts: list[str] = TEXTS) -> tuple[Report, dict[str, Any]]:
    *_, report = preflight(reference, sae, texts)
    assert isinstance(report, Report)
    return report, {check.name: (check.state, check.text) for check in report.checks}


def test_a_fitting_sae_passes(model: str, tmp_path: Path) -> None:
    report, checks = run(*fitted(model, tmp_path))
    assert report.passed, checks
    assert checks["Reconstruction"][0] == checks["BOS"][0] == checks["Numbers"][0] == checks["Vocabulary"][0] == "pass"
    for block in (1, 2, 3):
        assert f"at block {block}" in checks["Reconstruction"][1]
    assert [block for block, _ in report.around] == [1, 2, 3] and min(report.around, key=lambda at: at[1])[0] == 2
    assert 1500 <= report.tokens <= 2000
    assert report.figures["fvu"] < 0.5


def test_an_off_by_one_names_the_better_block(model: str, tmp_path: Path) -> None:
    report, checks = run(*fitted(model, tmp_path, layer=1))
    assert not report.passed
    assert checks["Reconstruction"][0] == "fail"
    assert "block 1 is reconstructed better" in checks["Reconstruction"][1]


def test_an_sae_of_another_model_of_the_same_width_explains_nothing(model: str, tmp_path: Path) -> None:
    reference, sae = fitted(model, tmp_path)
    with torch.no_grad():
        for tensor in sae.sae.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3)))
    report, checks = run(reference, sae)
    assert not report.passed
    assert "explains almost nothing" in checks["Reconstruction"][1]


def test_the_l0_is_held_against_what_was_published(model: str, tmp_path: Path) -> None:
    reference, sae = fitted(model, tmp_path)
    for published, state in ((report_l0(reference, sae), "pass"), (4.0, "fail"), (900.0, "fail")):
        sae.metadata["l0"] = published
        assert run(reference, sae)[1]["L0"][0] == state
    sae.metadata.pop("l0")
    assert "none published" in run(reference, sae)[1]["L0"][1]


def report_l0(reference: Reference, sae: LoadedSAE) -> float:
    return run(reference, sae)[0].figures["l0"]


def test_numbers_that_are_not_finite_or_too_large_fail(model: str, tmp_path: Path) -> None:
    reference, sae = fitted(model, tmp_path)
    with torch.no_grad():
        sae.sae.W_enc.mul_(1e7)
    assert "float16" in run(reference, sae)[1]["Numbers"][1]
    with torch.no_grad():
        sae.sae.W_enc.fill_(torch.nan)
    report, checks = run(reference, sae)
    assert not report.passed and checks["Numbers"][0] == checks["Reconstruction"][0] == "fail"


def test_a_model_by_another_name_is_pointed_out(model: str, tmp_path: Path) -> None:
    reference, sae = fitted(model, tmp_path)
    for claimed, state in (("google/gemma-2-tiny", "pass"), ("gpt2-small", "warn"), (None, "warn")):
        sae.metadata["model_name"] = claimed
        assert run(reference, sae)[1]["Model"][0] == state


def test_a_tokenizer_of_another_model_fails(model: str, tmp_path: Path) -> None:
    reference, sae = fitted(model, tmp_path)
    reference.tokenizer.unk_token = "."
    assert run(reference, sae)[1]["Vocabulary"][0] == "fail"


def test_without_text_there_is_nothing_to_check(model: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no text"):
        list(preflight(*fitted(model, tmp_path), [""]))
