"""The order in which documents come up for review, and why each one does."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from sqlalchemy.orm import Session

from app import queries
from app import review_queries as review
from app.annotating import STATES
from app.models import Annotation, Document, Project
from app.queries import Page
from app.review_queries import Filters
from app.suggestions import Sources, position, summary

ORDERS = {
    "all": "every document",
    "flagged": "flagged by the rule",
    "disagreement": "rule and classifier disagree",
    "retain": "flagged in a retain family",
}
SIZE = 50


@dataclass(frozen=True)
class Entry:
    """One line of the queue. Counts are None where nobody looked at the document."""

    document: Document
    annotation: Annotation | None
    tokens: int | None
    by_rule: int | None
    by_classifier: int | None
    reasons: list[str]

    @property
    def state(self) -> str:
        return self.annotation.state if self.annotation else "todo"


def choices(families: Iterable[str]) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Filter name -> (label, options) for the form above the queue."""
    anything = ("", "any")
    return {
        "why": ("Show", list(ORDERS.items())),
        "family": ("Family", [anything, *((name, name) for name in families)]),
        "split": ("Split", [anything, *((name, name) for name in review.SPLITS)]),
        "state": ("State", [anything, ("open", "not finished"), *((name, name) for name in STATES)]),
    }


def ranked(sources: Sources, filters: Filters, sides: dict[str, str]) -> Int64[np.ndarray, " doc"]:
    """Store numbers of the documents with that reason, the strongest case first; state is not looked at."""
    counts = summary(sources)
    if counts is None or sources.store is None:
        return np.zeros(0, dtype=np.int64)
    families, splits = np.array(sources.store.doc_family), np.array(sources.store.doc_split)
    score = {
        "flagged": counts.rule,
        "disagreement": counts.rule_only + counts.classifier_only,
        "retain": np.maximum(counts.rule, counts.classifier),
    }[filters.why]
    keep = (score > 0) & (splits != "sealed")
    if filters.why == "retain":
        keep &= np.isin(families, [name for name, side in sides.items() if side == "retain"])
    if filters.family:
        keep &= families == filters.family
    if filters.split:
        keep &= splits == filters.split
    found = np.flatnonzero(keep).astype(np.int64)
    return found[np.argsort(-score[found], kind="stable")]


def queue_page(session: Session, project: Project, sources: Sources, filters: Filters, number: int) -> Page[Entry]:
    """One page of the queue."""
    offset = (max(1, number) - 1) * SIZE
    if filters.why == "all":
        rows, total = review.documents_in_order(session, project.id, filters, offset, SIZE)
    else:
        keys = _admitted(session, project, sources, filters)
        rows, total = review.documents_by_key(session, project.id, keys[offset : offset + SIZE]), len(keys)
    return Page([entry(sources, document, annotation) for document, annotation in rows], max(1, number), SIZE, total)


def _admitted(session: Session, project: Project, sources: Sources, filters: Filters) -> list[str]:
    assert sources.store is not None or filters.why != "all"
    order = ranked(sources, filters, queries.sides_of(session, project.id))
    keys = [sources.store.keys[i] for i in order] if sources.store is not None else []
    states = review.states_by_key(session, project.id)
    return [key for key in keys if filters.admits(states.get(key, "todo"))]


def neighbour_id(
    session: Session, project: Project, sources: Sources, filters: Filters, document: Document, step: int
) -> int | None:
    """The document to go to next (step 1) or back to (step -1), by the queue's order."""
    if filters.why == "all":
        found = review.neighbour(session, project.id, filters, document.id, step)
        return found.id if found else None
    order = ranked(sources, filters, queries.sides_of(session, project.id)).tolist()
    here = position(sources, document.key)
    start = order.index(here) + step if here in order else 0
    states = review.states_by_key(session, project.id)
    keys = sources.store.keys if sources.store is not None else []
    path = order[start:] if step > 0 else order[: max(0, start + 1)][::-1] if here in order else []
    key = next((keys[i] for i in path if filters.admits(states.get(keys[i], "todo"))), None)
    found_rows = review.documents_by_key(session, project.id, [key]) if key is not None else []
    return found_rows[0][0].id if found_rows else None


def entry(sources: Sources, document: Document, annotation: Annotation | None) -> Entry:
    counts, at = summary(sources), position(sources, document.key)
    if counts is None or at is None:
        unknown = ["not in the activation store yet"] if sources.store is not None else []
        return Entry(document, annotation, None, None, None, unknown)
    tokens, rule, classifier = int(counts.tokens[at]), int(counts.rule[at]), int(counts.classifier[at])
    rule_only, classifier_only = int(counts.rule_only[at]), int(counts.classifier_only[at])
    reasons = []
    if (rule or classifier) and document.family.side == "retain":
        reasons.append("retain family, yet flagged")
    if rule_only:
        reasons.append(f"rule alone flags {rule_only:,}")
    if classifier_only:
        reasons.append(f"classifier alone flags {classifier_only:,}")
    if rule and not reasons:
        reasons.append("flagged by the rule")
    return Entry(
        document, annotation, tokens, rule if sources.flags is not None else None,
        classifier if sources.predictions is not None else None, reasons,
    )  # fmt: skip
