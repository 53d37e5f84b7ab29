"""The list of candidate latents as a page shows it: filtered, ordered, with what a row needs.

The list and a latent's own page share one `LatentQuery`, so 'next latent' follows the order
that the person was reading in.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import numpy as np
from jaxtyping import Bool, Int
from pydantic import BaseModel, BeforeValidator, Field

from app.artifacts import LatentTable
from app.models import Explanation, Verdict

# column -> (head, what it says)
COLUMNS = {
    "ratio": ("Ratio", "strong firing rate on forget text over that on retain text, smoothed"),
    "ratio_nearest": ("Nearest", "the same ratio against the one retain family where it fires most"),
    "auroc": ("AUROC", "of its value as a detector of forget-family tokens"),
    "strong_forget": ("Strong, forget", "tokens of forget families far above its mean"),
    "strong_retain": ("Strong, retain", "tokens of retain families far above its mean"),
    "density_forget": ("Density, forget", "share of forget tokens where it fires at all"),
    "density_retain": ("Density, retain", "share of retain tokens where it fires at all"),
    "documents": ("Documents", "share of documents in which it fires"),
    "density": ("Density", "share of all tokens where it fires"),
    "mean": ("Mean", "over all tokens, zeros included"),
    "sd": ("SD", "over all tokens, zeros included"),
    "max": ("Max", "its largest value"),
}
SHOWN = list(COLUMNS)[:8]
PAGE = 25
Bound = Annotated[float | None, BeforeValidator(lambda value: None if value == "" else value)]


class LatentQuery(BaseModel):
    """What to show, as the address says it. `column`, `least` and `most` run in step: one range each."""

    sort: str = "ratio"
    down: bool = True
    state: Literal["any", "todo", "accept", "reject", "unsure"] = "any"
    minimum: Annotated[int, Field(ge=0)] = 20  # strong firings on forget text
    ratio: Annotated[float, Field(ge=0)] = 0
    text: Annotated[str, Field(max_length=100)] = ""  # in its top tokens or its explanation
    column: Annotated[list[str], Field(max_length=20)] = []
    least: Annotated[list[Bound], Field(max_length=20)] = []
    most: Annotated[list[Bound], Field(max_length=20)] = []
    page: Annotated[int, Field(ge=1)] = 1

    @property
    def ranges(self) -> list[tuple[str, float | None, float | None]]:
        triples = zip_longest(self.column, self.least, self.most)
        return [(c, a, b) for c, a, b in triples if c and (a is not None or b is not None)]

    def link(self, **changes: object) -> str:
        """The address's query string with some fields changed, defaults left out."""
        value = self.model_copy(update=changes)
        said: dict[str, Any] = value.model_dump(exclude_defaults=True, exclude={"column", "least", "most"})
        for name, part in zip(("column", "least", "most"), zip(*value.ranges, strict=True), strict=False):
            said[name] = ["" if bound is None else bound for bound in part]
        return "?" + urlencode(said, doseq=True)

    def sorted_by(self, column: str) -> str:
        """The link of a column's head: the other direction if it is the order already."""
        return self.link(sort=column, down=not self.down if self.sort == column else True, page=1)


@dataclass(frozen=True)
class Row:
    """One line of the list; `surfaces` are where it fires most, `nearest` the family of `ratio_nearest`."""

    latent: int
    values: dict[str, float]
    verdict: Verdict | None
    surfaces: list[str]
    nearest: str
    explanation: Explanation | None


def columns_of(table: LatentTable) -> dict[str, tuple[str, str]]:
    """What this table can be sorted and filtered by; each retain family has a ratio of its own."""
    named = {name: said for name, said in COLUMNS.items() if name in table.columns}
    for family in retain_families(table):
        named[f"ratio:{family}"] = (f"Ratio, {family}", f"strong firing rate on forget text over that on {family}")
    return named


def retain_families(table: LatentTable) -> list[str]:
    if "family_ratio" not in table.columns:
        return []
    has = np.isfinite(table["family_ratio"][:1]).any(0)  # a family has a ratio for every latent or for none
    return [family for family, known in zip(table.families, has, strict=True) if known]


def unknown_columns(table: LatentTable, query: LatentQuery) -> list[str]:
    """Columns that the address names and the table lacks."""
    known = columns_of(table)
    return [name for name in [query.sort, *(c for c, _, _ in query.ranges)] if name not in known]


def order(
    table: LatentTable,
    query: LatentQuery,
    verdicts: Mapping[int, Verdict],
    explanations: Mapping[int, Explanation] | None = None,
) -> Int[np.ndarray, " found"]:
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
    for column, least, most in query.ranges:
        values = table[column]
        chosen = (
            chosen & (values >= (-np.inf if least is None else least)) & (values <= (np.inf if most is None else most))
        )
    if wanted := query.text.strip():
        chosen = chosen & holding(table, wanted, explanations or {})
    ids = np.flatnonzero(chosen)
    key = np.nan_to_num(table[query.sort][ids].astype(np.float64), nan=-np.inf)
    return ids[np.argsort(-key if query.down else key, kind="stable")]


def holding(table: LatentTable, text: str, explanations: Mapping[int, Explanation]) -> Bool[np.ndarray, " d_sae"]:
    """Which latents have the text in one of their top tokens or in their explanation."""
    found = np.zeros(len(table), dtype=bool)
    if table.words is not None:
        found |= np.isin(table["top_tokens"], table.words.holding(text)).any(1)
    said = [n for n, e in explanations.items() if text.lower() in e.text.lower() and n < len(found)]
    found[said] = True
    return found


def neighbours(ids: Int[np.ndarray, " found"], latent: int) -> tuple[int | None, int | None, int | None]:
    """(previous, next, place counted from 1) of a latent in an order; None where there is none."""
    at = np.flatnonzero(ids == latent)
    if not len(at):
        return None, (int(ids[0]) if len(ids) else None), None
    place = int(at[0])
    before = int(ids[place - 1]) if place else None
    return before, (int(ids[place + 1]) if place + 1 < len(ids) else None), place + 1


def values_of(table: LatentTable, latent: int) -> dict[str, float]:
    return {name: float(table[name][latent]) for name in columns_of(table)}


def nearest_family(table: LatentTable, latent: int) -> str:
    """The retain family against which its ratio is smallest."""
    ratios = table["family_ratio"][latent] if "family_ratio" in table.columns else np.array([np.nan])
    return table.families[int(np.nanargmin(ratios))] if np.isfinite(ratios).any() else ""


def rows(
    table: LatentTable,
    ids: Iterable[int],
    verdicts: Mapping[int, Verdict],
    explanations: Mapping[int, Explanation],
) -> list[Row]:
    names = list(columns_of(table))
    return [
        Row(
            n, {name: float(table[name][n]) for name in names}, verdicts.get(n), table.surfaces(n)[:4],
            nearest_family(table, n), explanations.get(n),
        )
        for n in map(int, ids)
    ]  # fmt: skip
