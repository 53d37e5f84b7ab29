"""Review: the queue, the reader page, the events people write there, and gold."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from sqlalchemy.orm import Session

from app import queries
from app import review_queries as review
from app.access import ProjectDep, SettingsDep
from app.annotating import Event
from app.comparing import Pair, opinions, spans_by
from app.db import SessionDep, reading
from app.models import Annotation, Document
from app.pages import render
from app.reader import chunk, outline
from app.review_queries import Filters, StaleVersion
from app.review_queue import ORDERS, choices, neighbour_id, queue_page
from app.security import CurrentUser
from app.suggestions import Sources, sources_of
from labeling.rule import RuleConfig, why

router = APIRouter(prefix="/projects/{slug}")
Why = Literal["all", "flagged", "disagreement", "retain"]


def get_filters(
    why: Why = "all",
    family: Annotated[str, Query(max_length=200)] = "",
    split: Literal["", "train", "validation", "test"] = "",
    state: Literal["", "open", "todo", "part", "done", "clean", "skip"] = "",
) -> Filters:
    return Filters(why, family, split, state)


def get_sources(project: ProjectDep, session: SessionDep, settings: SettingsDep) -> Sources:
    return sources_of(session, settings, project)


def get_document(project: ProjectDep, session: SessionDep, document_id: int) -> Document:
    document = review.open_document(session, project.id, document_id)
    if document is None:
        raise HTTPException(404, "There is no such document to read in this project.")
    return document


DocumentDep = Annotated[Document, Depends(get_document, scope="function")]


def get_pair(
    project: ProjectDep, session: SessionDep, settings: SettingsDep, document: DocumentDep,
    a: Annotated[str, Query(max_length=40)] = "", b: Annotated[str, Query(max_length=40)] = "",
) -> Pair | None:  # fmt: skip
    """What is compared on the page, if anything is."""
    if not a or not b:
        return None
    gold = review.labels_now(review.newest_annotation(session, document.id)).spans
    try:
        sides = [spans_by(session, settings, project.id, name, document.key, gold) for name in (a, b)]
    except (ValueError, OSError) as damaged:
        raise HTTPException(409, str(damaged)) from None
    if sides[0] is None or sides[1] is None:
        raise HTTPException(404, f"This project has no {a if sides[0] is None else b} to compare.")
    return Pair(a, sides[0], b, sides[1])


FiltersDep = Annotated[Filters, Depends(get_filters)]
SourcesDep = Annotated[Sources, Depends(get_sources, scope="function")]
PairDep = Annotated[Pair | None, Depends(get_pair, scope="function")]


def chosen(filters: Filters) -> dict[str, str]:
    return {name: value for name, value in vars(filters).items() if value and value != "all"}


def query_of(filters: Filters) -> str:
    """The filters as the address bar carries them, `?` included; empty if there are none."""
    return f"?{urlencode(found)}" if (found := chosen(filters)) else ""


@router.get("/review")
def index(
    request: Request, project: ProjectDep, session: SessionDep, sources: SourcesDep, filters: FiltersDep,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
) -> Response:  # fmt: skip
    return render(
        request, "review/index.html", "review/_rows.html",
        project=project, sources=sources, filters=filters, query=query_of(filters),
        entries=queue_page(session, project, sources, filters, page),
        choices=choices(queries.sides_of(session, project.id)), orders=ORDERS,
        progress=review.review_progress(session, project.id),
    )  # fmt: skip


def state_json(row: Annotation | None) -> dict[str, Any]:
    """What the page needs to draw a document's labels."""
    now = review.labels_now(row)
    return {
        "version": row.version if row else 0,
        "state": now.state, "spans": now.spans, "judged": now.judged,
        "last": {"action": row.action, "start": row.start, "end": row.end, "author": row.author} if row else None,
    }  # fmt: skip


@router.get("/documents/{document_id}")
def show(
    request: Request, project: ProjectDep, session: SessionDep, document: DocumentDep, sources: SourcesDep,
    filters: FiltersDep, pair: PairDep, at: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> Response:  # fmt: skip
    row = review.newest_annotation(session, document.id)
    return render(
        request, "review/show.html",
        project=project, document=document, sources=sources, filters=chosen(filters), query=query_of(filters),
        annotation=row, state=state_json(row), chunk=chunk(sources, document.key, document.text, at, pair),
        pair=pair, opinions=opinions(session, project.id),
        agreement=pair.agreement(sources.tokens_of(document.key, document.text)) if pair else None,
        outline=outline(sources, document.key, document.characters),
        previous_id=neighbour_id(session, project, sources, filters, document, -1),
        next_id=neighbour_id(session, project, sources, filters, document, 1),
    )  # fmt: skip


@router.get("/documents/{document_id}/text")
def text(
    request: Request, document: DocumentDep, sources: SourcesDep, pair: PairDep,
    at: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> Response:  # fmt: skip
    """The chunk of text around code point `at`."""
    return render(request, "review/_chunk.html", chunk=chunk(sources, document.key, document.text, at, pair))


@router.get("/documents/{document_id}/annotations")
def annotations(session: SessionDep, document: DocumentDep) -> Response:
    """What counts now: a tab that was left for a while asks before it is used again."""
    return JSONResponse(state_json(review.newest_annotation(session, document.id)))


@router.post("/documents/{document_id}/annotations")
def annotate(session: SessionDep, document: DocumentDep, user: CurrentUser, event: Event) -> Response:
    """200 with the new state, 409 with the newer one if somebody wrote first, 422 if it makes no sense."""
    try:
        row = review.annotate(session, document, event, user)
    except StaleVersion as stale:
        detail = "Somebody else changed this document since this page was loaded."
        return JSONResponse({"detail": detail, **state_json(stale.newest)}, 409)
    except ValueError as error:
        return JSONResponse({"detail": str(error)}, 422)
    return JSONResponse(state_json(row))


@router.get("/documents/{document_id}/why")
def explain(
    request: Request, project: ProjectDep, document: DocumentDep, sources: SourcesDep,
    start: Annotated[int, Query(ge=0, lt=2**31)],
) -> Response:  # fmt: skip
    """The chosen latents that fire on the token at code point `start`, strongest first."""
    token = sources.token_at(document.key, start)
    labels, found = sources.label_set, []
    if token is not None and labels is not None and sources.store is not None:
        config = RuleConfig.model_validate(labels.rule.config)
        found = why(sources.store, labels.rule.latents, config, token)
    return render(request, "review/_why.html", project=project, fired=found[:12], labels=labels, token=token)


@router.get("/gold.jsonl")
def gold(request: Request, project: ProjectDep) -> Response:
    """Finished documents, one JSON object a line, streamed from a session of its own."""

    def lines(session: Session) -> Iterator[str]:
        with session:
            for row in review.gold_rows(session, project.id):
                yield json.dumps(row, ensure_ascii=False) + "\n"

    headers = {"Content-Disposition": f'attachment; filename="{project.slug}-gold.jsonl"'}
    chunks = lines(reading(request.app.state.sessions))
    return StreamingResponse(chunks, media_type="application/jsonl", headers=headers)
