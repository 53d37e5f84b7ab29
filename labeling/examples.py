"""What a classifier learns from: weakly labelled documents, cut into windows of token labels."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labeling.artifacts import read_manifest
from labeling.curves import BETAS, best_threshold
from labeling.documents import Document, text_sha256
from labeling.evaluate import inside
from labeling.events import Event, Progress
from labeling.predict import LoadedClassifier, load_classifier, predict, smoothed
from labeling.predictions import Prediction, PredictionStore
from labeling.tokens import Tokens, overlapping, sentences, tokenize, windows, words

IGNORED = -100  # marks a token without a loss
UNITS = ("token", "sentence", "document", "family")


@dataclass(frozen=True)
class Labelled:
    """A document with weak labels: `document.spans` are forget, `document.ignore` is not learned from.

    `soft`, where given, says instead how sure the labels are: P(forget) of each token, any tokenizer's,
    NaN where every function abstained and nothing is to be learned.
    """

    document: Document
    split: str  # train or validation; documents of other splits are left alone
    soft: Prediction | None = None


@dataclass(frozen=True)
class TrainConfig:
    """One training run; anything that changes its result is here."""

    backbone: str  # hub id or folder of a bidirectional encoder or a biLM
    mode: str = "finetune"  # finetune: all weights, AdamW | probe: frozen, L-BFGS on one layer's states
    window: int = 256  # tokens per forward pass, special tokens included
    overlap: int = 64  # shared by neighbouring windows when predicting
    smooth: int | None = 0  # mean of p over this many tokens to either side; None: the best of 0..3 on validation
    threshold: str = "f1"  # most F1 on validation, or f2: where labels miss more than they invent, recall is worth more
    balance: bool = False  # weigh both classes alike; shifts p up, so only where forget is very rare
    labels: str = "token"  # or the coarser label of its sentence, document or family, given to every token in it
    coarse_share: float = 0.25  # a sentence or document is forget if so large a share of its words is
    soft: bool = True  # learn probabilities where the labels or the teacher give them; False: round them
    teacher: str | None = None  # a classifier or predictions: their scores replace the training labels (weak-to-strong)
    flip: float = 0.0  # share of training labels turned over at random, to see what noise does
    max_tokens: int | None = None  # of the train split, whole documents in hash order
    validation_tokens: int = 60_000
    seed: int = 0
    # finetune
    epochs: int = 2
    lr: float = 5e-5
    batch_tokens: int = 2048
    warmup: float = 0.1  # share of all steps
    weight_decay: float = 0.01
    dropout: float = 0.0  # on CPUs drawing it takes longer than all the rest of a step
    checkpoint_every: int = 100  # steps
    validations: int = 2  # per epoch; the best of them is exported
    patience: int = 4  # validations in a row without a better one end the training
    # probe
    layers: tuple[int, ...] | None = None  # blocks to keep, each tried; None: every depth from 1
    concat: bool = False  # join the states of `layers` instead of trying each
    l2: float = 1e-4
    probe_tokens: int = 200_000  # held as fp32 features, one layer at a time

    def __post_init__(self) -> None:
        if self.mode not in ("finetune", "probe"):
            raise ValueError(f"mode {self.mode!r} is not finetune or probe")
        for name in (
            "window",
            "epochs",
            "batch_tokens",
            "validation_tokens",
            "checkpoint_every",
            "validations",
            "patience",
            "probe_tokens",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.threshold not in BETAS:
            raise ValueError(f"threshold {self.threshold!r} is not one of {', '.join(BETAS)}")
        if self.labels not in UNITS:
            raise ValueError(f"labels {self.labels!r} is not one of {', '.join(UNITS)}")
        if not (0 <= self.flip <= 0.5 and 0 < self.coarse_share <= 1):
            raise ValueError(f"flip must be 0 to 0.5 and coarse_share 0 to 1, not {self.flip} and {self.coarse_share}")
        if self.concat and len(set(self.layers or ())) < 2:
            raise ValueError("concat joins layers: name at least two with layers")
        if self.smooth is not None and self.smooth < 0:
            raise ValueError(f"smooth must be at least 0, not {self.smooth}")
        if self.lr <= 0 or self.l2 < 0:
            raise ValueError(f"lr must be above 0 and l2 at least 0, not {self.lr} and {self.l2}")


@dataclass(frozen=True)
class LabelledWindow:
    """Tokens that go through the model together; every token of a document lies in exactly one."""

    ids: NDArray[np.int32]  # (pos,)
    labels: NDArray[np.float32]  # (pos,) P(forget), or IGNORED

    def __len__(self) -> int:
        return len(self.ids)


def take(examples: Sequence[Labelled], split: str, limit: int | None, tokenizer: object) -> list[Labelled]:
    """Examples of a split up to `limit` tokens, in hash order: a random order that needs no seed."""
    found = {text_sha256(e.document.text): e for e in examples if e.split == split}
    chosen = [found[key] for key in sorted(found)]
    if limit is None:
        return chosen
    out, total = [], 0
    for example in chosen:
        if total >= limit:
            break
        out.append(example)
        total += len(tokenize(tokenizer, [example.document.text])[0])
    return out


def taught(examples: Sequence[Labelled], teacher: str, soft: bool) -> Generator[Event, None, list[Labelled]]:
    """The same documents labelled by a teacher's scores instead (weak-to-strong): a classifier's or stored ones."""
    threshold, scores = _scores(Path(teacher), [e.document for e in examples])
    out = []
    for example, scored in zip(examples, scores, strict=True):
        document = replace(example.document, spans=scored.spans(threshold))
        out.append(replace(example, document=document, soft=scored if soft else None))
        if len(out) % 20 == 0:
            yield Progress(len(out), len(examples), "documents", "ask the teacher")
    return out


def _scores(teacher: Path, documents: Sequence[Document]) -> tuple[float, Iterable[Prediction]]:
    """The teacher's threshold, and its predictions of the documents in their order."""
    if read_manifest(teacher)["kind"] != "predictions":
        classifier = load_classifier(teacher)
        return classifier.threshold, predict(classifier, documents)
    stored = PredictionStore.open(teacher)
    found = [(d.id, stored.document(d.id)) for d in documents]
    if missing := [key for key, scored in found if scored is None]:
        raise ValueError(f"{teacher} has no scores of {len(missing)} training documents, {missing[0]!r} among them")
    return float(stored.info["threshold"]), (Prediction(key, *scored) for key, scored in found if scored is not None)


def coarsened(example: Labelled, unit: str, share: float) -> Labelled:
    """Every token given the label of its sentence, document or family (METHOD, coarse labels)."""
    document = example.document
    if unit == "token":
        return example
    if unit == "family":  # declared by a person; nothing is known of a family that is neither
        whole = [(0, len(document.text))]
        known = document.side in ("forget", "retain")
        spans = whole if document.side == "forget" else []
        return replace(
            example, document=replace(document, spans=spans, ignore=document.ignore if known else whole), soft=None
        )
    starts = np.array([start for start, _ in words(document.text)], np.int64)
    forget = inside(starts, document.spans or [])
    spans = []
    for begin, end in sentences(document.text) if unit == "sentence" else [(0, len(document.text))]:
        here = forget[(starts >= begin) & (starts < end)]
        if len(here) and here.mean() >= share:
            spans.append((begin, end))
    return replace(example, document=replace(document, spans=spans), soft=None)


def labelled_windows(
    examples: Sequence[Labelled], classifier: LoadedClassifier, config: TrainConfig
) -> list[LabelledWindow]:
    """Windows without overlap: a token seen with half its context teaches too, and none is paid for twice."""
    out = []
    rng = np.random.default_rng([config.seed, 1])
    for example, tokens in zip(
        examples, tokenize(classifier.tokenizer, [e.document.text for e in examples]), strict=True
    ):
        labels = _targets(example, tokens, config.soft)
        turned = rng.random(len(labels)) < config.flip
        labels[turned & (labels != IGNORED)] = 1 - labels[turned & (labels != IGNORED)]
        cut = windows(len(tokens), classifier.size, 0)
        out += [LabelledWindow(tokens.ids[start:end], labels[start:end]) for start, end, _ in cut]
    return [w for w in out if (w.labels != IGNORED).any()]


def _targets(example: Labelled, tokens: Tokens, soft: bool) -> NDArray[np.float32]:
    """P(forget) of each token, IGNORED where there is nothing to learn."""
    document = example.document
    if example.soft is None:
        labels = overlapping(tokens.starts, tokens.ends, document.spans or []).astype(np.float32)
    else:
        labels = example.soft.carried(tokens.starts, tokens.ends)  # NaN spreads to what touches it
        abstained = np.isnan(labels)
        labels = labels if soft else (labels >= 0.5).astype(np.float32)
        labels[abstained] = IGNORED
    labels[overlapping(tokens.starts, tokens.ends, document.ignore or [])] = IGNORED
    return labels


@dataclass(frozen=True)
class Validation:
    """How well scores agree with held-out weak labels, per word as `tokensieve score` counts."""

    threshold: float
    smooth: int
    f1: float
    precision: float
    recall: float
    words: int
    forget_words: int


def validate(
    classifier: LoadedClassifier, documents: Sequence[Document], radii: Iterable[int], beta: float = 1.0
) -> Validation:
    """The smoothing radius and threshold with the best F-beta, from one pass over the documents."""
    raw = LoadedClassifier(classifier.model, classifier.tokenizer, 0.5, classifier.window, classifier.overlap)
    return agreement(list(predict(raw, documents)), documents, radii, beta)


def agreement(
    scored: Sequence[Prediction], documents: Sequence[Document], radii: Iterable[int] = (0,), beta: float = 1.0
) -> Validation:
    """How well scores agree with the documents' labels at the best threshold and smoothing radius."""
    starts, labels = zip(*(_word_labels(d) for d in documents), strict=True)
    y = np.concatenate(labels)
    found = [_agreement(scored, starts, y, radius, beta) for radius in radii]
    return max(
        found, key=lambda v: (1 + beta**2) * v.precision * v.recall / max(beta**2 * v.precision + v.recall, 1e-9)
    )


def _word_labels(document: Document) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """First character of every word that counts, and whether it lies in a forget span."""
    first = np.array([start for start, _ in words(document.text)], np.int64)
    first = first[~inside(first, document.ignore or [])]
    return first, inside(first, document.spans or [])


def _agreement(
    scored: Sequence[Prediction], starts: Sequence[NDArray[np.int64]], y: NDArray[np.bool_], radius: int, beta: float
) -> Validation:
    p = np.concatenate([
        Prediction(s.id, s.starts, s.ends, smoothed(s.p, radius)).carried(at, at + 1)
        for s, at in zip(scored, starts, strict=True)
    ])  # fmt: skip
    threshold = best_threshold(p, y, beta)
    flagged = p >= threshold
    hits = int((flagged & y).sum())
    precision, recall = hits / max(int(flagged.sum()), 1), hits / int(y.sum())
    f1 = 2 * hits / (int(flagged.sum()) + int(y.sum()))
    return Validation(threshold, radius, f1, precision, recall, len(y), int(y.sum()))
