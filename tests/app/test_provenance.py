"""What an export says of its making, and what it keeps to itself."""

from pathlib import Path

import pytest

from app.provenance import shareable


@pytest.mark.parametrize("name", ["google/gemma-2-9b", "gemma-scope-9b-pt-res/layer_31/width_16k", "gpt2"])
def test_what_the_hub_calls_it_is_told_whole(name: str) -> None:
    assert shareable(name) == name


def test_of_a_folder_only_its_name_leaves_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "smollm2"
    assert shareable(str(folder)) == "smollm2"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    assert shareable(f"../{tmp_path.name}/smollm2") == "smollm2"
