"""Training survives a kill with the very same weights, and sae-lens reads what it leaves."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from labeling.documents import Document
from labeling.events import Artifact, Event, Metric, Progress
from labeling.references import Reference
from labeling.sae_training import Batches, SAEConfig, harvest_dense, take_tokens, train_sae
from labeling.saes import evaluate_reconstruction, load_sae
from tests import fakes

D_IN, FEATURES = 16, 24
torch.set_num_threads(1)  # on matrices this small, threads only wait for each other


def _config(architecture: str = "topk", steps: int = 120) -> SAEConfig:
    return SAEConfig(
        "planted", 1, d_sae=32, k=3, architecture=architecture, samples=64 * steps, batch=64, lr=3e-3, warmup_steps=10,
        context=32, pool_shards=2,
    )  # fmt: skip


def _planted(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Sparse sums of fixed unit directions: what a dictionary is meant to find."""
    directions = torch.randn(FEATURES, D_IN, generator=torch.Generator().manual_seed(9))
    directions /= directions.norm(dim=1, keepdim=True)
    weights = torch.zeros(rows, FEATURES)
    which = torch.stack([torch.randperm(FEATURES, generator=generator)[:3] for _ in range(rows)])
    weights.scatter_(1, which, 1 + torch.rand(rows, 3, generator=generator))
    return 5 * weights @ directions


@pytest.fixture
def work(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    (tmp_path / "acts").mkdir()
    for name, rows in (("held-out", 200), ("train-00000", 700), ("train-00001", 500), ("train-00002", 600)):
        acts = _planted(rows, generator).to(torch.bfloat16)
        save_file({"acts": acts}, tmp_path / "acts" / f"{name}.safetensors", metadata={"digest": name})
    return tmp_path


def _until(events: Iterator[Event], folder: Path) -> None:
    """Run until the first checkpoint lies on disk, then close, as a cancelled job does."""
    for _ in events:
        if (folder / "checkpoint" / "state.json").exists():
            break
    events.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu"])
def test_a_resumed_run_ends_with_the_same_weights(work: Path, architecture: str) -> None:
    config = _config(architecture)
    list(train_sae(work, config, D_IN, work / "undisturbed", checkpoint_every=1000))
    running = train_sae(work, config, D_IN, work / "resumed", checkpoint_every=50)
    _until(running, work)
    assert not (work / "resumed").exists()
    first = next(e for e in train_sae(work, config, D_IN, work / "resumed") if isinstance(e, Progress))
    assert first.done == 60 * config.batch  # went on after step 50, did not start again
    list(train_sae(work, config, D_IN, work / "resumed", checkpoint_every=50))
    one, other = (load_file(work / name / "sae_weights.safetensors") for name in ("undisturbed", "resumed"))
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_a_checkpoint_of_another_configuration_is_refused(work: Path) -> None:
    _until(train_sae(work, _config(), D_IN, work / "sae", checkpoint_every=20), work)
    with pytest.raises(ValueError, match="another configuration"):
        list(train_sae(work, _config(steps=200), D_IN, work / "sae"))


def test_training_learns_the_planted_dictionary_and_sae_lens_loads_it(work: Path) -> None:
    from sae_lens import SAE

    *events, last = train_sae(work, _config(steps=400), D_IN, work / "sae")
    assert isinstance(last, Artifact)
    assert last.info["held_out_fvu"] < 0.25
    assert last.info["held_out_l0"] <= 3
    assert "| FVU without 0 massive states" in (work / "sae" / "README.md").read_text()
    fvu = [e.value for e in events if isinstance(e, Metric) and e.name == "fvu"]
    assert fvu[-1] < fvu[0]

    held_out = load_file(work / "acts" / "held-out.safetensors")["acts"].float()
    theirs = SAE.load_from_disk(str(work / "sae"), device="cpu")
    ours = load_sae(str(work / "sae"))
    torch.testing.assert_close(ours.encode(held_out), theirs.encode(held_out).detach())
    assert (ours.d_in, ours.d_sae, ours.architecture) == (D_IN, 32, "topk")
    assert ours.metadata["hook_name"] == "blocks.1.hook_resid_post"
    assert ours.metadata["context_size"] == 32
    assert ours.metadata["prepend_bos"] is True


def test_batches_can_be_entered_at_any_step(work: Path) -> None:
    shards = sorted((work / "acts").glob("train-*.safetensors"))
    every = Batches(shards, 64, 2, seed=3).start(0)
    first = [next(every) for _ in range(70)]  # beyond two epochs of 1,800 rows
    for step in (1, 17, 18, 27, 40, 69):
        assert torch.equal(next(Batches(shards, 64, 2, seed=3).start(step)), first[step]), step


def test_dense_harvest_keeps_whole_shards_and_every_token(tmp_path: Path) -> None:
    reference = Reference(str(fakes.tiny_reference(tmp_path / "reference")), 1, context=32, dtype=torch.float32)
    documents = fakes.corpus(12)
    corpus = take_tokens([*documents, documents[0]], None, reference)
    assert len(corpus) == 12  # the repeated text counts once
    config = SAEConfig("tiny", 1, context=32, shard_tokens=200, held_out_tokens=100)
    list(harvest_dense(corpus, reference, tmp_path / "acts", config))
    files = sorted((tmp_path / "acts").glob("*.safetensors"))
    assert len(files) > 3
    assert sum(len(load_file(f)["acts"]) for f in files) == sum(len(ids) for _, ids in corpus)
    times = {f: f.stat().st_mtime_ns for f in files}
    files[1].unlink()
    list(harvest_dense(corpus, reference, tmp_path / "acts", config))
    again = {f: f.stat().st_mtime_ns for f in sorted((tmp_path / "acts").glob("*.safetensors"))}
    assert [f for f in files if again[f] != times[f]] == [files[1]]


def test_limits_take_documents_in_hash_order(tmp_path: Path) -> None:
    reference = Reference(str(fakes.tiny_reference(tmp_path / "reference")), 1, dtype=torch.float32)
    documents = fakes.corpus(12)
    some = take_tokens(documents, 200, reference)
    assert 200 <= sum(len(ids) for _, ids in some) < 400
    assert [sha for sha, _ in some] == sorted(sha for sha, _ in some)
    assert [sha for sha, _ in take_tokens(reversed(documents), 200, reference)] == [sha for sha, _ in some]


@pytest.mark.parametrize("change", [{"architecture": "dense"}, {"k": 0}, {"batch": 0}])
def test_impossible_configurations_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        SAEConfig("m", 0, **change)


def test_too_little_text_for_one_batch_is_said(tmp_path: Path) -> None:
    save_file({"acts": torch.zeros(3, 4)}, tmp_path / "train-00000.safetensors")
    with pytest.raises(ValueError, match="give more text"):
        Batches([tmp_path / "train-00000.safetensors"], 64, 2, seed=0)


def test_documents_are_the_unit_of_the_corpus(tmp_path: Path) -> None:
    reference = Reference(str(fakes.tiny_reference(tmp_path / "reference")), 1, dtype=torch.float32)
    ((sha, ids),) = take_tokens([Document("a", "Report 1. The nurse waited.")], None, reference)
    assert reference.tokenizer.decode(ids) == "Report 1. The nurse waited."
    assert len(sha) == 64


def test_training_goes_on_from_a_saved_sae_and_grows_it(work: Path) -> None:
    small = replace(_config(), d_sae=12)  # half of what was planted
    list(train_sae(work, small, D_IN, work / "first"))
    first, held_out = load_sae(str(work / "first")), load_file(work / "acts" / "held-out.safetensors")["acts"].float()
    still = replace(small, init=str(work / "first"), lr=1e-12, samples=64)
    list(train_sae(work, still, D_IN, work / "same"))
    torch.testing.assert_close(load_sae(str(work / "same")).reconstruct(held_out), first.reconstruct(held_out))

    list(train_sae(work, replace(still, d_sae=32), D_IN, work / "wider"))
    torch.testing.assert_close(load_sae(str(work / "wider")).sae.W_dec[:12], first.sae.W_dec)
    list(train_sae(work, replace(small, init=str(work / "first"), d_sae=32), D_IN, work / "grown"))
    grown = load_sae(str(work / "grown"))
    assert (grown.encode(held_out)[:, 12:] > 0).any(0).sum() > 5
    before, after = (evaluate_reconstruction(sae, held_out)["held_out_fvu"] for sae in (first, grown))
    assert after < 0.7 * before, (before, after)
    with pytest.raises(ValueError, match="cannot start"):
        list(train_sae(work, replace(still, d_sae=8), D_IN, work / "narrower"))
