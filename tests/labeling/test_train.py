import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labeling.documents import Document
from labeling.events import Artifact, Event, Metric, Progress
from labeling.examples import IGNORED, Labelled, TrainConfig, coarsened, labelled_windows, validate
from labeling.finetune import class_weights, epoch_batches, rate, token_loss
from labeling.predict import load_classifier, predict, states
from labeling.predictions import Prediction, write_predictions
from labeling.probe import cut, logistic, reading
from labeling.references import blocks_of
from labeling.tokens import overlapping, tokenize
from labeling.train import train, untrained
from tests.fakes import corpus, tiny_bilm, tiny_encoder

LABELLED = [Labelled(d, "validation" if i % 4 == 0 else "train") for i, d in enumerate(corpus(60))]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    encoder = tiny_encoder(tmp_path_factory.mktemp("train") / "encoder")
    return TrainConfig(str(encoder), window=64, overlap=16, lr=3e-3, epochs=2, batch_tokens=256, checkpoint_every=5)


@pytest.fixture(scope="module")
def finetuned(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    out = tmp_path_factory.mktemp("finetuned") / "classifier"
    return out, list(train(LABELLED, config, out, {"name": "clinic"}, onnx=False))


def test_fine_tuning_finds_the_planted_sentences(finetuned: tuple[Path, list[Event]]) -> None:
    out, events = finetuned
    made = events[-1]
    assert isinstance(made, Artifact) and (made.kind, made.path) == ("classifier", out)
    assert made.info["validation"]["f1"] > 0.8 and made.info["name"] == "clinic"
    assert load_classifier(out).threshold == made.info["threshold"]
    assert {e.name for e in events if isinstance(e, Metric)} == {"loss", "validation_f1"}
    tokens = [e for e in events if isinstance(e, Progress) and e.note == "train"]
    assert tokens[-1].done == tokens[-1].total == 2 * made.info["train_tokens"]
    assert not out.with_name("classifier.partial").exists()


def test_the_best_moment_is_exported(finetuned: tuple[Path, list[Event]]) -> None:
    found = {e.step: e.value for e in finetuned[1] if isinstance(e, Metric) and e.name == "validation_f1"}
    made = finetuned[1][-1]
    assert isinstance(made, Artifact)
    assert found[made.info["step"]] == max(found.values()) == pytest.approx(made.info["validation"]["f1"])


@pytest.mark.parametrize("stop", [3, 12])
def test_a_stopped_run_resumes_to_the_same_weights(
    stop: int, config: TrainConfig, finetuned: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    out = tmp_path / "classifier"
    run: Iterator[Any] = train(LABELLED, config, out, {"name": "clinic"}, onnx=False)
    steps = 0
    for event in run:
        steps += isinstance(event, Progress) and event.note == "train" and event.done > 0
        if steps == stop:
            break
    run.close()  # type: ignore[attr-defined]
    assert not out.exists()
    torch.manual_seed(99)  # nothing may depend on the process's own generator
    again = list(train(LABELLED, config, out, {"name": "clinic"}, onnx=False))
    resumed = [e.done for e in again if isinstance(e, Progress) and e.note == "train"]
    assert (resumed[0] > 0) == (stop > config.checkpoint_every)
    assert (out / "model.safetensors").read_bytes() == (finetuned[0] / "model.safetensors").read_bytes()


def test_a_threshold_by_f2_is_never_above_the_one_by_f1(
    config: TrainConfig, finetuned: tuple[Path, list[Event]]
) -> None:
    held_out = [e.document for e in LABELLED if e.split == "validation"]
    by_f1, by_f2 = (validate(load_classifier(finetuned[0]), held_out, (0,), beta) for beta in (1, 2))
    assert by_f2.threshold <= by_f1.threshold and by_f2.recall >= by_f1.recall


def test_another_runs_leftovers_are_not_resumed(config: TrainConfig, tmp_path: Path) -> None:
    out = tmp_path / "classifier"
    run: Iterator[Any] = train(LABELLED, config, out, {}, onnx=False)
    for event in run:
        if isinstance(event, Metric):
            break
    run.close()  # type: ignore[attr-defined]
    first = next(
        e
        for e in train(LABELLED, replace(config, lr=1e-3), out, {}, onnx=False)
        if isinstance(e, Progress) and e.note == "train"
    )
    assert first.done == 0


def test_a_probe_learns_the_planted_words(config: TrainConfig, tmp_path: Path) -> None:
    probe = replace(config, mode="probe", smooth=None, layers=(1,), l2=1e-6)
    *events, made = train(LABELLED, probe, tmp_path / "probe", {}, onnx=False)
    assert isinstance(made, Artifact)
    assert made.info["layer"] == 1 and made.info["validation"]["f1"] > 0.6
    assert [e.step for e in events if isinstance(e, Metric)] == [1, None]
    loaded = load_classifier(tmp_path / "probe")
    assert loaded.model.config.num_hidden_layers == len(blocks_of(loaded.model)) == 1
    assert loaded.smooth == made.info["smooth"]


def test_a_probe_sees_the_states_of_its_own_layer(config: TrainConfig) -> None:
    classifier = untrained(config)
    ids = np.array([7, 8, 9, 10], np.int32)
    classifier.model.eval()
    with torch.no_grad():
        inputs = torch.tensor([[*classifier.prefix, *ids.tolist(), *classifier.suffix]])
        expected = classifier.model.base_model(inputs, output_hidden_states=True).hidden_states[1][0, 1:-1]
        cut(classifier.model, 1)
        found = states(classifier, [ids], [slice(0, 4)])
    torch.testing.assert_close(found, expected)


def test_the_logistic_fit_agrees_with_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = (rng.normal(size=(400, 5)) * [1, 2, 0.5, 1, 3] + [0, 1, 2, 0, -1]).astype(np.float32)
    y = (x @ [1, -1, 2, 0, 0.5] + rng.normal(size=400) > 1).astype(np.float32)
    weight, bias = logistic(torch.from_numpy(x.copy()), torch.from_numpy(y), l2=0.01)
    mean, sd = x.mean(0), x.std(0)
    fitted = LogisticRegression(C=1 / (0.01 * len(y)), tol=1e-8, max_iter=1000).fit((x - mean) / sd, y)
    np.testing.assert_allclose(x @ weight.numpy() + bias, fitted.decision_function((x - mean) / sd), atol=2e-3)


def test_windows_hold_every_token_once_and_leave_out_what_is_ignored(config: TrainConfig) -> None:
    classifier = untrained(config)
    text = "patient coach " * 60
    document = Document("a", text, spans=[(0, 7)], ignore=[(8, 13)])
    windows = labelled_windows([Labelled(document, "train")], classifier, config)
    labels = np.concatenate([w.labels for w in windows])
    assert [len(w) for w in windows][:-1] == [62] * (len(windows) - 1)
    pieces = len(classifier.tokenizer.tokenize("patient")), len(classifier.tokenizer.tokenize("coach"))
    assert labels[: sum(pieces)].tolist() == [1] * pieces[0] + [IGNORED] * pieces[1]
    assert (labels[sum(pieces) :] == 0).all() and len(labels) == 60 * sum(pieces)


def test_an_epoch_holds_every_window_once_within_the_token_budget(config: TrainConfig) -> None:
    lengths = np.random.default_rng(0).integers(1, 63, 500).tolist()
    batches = epoch_batches(lengths, config, 0)
    assert sorted(i for batch in batches for i in batch) == list(range(500))
    assert all(max(lengths[i] for i in batch) * len(batch) <= config.batch_tokens for batch in batches)
    assert batches == epoch_batches(lengths, config, 0) != epoch_batches(lengths, config, 1)
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert padded < 1.25 * sum(lengths)


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    assert [rate(step, 10, 0.2) for step in range(10)] == pytest.approx(
        [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )


def test_validation_counts_words_and_skips_ignored_ones(config: TrainConfig) -> None:
    document = Document("a", "The patient received insulin. The coach scored.", spans=[(4, 28)], ignore=[(30, 33)])
    found = validate(untrained(config), [document], (0,))
    assert (found.words, found.forget_words) == (6, 3)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "no document of the train split"),
        ([Labelled(replace(e.document, spans=[]), e.split) for e in LABELLED], "no forget token"),
        ([e for e in LABELLED if e.split == "train"], "validation"),
    ],
)
def test_labels_that_cannot_be_learned_from_are_refused_at_once(
    examples: list[Labelled], message: str, config: TrainConfig, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        list(train(examples, config, tmp_path / "out", {}, onnx=False))


def test_layers_joined_give_the_head_both_states_and_load_again(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where the CPU has bf16, a backbone of random weights this small changes its mind by rounding alone.
    monkeypatch.setattr("labeling.predict.pick_dtype", lambda _device: torch.float32)
    both = replace(config, mode="probe", layers=(1, 2), concat=True, l2=1e-6)
    *_, made = train(LABELLED, both, tmp_path / "joined", {})
    assert isinstance(made, Artifact) and made.info["layers"] == [1, 2] and made.info["validation"]["f1"] > 0.6
    loaded = load_classifier(tmp_path / "joined")
    assert loaded.head.in_features == 2 * 32
    again = validate(loaded, [e.document for e in LABELLED if e.split == "validation"], (loaded.smooth,))
    assert again.f1 == pytest.approx(made.info["validation"]["f1"], abs=0.01)


def test_a_joined_head_sees_each_layers_own_states(config: TrainConfig) -> None:
    classifier = untrained(config)
    inputs = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        hidden = classifier.model.base_model(inputs, output_hidden_states=True).hidden_states
        joint = reading(replace(classifier), (1, 2))
        seen: list[torch.Tensor] = []
        joint.head.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
        joint.model(inputs)
    torch.testing.assert_close(seen[0], torch.cat([hidden[1], hidden[2]], dim=-1))


def test_both_stacks_of_a_bilm_are_cut(tmp_path: Path) -> None:
    backbone = str(tiny_bilm(tmp_path / "bilm", layers=3))
    classifier = untrained(TrainConfig(backbone, window=64, overlap=16))
    cut(classifier.model, 1)
    assert [len(s) for s in (classifier.model.bilm.forward_lm.blocks, classifier.model.bilm.backward_lm.blocks)] == [
        1,
        1,
    ]
    assert classifier.model.config.num_hidden_layers == 1


def test_soft_labels_are_learned_as_they_are_and_abstained_tokens_left_out(config: TrainConfig) -> None:
    text = "patient coach nurse rain"
    starts, ends = np.array([0, 8, 14, 20], np.int32), np.array([7, 13, 19, 24], np.int32)
    soft = Prediction("a", starts, ends, np.array([0.75, 0.25, np.nan, 0.5], np.float32))
    example = Labelled(Document("a", text), "train", soft)
    classifier = untrained(config)
    pieces = [len(classifier.tokenizer.tokenize(word)) for word in text.split()]

    def labels(config: TrainConfig) -> list[float]:
        return np.concatenate([w.labels for w in labelled_windows([example], classifier, config)]).tolist()

    assert labels(config) == np.repeat([0.75, 0.25, IGNORED, 0.5], pieces).tolist()
    assert labels(replace(config, soft=False)) == np.repeat([1, 0, IGNORED, 1], pieces).tolist()


def test_the_loss_on_hard_labels_is_cross_entropy_and_on_soft_ones_the_mean_of_both() -> None:
    logits = torch.tensor([[[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]]])
    hard = torch.tensor([[1.0, 0.0, float(IGNORED)]])
    expected = torch.nn.functional.cross_entropy(logits[0, :2], torch.tensor([1, 0]))
    torch.testing.assert_close(token_loss(logits, hard), expected)
    one = logits[:, :1]
    both = token_loss(one, torch.tensor([[1.0]])) * 0.3 + token_loss(one, torch.tensor([[0.0]])) * 0.7
    torch.testing.assert_close(token_loss(one, torch.tensor([[0.3]])), both)


def test_class_weights_make_both_classes_count_alike() -> None:
    retain, forget = class_weights(np.array([1, 0, 0, 0, IGNORED], np.float32))
    assert (retain * 3, forget * 1) == (pytest.approx(2), pytest.approx(2))


def test_training_stops_when_validation_no_longer_gains(config: TrainConfig, tmp_path: Path) -> None:
    short = replace(config, epochs=6, validations=3, patience=1, lr=1e-8)
    events = list(train(LABELLED, short, tmp_path / "out", {}))
    judged = [e for e in events if isinstance(e, Metric) and e.name == "validation_f1" and e.step is not None]
    assert len(judged) < 6 * 3
    assert judged[-1].value <= max(e.value for e in judged[:-1])


@pytest.mark.parametrize(
    ("unit", "share", "spans"),
    [
        ("token", 0.25, [(4, 11)]),
        ("sentence", 0.25, [(0, 22)]),
        ("sentence", 0.5, []),
        ("document", 0.1, [(0, 40)]),
        ("document", 0.5, []),
        ("family", 0.25, [(0, 40)]),
    ],
)
def test_coarse_labels_spread_over_their_unit(unit: str, share: float, spans: list[tuple[int, int]]) -> None:
    text = "The patient ate well. The coach went on."
    example = Labelled(Document("a", text, side="forget", spans=[(4, 11)]), "train")
    assert coarsened(example, unit, share).document.spans == spans


def test_a_family_of_neither_side_teaches_nothing() -> None:
    document = coarsened(
        Labelled(Document("a", "Some text", side="mixed", spans=[(0, 4)]), "train"), "family", 0.25
    ).document
    assert (document.spans, document.ignore) == ([], [(0, 9)])


def test_a_probe_learns_tokens_from_sentence_labels(config: TrainConfig, tmp_path: Path) -> None:
    coarse = replace(config, mode="probe", labels="sentence", smooth=None, layers=(1,), l2=1e-6)
    *_, made = train(LABELLED, coarse, tmp_path / "coarse", {})
    assert isinstance(made, Artifact) and made.info["validation"]["f1"] > 0.6


def test_a_pupil_learns_from_its_teacher_alone(
    config: TrainConfig, finetuned: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    wrong = [Labelled(replace(e.document, spans=[]), e.split) if e.split == "train" else e for e in LABELLED]
    pupil = replace(config, mode="probe", smooth=None, layers=(1,), l2=1e-6, teacher=str(finetuned[0]))
    *_, made = train(wrong, pupil, tmp_path / "pupil", {})
    assert isinstance(made, Artifact) and made.info["validation"]["f1"] > 0.6
    assert made.info["training"]["teacher"] == "classifier"
    assert len(list(predict(load_classifier(tmp_path / "pupil"), [LABELLED[0].document]))) == 1


def test_stored_scores_teach_as_a_classifier_does(config: TrainConfig, tmp_path: Path) -> None:
    def scored(document: Document) -> Prediction:
        (tokens,) = tokenize(untrained(config).tokenizer, [document.text])
        forget = overlapping(tokens.starts, tokens.ends, document.spans or [])
        return Prediction(document.id, tokens.starts, tokens.ends, np.where(forget, 0.6, 0.2).astype(np.float32))

    known = [e.document for e in LABELLED]
    list(write_predictions(map(scored, known), tmp_path / "scores", {"threshold": 0.4}))
    pupil = replace(config, mode="probe", smooth=None, layers=(1,), l2=1e-6, teacher=str(tmp_path / "scores"))
    wrong = [Labelled(replace(e.document, spans=[]), e.split) if e.split == "train" else e for e in LABELLED]
    *_, made = train(wrong, pupil, tmp_path / "pupil", {})
    assert isinstance(made, Artifact) and made.info["validation"]["f1"] > 0.6
    list(write_predictions(map(scored, known[:9]), tmp_path / "some", {"threshold": 0.4}))
    with pytest.raises(ValueError, match="has no scores of"):
        list(train(wrong, replace(pupil, teacher=str(tmp_path / "some")), tmp_path / "refused", {}))


def test_noise_turns_over_its_share_of_labels_and_the_same_ones_each_time(config: TrainConfig) -> None:
    classifier = untrained(config)
    clean = np.concatenate([w.labels for w in labelled_windows(LABELLED, classifier, config)])
    noisy = [
        np.concatenate([w.labels for w in labelled_windows(LABELLED, classifier, replace(config, flip=0.3))])
        for _ in "ab"
    ]
    assert (noisy[0] == noisy[1]).all() and (noisy[0] != clean).mean() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "boost"},
        {"epochs": 0},
        {"lr": 0.0},
        {"smooth": -1},
        {"labels": "word"},
        {"flip": 0.7},
        {"concat": True},
        {"patience": 0},
        {"threshold": "f3"},
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        TrainConfig("any", **change)


def test_a_window_longer_than_the_backbone_reads_is_refused(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="longer than the 256 positions"):
        untrained(replace(config, window=512))


def test_checkpoints_are_safetensors_and_json(config: TrainConfig, tmp_path: Path) -> None:
    run: Iterator[Any] = train(LABELLED, config, tmp_path / "out", {}, onnx=False)
    for event in run:
        if isinstance(event, Metric) and event.step == 10:
            break
    run.close()  # type: ignore[attr-defined]
    work = tmp_path / "out.partial"
    assert {p.suffix for p in work.iterdir()} == {".safetensors", ".json"}
    assert json.loads((work / "state.json").read_text())["step"] in (5, 10)
