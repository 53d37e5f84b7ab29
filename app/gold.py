"""Gold: what counts as a document's labels once several people have read it.

The project's own layer decides where it is finished (solo mode, imported gold, adjudication). Else
the finished layers of its readers together: forget where all say so, and not scored (`ignore`)
where they differ, until somebody adjudicates.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, aliased, undefer

from app.annotating import GOLD_STATES
from app.models import Annotation, Document, Family
from labeling.agreement import consensus, difference
from labeling.documents import Document as Text
from labeling.tokens import Spans, merge

PROJECT = ""  # the layer without a name
SPLITS = ("train", "validation", "test", "revealed")  # sealed documents stay closed
CHOOSING = ("train", "validation")  # rules are chosen by figures on these; test waits for the evaluation


@dataclass(frozen=True)
class Gold:
    """A document's resolved labels, and whose layers they come from."""

    spans: Spans
    ignore: Spans
    layers: tuple[str, ...]


def is_newest() -> ColumnElement[bool]:
    """Whether an annotation is the one that counts in its layer of its document."""
    later = aliased(Annotation)
    same = (later.document_id == Annotation.document_id, later.layer == Annotation.layer)
    newest = select(func.max(later.version)).where(*same).correlate(Annotation).scalar_subquery()
    return Annotation.version == newest


def resolve(rows: Iterable[Annotation]) -> Gold | None:
    """From the newest annotation of each layer; None if nobody has finished the document."""
    finished: dict[str, Spans] = {}
    for row in rows:
        if row.state in GOLD_STATES:
            finished[row.layer] = merge([(s, e) for s, e in row.spans])
            if row.layer == PROJECT:
                ignored = merge([(s, e) for s, e in row.ignored])
                return Gold(finished[PROJECT], difference(ignored, finished[PROJECT]), (PROJECT,))
    if not finished:
        return None
    agreed, disputed = consensus(list(finished.values()))
    return Gold(agreed, disputed, tuple(sorted(finished)))


def gold_of(
    session: Session, project_id: int, splits: Sequence[str] = SPLITS
) -> Iterator[tuple[Document, Family, Gold]]:
    """Every document of these splits that has gold, oldest first; nothing sealed leaves this way."""
    assert "sealed" not in splits
    query = (
        select(Document, Family, Annotation)
        .join(Annotation, Annotation.document_id == Document.id).join(Family, Document.family_id == Family.id)
        .where(
            Document.project_id == project_id, Document.split.in_(splits), Annotation.state.in_(GOLD_STATES),
            is_newest(),
        )
        .options(undefer(Document.text)).order_by(Document.id, Annotation.layer)
    )  # fmt: skip
    rows = session.execute(query.execution_options(yield_per=50))
    for _, group in groupby(rows, key=lambda row: row[0].id):
        found = list(group)
        gold = resolve(row[2] for row in found)
        assert gold is not None
        yield found[0][0], found[0][1], gold


def gold_texts(session: Session, project_id: int, splits: Sequence[str] = SPLITS) -> Iterator[Text]:
    """The same, as the library's documents."""
    for document, family, gold in gold_of(session, project_id, splits):
        yield Text(
            document.key, document.text, family.name, family.side, document.meta, gold.spans, gold.ignore or None
        )


def count_gold(session: Session, project_id: int) -> int:
    """How many documents have gold."""
    query = (
        select(func.count(Annotation.document_id.distinct())).join(Document, Document.id == Annotation.document_id)
        .where(
            Document.project_id == project_id, Document.split != "sealed", Annotation.state.in_(GOLD_STATES),
            is_newest(),
        )
    )  # fmt: skip
    return session.scalar(query) or 0
