"""The removal ladder: nested sets of tokens, one per budget, each rung holding all that is below it.

A rule says yes or no; a ladder needs an order. Tokens are ordered by the rule's own vote, ties by
how far the voting latents lie above their thresholds, so the rung at `k` is the rule itself. Each
budget takes the lowest cut that removes no more than that share of the train tokens, found by
bisection through the whole rule (growth, gaps, vetoes). A lower cut can only add seeds, and more
seeds only more tokens: the sets are nested. A classifier's ladder orders tokens by P(forget).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling.artifacts import staged
from labeling.ballots import Ballots, cast, train_documents
from labeling.documents import Document
from labeling.events import Artifact, Event, Progress
from labeling.functions import Function
from labeling.label_models import score_labels
from labeling.rule import SEED, Flags, Labels, Mask, RuleConfig, TextOf, describe, in_window, is_forget
from labeling.store import Store

KIND = "ladder"
BUDGETS = (0.01, 0.03, 0.05, 0.1)
ForgetAt = Callable[[float], Mask]


@dataclass(frozen=True)
class Rung:
    """One budget: the cut that meets it, and the share of train tokens that then goes."""

    budget: float
    cut: float
    share: float
    reached: bool  # False: even the lowest cut removes less than the budget


def level(ballots: Ballots) -> NDArray[np.float64]:
    """The order of tokens as seeds: votes, then SDs above threshold squeezed below one vote. (tok,)"""
    excess = ballots.excess.astype(np.float64)
    own = ballots.score + excess / (1 + excess) * (1 - 1e-9)
    # Rounded: sums over a window must not depend on what stands before it.
    return np.round(in_window(own, ballots.doc_indptr, ballots.config.window), 6) if ballots.config.window else own


def climb(forget_at: ForgetAt, cuts: NDArray[np.float64], budgets: Sequence[float]) -> Iterator[Rung]:
    """A rung per budget, smallest first. `forget_at(cut)` must only grow as the cut falls.

    `cuts` are the values worth trying. Only what `forget_at` covers is counted.
    """
    tried: dict[int, float] = {}
    cuts = np.unique(cuts)[::-1]  # highest first: the share rises along it

    def share(at: int) -> float:
        if at < 0:
            return 0.0
        if at not in tried:
            tried[at] = float(forget_at(float(cuts[at])).mean())
        return tried[at]

    low = -1  # nothing goes
    for budget in sorted(budgets):
        high = len(cuts)  # not allowed, as far as known
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if share(middle) <= budget else (low, middle)
        cut = float(cuts[low]) if low >= 0 else float("inf")
        yield Rung(budget, cut, share(low), low < len(cuts) - 1)


def check_budgets(budgets: Sequence[float]) -> tuple[float, ...]:
    """Sorted and distinct; ValueError says what is wrong with one."""
    for budget in budgets:
        if not 0 < budget < 1:
            raise ValueError(f"budget {budget:g} is not a share of the tokens; give numbers above 0 and below 1")
    if not 1 <= len(set(budgets)) <= 12:
        raise ValueError("give between 1 and 12 different budgets")
    return tuple(sorted(set(budgets)))


def ladder_corpus(
    store_path: Path,
    latents: Sequence[int],
    config: RuleConfig,
    functions: Sequence[Function],
    text_of: TextOf | None,
    gold: Sequence[Document],
    out: Path,
    budgets: Sequence[float] = BUDGETS,
    info: dict[str, Any] | None = None,
) -> Iterator[Event]:
    """The step: `rungs.npy`, the first rung that removes each token (from 1; 0 none does), and `ladder.json`."""
    budgets = check_budgets(budgets)
    store = Store.open(store_path)
    ballots = yield from cast(store, latents, config, functions, text_of)
    train, order = ballots.within(train_documents(store)), level(ballots)
    train_order = level(train)
    cuts = np.unique(train_order[train_order > 0])
    if not len(cuts):
        raise ValueError("no function votes forget on any train token; lower z or accept more latents")
    rungs: list[dict[str, Any]] = []
    first = np.zeros(store.n_tokens, np.uint8)
    flags: Flags = np.zeros(store.n_tokens, np.uint8)
    climbing = climb(lambda cut: is_forget(train.grow(train_order >= cut)), cuts, budgets)
    for number, rung in enumerate(climbing, 1):
        yield Progress(number - 1, len(budgets) + 1, "rungs", "fit budgets")
        flags = ballots.grow(order >= rung.cut)
        first[(first == 0) & is_forget(flags)] = number
        rungs.append(measured(store, flags, rung, gold))
    yield Progress(len(budgets), len(budgets) + 1, "rungs", "the rule itself")
    own = ballots.grow(ballots.seeds())
    share = float(is_forget(train.grow(train.seeds())).mean())
    said = {"rungs": rungs, "rule": measured(store, own, Rung(share, float(config.k), share, True), gold)}
    info = {**(info or {}), "budgets": list(budgets), "cuts": [rung["cut"] for rung in rungs]}
    with staged(out, KIND, info) as folder:
        (folder / "ladder.json").write_text(json.dumps(said), encoding="utf-8")
        np.save(folder / "rungs.npy", first, allow_pickle=False)
    yield Artifact(KIND, out, info)


def measured(store: Store, flags: Flags, rung: Rung, gold: Sequence[Document]) -> dict[str, Any]:
    """A rung with what it removes per family and split, and its scores on gold."""
    return vars(rung) | {
        "cut": rung.cut if np.isfinite(rung.cut) else None,  # None: nothing goes
        "labels": describe(store, Labels(flags)),
        "gold": score_labels(store, flags, gold),
    }


def rung_flags(rungs: NDArray[np.uint8], number: int) -> Flags:
    """Labels of one rung, as the rule writes them; which of its tokens were seeds is not kept."""
    return np.where((rungs > 0) & (rungs <= number), np.uint8(SEED), np.uint8(0))
