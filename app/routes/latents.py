"""Candidate latents: the list, one latent's evidence, and people's verdicts."""

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app import latents as candidates
from app import queries
from app.access import ProjectDep, StoreDep, TableDep
from app.artifacts import LatentTable
from app.db import SessionDep
from app.latents import PAGE, LatentQuery
from app.models import Project, Verdict
from app.pages import is_fragment, redirect, render
from app.queries import Page
from app.routes.jobs import job_context
from app.security import CurrentUser
from app.shading import decile, pieces
from labeling import discovery
from labeling.store import Store

router = APIRouter(prefix="/projects/{slug}/latents")
QueryDep = Annotated[LatentQuery, Query()]
Decision = Literal["accept", "reject", "unsure", "clear"]
MOST_AT_ONCE = 2000


def _texts(session: Session, project: Project, keys: list[str]) -> dict[str, str]:
    return queries.texts_by_key(session, project.id, keys)


def _list_context(
    session: Session, project: Project, store: Store | None, table: LatentTable | None, query: LatentQuery
) -> dict[str, Any]:
    if table is None or store is None:
        newest = queries.newest_jobs(session, project.id, ["harvest", "discover"], 1)
        return {"project": project, "query": query, "page": None, "jobs": [job_context(session, job) for job in newest]}
    verdicts = queries.verdicts_of(session, project)
    ids = candidates.order(table, query, verdicts)
    number = min(query.page, max(1, -(-len(ids) // PAGE)))
    shown = ids[(number - 1) * PAGE : number * PAGE]
    surfaces = candidates.top_surfaces(store, shown, lambda keys: _texts(session, project, keys))
    rows = candidates.rows(table, shown, verdicts, surfaces)
    decisions = [verdict.decision for verdict in verdicts.values()]
    return {
        "project": project,
        "query": query,
        "page": Page(rows, number, PAGE, len(ids)),
        "undecided": int(sum(int(n) not in verdicts for n in ids)),
        "tally": {decision: decisions.count(decision) for decision in ("accept", "reject", "unsure")},
        "d_sae": len(table),
        "sides": queries.sides_of(session, project.id),
        "made_with": table.info.get("sides"),
    }


@router.get("")
def index(
    request: Request, project: ProjectDep, session: SessionDep, store: StoreDep, table: TableDep, query: QueryDep
) -> Response:
    context = _list_context(session, project, store, table, query)
    return render(request, "latents/index.html", "latents/_table.html" if table else None, **context)


@router.post("/verdicts")
def judge_all(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    table: TableDep,
    query: QueryDep,
    user: CurrentUser,
    decision: Annotated[Literal["accept", "reject"], Form()],
    note: Annotated[str, Form(max_length=2000)] = "",
) -> Response:
    """One verdict for every latent of the current filter that has none."""
    if table is None or project.reference_id is None:
        raise HTTPException(409, "Run discovery first: there are no latents to judge yet.")
    verdicts = queries.verdicts_of(session, project)
    found = [int(n) for n in candidates.order(table, query, verdicts) if int(n) not in verdicts]
    if len(found) > MOST_AT_ONCE:
        raise HTTPException(422, f"{len(found):,} latents are too many at once; narrow the filter to {MOST_AT_ONCE:,}.")
    note = note.strip() or f"all with ratio ≥ {query.ratio:g} and at least {query.minimum} strong forget tokens"
    for latent in found:
        session.add(_verdict(project, latent, decision, note, user))
    return redirect(request, f"/projects/{project.slug}/latents{query.link(page=1)}")


def _verdict(project: Project, latent: int, decision: str, note: str, user: str) -> Verdict:
    assert project.reference_id is not None
    return Verdict(
        project_id=project.id,
        reference_id=project.reference_id,
        latent=latent,
        decision=decision,
        note=note,
        author=user,
    )


def _known(table: LatentTable | None, latent: int) -> LatentTable:
    if table is None or not 0 <= latent < len(table):
        raise HTTPException(404, f"There is no latent {latent} in this project's discovery.")
    return table


def _panel(session: Session, project: Project, table: LatentTable, query: LatentQuery, latent: int) -> dict[str, Any]:
    """What the verdict panel shows: the state, its history, and the way on."""
    verdicts = queries.verdicts_of(session, project)
    ids = candidates.order(table, query, verdicts)
    before, after, place = candidates.neighbours(ids, latent)
    return {
        "project": project,
        "query": query,
        "latent": latent,
        "values": candidates.values_of(table, latent),
        "verdict": verdicts.get(latent),
        "history": queries.verdict_history(session, project, latent),
        "before": before,
        "after": after,
        "place": place,
        "found": len(ids),
    }


@router.get("/{latent}")
def show(
    request: Request, latent: int, project: ProjectDep, session: SessionDep, store: StoreDep, table: TableDep,
    query: QueryDep,
    family: str = "",
) -> Response:  # fmt: skip
    """The latent's dashboard."""
    known = _known(table, latent)
    if store is None:
        raise HTTPException(404, "The project's activation store is gone; harvest again.")
    text_of = Texts(session, project)
    examples = _examples(store, latent, text_of, known, family)
    context: dict[str, Any] = {"project": project, "latent": latent, "query": query, "family": family}
    context |= {"examples": examples, "families": known.families}
    if not is_fragment(request):
        sides = queries.sides_of(session, project.id)
        edges, counts = discovery.histogram(store, latent)
        threshold = float(known["mean"][latent] + known.info.get("z", 4.0) * known["sd"][latent])
        context |= _panel(session, project, known, query, latent) | {
            "edges": edges,
            "counts": counts,
            "over": discovery.histogram(store, latent, families={f for f in sides if sides[f] == "forget"})[1],
            "marks": [(threshold / float(edges[-1]), "strong")] if threshold < edges[-1] else [],
            "densities": [
                (family, float(known["family_density"][latent, i]), int(known["family_strong"][latent, i]))
                for i, family in enumerate(known.families)
            ],
            "sides": sides,
            "profile": discovery.token_profile(store, latent, text_of),
        }  # fmt: skip
    return render(request, "latents/show.html", "latents/_examples.html", **context)


class Texts:
    """Document texts by key, each fetched once per request."""

    def __init__(self, session: Session, project: Project) -> None:
        self.session, self.project = session, project
        self.known: dict[str, str] = {}

    def __call__(self, key: str) -> str:
        if key not in self.known:
            self.known |= queries.texts_by_key(self.session, self.project.id, [key])
        return self.known.get(key, "")


def _examples(store: Store, latent: int, text_of: Texts, table: LatentTable, family: str) -> list[dict[str, Any]]:
    """Shaded by activation: the deepest shade is the latent's maximum over train tokens."""
    top = float(table["max"][latent]) or 1.0
    found: list[dict[str, Any]] = []
    for example in discovery.examples(store, latent, text_of, family=family or None):
        starts, ends, values = zip(*example.tokens, strict=True) if example.tokens else ((), (), ())
        classes = [decile(min(1.0, value / top) * 0.999) if value > 0 else "" for value in values]
        found.append({"key": example.key, "family": example.family, "value": example.value,
                      "pieces": pieces(example.text, starts, ends, classes, join=False)})  # fmt: skip
    ids = queries.document_ids(text_of.session, text_of.project.id, [str(item["key"]) for item in found])
    return [item | {"document": ids.get(str(item["key"]))} for item in found]


@router.post("/{latent}/verdict")
def judge(
    request: Request,
    latent: int,
    project: ProjectDep,
    session: SessionDep,
    store: StoreDep,
    table: TableDep,
    query: QueryDep,
    user: CurrentUser,
    decision: Annotated[Decision, Form()],
    note: Annotated[str, Form(max_length=2000)] = "",
    scale: Annotated[float, Form(ge=0, le=1)] = 1.0,
) -> Response:
    """Comes back as the list's row (its bars drawn at the list's `scale`) or as the dashboard's panel."""
    known = _known(table, latent)
    if project.reference_id is None:
        raise HTTPException(409, "The project has no reference; choose one first.")
    session.add(_verdict(project, latent, decision, note.strip(), user))
    session.flush()
    if "HX-Request" not in request.headers:
        return redirect(request, f"/projects/{project.slug}/latents/{latent}{query.link()}")
    context = _panel(session, project, known, query, latent)
    if request.headers.get("HX-Target") == "verdict":
        return render(request, "latents/show.html", "latents/_verdict.html", **context)
    verdicts = queries.verdicts_of(session, project)
    decisions = [verdict.decision for verdict in verdicts.values()]
    context["tally"] = {name: decisions.count(name) for name in ("accept", "reject", "unsure")}
    surfaces = candidates.top_surfaces(store, [latent], lambda keys: _texts(session, project, keys)) if store else {}
    context["most"] = scale
    context["row"] = candidates.rows(known, np.array([latent]), verdicts, surfaces)[0]
    return render(request, "latents/index.html", "latents/_judged.html", **context)
