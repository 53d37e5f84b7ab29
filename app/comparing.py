"""Two opinions on a document side by side: which tokens both flag, and which only one of them does.

An opinion is a saved rule's weak labels, a classifier at its threshold, or gold. Each says its
spans, so that opinions made on other tokens compare too (METHOD step 1.5).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import artifacts
from app.models import Artifact, Classifier, LabelSet
from app.settings import Settings
from app.suggestions import TokenTable, flagged
from labeling.predictions import Prediction
from labeling.tokens import Spans, overlapping, to_spans

GOLD = "gold"
Mask = Bool[np.ndarray, " tok"]


@dataclass(frozen=True)
class Agreement:
    """Tokens of a document by who flags them."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def kappa(self) -> float | None:
        """Cohen's; None where it is not defined, as both say the same of every token."""
        total = self.both + self.only_a + self.only_b + self.neither
        a, b = self.both + self.only_a, self.both + self.only_b
        chance = (a * b + (total - a) * (total - b)) / total**2 if total else 1.0
        return ((self.both + self.neither) / total - chance) / (1 - chance) if chance < 1 else None


@dataclass(frozen=True)
class Pair:
    """What two opinions say of one document; `a` and `b` are their names in the address."""

    a: str
    a_spans: Spans
    b: str
    b_spans: Spans

    def masks(self, table: TokenTable) -> tuple[Mask, Mask]:
        a, b = (overlapping(table.starts, table.ends, spans) for spans in (self.a_spans, self.b_spans))
        return a, b

    def disagreements(self, table: TokenTable) -> Int64[np.ndarray, " tok"]:
        """Where a token begins that only one of them flags, ascending."""
        a, b = self.masks(table)
        return table.starts[a ^ b].astype(np.int64)

    def agreement(self, table: TokenTable) -> Agreement:
        a, b = self.masks(table)
        return Agreement(int((a & b).sum()), int((a & ~b).sum()), int((b & ~a).sum()), int((~a & ~b).sum()))


def opinions(session: Session, project_id: int) -> dict[str, str]:
    """How the address names each opinion -> how the page does; newest first, gold last."""
    labels = select(LabelSet).where(LabelSet.project_id == project_id).order_by(LabelSet.id.desc()).limit(20)
    scored = select(Classifier).where(Classifier.project_id == project_id, Classifier.predictions_id.is_not(None))
    rules = {f"rule-{found.id}": f"rule {found.rule.version}" for found in session.scalars(labels)}
    classifiers = {
        f"classifier-{c.id}": f"{c.name}:{c.version}" for c in session.scalars(scored.order_by(Classifier.id.desc()))
    }
    return {**rules, **classifiers, GOLD: "gold"}


def spans_by(
    session: Session, settings: Settings, project_id: int, opinion: str, key: str, gold: Spans
) -> Spans | None:
    """The spans that an opinion of this project gives a document; None if there is no such opinion."""
    kind, _, number = opinion.partition("-")
    if opinion == GOLD:
        return gold
    if not (number.isascii() and number.isdecimal() and len(number) < 10):
        return None
    if kind == "rule" and (labels := session.get(LabelSet, int(number))) and labels.project_id == project_id:
        return _rule_spans(session, settings, labels, key)
    if kind == "classifier" and (found := session.get(Classifier, int(number))) and found.project_id == project_id:
        return _classifier_spans(session, settings, found, key)
    return None


def _rule_spans(session: Session, settings: Settings, labels: LabelSet, key: str) -> Spans:
    store = artifacts.open_store(settings, session.get_one(Artifact, labels.store_id))
    flags = artifacts.open_labels(settings, session.get_one(Artifact, labels.artifact_id))
    try:
        part = store.document(store.index_of(key))
    except KeyError:  # imported after that harvest
        return []
    return to_spans(flagged(flags[part]), store.starts[part], store.ends[part])


def _classifier_spans(session: Session, settings: Settings, classifier: Classifier, key: str) -> Spans:
    if classifier.predictions_id is None:
        return []
    predictions = artifacts.open_predictions(settings, session.get_one(Artifact, classifier.predictions_id))
    found = predictions.document(key)
    return Prediction(key, *found).spans(classifier.threshold) if found else []
