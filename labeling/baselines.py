"""What a classifier has to beat, fitted on the same split and scored on the same documents.

    terms           each word alone: how often it was forget in the training text
    tfidf           logistic regression on the TF-IDF of a sentence's words and word pairs
    document-probe  a probe on the same frozen backbone, every token given its document's label
    document        a document classifier: a probe on the mean of its tokens' states

The rule that made the labels is the fifth, and needs no fitting. Each baseline's threshold is the
best on validation, as the classifier's is.
"""

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labeling.artifacts import staged
from labeling.documents import Document
from labeling.evaluate import inside
from labeling.events import Artifact, Event, Progress
from labeling.examples import Labelled, TrainConfig, agreement, coarsened, take
from labeling.predict import LoadedClassifier, autocast, covering, states, stretches
from labeling.predictions import Prediction
from labeling.probe import logistic, reading
from labeling.references import blocks_of
from labeling.tokens import sentences, tokenize, words
from labeling.train import untrained

KIND = "baselines"
NAMES = ("terms", "tfidf", "document-probe", "document")
Scorer = Callable[[Sequence[Document]], Iterable[Prediction]]


@dataclass(frozen=True)
class BaselineConfig:
    """How much the baselines may cost. The backbone is the classifier's, so that only the labels differ."""

    backbone: str
    layer: int | None = None  # block the two document baselines read; None: the middle one
    train_tokens: int = 100_000
    window: int = 256
    coarse_share: float = 0.25  # of a document's words that make it forget
    l2: float = 1e-4
    seed: int = 0


def baselines(
    examples: Sequence[Labelled], targets: Sequence[Document], config: BaselineConfig, out: Path,
    names: Sequence[str] = NAMES,
) -> Iterator[Event]:  # fmt: skip
    """Step: fit on the train split, choose thresholds on validation, score `targets` into `out/NAME.jsonl`."""
    train = [e for e in examples if e.split == "train"]
    held_out = [e.document for e in examples if e.split == "validation"]
    if not any(d.spans for d in held_out) or not any(e.document.spans for e in train):
        raise ValueError("baselines need forget words in the train and validation splits; import more text")
    thresholds: dict[str, float] = {}
    with staged(out, KIND, {"thresholds": thresholds, "backbone": Path(config.backbone).name}) as folder:
        fitted: list[tuple[str, Scorer]] = []
        if "terms" in names:
            fitted.append(("terms", fit_terms([e.document for e in train])))
        if "tfidf" in names:
            yield Progress(0, len(names), "baselines", "fit TF-IDF")
            fitted.append(("tfidf", fit_tfidf([e.document for e in train])))
        if "document-probe" in names or "document" in names:
            probe = yield from fit_documents(train, config)
            fitted += [(name, probe.scorer(name)) for name in ("document-probe", "document") if name in names]
        for done, (name, scorer) in enumerate(fitted):
            yield Progress(done, len(fitted), "baselines", f"score by {name}")
            thresholds[name] = agreement(list(scorer(held_out)), held_out).threshold
            with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
                for prediction in scorer(targets):
                    file.write(json.dumps(prediction.to_json(thresholds[name])) + "\n")
    yield Progress(len(fitted), len(fitted), "baselines", "scored")
    yield Artifact(KIND, out, {"thresholds": thresholds})


def by_word(document: Document, p: Iterable[float]) -> Prediction:
    """A prediction whose tokens are the document's words."""
    spans = np.array(words(document.text), np.int32).reshape(-1, 2)
    return Prediction(document.id, spans[:, 0], spans[:, 1], np.fromiter(p, np.float32, len(spans)))


def _word_labels(document: Document) -> tuple[list[str], NDArray[np.bool_], NDArray[np.bool_]]:
    """(lower-cased words, forget, to be learned from)."""
    spans = words(document.text)
    starts = np.array([start for start, _ in spans], np.int64)
    found = [document.text[start:end].lower() for start, end in spans]
    return found, inside(starts, document.spans or []), ~inside(starts, document.ignore or [])


def fit_terms(documents: Sequence[Document]) -> Scorer:
    """P(forget) of a word whatever stands around it, counts smoothed by one word of the overall share."""
    seen, forget = Counter[str](), Counter[str]()
    for document in documents:
        found, y, learned = _word_labels(document)
        for word, is_forget, counts in zip(found, y.tolist(), learned.tolist(), strict=True):
            seen[word] += counts
            forget[word] += counts and is_forget
    share = forget.total() / max(1, seen.total())

    def score(targets: Sequence[Document]) -> Iterator[Prediction]:
        for document in targets:
            found, _, _ = _word_labels(document)
            yield by_word(document, ((forget[w] + share) / (seen[w] + 1) for w in found))

    return score


def fit_tfidf(documents: Sequence[Document]) -> Scorer:
    """Sentences as bags of words and word pairs; a sentence's P(forget) goes to each of its words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts: list[str] = []
    shares: list[float] = []
    sizes: list[int] = []
    for document in documents:
        _, y, learned = _word_labels(document)
        for text, here in _by_sentence(document):
            if (known := here[learned[here]]).size:
                texts.append(text)
                shares.append(float(y[known].mean()))
                sizes.append(len(known))
    share, size = np.array(shares), np.array(sizes)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, max_features=100_000)
    x = vectorizer.fit_transform(texts)
    model = LogisticRegression(C=10.0, max_iter=200).fit(x, share >= 0.5, sample_weight=size / size.mean())

    def score(targets: Sequence[Document]) -> Iterator[Prediction]:
        for document in targets:
            p = np.zeros(len(words(document.text)), np.float32)
            if cut := list(_by_sentence(document)):
                found = model.predict_proba(vectorizer.transform([text for text, _ in cut]))[:, 1]
                for (_, here), value in zip(cut, found, strict=True):
                    p[here] = value
            yield by_word(document, p.tolist())

    return score


def _by_sentence(document: Document) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Each sentence with the numbers of its words, if it has any."""
    starts = np.array([start for start, _ in words(document.text)], np.int64)
    for begin, end in sentences(document.text):
        here = np.flatnonzero((starts >= begin) & (starts < end))
        if len(here):
            yield document.text[begin:end], here


@dataclass(frozen=True)
class DocumentProbes:
    """Two probes on one frozen backbone, both taught by document labels: on tokens, and on their mean."""

    classifier: LoadedClassifier
    token: tuple[Tensor, float]
    mean: tuple[Tensor, float]

    def scorer(self, name: str) -> Scorer:
        def score(targets: Sequence[Document]) -> Iterator[Prediction]:
            for document, tokens in zip(
                targets, tokenize(self.classifier.tokenizer, [d.text for d in targets]), strict=True
            ):
                x = document_states(self.classifier, tokens.ids)
                if name == "document":
                    p = probability(x.mean(0, keepdim=True), self.mean).expand(len(x))
                else:
                    p = probability(x, self.token)
                yield Prediction(document.id, *covering(document.text, tokens), p.numpy())

        return score


def probability(x: Tensor, probe: tuple[Tensor, float]) -> Tensor:
    return (x @ probe[0] + probe[1]).sigmoid()


@torch.inference_mode()
def document_states(classifier: LoadedClassifier, ids: NDArray[np.int32]) -> Tensor:
    """(tok, d): what the head would see at every token of one document."""
    cut = stretches(len(ids), classifier.size, classifier.overlap)
    if not cut:
        return torch.zeros(0, classifier.head.in_features)
    with autocast(classifier.model):
        return states(classifier, [ids[a:b] for a, b, _ in cut], [kept for *_, kept in cut]).float().cpu()


def fit_documents(train: Sequence[Labelled], config: BaselineConfig) -> Generator[Event, None, DocumentProbes]:
    """Document labels are the declared side where both sides occur, else the share of forget words."""
    overlap = min(64, config.window // 4)
    classifier = untrained(TrainConfig(config.backbone, window=config.window, overlap=overlap, seed=config.seed))
    classifier = reading(classifier, (config.layer or max(1, len(blocks_of(classifier.model)) // 2),))
    unit = "family" if {"forget", "retain"} <= {e.document.side for e in train} else "document"
    labelled = [coarsened(e, unit, config.coarse_share) for e in train]
    labelled = [e for e in labelled if e.document.ignore != [(0, len(e.document.text))]]
    labelled = take(labelled, "train", config.train_tokens, classifier.tokenizer)
    y = torch.tensor([float(bool(e.document.spans)) for e in labelled])
    if len(set(y.tolist())) < 2:
        raise ValueError("every training document has the same label, so no document baseline can be fitted")
    found, means = [], []
    encoded = tokenize(classifier.tokenizer, [e.document.text for e in labelled])
    for done, tokens in enumerate(encoded):
        x = document_states(classifier, tokens.ids)
        found.append(x)
        means.append(x.mean(0) if len(x) else torch.zeros(x.shape[1]))
        if done % 10 == 0:
            yield Progress(done, len(labelled), "documents", "fit document baselines")
    of_tokens = y.repeat_interleave(torch.tensor([len(x) for x in found]))
    return DocumentProbes(
        classifier,
        logistic(torch.cat(found), of_tokens, config.l2),
        logistic(torch.stack(means), y, 10 * config.l2),
    )
