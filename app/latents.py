"""The list of candidate latents as a page shows it: filtered, ordered, with what a row needs.

The list and a latent's own page share one `LatentQuery`, so 'next latent' follows the order
that the person was reading in.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlencode

import numpy as np
from jaxtyping import Bool, Int
from pydantic import BaseModel, Field

from app.artifacts import LatentTable
from app.models import Verdict
from labeling.store import Store

Column = Literal[
    "ratio", "ratio_nearest", "auroc", "density", "density_forget", "density_retain", "strong_forget", "strong_retain"
]
PAGE = 25


class LatentQuery(BaseModel):
    """What to show, as the address says it."""

    sort: Column = "ratio"
    down: bool = True
    state: Literal["any", "todo", "accept", "reject", "unsure"] = "any"
    minimum: Annotated[int, Field(ge=0)] = 20  # strong firings on forget text
    ratio: Annotated[float, Field(ge=0)] = 0
    page: Annotated[int, Field(ge=1)] = 1

    def link(self, **changes: object) -> str:
        """The address's query string with some fields changed, defaults left out."""
        value = self.model_copy(update=changes)
        return "?" + urlencode(value.model_dump(exclude_defaults=True))

    def sorted_by(self, column: str) -> str:
        """The link of a column's head: the other direction if it is the order already."""
        return self.link(sort=column, down=not self.down if self.sort == column else True, page=1)


@dataclass(frozen=True)
class Row:
    """One line of the list. Densities per side and per family; `surfaces` are where it fires most."""

    latent: int
    values: dict[str, float]
    verdict: Verdict | None
    surfaces: list[str]


def order(table: LatentTable, query: LatentQuery, verdicts: dict[int, Verdict]) -> Int[np.ndarray, " found"]:
    """Ids of the latents that pass the filter, in order; latents with a verdict always pass `minimum`."""
    chosen: Bool[np.ndarray, " d_sae"] = (table["strong_forget"] >= query.minimum) & (table["ratio"] >= query.ratio)
    judged = np.zeros(len(chosen), dtype=bool)
    of_state = np.zeros(len(chosen), dtype=bool)
    for latent, verdict in verdicts.items():
        if latent < len(chosen):
            judged[latent] = True
            of_state[latent] = verdict.decision == query.state
    if query.state == "todo":
        chosen &= ~judged
    elif query.state != "any":
        chosen = of_state
    ids = np.flatnonzero(chosen)
    key = np.nan_to_num(table[query.sort][ids].astype(np.float64), nan=-np.inf)
    return ids[np.argsort(-key if query.down else key, kind="stable")]


def neighbours(ids: Int[np.ndarray, " found"], latent: int) -> tuple[int | None, int | None, int | None]:
    """(previous, next, place counted from 1) of a latent in an order; None where there is none."""
    at = np.flatnonzero(ids == latent)
    if not len(at):
        return None, (int(ids[0]) if len(ids) else None), None
    place = int(at[0])
    before = int(ids[place - 1]) if place else None
    return before, (int(ids[place + 1]) if place + 1 < len(ids) else None), place + 1


def values_of(table: LatentTable, latent: int) -> dict[str, float]:
    return {name: float(column[latent]) for name, column in table.columns.items() if column.ndim == 1}


def rows(
    table: LatentTable,
    ids: Iterable[int],
    verdicts: dict[int, Verdict],
    surfaces: dict[int, list[str]],
) -> list[Row]:
    return [Row(n, values_of(table, n), verdicts.get(n), surfaces.get(n, [])) for n in map(int, ids)]


def top_surfaces(
    store: Store, latents: Iterable[int], texts: Callable[[list[str]], dict[str, str]], shown: int = 4
) -> dict[int, list[str]]:
    """Different tokens that each latent fires on most, over train documents; `texts` is asked once for all."""
    train = store.token_split_mask("train")
    tops: dict[int, Int[np.ndarray, " top"]] = {}
    for latent in map(int, latents):
        tokens, activations = store.latent(latent)
        keep = train[tokens]
        strongest = tokens[keep][np.argsort(-activations[keep], kind="stable")[:200]]
        _, first = np.unique(store.ids[strongest], return_index=True)
        tops[latent] = strongest[np.sort(first)[:shown]]
    documents = {int(t): int(d) for top in tops.values() for t, d in zip(top, store.doc_of_tokens(top), strict=True)}
    found = texts([store.keys[d] for d in set(documents.values())])
    surfaces = {}
    for latent, top in tops.items():
        words = (found.get(store.keys[documents[int(t)]], "")[store.starts[t] : store.ends[t]] for t in top)
        surfaces[latent] = list(dict.fromkeys(word for word in words if word))
    return surfaces
