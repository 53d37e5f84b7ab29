"""A teacher that reads the reference: one linear probe over every latent, fitted to a rule's labels.

A rule counts a few hundred latents, each by its own threshold, and is wrong token by token. A linear
model of all latents cannot learn a single token's mistake by heart (METHOD, step 2: frozen and linear
because the labels are noisy), and the mean over neighbouring tokens turns keywords into stretches.
What it says, a smaller classifier learns as probabilities (METHOD, weak-to-strong).

Only train documents are learned from, and none is scored by a probe that has seen it.
"""

import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, vstack

from labeling.ballots import train_documents
from labeling.curves import best_threshold
from labeling.events import Event, Metric, Progress
from labeling.predict import smoothed
from labeling.predictions import in_store, write_predictions
from labeling.rule import Mask
from labeling.store import Store

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LatentProbeConfig:
    """`fit_tokens` bounds time and memory; at L0 24 the default is about 10M activations."""

    folds: int = 3
    l2: float = 1e-5
    radii: tuple[int, ...] = (0, 3, 6, 10, 15, 20)  # tokens to either side, as `labeling.predict.smoothed` takes them
    fit_tokens: int = 400_000  # of train documents, over all folds
    iterations: int = 100
    seed: int = 0


def teach(
    store_path: Path,
    forget: Mask,
    out: Path,
    config: LatentProbeConfig | None = None,
    info: dict[str, Any] | None = None,
) -> Iterator[Event]:
    """Step: P(forget) of every token of the store, as artifact kind "predictions".

    `forget` (tok,) are the rule's labels. ValueError where the train split cannot be learned from.
    """
    config, store = config or LatentProbeConfig(), Store.open(store_path)
    fold = folds_of(store, config)
    weights, biases = yield from fit(store, forget, fold, config)
    p = yield from scores(store, fold, weights, biases)
    radius, threshold, f1 = choose(store, p, forget, fold >= 0, config.radii)
    yield Metric("agreement_f1", f1)
    said = {"teacher": "latents", "threshold": threshold, "smooth": radius, "agreement_f1": f1, **asdict(config)}
    found = (in_store(store, i, p) for i in range(len(store.keys)))
    yield from write_predictions((replace(d, p=smoothed(d.p, radius)) for d in found), out, (info or {}) | said)


def folds_of(store: Store, config: LatentProbeConfig) -> NDArray[np.int64]:
    """(doc,) Which probe must not see the document; -1: none learns from it."""
    train = np.flatnonzero(train_documents(store))
    order = np.random.default_rng(config.seed).permutation(train)
    sizes = np.diff(store.doc_indptr)[order]
    chosen = order[np.cumsum(sizes) - sizes < config.fit_tokens]
    if len(chosen) < config.folds:
        raise ValueError(
            f"the train split has {len(chosen)} documents; a latent probe needs {config.folds}, import more text"
        )
    fold = np.full(len(store.keys), -1)
    fold[chosen] = np.arange(len(chosen)) % config.folds
    return fold


def activations(store: Store, documents: Mask) -> csr_array:
    """(tok, d_sae) of these documents' tokens, float32."""
    keep = np.repeat(documents, np.diff(store.doc_indptr))
    rows = [matrix.tocsr()[keep[first : first + matrix.shape[0]]] for first, matrix in _shards(store)]
    return csr_array(vstack(rows, format="csr"))


def _shards(store: Store) -> Iterator[tuple[int, csc_array]]:
    """Each shard's first token, and its activations (tok, d_sae)."""
    ends = [shard.first for shard in store.shards[1:]] + [store.n_tokens]
    for shard, end in zip(store.shards, ends, strict=True):
        values = np.asarray(shard.values, np.float32)
        shape = (end - shard.first, store.d_sae)
        yield shard.first, csc_array((values, shard.tokens, shard.indptr), shape=shape)


def fit(
    store: Store, forget: Mask, fold: NDArray[np.int64], config: LatentProbeConfig
) -> Generator[Event, None, tuple[Floats, Floats]]:
    """Logistic regression on each fold's complement: weights (d_sae, fold) and biases (fold,).

    While it is fitted, a latent is divided by the root of its SD: raw, the rare ones are silenced by
    the penalty; standardised, they speak loudest.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    yield Progress(0, config.folds, "probes", "fit latent probes")
    sizes = np.diff(store.doc_indptr)
    scale = (1 / np.sqrt(np.maximum(store.stats.sd, 1e-3))).astype(np.float32)
    x = activations(store, fold >= 0)
    x.data *= scale[x.indices]
    y = forget[np.repeat(fold >= 0, sizes)]
    held = np.repeat(fold[fold >= 0], sizes[fold >= 0])
    if not 0 < y.sum() < len(y):
        raise ValueError(
            "the rule's labels on the train split are all alike; change the rule or import text of both sides"
        )
    weights, biases = [], []
    for k in range(config.folds):
        rows = held != k
        model = LogisticRegression(C=1 / (config.l2 * rows.sum()), max_iter=config.iterations)
        with warnings.catch_warnings():  # stopping here is meant: 60 iterations and 300 agree with the rule alike
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x[rows], y[rows])
        weights.append(model.coef_[0].astype(np.float32) * scale)
        biases.append(np.float32(model.intercept_[0]))
        yield Progress(k + 1, config.folds, "probes", "fit latent probes")
    return np.stack(weights, axis=1), np.array(biases)


def scores(store: Store, fold: NDArray[np.int64], weights: Floats, biases: Floats) -> Generator[Event, None, Floats]:
    """(tok,) P(forget) by the probe that has not seen the document; by the mean of all where none has."""
    out = np.empty(store.n_tokens, np.float32)
    of_token = np.repeat(fold, np.diff(store.doc_indptr))
    for first, matrix in _shards(store):
        p = 1 / (1 + np.exp(-(matrix @ weights + biases)))  # (tok, fold)
        mine = of_token[first : first + len(p)]
        out[first : first + len(p)] = np.where(mine < 0, p.mean(1), p[np.arange(len(p)), mine])
        yield Progress(first + len(p), store.n_tokens, "tokens", "score by latent probes")
    return out


def choose(store: Store, p: Floats, forget: Mask, learned: Mask, radii: Sequence[int]) -> tuple[int, float, float]:
    """(radius, threshold, F1) that agree best with the rule, each document scored by a probe that has not seen it."""
    y = forget[np.repeat(learned, np.diff(store.doc_indptr))]
    best = (0, 0.5, -1.0)
    for radius in radii:
        smooth = np.concatenate([smoothed(p[store.document(i)], radius) for i in np.flatnonzero(learned).tolist()])
        threshold = best_threshold(smooth, y)
        flagged = smooth >= threshold
        f1 = 2 * float((flagged & y).sum()) / float(flagged.sum() + y.sum())
        if f1 > best[2]:
            best = radius, threshold, f1
    return best
