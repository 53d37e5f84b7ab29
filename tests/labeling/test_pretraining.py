"""Pretraining: it learns, mixes its pools, resumes to the same weights, and its folder is a backbone."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from labeling.bilm import BiLM
from labeling.events import Artifact, Event, Metric, Progress
from labeling.examples import Labelled, TrainConfig
from labeling.predict import load_classifier
from labeling.pretraining import (
    PRESETS,
    Mixture,
    PretrainConfig,
    Rows,
    _fresh,
    learning_rate,
    losses,
    make_tokenizer,
    pretrain,
)
from labeling.tokens import tokenize
from labeling.train import train
from tests.fakes import corpus

TINY = PretrainConfig(
    layers=1, width=16, heads=2, vocab=320, block=32, batch_tokens=128, tokens=128 * 24, lr=1e-2,
    checkpoint_every=5, validate_every=10,
)  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("text")
    files = {}
    for pool, sides in {"domain": ["clinic"], "background": ["sport", "biology"]}.items():
        file = folder / f"{pool}.jsonl"
        documents = [d for d in corpus(240) if d.family in sides]
        file.write_text("".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for d in documents))
        files[pool] = str(file)
    return files


def run(text: dict[str, str], out: Path, config: PretrainConfig = TINY) -> Iterator[Event]:
    return pretrain(out, config, [text["background"]], [text["domain"]])


@pytest.fixture(scope="module")
def trained(text: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    out = tmp_path_factory.mktemp("bilm") / "tiny"
    return out, list(run(text, out))


def test_it_overfits_eight_rows() -> None:
    model = _fresh(replace(TINY, width=32), 64)
    rows = torch.randint(1, 64, (8, 16), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = [float(x) for x in losses(model, rows, 0)]
    for _ in range(80):
        optimizer.zero_grad()
        sum(losses(model, rows, 0)).backward()
        optimizer.step()
    after = [float(x) for x in losses(model, rows, 0)]
    assert min(before) > 3.5 and max(after) < 0.5


def test_losses_fall_and_are_reported_as_they_go(trained: tuple[Path, list[Event]]) -> None:
    _, events = trained
    for name in ("loss", "loss_reverse"):
        curve = [e.value for e in events if isinstance(e, Metric) and e.name == name]
        assert len(curve) >= 3 and curve[-1] < curve[0]
    progress = [e for e in events if isinstance(e, Progress) and e.note == "pretrain"]
    assert progress[-1].done == progress[-1].total == TINY.tokens
    made = events[-1]
    assert isinstance(made, Artifact) and made.info["held_out_background"] < 5.7  # log 320 is 5.77


@pytest.mark.parametrize("stop", [3, 12])
def test_a_stopped_run_resumes_to_the_same_weights(
    stop: int, text: dict[str, str], trained: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    out = tmp_path / "tiny"
    events: Any = run(text, out)
    steps = 0
    for event in events:
        steps += isinstance(event, Progress) and event.note == "pretrain"
        if steps == stop:
            break
    events.close()
    assert not out.exists()
    torch.manual_seed(99)
    again = [e for e in run(text, out) if isinstance(e, Progress) and e.note == "pretrain"]
    assert (again[0].done > 0) == (stop > TINY.checkpoint_every)
    assert (out / "model.safetensors").read_bytes() == (trained[0] / "model.safetensors").read_bytes()


def test_the_folder_is_a_backbone_with_offsets_and_a_card(trained: tuple[Path, list[Event]]) -> None:
    from transformers import AutoModel, AutoTokenizer

    out, _ = trained
    assert "tokensieve train PROJECT --backbone" in (out / "README.md").read_text()
    weights = load_file(out / "model.safetensors")
    assert {t.dtype for t in weights.values()} == {torch.bfloat16}
    assert isinstance(AutoModel.from_pretrained(out), BiLM)
    (tokens,) = tokenize(AutoTokenizer.from_pretrained(out), ["naïve 🌧️ café"])
    assert tokens.starts[0] == 0 and tokens.ends[-1] == len("naïve 🌧️ café")


@pytest.mark.parametrize("changes", [{"mode": "finetune", "lr": 1e-2, "epochs": 2}, {"mode": "probe", "l2": 1e-5}])
def test_a_classifier_trains_on_it_and_scores_alike_when_opened_again(
    changes: dict[str, Any], trained: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    examples = [Labelled(d, "validation" if i % 4 == 0 else "train") for i, d in enumerate(corpus(60))]
    config = TrainConfig(str(trained[0]), window=32, overlap=8, batch_tokens=256, **changes)
    *_, made = train(examples, config, tmp_path / "out", {})
    assert isinstance(made, Artifact) and made.info["validation"]["f1"] > 0.6
    assert load_classifier(tmp_path / "out").prefix == load_classifier(tmp_path / "out").suffix == [0]


def test_every_epoch_visits_each_row_once_in_another_order() -> None:
    rows = Rows(np.arange(1000, dtype=np.uint32), 10, seed=0)
    epochs = [[rows[n][0] // 10 for n in range(e * rows.count, (e + 1) * rows.count)] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(set(epochs[0])) and sorted(epochs[0]) != epochs[0] != epochs[1]
    assert all((np.diff(rows[n]) == 1).all() for n in range(5))


def test_a_batch_holds_the_domains_share_however_small_its_text() -> None:
    pools = {
        "domain": Rows(np.full(50, 7, np.uint32), 10, 0),
        "background": Rows(np.zeros(1000, np.uint32), 10, 0),
    }
    batch = Mixture(pools, 8, 0.75).batch(step=40)
    assert batch.shape == (8, 10) and (batch[:, 0] == 7).sum() == 6


def test_the_learning_rate_warms_up_and_ends_at_a_tenth() -> None:
    config = PretrainConfig(lr=1.0, warmup=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert (
        rates[0] == pytest.approx(0.1)
        and max(rates) == pytest.approx(1.0)
        and rates[-1] == pytest.approx(0.1, abs=0.01)
    )


@pytest.mark.parametrize(("name", "millions"), [("13M", 13), ("61M", 61), ("113M", 113), ("224M", 224)])
def test_presets_have_the_papers_parameters(name: str, millions: int) -> None:
    c = PretrainConfig(**PRESETS[name])
    parameters = c.vocab * c.width + c.layers * 12 * c.width**2
    assert parameters / 1e6 == pytest.approx(millions, rel=0.02)


def test_a_given_tokenizer_is_taken_with_its_end_of_text(tmp_path: Path) -> None:
    from tests.fakes import tiny_tokenizer

    given = make_tokenizer({}, replace(TINY, tokenizer=str(tiny_tokenizer(tmp_path))))
    ids = given.backend_tokenizer.encode("patient").ids
    assert ids[0] == ids[-1] == given.eos_token_id and len(given) == 512


@pytest.mark.parametrize("change", [{"width": 18}, {"vocab": 200}, {"domain_share": 2.0}, {"block": 0}])
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        PretrainConfig(**change)


def test_no_text_and_too_little_text_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no text"):
        list(pretrain(tmp_path / "out", TINY))
    short = tmp_path / "short.jsonl"
    short.write_text('{"id": "a", "text": "word"}\n')
    with pytest.raises(ValueError, match="less than one row"):
        list(pretrain(tmp_path / "out", TINY, [str(short)]))
