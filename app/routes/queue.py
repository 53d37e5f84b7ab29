"""The verdict queue: one candidate's evidence after another, judged by single keys."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app import queries, verdict_log
from app.access import ProjectDep, SettingsDep, StoreDep, TableDep
from app.artifacts import LatentTable
from app.dashboard import Texts
from app.db import SessionDep
from app.latents import nearest_family
from app.models import Project, Verdict
from app.pages import is_fragment, redirect, render, toast
from app.queue_evidence import evidence
from app.security import CurrentUser
from app.settings import Settings
from app.verdict_queue import QueueQuery, candidates, effect_of, effects_of, pace, place, queue, standing
from app.votes import ballot
from app.whatif import tally_of
from labeling.candidates import Standing
from labeling.rule import RuleConfig
from labeling.store import Store

router = APIRouter(prefix="/projects/{slug}/queue")
QueryDep = Annotated[QueueQuery, Query()]


class Sitting:
    """What every handler needs: the order of the sitting and the verdicts since it began."""

    def __init__(
        self,
        session: Session,
        settings: Settings,
        project: Project,
        store: Store,
        table: LatentTable,
        query: QueueQuery,
    ) -> None:
        assert query.as_of is not None
        self.session, self.project, self.store, self.table, self.query = session, project, store, table, query
        self.then = queries.verdicts_of(session, project, query.as_of)
        self.now = queries.verdicts_of(session, project)
        self.events = verdict_log.since(session, project, query.as_of)
        self.standing = self._standing(settings)
        wanted = tuple(candidates(table, query, self.then)) if query.order == "effect" else ()
        self.ids = queue(table, query, self.then, effects_of(self.standing, wanted) if wanted else {})
        undone = verdict_log.taken_back(self.events)
        given = [e for e in self.events if e.undoes_id is None and e.id not in undone and e.decision != "clear"]
        self.judged = {event.latent for event in given}
        self.times = [event.created_at for event in given]

    def _standing(self, settings: Settings) -> Standing:
        """The labels that the newest rule's settings give with the latents accepted when the sitting began."""
        artifact = queries.newest_artifact(self.session, self.project.id, "store")
        rule = queries.newest_rule(self.session, self.project.id)
        assert artifact is not None
        config = RuleConfig.model_validate(rule.config if rule else {})
        configs = [row.config for row in queries.functions_of(self.session, self.project.id)]
        functions = ballot(self.session, settings, self.project.id, self.store, artifact.id, configs)
        accepted = sorted(n for n, verdict in self.then.items() if verdict.decision == "accept")
        return standing(self.store, tally_of(self.store, accepted, config, functions), config)

    def context(self, latent: int | None) -> dict[str, Any]:
        """Everything the page shows of one candidate; None: the first that waits."""
        at = place(self.ids, latent, self.judged)
        log = verdict_log.newest(self.session, self.project)
        context: dict[str, Any] = {
            "project": self.project, "query": self.query, "at": at, "log": log,
            "taken_back": verdict_log.taken_back(log), "pace": pace(self.times, at.total - at.done),
            "accepted": sum(v.decision == "accept" for v in self.now.values()),
            "newer": len(self.events),
        }  # fmt: skip
        if at.latent is None:
            return context
        sides = queries.sides_of(self.session, self.project.id)
        verdict: Verdict | None = self.now.get(at.latent)
        return context | {
            "sides": sides,
            "verdict": verdict,
            "evidence": evidence(self.store, self.table, at.latent, sides, Texts(self.session, self.project)),
            "effect": effect_of(self.standing, at.latent) if at.latent not in self._accepted_then() else None,
            "train_tokens": self.store.stats.tokens,
            "nearest": nearest_family(self.table, at.latent),
            "complete": self.table.complete,
        }

    def _accepted_then(self) -> set[int]:
        return {n for n, verdict in self.then.items() if verdict.decision == "accept"}


def _sitting(
    session: Session, settings: Settings, project: Project, store: Store | None, table: LatentTable | None,
    query: QueueQuery,
) -> Sitting:  # fmt: skip
    if store is None or table is None or project.reference_id is None:
        raise HTTPException(409, "Run discovery first: there are no latents to judge yet.")
    if query.as_of is None:  # a sitting begins
        query = query.model_copy(update={"as_of": verdict_log.newest_id(session, project)})
    return Sitting(session, settings, project, store, table, query)


def _known(table: LatentTable | None, latent: int) -> None:
    if table is not None and not 0 <= latent < len(table):
        raise HTTPException(404, f"There is no latent {latent} in this project's discovery.")


def _answer(request: Request, sitting: Sitting, latent: int | None) -> Response:
    context = sitting.context(latent)
    response = render(request, "queue/show.html", "queue/_candidate.html", **context)
    if is_fragment(request):  # the address is always that of the candidate on the page
        response.headers["HX-Replace-Url"] = _url(sitting, context["at"].latent)
    return response


def _url(sitting: Sitting, latent: int | None) -> str:
    root = f"/projects/{sitting.project.slug}/queue"
    return f"{root}{sitting.query.link()}" if latent is None else f"{root}/{latent}{sitting.query.link()}"


@router.get("")
def index(
    request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep, store: StoreDep, table: TableDep,
    query: QueryDep,
) -> Response:  # fmt: skip
    """The first candidate that waits."""
    if store is None or table is None or project.reference_id is None:
        return render(request, "queue/show.html", project=project, query=query, at=None)
    return _answer(request, _sitting(session, settings, project, store, table, query), None)


@router.get("/ready")
def make_ready(
    project: ProjectDep, session: SessionDep, store: StoreDep, table: TableDep,
    latent: Annotated[list[int], Query(max_length=4)],
) -> Response:  # fmt: skip
    """Gather the evidence of the next candidates while the person reads this one."""
    if store is not None and table is not None:
        sides = queries.sides_of(session, project.id)
        for n in latent:
            _known(table, n)
            evidence(store, table, n, sides, Texts(session, project))
    return Response(status_code=204)


@router.post("/undo")
def undo(
    request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep, store: StoreDep, table: TableDep,
    query: QueryDep, user: CurrentUser,
) -> Response:  # fmt: skip
    """Take back the author's newest verdict of this sitting and show that candidate again."""
    if query.as_of is None:
        raise HTTPException(422, "as_of: say which sitting; open the queue's page first.")
    try:
        event = verdict_log.take_back(session, project, user, query.as_of)
    except ValueError as error:
        raise HTTPException(409, f"{error}.") from None
    if event is None:
        raise HTTPException(409, "There is nothing of yours left to take back in this sitting.")
    sitting = _sitting(session, settings, project, store, table, query)
    if not is_fragment(request):
        return redirect(request, _url(sitting, event.latent))
    return toast(_answer(request, sitting, event.latent), f"Took back the verdict on latent {event.latent}.")


@router.get("/{latent}")
def show(
    request: Request, latent: int, project: ProjectDep, session: SessionDep, settings: SettingsDep, store: StoreDep,
    table: TableDep, query: QueryDep,
) -> Response:  # fmt: skip
    _known(table, latent)
    return _answer(request, _sitting(session, settings, project, store, table, query), latent)


@router.post("/{latent}")
def judge(
    request: Request, latent: int, project: ProjectDep, session: SessionDep, settings: SettingsDep, store: StoreDep,
    table: TableDep, query: QueryDep, user: CurrentUser,
    decision: Annotated[Literal["accept", "reject", "unsure"], Form()],
    note: Annotated[str, Form(max_length=2000)] = "",
) -> Response:  # fmt: skip
    """Write the verdict, then show the next candidate: what the page shows next is committed."""
    _known(table, latent)
    if query.as_of is None:
        query = query.model_copy(update={"as_of": verdict_log.newest_id(session, project)})
    if store is not None and project.reference_id is not None:
        verdict_log.give(session, project, latent, decision, note.strip(), user)
    sitting = _sitting(session, settings, project, store, table, query)
    after = place(sitting.ids, latent, sitting.judged).after
    return _answer(request, sitting, after) if is_fragment(request) else redirect(request, _url(sitting, after))
