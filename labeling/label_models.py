"""Three ways to turn votes into seeds: the rule's vote, the majority, and Dawid and Skene's model.

None needs gold. **Vote**: the weighted votes reach `k`. **Majority**: more functions vote forget
than retain; who abstains is not counted, so among functions that only ever vote forget one vote is
a majority. **Dawid-Skene** (1979) learns by EM how often each function speaks on forget and on
retain tokens and gives each token a probability; for functions that mostly abstain, silence is an
answer too.

The model is crowd-kit's `DawidSkene`, to nine digits (`tests/labeling/test_label_models.py`); that
takes a row per token and function, 600 million for 2M tokens and 300 latents, where the votes
themselves are a few million. Here EM runs on those, silence in closed form.
"""

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, vstack

from labeling.analysis import counts, vote_matrix
from labeling.artifacts import staged
from labeling.ballots import Ballots, cast, train_documents
from labeling.documents import Document
from labeling.evaluate import score
from labeling.events import Artifact, Event, Progress
from labeling.functions import FORGET, RETAIN, Function
from labeling.predictions import in_store
from labeling.rule import (
    GROWN,
    VETOED,
    Flags,
    Labels,
    Mask,
    RuleConfig,
    TextOf,
    describe,
    is_forget,
    runs,
)
from labeling.store import Store

KIND = "aggregation"
AGGREGATORS = ("vote", "majority", "dawid_skene")
TINY = 1e-10  # crowd-kit's own floor
Floats = NDArray[np.float64]


def vote(ballots: Ballots) -> Mask:
    return ballots.seeds()


def majority(ballots: Ballots) -> Mask:
    forget, retain = counts(ballots)
    return forget > retain


@dataclass(frozen=True)
class DawidSkene:
    """How often each function speaks, given the truth: columns are forget votes of each, then retain votes."""

    prior: float  # P(forget)
    on_forget: Floats  # (2 fn,) P(this vote | forget)
    on_retain: Floats  # (2 fn,) P(this vote | retain)
    iterations: int

    def posterior(self, votes: csr_array) -> Floats:
        """P(forget) of each row of `votes` (tok, 2 fn)."""
        return _posterior(votes, self.prior, self.on_forget, self.on_retain)


def ballot_matrix(ballots: Ballots) -> csr_array:
    """(tok, 2 fn) of ones: forget votes of each function, then retain votes."""
    sides = [vote_matrix(ballots.functions, sign, ballots.n_tokens) for sign in (FORGET, RETAIN)]
    return csr_array(csc_array(vstack(sides).T).tocsr().astype(np.float64))


def fit(
    votes: csr_array, start: Floats, silent: int = 0, iterations: int = 100, tolerance: float = 1e-6
) -> Generator[Event, None, DawidSkene]:
    """EM from the probabilities `start` of each row; `silent` more tokens have no vote at all.

    Those are one row, counted so often. Ends when no probability moves by `tolerance`.
    """
    p, quiet = start, 0.0
    model = _maximise(votes, p, quiet, silent, 0)
    for done in range(1, iterations + 1):
        before = p
        p = model.posterior(votes)
        quiet = float(model.posterior(csr_array((1, votes.shape[1])))[0])
        model = _maximise(votes, p, quiet, silent, done)
        moved = float(np.abs(p - before).max(initial=0.0))
        yield Progress(done, iterations, "rounds", "Dawid-Skene")
        if moved < tolerance:
            break
    return model


def _maximise(votes: csr_array, p: Floats, quiet: float, silent: int, done: int) -> DawidSkene:
    """Rates of each vote under the probabilities `p` of the rows and `quiet` of the silent tokens."""
    forget, total = p.sum() + quiet * silent, len(p) + silent
    rates = [
        np.clip(votes.T @ weight / max(mass, TINY), TINY, 1 - TINY)
        for weight, mass in ((p, forget), (1 - p, total - forget))
    ]
    return DawidSkene(float(np.clip(forget / max(total, 1), TINY, 1 - TINY)), rates[0], rates[1], done)


def _posterior(votes: csr_array, prior: float, on_forget: Floats, on_retain: Floats) -> Floats:
    functions = len(on_forget) // 2
    silence = [np.log(np.maximum(1 - r[:functions] - r[functions:], TINY)) for r in (on_forget, on_retain)]
    odds = np.log(on_forget) - np.log(on_retain) - np.tile(silence[0] - silence[1], 2)
    base = np.log(prior) - np.log1p(-prior) + float((silence[0] - silence[1]).sum())
    return 1 / (1 + np.exp(-np.clip(base + votes @ odds, -700, 700)))


def fit_to_train(ballots: Ballots, train: Mask) -> Generator[Event, None, tuple[DawidSkene, Floats]]:
    """The model learned from train documents, and P(forget) of every token.

    Starts, as crowd-kit does, from each token's share of forget among the answers: a forget
    function's silence is an answer for retain, a retain function's is none.
    """
    learned = ballots.within(train)
    spoken = np.flatnonzero(np.add(*counts(learned)) > 0)
    votes = ballot_matrix(learned)[spoken]
    functions = len(ballots.functions)
    answers = sum(f.side != "retain" for f in ballots.functions) + votes[:, functions:].sum(axis=1)
    start = votes[:, :functions].sum(axis=1) / np.maximum(answers, 1)
    model = yield from fit(votes, np.asarray(start, np.float64), learned.n_tokens - len(spoken))
    return model, model.posterior(ballot_matrix(ballots))


def soft_labels(p: NDArray[Any], flags: Flags, doc_indptr: NDArray[Any]) -> NDArray[np.float32]:
    """P(forget) of each token (tok,) that rounds to what the flags say, growth and vetoes included.

    A grown token is as sure as the surest seed of its run: the model knows nothing of spans. What a veto or the
    least length of a span keeps out is 0.
    """
    first = np.zeros(len(p) + 1, dtype=bool)
    first[doc_indptr] = True
    forget = is_forget(flags)
    members = np.flatnonzero(forget)
    run = runs(members, first)
    surest = np.zeros(run[-1] + 1 if len(run) else 0, np.float32)
    np.maximum.at(surest, run, p[members])
    soft = p.astype(np.float32)
    grown = flags[members] == GROWN
    soft[members[grown]] = surest[run[grown]]
    soft[(flags == VETOED) | (~forget & (soft >= 0.5))] = 0
    return soft


def compare_corpus(
    store_path: Path,
    latents: Sequence[int],
    config: RuleConfig,
    functions: Sequence[Function],
    text_of: TextOf | None,
    gold: Sequence[Document],
    out: Path,
    info: dict[str, Any] | None = None,
) -> Iterator[Event]:
    """The step: each aggregator's labels as `<name>.npy`, `p.npy` of Dawid-Skene, and `comparison.json`."""
    store = Store.open(store_path)
    train = train_documents(store)
    ballots = yield from cast(store, latents, config, functions, text_of)
    model, p = yield from fit_to_train(ballots, train)
    seeds = {"vote": vote(ballots), "majority": majority(ballots), "dawid_skene": p >= 0.5}
    flags = {name: ballots.grow(seed) for name, seed in seeds.items()}
    said: dict[str, Any] = {"functions": _learned(ballots, model), "prior": model.prior, "rounds": model.iterations}
    said["shares"] = {name: describe(store, Labels(found, ballots.errors)) for name, found in flags.items()}
    said["train"] = agreement(flags, np.repeat(train, np.diff(store.doc_indptr)))
    said["gold"] = {}
    for done, (name, found) in enumerate(flags.items()):
        yield Progress(done, len(flags), "aggregators", "score on gold")
        if scores := score_labels(store, found, gold):
            said["gold"][name] = scores
    info = {**(info or {}), "prior": model.prior, "rounds": model.iterations}
    with staged(out, KIND, info) as folder:
        (folder / "comparison.json").write_text(json.dumps(said), encoding="utf-8")
        np.save(folder / "p.npy", p.astype(np.float16), allow_pickle=False)
        for name, found in flags.items():
            np.save(folder / f"{name}.npy", found, allow_pickle=False)
    yield Artifact(KIND, out, info)


def _learned(ballots: Ballots, model: DawidSkene) -> list[dict[str, Any]]:
    """What the model thinks of each function: how often it speaks for its side, and how often it is right then."""
    rows, n = [], len(ballots.functions)
    for i, f in enumerate(ballots.functions):
        column, truth = (i + n, 1 - model.prior) if f.side == "retain" else (i, model.prior)
        right, wrong = model.on_forget[column], model.on_retain[column]
        if f.side == "retain":
            right, wrong = wrong, right
        hits, misses = right * truth, wrong * (1 - truth)
        rows.append({"name": f.name, "side": f.side, "recall": float(right), "false": float(wrong),
                     "precision": float(hits / (hits + misses)) if len(f.tokens) else None})  # fmt: skip
    return rows


def agreement(flags: dict[str, Flags], counted: Mask) -> dict[str, int]:
    """Tokens by who calls them forget, such as "vote+majority"; "" is nobody."""
    code = np.zeros(int(counted.sum()), np.int64)
    for bit, found in enumerate(flags.values()):
        code |= is_forget(found[counted]).astype(np.int64) << bit
    sizes = np.bincount(code, minlength=1 << len(flags)).tolist()
    names = list(flags)
    return {
        "+".join(name for bit, name in enumerate(names) if value >> bit & 1): size for value, size in enumerate(sizes)
    }


def score_labels(store: Store, flags: Flags, gold: Sequence[Document]) -> dict[str, Any] | None:
    """The evaluation table of labels on those gold documents that the store holds; None if it holds none."""
    known = set(store.keys)
    held = [document for document in gold if document.id in known]
    if not held:
        return None
    forget = is_forget(flags)
    return score((in_store(store, store.index_of(d.id), forget).to_json(0.5) for d in held), held).to_json()
