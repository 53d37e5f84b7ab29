"""The order in which documents come up for review, and why each one does.

An order is a list of document ids made from arrays that hold for as long as the corpus and the
machines' labels stay the same; states are looked at last, since they change with every label.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from sqlalchemy.orm import Session

from app import queries
from app import review_queries as review
from app.annotating import STATES
from app.assignments import assignments_of
from app.gold import SPLITS
from app.models import Annotation, Document, Project
from app.queries import Page
from app.review_queries import Corpus, Filters
from app.roles import SOLO, Viewer
from app.suggestions import Sources, Summary, position, summary

Ids = Int64[np.ndarray, " doc"]
ORDERS = {
    "all": "every document",
    "flagged": "flagged by the rule",
    "disagreement": "rule and classifier disagree",
    "uncertain": "the classifier is unsure",
    "retain": "flagged in a retain family",
    "random": "a random sample",
    "strata": "a random sample, family by family",
    "assigned": "assigned to you",
    "similar": "similar to a document",
}
# The queues people work through, as links: (name, query).
QUEUES = [
    ("Assigned to you", "why=assigned&state=open"),
    ("Flagged, unreviewed", "why=flagged&state=open"),
    ("Disagreement", "why=disagreement&state=open"),
    ("Unsure", "why=uncertain&state=open"),
    ("Flagged in retain text", "why=retain&state=open"),
    ("Random", "why=random&state=open"),
    ("By family", "why=strata&state=open"),
]
BY_MACHINE = ("flagged", "disagreement", "uncertain", "retain", "similar")  # never shows a blind reader's documents
# What put a document there, where the machines' figures do not say so.
DRAWN = {
    "random": "drawn at random", "strata": "drawn from its family", "similar": "the same latents fire",
    "assigned": "assigned to you",
}  # fmt: skip
SIZE = 50


@dataclass(frozen=True)
class Entry:
    """One line of the queue. Counts are None where nobody looked at the document, or where the reader is blind."""

    document: Document
    annotation: Annotation | None
    tokens: int | None
    by_rule: int | None
    by_classifier: int | None
    reasons: list[str]

    @property
    def state(self) -> str:
        return self.annotation.state if self.annotation else "todo"


@dataclass(frozen=True)
class Desk:
    """What a person has before them: the corpus, what the machines say about it, and which part of it is theirs."""

    session: Session
    project: Project
    sources: Sources
    viewer: Viewer
    corpus: Corpus
    mine: dict[int, bool]  # assigned documents -> blind

    @property
    def blind(self) -> set[int]:
        return {document for document, blind in self.mine.items() if blind}


def desk(session: Session, project: Project, sources: Sources, viewer: Viewer = SOLO) -> Desk:
    corpus = _kept_corpus(session, project.id, sources)
    return Desk(session, project, sources, viewer, corpus, assignments_of(session, project.id, viewer.name))


_corpora: OrderedDict[tuple[object, ...], Corpus] = OrderedDict()


def _kept_corpus(session: Session, project_id: int, sources: Sources) -> Corpus:
    """Texts never change, so the arrays hold until documents are added, sealed or revealed."""
    key = (sources.key, project_id, *review.corpus_mark(session, project_id))
    if key not in _corpora:
        _corpora[key] = review.corpus(session, project_id, lambda name: position(sources, name))
        while len(_corpora) > 4:
            _corpora.popitem(last=False)
    return _corpora[key]


def choices(families: Iterable[str], why: str) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Filter name -> (label, options) for the form above the queue."""
    anything = ("", "any")
    return {
        "why": ("Show", [(name, text) for name, text in ORDERS.items() if name != "similar" or why == name]),
        "family": ("Family", [anything, *((name, name) for name in families)]),
        "split": ("Split", [anything, *((name, name) for name in SPLITS)]),
        "state": ("State", [anything, ("open", "not finished"), *((name, name) for name in STATES)]),
    }


# Orders


def ordered(at: Desk, filters: Filters) -> Ids:
    """Ids of the documents with that reason, the strongest case first; state is not looked at."""
    corpus = at.corpus
    keep = np.ones(len(corpus.ids), dtype=bool)
    if not at.viewer.may("curator") or filters.why == "assigned":
        keep &= np.isin(corpus.ids, list(at.mine))
    if filters.why in BY_MACHINE:
        keep &= ~np.isin(corpus.ids, list(at.blind))
    if filters.family:
        keep &= corpus.family_names[corpus.families] == filters.family
    if filters.split:
        keep &= corpus.splits == filters.split
    score = _SCORES[filters.why](at, filters)
    keep &= score > 0
    found = np.flatnonzero(keep)
    return corpus.ids[found[np.argsort(-score[found], kind="stable")]]


def _counted(
    count: Callable[[Summary], Int64[np.ndarray, " stored"]],
) -> Callable[[Desk, Filters], Float64[np.ndarray, " doc"]]:
    """A count over the activation store, carried to the corpus: 0 for documents the store does not hold."""

    def score(at: Desk, filters: Filters) -> Float64[np.ndarray, " doc"]:
        counts = summary(at.sources)
        return at.corpus.carried(count(counts).astype(np.float64) if counts is not None else np.zeros(0))

    return score


def _flagged_retain(at: Desk, filters: Filters) -> Float64[np.ndarray, " doc"]:
    sides = queries.sides_of(at.session, at.project.id)
    retain = np.array([sides[name] == "retain" for name in at.corpus.family_names], dtype=bool)
    return _counted(lambda s: np.maximum(s.rule, s.classifier))(at, filters) * retain[at.corpus.families]


def _by_family(at: Desk, filters: Filters) -> Float64[np.ndarray, " doc"]:
    """Every family's first drawn document, then every family's second, and so on."""
    drawn = np.lexsort((-at.corpus.chance, at.corpus.families))
    turn = np.empty(len(drawn))
    families = at.corpus.families[drawn]
    starts = np.searchsorted(families, families)  # where each one's family begins
    turn[drawn] = np.arange(len(drawn)) - starts
    return 1 / (1 + turn)


def _similar(at: Desk, filters: Filters) -> Float64[np.ndarray, " doc"]:
    profiles, here = latent_profiles(at.sources), at.corpus.stored_at(filters.to)
    if profiles is None or here is None or filters.to in at.blind:
        return np.zeros(len(at.corpus.ids))
    score = at.corpus.carried((profiles @ profiles[here]).astype(np.float64))
    score[at.corpus.ids == filters.to] = 0
    return score


_SCORES: dict[str, Callable[[Desk, Filters], Float64[np.ndarray, " doc"]]] = {
    "all": lambda at, _: np.ones(len(at.corpus.ids)),
    "assigned": lambda at, _: 1 + at.corpus.chance,
    "flagged": _counted(lambda s: s.rule),
    "disagreement": _counted(lambda s: s.disagree),
    "uncertain": _counted(lambda s: s.unsure),
    "retain": _flagged_retain,
    "random": lambda at, _: 1 + at.corpus.chance,
    "strata": _by_family,
    "similar": _similar,
}


@lru_cache(maxsize=2)
def latent_profiles(sources: Sources) -> Float32[np.ndarray, "doc latent"] | None:
    """How often each of the rule's latents fires in each document, as unit vectors; None without a rule.

    Log counts: a document is about what fires in it, not about how long it is.
    """
    store, labels = sources.store, sources.label_set
    if store is None or labels is None or not labels.rule.latents:
        return None
    counts = np.zeros((len(store.keys), len(labels.rule.latents)), np.float32)
    for column, latent in enumerate(labels.rule.latents):
        tokens, _ = store.latent(int(latent))
        counts[:, column] = np.bincount(store.doc_of_tokens(tokens), minlength=len(store.keys))
    profiles = np.log1p(counts)
    return profiles / np.maximum(np.linalg.norm(profiles, axis=1, keepdims=True), 1e-6)


# Pages


def _admitted(at: Desk, filters: Filters, ids: Ids) -> Bool[np.ndarray, " doc"]:
    """Which of these documents have the state that is asked for, in the viewer's layer."""
    if not filters.state:
        return np.ones(len(ids), dtype=bool)
    states = review.states_by_id(at.session, at.project.id, at.viewer.layer)
    touched = np.array([id_ for id_, state in states.items() if filters.admits(state)], dtype=np.int64)
    keep = np.isin(ids, touched)
    return keep | ~np.isin(ids, list(states)) if filters.admits("todo") else keep


def queue_page(at: Desk, filters: Filters, number: int) -> Page[Entry]:
    """One page of the queue."""
    ids = ordered(at, filters)
    ids = ids[_admitted(at, filters, ids)]
    offset = (max(1, number) - 1) * SIZE
    rows = review.documents_by_id(at.session, at.project.id, ids[offset : offset + SIZE].tolist(), at.viewer.layer)
    blind = at.blind
    entries = [entry(at.sources, document, annotation, document.id in blind) for document, annotation in rows]
    if drawn := DRAWN.get(filters.why):
        entries = [replace(e, reasons=[drawn, *e.reasons]) for e in entries]
    return Page(entries, max(1, number), SIZE, len(ids))


def neighbour_ids(at: Desk, filters: Filters, document: Document) -> tuple[int | None, int | None]:
    """The documents to go back to and on to, by the queue's order."""
    ids = ordered(at, filters)
    admitted = _admitted(at, filters, ids)
    (here,) = np.nonzero(ids == document.id)
    start = int(here[0]) if len(here) else -1
    before, after = ids[: max(0, start)][admitted[: max(0, start)]], ids[start + 1 :][admitted[start + 1 :]]
    return (int(before[-1]) if len(before) else None), (int(after[0]) if len(after) else None)


def entry(sources: Sources, document: Document, annotation: Annotation | None, blind: bool = False) -> Entry:
    if blind:
        return Entry(document, annotation, None, None, None, ["to be read blind"])
    counts, at = summary(sources), position(sources, document.key)
    if counts is None or at is None:
        unknown = ["not in the activation store yet"] if sources.store is not None else []
        return Entry(document, annotation, None, None, None, unknown)
    rule, classifier = int(counts.rule[at]), int(counts.classifier[at])
    return Entry(
        document, annotation, int(counts.tokens[at]), rule if sources.flags is not None else None,
        classifier if sources.predictions is not None else None, reasons(counts, at, document.family.side),
    )  # fmt: skip


def reasons(counts: Summary, at: int, side: str) -> list[str]:
    """Why a document is worth reading, in words."""
    rule, rule_only = int(counts.rule[at]), int(counts.rule_only[at])
    classifier_only, unsure = int(counts.classifier_only[at]), int(counts.unsure[at])
    out = []
    if (rule or counts.classifier[at]) and side == "retain":
        out.append("retain family, yet flagged")
    if rule:
        out.append(f"rule flags {rule:,}" + (f", {rule_only:,} of them alone" if rule_only else ""))
    if classifier_only:
        out.append(f"classifier alone flags {classifier_only:,}")
    if unsure:
        out.append(f"classifier unsure of {unsure:,}")
    return out
