import json
from pathlib import Path

import pytest
import torch

from labeling.artifacts import verify
from labeling.examples import TrainConfig
from labeling.export import model_card, write_classifier
from labeling.predict import load_classifier
from labeling.train import untrained
from tests.fakes import tiny_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("export")
    classifier = untrained(TrainConfig(str(tiny_encoder(root / "encoder")), window=64, overlap=16))
    info = {
        "name": "clinic",
        "definition": "Includes doses. Excludes wellness.",
        "validation": {"f1": 0.8125, "words": 9},
    }
    write_classifier(classifier, root / "made", info)
    return root / "made"


def test_the_folder_holds_what_is_documented_and_no_pickle(folder: Path) -> None:
    files = set(verify(folder, "classifier")["files"])
    assert {"model.safetensors", "config.json", "tokenizer.json", "tokensieve.json", "README.md"} <= files
    assert not {name for name in files if name.endswith((".bin", ".pt", ".pkl"))}


def test_settings_come_back_as_given(folder: Path) -> None:
    settings = json.loads((folder / "tokensieve.json").read_text())
    assert {k: settings[k] for k in ("threshold", "window", "overlap", "smooth")} == {
        "threshold": 0.5, "window": 64, "overlap": 16, "smooth": 0,
    }  # fmt: skip
    loaded = load_classifier(folder)
    assert (loaded.window, loaded.overlap, loaded.settings["name"]) == (64, 16, "clinic")


def test_a_transformers_user_needs_nothing_of_ours(folder: Path) -> None:
    from transformers import pipeline

    found = pipeline("token-classification", model=str(folder))("The nurse inserted a catheter.")
    assert {f["entity"] for f in found} <= {"RETAIN", "FORGET"} and len(found) >= 6


def test_nothing_in_the_folder_tells_where_it_was_made(folder: Path) -> None:
    for path in folder.iterdir():
        if path.suffix in (".json", ".md"):
            assert str(folder.parent) not in path.read_text(encoding="utf-8"), path.name


def test_the_head_stays_exact_when_the_rest_runs_in_bf16(folder: Path) -> None:
    from safetensors.torch import load_file

    torch.testing.assert_close(
        load_classifier(folder).head.weight,
        load_file(folder / "model.safetensors")["classifier.weight"],
        rtol=0,
        atol=0,
    )


def test_the_card_says_what_is_flagged_and_how_well(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert "Excludes wellness." in card and "| f1 | 0.8125 |" in card and "weak" in card
    assert card.startswith("---\nlibrary_name: transformers\n")


def test_a_card_can_be_written_without_a_definition() -> None:
    assert "No definition was recorded." in model_card({"threshold": 0.5, "window": 256, "overlap": 64, "smooth": 0})
