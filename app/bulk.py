"""One verdict on many suggestions at once: what a filter picks, and taking the whole of it back.

A suggestion is what the reader page shows as one: a run of flagged tokens. What somebody judged or
marked is left alone, and so is a document that is finished, so nobody's work is ever written over.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Bool
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.annotating import Labels
from app.models import Document, Rule
from app.reader import cuts, runs, suggested
from app.suggestions import Sources, TokenTable, flagged
from labeling.functions import Latent, parse
from labeling.rule import RuleConfig, moments
from labeling.tokens import merge

LOOK_AT = 2000  # documents at once
Share = Annotated[float | None, Field(ge=0, le=1, allow_inf_nan=False)]


class BulkFilter(BaseModel):
    """Which suggestions a bulk verdict is for. An empty field does not narrow."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    verdict: Literal["right", "wrong"] = "right"
    by: Literal["", "rule", "classifier", "both", "rule_only", "classifier_only"] = ""
    function: str = Field("", max_length=200)  # "latent 123", or another function's name
    low: Share = None
    high: Share = None
    words: str = Field("", max_length=200)
    family: str = Field("", max_length=200)
    split: Literal["", "train", "validation", "test", "revealed"] = ""
    document: int | None = Field(None, ge=1, lt=2**31)
    first: int = Field(0, ge=0, lt=2**31)  # documents with a smaller id are not looked at

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if value != ""}


@dataclass(frozen=True)
class Suggestion:
    """A run of flagged tokens in code points, with the highest p in it (None: nobody scored it)."""

    start: int
    end: int
    p: float | None
    rule: bool
    classifier: bool
    fired: bool  # the function asked for votes in it


@dataclass(frozen=True)
class Found:
    """What the filter picks in one document."""

    document: Document
    labels: Labels
    version: int
    suggestions: list[Suggestion]


Firing = Callable[[Document, TokenTable], Bool[np.ndarray, " tok"]]


def firing(sources: Sources, rule: Rule | None, name: str) -> Firing:
    """Where one function of the rule votes for forget. Raises ValueError for a name it does not have."""
    if not name:
        return lambda _, table: np.ones(len(table.starts), dtype=bool)
    functions = {f.name: f for f in map(parse, rule.functions)} if rule else {}
    function = functions.get(name)
    if name.startswith("latent ") and name[7:].isdecimal() and rule and sources.store is not None:
        function = Latent.model_validate({"latent": int(name[7:])}) if int(name[7:]) in rule.latents else function
    if isinstance(function, Latent) and rule is not None:
        return _latent_fires(sources, RuleConfig.model_validate(rule.config), function.latent)
    if function is None or function.kind == "classifier":
        raise ValueError(f"the rule has no function {name!r} that can be asked here")
    asked = function
    return lambda document, table: asked.vote(document.text, table.starts, table.ends, document.family.name) > 0


def _latent_fires(sources: Sources, config: RuleConfig, latent: int) -> Firing:
    store = sources.store
    assert store is not None
    mean, sd = moments(store.stats)
    tokens, values = store.latent(latent)
    tokens = tokens[values > mean[latent] + config.z * sd[latent]]

    def fires(document: Document, table: TokenTable) -> Bool[np.ndarray, " tok"]:
        part = sources.part_of(document.key, 0, len(document.text))
        if part is None:
            return np.zeros(len(table.starts), dtype=bool)
        first, last = np.searchsorted(tokens, (part.start, part.stop))
        at = store.starts[tokens[first:last]]
        hit = np.zeros(len(table.starts), dtype=bool)
        if len(table.starts):
            hit[np.searchsorted(table.starts, at, side="right") - 1] = True
        return hit

    return fires


def suggestions_of(sources: Sources, document: Document, fires: Firing) -> list[Suggestion]:
    """The document's suggestions, as the reader page cuts them."""
    table = sources.tokens_of(document.key, document.text)
    numbers = runs(suggested(table, sources.threshold), table.starts, cuts(document.text))
    if not numbers.any():
        return []
    hit = fires(document, table)
    first = np.flatnonzero((numbers > 0) & (np.diff(numbers, prepend=0) != 0))
    last = np.flatnonzero((numbers > 0) & (np.diff(numbers, append=0) != 0))
    out = []
    for i, j in zip(first.tolist(), last.tolist(), strict=True):
        here = slice(i, j + 1)
        p = float(np.nanmax(table.p[here])) if table.p is not None and not np.isnan(table.p[here]).all() else None
        by_rule = table.weak is not None and bool(flagged(table.weak[here]).any())
        by_classifier = p is not None and p >= sources.threshold
        start, end = int(table.starts[i]), int(table.ends[j])
        out.append(Suggestion(start, end, p, by_rule, by_classifier, bool(hit[here].any())))
    return out


def picked(asked: BulkFilter, sources: Sources, document: Document, labels: Labels, fires: Firing) -> list[Suggestion]:
    """The document's suggestions that the filter is for and that nobody has touched."""
    taken = [*labels.spans, *((start, end) for start, end, _ in labels.judged)]
    return [
        s
        for s in suggestions_of(sources, document, fires)
        if s.fired and _flagged_by(asked.by, s) and _within(asked, s.p)
        and asked.words.casefold() in document.text[s.start : s.end].casefold()
        and not any(start < s.end and s.start < end for start, end in taken)
    ]  # fmt: skip


def _flagged_by(by: str, s: Suggestion) -> bool:
    return {
        "": True, "rule": s.rule, "classifier": s.classifier, "both": s.rule and s.classifier,
        "rule_only": s.rule and not s.classifier, "classifier_only": s.classifier and not s.rule,
    }[by]  # fmt: skip


def _within(asked: BulkFilter, p: float | None) -> bool:
    if p is None:
        return asked.low is None and asked.high is None
    return (asked.low is None or p >= asked.low) and (asked.high is None or p <= asked.high)


def judged(labels: Labels, suggestions: Iterable[Suggestion], verdict: str) -> Labels:
    """The labels after this verdict on all of them."""
    ranges = [(s.start, s.end) for s in suggestions]
    spans = merge([*labels.spans, *ranges]) if verdict == "right" else labels.spans
    return Labels(spans, sorted([*labels.judged, *((s, e, verdict) for s, e in ranges)]), "part")


@dataclass(frozen=True)
class Haul:
    """What a filter picks in the documents looked at; `more` is the document to go on from, if there are others."""

    found: list[Found]
    more: int | None

    @property
    def suggestions(self) -> int:
        return sum(len(one.suggestions) for one in self.found)


def find(
    asked: BulkFilter, sources: Sources, rule: Rule | None, documents: Iterable[tuple[Document, Labels, int]]
) -> Haul:
    """What the filter picks, by document. Raises ValueError for a function that cannot be asked."""
    fires = firing(sources, rule, asked.function)
    found, looked, last = [], 0, 0
    for document, labels, version in documents:
        looked, last = looked + 1, document.id
        if suggestions := picked(asked, sources, document, labels, fires):
            found.append(Found(document, labels, version, suggestions))
    return Haul(found, last + 1 if looked == LOOK_AT else None)
