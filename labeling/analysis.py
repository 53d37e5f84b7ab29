"""What each labeling function contributes: coverage, overlap, conflict (as in Snorkel), precision and
recall on gold, groups that fire together, and what the labels would be without it.

Looks at the train split, and for figures on gold at whichever documents the caller has gold of: people
choose functions by these figures, so that is never the test split. Computed from sparse votes, so the
cost is that of the votes, not of tokens times functions.
"""

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from labeling.artifacts import staged
from labeling.ballots import Ballots, Votes, cast, train_documents
from labeling.events import Artifact, Event, Progress
from labeling.functions import FORGET, RETAIN, Function
from labeling.rule import Mask, RuleConfig, TextOf, is_forget
from labeling.store import Store
from labeling.tokens import Spans, overlapping

KIND = "analysis"
UNKNOWN = -1
ALIKE = 0.5  # Jaccard index from which two functions count as one group
MOST_VOTES = 20  # the last bar of the histogram of votes: this many or more
Gold = NDArray[np.int8]  # (tok,) 1 forget, 0 retain, -1 not annotated


@dataclass(frozen=True)
class Report:
    """One labeling function. Shares are of all tokens looked at."""

    name: str
    kind: str
    side: str  # what it votes: forget, retain, both, none
    votes: int
    coverage: float  # it votes
    overlap: float  # it votes, and so does another
    conflict: float  # it votes, and another votes the other way
    redundant_with: str | None  # the function whose votes are most alike
    redundancy: float  # Jaccard index of the two sets of tokens, same side
    judged: int = 0  # of its votes, those on tokens with gold
    correct: int = 0
    precision: float | None = None  # of those judged, the share that gold agrees with
    recall: float | None = None  # of the gold tokens of the side it votes for, the share it votes on
    group: int | None = None  # functions linked by a Jaccard index of ALIKE share a number
    families: tuple[float, ...] = ()  # coverage of each family
    lost: int = 0  # forget tokens of the rule that would not be without it
    gained: int = 0  # and tokens that would be forget only without it
    f1_without: float | None = None  # change of the rule's F1 on gold tokens if it is left out


@dataclass(frozen=True)
class Summary:
    """All functions together: Snorkel's label_coverage, label_overlap and label_conflict, and the rule's labels."""

    tokens: int
    coverage: float
    overlap: float
    conflict: float
    histogram: tuple[int, ...]  # tokens with 0, 1, 2 … votes; the last counts MOST_VOTES and more
    forget: int
    gold_tokens: int = 0
    f1: float | None = None


@dataclass(frozen=True)
class Analysis:
    """Reports in the order of the functions; `alike` is the Jaccard index of each pair, (fn, fn)."""

    summary: Summary
    reports: list[Report]
    alike: NDArray[np.float64]


def analyse(ballots: Ballots, families: NDArray[np.int64] | None = None) -> Generator[Event, None, Analysis]:
    """The whole analysis of these ballots but for gold, with progress. `families` numbers each document's family."""
    counted = counts(ballots)
    alike = redundancy(ballots)
    reports = figures(ballots, counted, alike)
    for number, group in groups(alike).items():
        reports[number] = replace(reports[number], group=group)
    if families is not None:
        shares = by_family(ballots, families)
        reports = [replace(r, families=tuple(row)) for r, row in zip(reports, shares.tolist(), strict=True)]
    base = is_forget(ballots.grow(ballots.seeds()))
    for number, report in enumerate(reports):
        left = without(ballots, number)
        reports[number] = replace(report, lost=int((base & ~left).sum()), gained=int((left & ~base).sum()))
        if number % 5 == 0:
            yield Progress(number, len(reports), "functions", "leave one out")
    return Analysis(_summary(ballots, counted, base), reports, alike)


def with_gold(found: Analysis, ballots: Ballots, gold: Gold) -> Generator[Event, None, Analysis]:
    """The analysis with its figures on gold, by the same functions' ballots on annotated documents."""
    f1 = _f1(is_forget(ballots.grow(ballots.seeds())), gold)
    reports = list(found.reports)
    for number, (f, report) in enumerate(zip(ballots.functions, found.reports, strict=True)):
        truth = gold[f.tokens]
        judged = int((truth != UNKNOWN).sum())
        correct = int(((truth == (f.votes == FORGET)) & (truth != UNKNOWN)).sum())
        reachable = sum(int((gold == int(sign == FORGET)).sum()) for sign in np.unique(f.votes))
        after = _f1(without(ballots, number), gold) if f1 is not None else None
        reports[number] = replace(
            report, judged=judged, correct=correct,
            precision=correct / judged if judged else None,
            recall=correct / reachable if reachable else None,
            f1_without=after - f1 if after is not None and f1 is not None else None,
        )  # fmt: skip
        if number % 5 == 0:
            yield Progress(number, len(reports), "functions", "leave one out, on gold")
    summary = replace(found.summary, gold_tokens=int((gold != UNKNOWN).sum()), f1=f1)
    return replace(found, summary=summary, reports=reports)


def counts(ballots: Ballots) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """How many functions vote forget and how many retain, per token."""
    forget, retain = np.zeros(ballots.n_tokens, np.uint16), np.zeros(ballots.n_tokens, np.uint16)
    for f in ballots.functions:
        forget[f.on(FORGET)] += 1
        retain[f.on(RETAIN)] += 1
    return forget, retain


def figures(
    ballots: Ballots,
    counted: tuple[NDArray[np.uint16], NDArray[np.uint16]],
    alike: NDArray[np.float64],
) -> list[Report]:
    """Coverage, overlap, conflict and the nearest function of each."""
    forget, retain = counted
    n = max(ballots.n_tokens, 1)
    out = []
    for number, f in enumerate(ballots.functions):
        against = np.where(f.votes == FORGET, retain[f.tokens], forget[f.tokens])
        nearest = int(np.argmax(alike[number])) if len(ballots.functions) > 1 else number
        likeness = float(alike[number, nearest])
        out.append(
            Report(
                name=f.name, kind=f.kind, side=f.side, votes=len(f.tokens),
                coverage=len(f.tokens) / n,
                overlap=float((forget[f.tokens] + retain[f.tokens] > 1).sum() / n),
                conflict=float((against > 0).sum() / n),
                redundant_with=ballots.functions[nearest].name if likeness > 0 else None,
                redundancy=likeness,
            )
        )  # fmt: skip
    return out


def vote_matrix(functions: Sequence[Votes], sign: int, n_tokens: int) -> csr_array:
    """Who votes `sign` where: (fn, tok), sparse, ones."""
    hits = [f.on(sign) for f in functions]
    indptr = np.cumsum([0] + [len(h) for h in hits])
    tokens = np.concatenate([*hits, np.zeros(0, np.int32)])
    return csr_array((np.ones(indptr[-1], np.int32), tokens, indptr), (len(functions), n_tokens))


def redundancy(ballots: Ballots) -> NDArray[np.float64]:
    """Jaccard index of each pair's votes for the same side, 0 on the diagonal. Shape (fn, fn)."""
    together = np.zeros((len(ballots.functions), len(ballots.functions)))
    for sign in (FORGET, RETAIN):
        votes = vote_matrix(ballots.functions, sign, ballots.n_tokens)
        together += (votes @ votes.T).toarray()
    np.fill_diagonal(together, 0)
    sizes = np.array([len(f.tokens) for f in ballots.functions], dtype=np.float64)
    either = sizes[:, None] + sizes[None, :] - together
    return np.divide(together, either, out=np.zeros_like(together), where=either > 0)


def groups(alike: NDArray[np.float64]) -> dict[int, int]:
    """Function -> its group, for functions that have a like one; the largest group is number 1."""
    if not len(alike):
        return {}
    _, member = connected_components(csr_array(alike >= ALIKE), directed=False)
    sizes = np.bincount(member)
    order = [int(g) for g in np.argsort(-sizes, kind="stable") if sizes[g] > 1]
    rank = {group: place for place, group in enumerate(order, 1)}
    return {number: rank[int(g)] for number, g in enumerate(member) if int(g) in rank}


def by_family(ballots: Ballots, families: NDArray[np.int64]) -> NDArray[np.float64]:
    """Coverage of each function on each family's tokens: (fn, family)."""
    of_token = np.repeat(families, np.diff(ballots.doc_indptr))
    count = int(families.max(initial=-1)) + 1
    tokens = np.maximum(np.bincount(of_token, minlength=count), 1)
    rows = [np.bincount(of_token[f.tokens], minlength=count) / tokens for f in ballots.functions]
    return np.array(rows).reshape(len(ballots.functions), count)


def without(ballots: Ballots, number: int) -> Mask:
    """What the rule would label forget without this function."""
    f = ballots.functions[number]
    score, growing, vetoed = ballots.score.copy(), ballots.growing.copy(), ballots.vetoed
    growing[f.grows] -= 1
    if f.veto:
        vetoed = np.zeros_like(vetoed)
        for other in ballots.functions[:number] + ballots.functions[number + 1 :]:
            if other.veto:
                vetoed[other.on(RETAIN)] = True
        score[f.on(FORGET)] -= f.weight
    else:
        score[f.tokens] -= f.votes.astype(np.int32) * f.weight
    left = replace(ballots, score=score, growing=growing, vetoed=vetoed)
    return is_forget(left.grow(left.seeds()))


def _f1(forget: Mask, gold: Gold) -> float | None:
    """F1 on the tokens that have gold; None where that says nothing."""
    if not (gold == 1).any():
        return None
    hits = int((forget & (gold == 1)).sum())
    wrong = int((forget & (gold == 0)).sum()) + int((~forget & (gold == 1)).sum())
    return 2 * hits / (2 * hits + wrong)


def _summary(ballots: Ballots, counted: tuple[NDArray[np.uint16], NDArray[np.uint16]], base: Mask) -> Summary:
    forget, retain = counted
    votes, n = forget + retain, max(ballots.n_tokens, 1)
    return Summary(
        tokens=ballots.n_tokens,
        coverage=float((votes > 0).sum() / n),
        overlap=float((votes > 1).sum() / n),
        conflict=float(((forget > 0) & (retain > 0)).sum() / n),
        histogram=tuple(np.bincount(np.minimum(votes, MOST_VOTES), minlength=MOST_VOTES + 1).tolist()),
        forget=int(base.sum()),
    )


def gold_tokens(store: Store, gold: Mapping[str, tuple[Spans, Spans]]) -> Gold:
    """Gold per token from {document key: (spans, ignored spans)}: 1 forget, 0 retain, -1 not annotated."""
    out = np.full(store.n_tokens, UNKNOWN, dtype=np.int8)
    for i, key in enumerate(store.keys):
        if key in gold:
            where = store.document(i)
            starts, ends = np.asarray(store.starts[where]), np.asarray(store.ends[where])
            spans, ignored = gold[key]
            out[where] = np.where(overlapping(starts, ends, ignored), UNKNOWN, overlapping(starts, ends, spans))
    return out


def analyse_corpus(
    store_path: Path,
    latents: Sequence[int],
    config: RuleConfig,
    functions: Sequence[Function],
    text_of: TextOf | None,
    gold: Mapping[str, tuple[Spans, Spans]],
    out: Path,
    info: dict[str, Any] | None = None,
) -> Iterator[Event]:
    """The step: an artifact with `analysis.json` (summary, reports) and `alike.npy`, over train documents.

    Only the figures on gold are over the documents of `gold` instead, whichever their split.
    """
    store = Store.open(store_path)
    train = train_documents(store)
    everywhere = yield from cast(store, latents, config, functions, text_of)
    ballots = everywhere.within(train)
    names = sorted({f for f, mine in zip(store.doc_family, train, strict=True) if mine})
    families = np.array([names.index(f) for f, mine in zip(store.doc_family, train, strict=True) if mine], np.int64)
    found = yield from analyse(ballots, families)
    annotated = np.array([key in gold for key in store.keys], dtype=bool)
    truth = gold_tokens(store, gold)[np.repeat(annotated, np.diff(store.doc_indptr))]
    found = yield from with_gold(found, everywhere.within(annotated), truth)
    said = {
        "summary": vars(found.summary),
        "families": names,
        "reports": [vars(report) for report in found.reports],
        "errors": ballots.errors,
    }
    info = {**(info or {}), "tokens": found.summary.tokens, "functions": len(found.reports)}
    with staged(out, KIND, info) as folder:
        (folder / "analysis.json").write_text(json.dumps(said), encoding="utf-8")
        np.save(folder / "alike.npy", found.alike.astype(np.float32), allow_pickle=False)
    yield Artifact(KIND, out, info)
