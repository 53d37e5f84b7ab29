"""Take labels from a file, of ours or of another annotation tool, for documents a project has already.

The document is found by its id, else by its exact text. Where the text is not exactly the stored
one, the record is left out and listed, never shifted. Labels go to the project's own layer as a new
version; importing the same file again changes nothing.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.annotating import GOLD_STATES
from app.gold import PROJECT
from app.importing import PAUSE
from app.models import Annotation, Document
from app.review_queries import newest_annotation
from labeling.artifacts import staged
from labeling.documents import Document as Text
from labeling.documents import Rejection, text_sha256
from labeling.events import Artifact, Event, Progress
from labeling.gold_formats import FORMATS
from labeling.tokens import Spans, merge

BATCH = 100
LISTED = 200  # reasons shown on the page; the file holds them all


def import_file(
    sessions: sessionmaker[Session], project_id: int, source: Path, format_: str, author: str, out: Path
) -> Iterator[Event]:
    """Step. The artifact's info counts what happened; `left-out.jsonl` lists every record left out, with its reason."""
    counts, listed, info = Counter[str](), list[str](), dict[str, object]()
    with staged(out, "gold", info) as beside, (beside / "left-out.jsonl").open("w", encoding="utf-8") as left_out:
        numbered = enumerate(FORMATS[format_].read(source), 1)
        while batch := list(islice(numbered, BATCH)):
            with sessions.begin() as session:
                taken = [(number, record, _take(session, project_id, record, author)) for number, record in batch]
            for number, record, (outcome, reason) in taken:
                counts[outcome] += 1
                if reason:
                    row = record.row if isinstance(record, Rejection) else number
                    left_out.write(json.dumps({"record": row, "reason": reason}, ensure_ascii=False) + "\n")
                    listed.append(f"record {row}: {reason}")
            yield Progress(batch[-1][0], None, "records", f"import {source.name}")
            time.sleep(PAUSE)
        info |= {name: counts[name] for name in ("labelled", "unchanged", "left out")}
        info |= {"format": format_, "reasons": listed[:LISTED]}
    yield Artifact("gold", out, info)


def _take(session: Session, project_id: int, record: Text | Rejection, author: str) -> tuple[str, str]:
    """(what became of the record, why it was left out)."""
    if isinstance(record, Rejection):
        return "left out", record.reason
    try:
        document_id = _find(session, project_id, record)
    except ValueError as error:
        return "left out", str(error)
    spans, ignored = _lists(record.spans), _lists(record.ignore)
    head = newest_annotation(session, document_id)
    if head and head.state in GOLD_STATES and (head.spans, head.ignored) == (spans, ignored):
        return "unchanged", ""
    session.add(
        Annotation(
            document_id=document_id, layer=PROJECT, version=head.version + 1 if head else 1, action="import",
            spans=spans, ignored=ignored, judged=[], state="done" if spans else "clean", author=author,
        )
    )  # fmt: skip
    session.flush()
    return "labelled", ""


def _lists(spans: Spans | None) -> list[list[int]]:
    return [list(span) for span in merge(spans or [])]


def _find(session: Session, project_id: int, record: Text) -> int:
    """The id of the document a record means. Raises ValueError if none or several."""
    mine, sha256 = Document.project_id == project_id, text_sha256(record.text)
    known = session.execute(select(Document.id, Document.sha256).where(mine, Document.key == record.id)).one_or_none()
    if known is not None and known.sha256 == sha256:
        return known.id
    same = session.scalars(select(Document.id).where(mine, Document.sha256 == sha256).limit(2)).all()
    if len(same) == 1 and known is None:
        return same[0]
    if known is not None:
        raise ValueError(
            f"document {record.id!r} has other text in this project; labels are never moved to another text"
        )
    if same:
        raise ValueError(
            f"several documents have this text and none the id {record.id!r}; give the record the right id"
        )
    raise ValueError(f"no document has the id {record.id!r} or this text; import the text first, then its labels")
