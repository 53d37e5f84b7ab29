"""Take a file's documents into a project.

Rows and the resume offset are committed together (RELIABILITY 4), so a kill loses at most an
uncommitted batch and a rerun adds nothing twice. Importing the same file again adds nothing;
the same id with other text is listed as a conflict, never overwritten.
"""

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.db import reading
from app.models import Annotation, Document, Family, Import, ImportIssue, Project
from labeling.artifacts import sha256_file
from labeling.documents import Document as Text
from labeling.documents import Rejection, read, split_of, text_sha256
from labeling.events import Artifact, Event, Progress

BATCH = 200
# Seconds between batches. SQLite's writers do not queue, they look again every 25 ms or so: an
# import that took the lock straight back would let nobody save a label until it ends.
PAUSE = 0.03


def family_of(session: Session, project: Project, name: str, side: str) -> Family:
    """The family of that name, made if it is new. A declared side is never changed by an import."""
    found = session.scalar(select(Family).where(Family.project_id == project.id, Family.name == name))
    if found is None:
        found = Family(project_id=project.id, name=name, side=side)
        session.add(found)
        session.flush()
    elif found.side != side:
        raise ValueError(
            f"family {name!r} is declared {found.side}, not {side}; change it on the corpus page or import with --side {found.side}"
        )
    return found


def import_file(
    sessions: sessionmaker[Session], project_id: int, source: str, filename: str, family: str, side: str,
    text_field: str = "text", id_field: str = "id", author: str = "owner",
) -> Iterator[Event]:  # fmt: skip
    """Step. Progress counts rows; the artifact's info says how many were added, known, left out."""
    digest = sha256_file(Path(source)) if not source.startswith("hf:") else source[-64:]
    with sessions() as session, session.begin():
        project = session.get_one(Project, project_id)
        family_id = family_of(session, project, family, side).id
        run = session.scalar(
            select(Import).where(
                Import.project_id == project_id, Import.sha256 == digest, Import.family_id == family_id
            )
        )
        if run is None:
            run = Import(project_id=project_id, filename=filename, sha256=digest, family_id=family_id, rows=0, added=0)
            session.add(run)
            session.flush()
        run_id, offset, finished = run.id, run.rows, run.finished
    if not finished:
        rows = islice(read(source, text_field, id_field), offset, None)
        numbered_rows = enumerate(rows, offset + 1)
        while numbered := list(islice(numbered_rows, BATCH)):
            with sessions() as session, session.begin():
                run = session.get_one(Import, run_id)
                _take(session, run, numbered, author)
                run.rows = numbered[-1][0]
                seen = run.rows
            yield Progress(seen, None, "rows", f"import {filename}")
            time.sleep(PAUSE)
        with sessions() as session, session.begin():
            session.get_one(Import, run_id).finished = True
    with reading(sessions) as session:
        run = session.get_one(Import, run_id)
        issues = session.scalars(select(ImportIssue).where(ImportIssue.import_id == run_id)).all()
        listed = [f"{filename}, row {i.row}: {i.reason}" for i in issues[:20]]
        rejected = sum(i.kind == "rejected" for i in issues)
        info = {
            "rows": run.rows,
            "added": run.added,
            "rejected": rejected,
            "conflicts": len(issues) - rejected,
            "issues": listed,
        }
    yield Artifact("import", Path(source), info)


def _take(session: Session, run: Import, numbered: list[tuple[int, Text | Rejection]], author: str) -> None:
    """Store a batch with as few statements as it takes: while it is written, nobody else can save."""
    keys = [row.id for _, row in numbered if isinstance(row, Text)]
    query = select(Document.key, Document.sha256).where(Document.project_id == run.project_id, Document.key.in_(keys))
    known = dict(session.execute(query).tuples().all())
    new: list[tuple[Document, Text]] = []
    for number, row in numbered:
        if isinstance(row, Rejection):
            session.add(ImportIssue(import_id=run.id, row=number, kind="rejected", reason=row.reason))
            continue
        sha256 = text_sha256(row.text)
        if row.id not in known:
            known[row.id] = sha256
            new.append((_document(run, row, sha256), row))
        elif known[row.id] != sha256:
            reason = f"id {row.id!r} is already in the project with other text; give the row another id"
            session.add(ImportIssue(import_id=run.id, row=number, kind="conflict", reason=reason))
    session.add_all(document for document, _ in new)
    session.flush()
    session.add_all(_gold_event(document, row, author) for document, row in new if row.spans is not None)
    run.added += len(new)


def _document(run: Import, row: Text, sha256: str) -> Document:
    return Document(
        project_id=run.project_id, family_id=run.family_id, import_id=run.id, key=row.id, sha256=sha256,
        split=split_of(sha256), characters=len(row.text), text=row.text, meta=row.meta,
    )  # fmt: skip


def _gold_event(document: Document, row: Text, author: str) -> Annotation:
    """Spans that came with the file: annotated elsewhere, hence done (or clean) here."""
    spans: list[Any] = [list(span) for span in row.spans or []]
    return Annotation(
        document_id=document.id, version=1, action="import", spans=spans, judged=[],
        ignored=[list(span) for span in row.ignore or []],
        state="done" if spans else "clean", author=author,
    )  # fmt: skip
