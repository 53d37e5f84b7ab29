"""Votes of the functions that read text, cast once per store and kept: no control of a rule changes them.

tokens.npy  int32, ascending: the tokens that the function does not abstain on
votes.npy   int8, what it says there
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling.artifacts import staged, verify
from labeling.events import Artifact, Event, Progress, value_of
from labeling.functions import ABSTAIN, Function, parse
from labeling.limited import limited
from labeling.store import Store

KIND = "votes"


@dataclass(frozen=True, eq=False)
class StoredVotes:
    """One function's votes over a store. It abstained on `failed` documents, for the `reason` of the first."""

    function: Function
    tokens: NDArray[np.int32]
    votes: NDArray[np.int8]
    failed: int = 0
    reason: str = ""

    @property
    def score(self) -> NDArray[np.int64]:
        """What each vote adds to its token's; a veto's retain votes are final, so they need not be counted too."""
        said = np.maximum(self.votes, 0) if self.function.veto else self.votes
        return said.astype(np.int64) * self.function.weight


def cast(store: Store, function: Function, text_of: Callable[[str], str]) -> StoredVotes:
    """A function's votes on every document, without keeping them."""
    return value_of(casting(store, function, text_of))


def casting(store: Store, function: Function, text_of: Callable[[str], str]) -> Generator[Progress, None, StoredVotes]:
    """`cast`, with its progress. A document it fails on (error, too slow, too large) is abstained on and counted."""
    tokens: list[NDArray[np.int32]] = []
    votes: list[NDArray[np.int8]] = []
    failed, reason = 0, ""
    with limited(function) as voter:
        for i, key in enumerate(store.keys):
            where = store.document(i)
            starts, ends = np.asarray(store.starts[where]), np.asarray(store.ends[where])
            try:
                said = voter.vote(text_of(key) if function.needs_text else "", starts, ends, store.doc_family[i])
            except ValueError as error:
                failed, reason = failed + 1, reason or f"{key}: {error}"
                continue
            hit = np.flatnonzero(said != ABSTAIN)
            tokens.append((hit + where.start).astype(np.int32))
            votes.append(said[hit])
            if i % 50 == 0:
                yield Progress(i, len(store.keys), "documents", f"votes of {function.name}")
    return StoredVotes(
        function, np.concatenate([*tokens, np.zeros(0, np.int32)]), np.concatenate([*votes, np.zeros(0, np.int8)]),
        failed, reason,
    )  # fmt: skip


def cast_votes(
    store_path: Path, function: Function, text_of: Callable[[str], str], out: Path, info: dict[str, Any]
) -> Iterator[Event]:
    """The step: one function's votes over a store, as an artifact of kind "votes"."""
    store = Store.open(store_path)
    found = yield from casting(store, function, text_of)
    info = {
        "function": function.model_dump(mode="json"),
        "documents": len(store.keys),
        "tokens": len(found.tokens),
        "failed": found.failed,
        "reason": found.reason,
    } | info
    with staged(out, KIND, info) as folder:
        np.save(folder / "tokens.npy", found.tokens, allow_pickle=False)
        np.save(folder / "votes.npy", found.votes, allow_pickle=False)
    yield Artifact(KIND, out, info)


def open_votes(path: Path) -> StoredVotes:
    info = verify(path, KIND)["info"]
    tokens, votes = (np.load(path / f"{name}.npy", allow_pickle=False) for name in ("tokens", "votes"))
    return StoredVotes(parse(info["function"]), tokens, votes, info["failed"], info["reason"])
