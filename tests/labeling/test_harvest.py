"""What the store holds is what the model and the SAE say, whatever happened on the way."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labeling import harvest as module
from labeling.artifacts import MANIFEST, verify
from labeling.events import Artifact, Progress
from labeling.harvest import HarvestConfig, StoreDocument, harvest, open_reference
from labeling.references import Reference
from labeling.saes import LoadedSAE
from labeling.store import Store
from tests import fakes

CONFIG = HarvestConfig(shard_tokens=300, batch_tokens=256, overlap=16)
INFO = {"reference": "tiny"}
torch.set_num_threads(1)  # on matrices this small, threads only wait for each other


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("models")
    return str(fakes.tiny_reference(root / "reference")), str(fakes.tiny_sae(root / "sae", context=64))


@pytest.fixture(scope="module")
def opened(folders: tuple[str, str]) -> tuple[Reference, LoadedSAE]:
    return open_reference(*folders, dtype=torch.float32)


def make_documents() -> list[StoreDocument]:
    splits = ["train", "train", "validation", "train", "test"]
    found = [StoreDocument(d.id, d.text, d.family or "", splits[i % 5]) for i, d in enumerate(fakes.corpus(21))]
    return [*found, StoreDocument("long", " ".join(d.text for d in found), "sport", "train")]


@pytest.fixture(scope="module")
def documents() -> list[StoreDocument]:
    return make_documents()


@pytest.fixture(scope="module")
def store(opened: tuple, documents: list, tmp_path_factory: pytest.TempPathFactory) -> Store:
    *_, last = harvest(documents, *opened, tmp_path_factory.mktemp("store") / "store", CONFIG, INFO)
    assert isinstance(last, Artifact)
    return Store.open(last.path)


def test_values_equal_the_sae_applied_directly(opened: tuple, documents: list, store: Store) -> None:
    """Documents that fit one window, against `hidden_states[L + 1]` and sae-lens's own encode."""
    reference, sae = opened
    dense = np.zeros((store.n_tokens, store.d_sae), np.float32)
    for latent in range(store.d_sae):
        where, values = store.latent(latent)
        dense[where, latent] = values
    compared = 0
    for i, document in enumerate(documents):
        (tokens,) = reference.tokenize([document.text])
        at = store.document(i)
        np.testing.assert_array_equal(store.ids[at], tokens.ids)
        np.testing.assert_array_equal(store.starts[at], tokens.starts)
        if len(tokens) > 63:
            continue
        with torch.inference_mode():
            fed = torch.tensor([[reference.tokenizer.bos_token_id, *tokens.ids]])
            hidden = reference.model(fed, output_hidden_states=True).hidden_states[reference.layer + 1]
            expected = sae.sae.encode(hidden[0, 1:]).numpy()
        np.testing.assert_allclose(dense[at], expected, rtol=1e-3, atol=1e-4)
        compared += 1
    assert compared > 5


def test_every_token_of_a_long_document_is_scored_once(documents: list, store: Store) -> None:
    long = store.document(store.index_of("long"))
    assert long.stop - long.start > 1000
    fired = np.zeros(store.n_tokens, int)
    for latent in range(store.d_sae):
        where, _ = store.latent(latent)
        assert (np.diff(where) > 0).all()
        fired[where] += 1
    assert fired.max() <= 8  # k of the SAE; twice that where a token was scored twice
    assert (fired[long] > 0).all()


def test_statistics_come_from_train_only(documents: list, store: Store) -> None:
    train = store.token_split_mask("train")
    assert 0 < train.sum() < store.n_tokens
    dense = np.zeros((store.n_tokens, store.d_sae))
    for latent in range(store.d_sae):
        where, values = store.latent(latent)
        dense[where, latent] = values
    np.testing.assert_allclose(store.stats.mean, dense[train].mean(0))
    np.testing.assert_allclose(store.stats.sd, dense[train].std(0))
    np.testing.assert_array_equal(store.stats.active.sum(1), (dense[train] > 0).sum(0))
    assert not np.allclose(store.stats.mean, dense.mean(0))


def test_the_manifest_says_what_the_store_was_made_with(store: Store, folders: tuple[str, str]) -> None:
    assert store.info["reference"] == "tiny"
    assert store.info["model"] == folders[0]
    assert store.info["layer"] == 2
    assert store.info["tokens"] == store.n_tokens
    assert store.info["families"] == ["biology", "clinic", "sport"]
    assert 0 < store.info["l0"] <= 8
    assert len(store.shards) > 3
    verify(store.path, "store")


def _files(path: Path) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in json.loads((path / MANIFEST).read_text())["files"].items()}


@pytest.mark.parametrize("stop_after", [5, 9, 14])
def test_an_interrupted_harvest_continues_to_the_same_store(
    stop_after: int, opened: tuple, documents: list, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "store"
    running = harvest(documents, *opened, out, CONFIG, INFO)
    for _ in range(stop_after):
        next(running)
    running.close()
    assert not out.exists()
    whole = {p.name for p in (tmp_path / "store.partial" / "shards").iterdir() if not p.name.startswith(".")}
    written: list[str] = []
    write = module.write_shard

    def counted(folder: Path, *rest: Any) -> None:
        written.append(folder.name)
        write(folder, *rest)

    monkeypatch.setattr(module, "write_shard", counted)
    list(harvest(documents, *opened, out, CONFIG, INFO))
    assert len(written) + len(whole) == len(store.shards)
    assert _files(out) == _files(store.path)
    assert not (tmp_path / "store.partial").exists()


@pytest.mark.slow
def test_a_harvest_killed_outright_continues_to_the_same_store(
    folders: tuple[str, str], opened: tuple, documents: list, store: Store, tmp_path: Path
) -> None:
    program = """
import sys, torch
from pathlib import Path
from labeling.harvest import harvest, open_reference
from tests.labeling.test_harvest import CONFIG, INFO, make_documents
opened = open_reference(*sys.argv[1:3], dtype=torch.float32)
list(harvest(make_documents(), *opened, Path(sys.argv[3]), CONFIG, INFO))
"""
    running = subprocess.Popen([sys.executable, "-c", program, *folders, str(tmp_path / "store")])
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "store.partial" / "shards" / "00001").exists() and time.monotonic() < deadline:
            time.sleep(0.001)
    finally:
        running.kill()
        running.wait()
    assert not (tmp_path / "store").exists()
    list(harvest(documents, *opened, tmp_path / "store", CONFIG, INFO))
    assert _files(tmp_path / "store") == _files(store.path)


def test_shards_of_other_documents_are_not_taken_over(opened: tuple, documents: list, tmp_path: Path) -> None:
    running = harvest(documents, *opened, tmp_path / "store", CONFIG, INFO)
    while not (tmp_path / "store.partial" / "shards" / "00000").exists():
        next(running)
    running.close()
    list(harvest(documents[::-1], *opened, tmp_path / "store", CONFIG, INFO))
    list(harvest(documents[::-1], *opened, tmp_path / "fresh", CONFIG, INFO))
    assert _files(tmp_path / "store") == _files(tmp_path / "fresh")


def test_progress_counts_every_token_once(opened: tuple, documents: list, store: Store, tmp_path: Path) -> None:
    events = list(harvest(documents, *opened, tmp_path / "store", CONFIG, INFO))
    done = [e.done for e in events if isinstance(e, Progress) and e.note == "harvest"]
    assert done == sorted(done)
    assert done[-1] == store.n_tokens
    assert {e.total for e in events if isinstance(e, Progress) and e.note == "harvest"} == {store.n_tokens}


def test_postings_are_the_same_in_small_pieces(opened: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    _, sae = opened
    acts = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    whole = [np.concatenate(part) for part in zip(*module.postings(sae, acts), strict=True)]
    monkeypatch.setattr(module, "DENSE_CELLS", 7 * sae.d_sae)
    pieces = [np.concatenate(part) for part in zip(*module.postings(sae, acts), strict=True)]
    for a, b in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("hook", ["hook_embed", "blocks.3.hook_resid_mid"])
def test_saes_on_places_that_are_not_hooked_are_refused(hook: str, folders: tuple[str, str], tmp_path: Path) -> None:
    sae = fakes.tiny_sae(tmp_path / "sae")
    config = json.loads((sae / "cfg.json").read_text())
    config["metadata"]["hook_name"] = hook
    (sae / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"the SAE reads {hook}"):
        open_reference(folders[0], str(sae))


def test_an_sae_of_another_width_or_block_is_refused(folders: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="32"):
        open_reference(folders[0], str(fakes.tiny_sae(tmp_path / "wide", d_in=48)), 2)
    with pytest.raises(ValueError, match="give layer 2"):
        open_reference(*folders, 1)


def test_bos_and_context_follow_the_sae(folders: tuple[str, str], tmp_path: Path) -> None:
    sae = fakes.tiny_sae(tmp_path / "sae", context=32, prepend_bos=False)
    reference, _ = open_reference(folders[0], str(sae))
    assert reference.prefix == []
    assert reference.context == 32
    assert reference.layer == 2


def test_no_documents_or_doubled_keys_are_refused(opened: tuple, documents: list, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no documents"):
        list(harvest([], *opened, tmp_path / "store"))
    with pytest.raises(ValueError, match="same key"):
        list(harvest([documents[0], documents[0]], *opened, tmp_path / "store"))
