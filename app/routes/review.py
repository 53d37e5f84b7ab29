"""Review: the queue, the reader page, and the events people write there."""

from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from app import queries
from app import review_queries as review
from app.access import ProjectDep, SettingsDep
from app.access_log import note
from app.annotating import Event
from app.assignments import assignment_of, is_blind, pace_of
from app.comparing import Pair, opinions, spans_by
from app.db import SessionDep
from app.models import Annotation, Document
from app.pages import render
from app.reader import chunk, outline
from app.review_queries import Filters, StaleVersion
from app.review_queue import ORDERS, QUEUES, choices, desk, neighbour_ids, queue_page
from app.roles import Viewer, ViewerDep
from app.suggestions import BLIND, Sources, sources_of
from app.votes import ballot
from labeling.rule import RuleConfig, latent_weights
from labeling.why import explain

router = APIRouter(prefix="/projects/{slug}")
Why = Literal["all", "flagged", "disagreement", "uncertain", "retain", "random", "strata", "assigned", "similar"]


def get_filters(
    why: Why = "all",
    family: Annotated[str, Query(max_length=200)] = "",
    split: Literal["", "train", "validation", "test", "revealed"] = "",
    state: Literal["", "open", "todo", "part", "done", "clean", "skip"] = "",
    to: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> Filters:
    return Filters(why, family, split, state, to)


def get_sources(
    request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep, viewer: ViewerDep
) -> Sources:
    """What the machines say; nothing about a document that this person is to read blind, whatever the page."""
    document_id = request.path_params.get("document_id", "")
    if document_id.isdecimal() and len(document_id) < 10 and is_blind(session, int(document_id), viewer):
        return BLIND
    return sources_of(session, settings, project)


def get_document(
    request: Request, project: ProjectDep, session: SessionDep, viewer: ViewerDep,
    document_id: Annotated[int, Path(ge=1, lt=2**31)],
) -> Document:  # fmt: skip
    """A document this person may read: never a sealed one, and annotators only what is assigned to them."""
    project_id = project.id
    document = review.open_document(session, project_id, document_id)
    mine = viewer.may("curator") or assignment_of(session, document_id, viewer.name) is not None
    if document is None and review.is_sealed(session, project_id, document_id):
        session.rollback()  # a POST holds the write lock already, and the log is written apart
        note(request.app.state.sessions, project_id, "refused", viewer.name, document_id, "asked for a sealed document")
    if document is None or not mine:
        raise HTTPException(404, "There is no such document to read in this project.")
    return document


SourcesDep = Annotated[Sources, Depends(get_sources, scope="function")]
DocumentDep = Annotated[Document, Depends(get_document, scope="function")]


def refuse_blind(request: Request, project_id: int, viewer: Viewer, document_id: int, asked: str) -> NoReturn:
    note(request.app.state.sessions, project_id, "refused", viewer.name, document_id, f"asked for {asked}")
    raise HTTPException(403, "You read this document blind: nobody's suggestions are shown.")


def get_pair(
    request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep, viewer: ViewerDep,
    document: DocumentDep, sources: SourcesDep,
    a: Annotated[str, Query(max_length=40)] = "", b: Annotated[str, Query(max_length=40)] = "",
) -> Pair | None:  # fmt: skip
    """What is compared on the page, if anything is."""
    if not a or not b:
        return None
    if sources.blind:
        refuse_blind(request, project.id, viewer, document.id, "a comparison")
    gold = review.labels_now(review.newest_annotation(session, document.id, viewer.layer)).spans
    try:
        sides = [spans_by(session, settings, project.id, name, document.key, gold) for name in (a, b)]
    except (ValueError, OSError) as damaged:
        raise HTTPException(409, str(damaged)) from None
    if sides[0] is None or sides[1] is None:
        raise HTTPException(404, f"This project has no {a if sides[0] is None else b} to compare.")
    return Pair(a, sides[0], b, sides[1])


FiltersDep = Annotated[Filters, Depends(get_filters)]
PairDep = Annotated[Pair | None, Depends(get_pair, scope="function")]


def chosen(filters: Filters) -> dict[str, str]:
    return {name: value for name, value in vars(filters).items() if value and value != "all"}


def query_of(filters: Filters) -> str:
    """The filters as the address bar carries them, `?` included; empty if there are none."""
    return f"?{urlencode(found)}" if (found := chosen(filters)) else ""


@router.get("/review")
def index(
    request: Request, project: ProjectDep, session: SessionDep, viewer: ViewerDep, sources: SourcesDep,
    filters: FiltersDep, page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
) -> Response:  # fmt: skip
    return render(
        request, "review/index.html", "review/_rows.html",
        project=project, sources=sources, filters=filters, query=query_of(filters),
        entries=queue_page(desk(session, project, sources, viewer), filters, page),
        choices=choices(queries.sides_of(session, project.id), filters.why), orders=ORDERS,
        queues=[(name, asked) for name, asked in QUEUES if viewer.layer or "assigned" not in asked],
        progress=review.review_progress(session, project.id, viewer),
        pace=pace_of(session, project.id, viewer.layer),
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
    request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep, viewer: ViewerDep,
    document: DocumentDep, sources: SourcesDep, filters: FiltersDep, pair: PairDep,
    at: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> Response:  # fmt: skip
    row = review.newest_annotation(session, document.id, viewer.layer)
    everything = sources_of(session, settings, project) if sources.blind else sources
    before, after = neighbour_ids(desk(session, project, everything, viewer), filters, document)
    if sources.blind:
        note(request.app.state.sessions, project.id, "blind", viewer.name, document.id, "opened without suggestions")
    return render(
        request, "review/show.html",
        project=project, document=document, sources=sources, filters=chosen(filters), query=query_of(filters),
        annotation=row, state=state_json(row), chunk=chunk(sources, document.key, document.text, at, pair),
        pair=pair, opinions={} if sources.blind else opinions(session, project.id),
        agreement=pair.agreement(sources.tokens_of(document.key, document.text)) if pair else None,
        outline=outline(sources, document.key, document.characters), previous_id=before, next_id=after,
    )  # fmt: skip


@router.get("/documents/{document_id}/text")
def text(
    request: Request, document: DocumentDep, sources: SourcesDep, pair: PairDep,
    at: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> Response:  # fmt: skip
    """The chunk of text around code point `at`."""
    return render(request, "review/_chunk.html", chunk=chunk(sources, document.key, document.text, at, pair))


@router.get("/documents/{document_id}/annotations")
def annotations(session: SessionDep, viewer: ViewerDep, document: DocumentDep) -> Response:
    """What counts now: a tab that was left for a while asks before it is used again."""
    return JSONResponse(state_json(review.newest_annotation(session, document.id, viewer.layer)))


@router.post("/documents/{document_id}/annotations")
def annotate(session: SessionDep, document: DocumentDep, viewer: ViewerDep, event: Event) -> Response:
    """200 with the new state, 409 with the newer one if somebody wrote first, 422 if it makes no sense."""
    try:
        row = review.annotate(session, document, event, viewer.name, viewer.layer)
    except StaleVersion as stale:
        detail = "Somebody else changed this document since this page was loaded."
        return JSONResponse({"detail": detail, **state_json(stale.newest)}, 409)
    except ValueError as error:
        return JSONResponse({"detail": str(error)}, 422)
    return JSONResponse(state_json(row))


@router.get("/documents/{document_id}/why")
def why(
    request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep, viewer: ViewerDep,
    document: DocumentDep, sources: SourcesDep, start: Annotated[int, Query(ge=0, lt=2**31)],
) -> Response:  # fmt: skip
    """Who voted on the token at code point `start`, and from which seed it grew."""
    if sources.blind:
        refuse_blind(request, project.id, viewer, document.id, "suggestions")
    token, labels, store, flags = sources.token_at(document.key, start), sources.label_set, sources.store, sources.flags
    context: dict[str, Any] = {"project": project, "document": document, "token": token, "labels": labels}
    if token is not None and labels is not None and store is not None and flags is not None:
        rule = labels.rule
        functions = ballot(session, settings, project.id, store, labels.store_id, rule.functions)
        weights = latent_weights(store, rule.latents, functions.latents)
        context["reason"] = explain(
            store, weights, RuleConfig.model_validate(rule.config), functions.votes, flags, token
        )
        context["waiting"] = functions.waiting
    return render(request, "review/_why.html", **context)
