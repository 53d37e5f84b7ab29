"""What a classifier learns from: weakly labelled documents, cut into windows of token labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling.documents import Document, text_sha256
from labeling.evaluate import best_threshold, inside
from labeling.predict import LoadedClassifier, predict, smoothed
from labeling.predictions import Prediction
from labeling.tokens import overlapping, tokenize, windows, words

IGNORED = -100  # torch's own mark for a position without a loss


@dataclass(frozen=True)
class Labelled:
    """A document with weak labels: `document.spans` are forget, `document.ignore` is not learned from."""

    document: Document
    split: str  # train or validation; documents of other splits are left alone


@dataclass(frozen=True)
class TrainConfig:
    """One training run; anything that changes its result is here."""

    backbone: str  # hub id or folder of a bidirectional encoder
    mode: str = "finetune"  # finetune: all weights, AdamW | probe: frozen, L-BFGS on one layer's states
    window: int = 256  # tokens per forward pass, special tokens included
    overlap: int = 64  # shared by neighbouring windows when predicting
    smooth: int | None = 0  # mean of p over this many tokens to either side; None: the best of 0..3 on validation
    balance: bool = False  # weigh both classes alike; shifts p up, so only where forget is very rare
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
    # probe
    layers: tuple[int, ...] | None = None  # blocks to keep, each tried; None: every depth from 1
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
            "probe_tokens",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.smooth is not None and self.smooth < 0:
            raise ValueError(f"smooth must be at least 0, not {self.smooth}")
        if self.lr <= 0 or self.l2 < 0:
            raise ValueError(f"lr must be above 0 and l2 at least 0, not {self.lr} and {self.l2}")


@dataclass(frozen=True)
class LabelledWindow:
    """Tokens that go through the model together; every token of a document lies in exactly one."""

    ids: NDArray[np.int32]  # (pos,)
    labels: NDArray[np.int64]  # (pos,) 1 forget, 0 retain, IGNORED

    def __len__(self) -> int:
        return len(self.ids)


def take(examples: Sequence[Labelled], split: str, limit: int | None, tokenizer: object) -> list[Document]:
    """Documents of a split up to `limit` tokens, in hash order: a random order that needs no seed."""
    chosen = {text_sha256(e.document.text): e.document for e in examples if e.split == split}
    documents = [chosen[key] for key in sorted(chosen)]
    if limit is None:
        return documents
    out, total = [], 0
    for document in documents:
        if total >= limit:
            break
        out.append(document)
        total += len(tokenize(tokenizer, [document.text])[0])
    return out


def labelled_windows(documents: Sequence[Document], classifier: LoadedClassifier) -> list[LabelledWindow]:
    """Windows without overlap: a token seen with half its context teaches too, and none is paid for twice."""
    out = []
    for document, tokens in zip(documents, tokenize(classifier.tokenizer, [d.text for d in documents]), strict=True):
        labels = overlapping(tokens.starts, tokens.ends, document.spans or []).astype(np.int64)
        labels[overlapping(tokens.starts, tokens.ends, document.ignore or [])] = IGNORED
        cut = windows(len(tokens), classifier.size, 0)
        out += [LabelledWindow(tokens.ids[start:end], labels[start:end]) for start, end, _ in cut]
    return [w for w in out if (w.labels != IGNORED).any()]


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


def validate(classifier: LoadedClassifier, documents: Sequence[Document], radii: Iterable[int]) -> Validation:
    """The smoothing radius and threshold with the best F1, from one pass over the documents."""
    raw = LoadedClassifier(classifier.model, classifier.tokenizer, 0.5, classifier.window, classifier.overlap)
    scored = list(predict(raw, documents))
    starts, labels = zip(*(_word_labels(d) for d in documents), strict=True)
    y = np.concatenate(labels)
    return max((_agreement(scored, starts, y, radius) for radius in radii), key=lambda v: v.f1)


def _word_labels(document: Document) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """First character of every word that counts, and whether it lies in a forget span."""
    first = np.array([start for start, _ in words(document.text)], np.int64)
    first = first[~inside(first, document.ignore or [])]
    return first, inside(first, document.spans or [])


def _agreement(
    scored: list[Prediction], starts: Sequence[NDArray[np.int64]], y: NDArray[np.bool_], radius: int
) -> Validation:
    p = np.concatenate([
        Prediction(s.id, s.starts, s.ends, smoothed(s.p, radius)).carried(at, at + 1)
        for s, at in zip(scored, starts, strict=True)
    ])  # fmt: skip
    threshold = best_threshold(p, y)
    flagged = p >= threshold
    hits = int((flagged & y).sum())
    precision, recall = hits / max(int(flagged.sum()), 1), hits / int(y.sum())
    f1 = 2 * hits / (int(flagged.sum()) + int(y.sum()))
    return Validation(threshold, radius, f1, precision, recall, len(y), int(y.sum()))
