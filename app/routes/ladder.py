"""The removal ladder: nested sets at given budgets, what each costs and what it catches."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import Response

from app import queries
from app.access import ProjectDep, SettingsDep
from app.artifacts import open_store
from app.db import SessionDep
from app.differences import by_rung
from app.jobs import enqueue
from app.models import Artifact
from app.pages import redirect, render
from app.rule_results import Finding, page_context, start
from app.security import CurrentUser

router = APIRouter(prefix="/projects/{slug}/rule/ladder")
DEFAULT = "1, 3, 5, 10"
SHADES = 6  # shades of static/plots.css, darkest first


def budgets_of(text: str) -> list[float]:
    """Percentages as typed. ValueError says which one is wrong."""
    parts = [part.strip().removesuffix("%").strip() for part in text.replace(";", ",").split(",") if part.strip()]
    try:
        found = sorted({float(part) / 100 for part in parts})
    except ValueError:
        raise ValueError(f"budgets are percentages with commas between them, such as {DEFAULT}") from None
    if not 1 <= len(found) <= SHADES or not all(0 < budget < 1 for budget in found):
        raise ValueError(f"give 1 to {SHADES} budgets between 0 and 100, such as {DEFAULT}")
    return found


def curves(said: dict[str, Any], sides: dict[str, str]) -> dict[str, list[tuple[float, float]]]:
    """Recall and false positives on gold over the share of train tokens removed; empty without gold."""
    points: dict[str, list[tuple[float, float]]] = {}
    for rung in said["rungs"]:
        if gold := rung["gold"]:
            retain = [
                f["fpr"] for name, f in gold["families"].items() if f["side"] == "retain" and f["fpr"] is not None
            ]
            found = {
                "recall": gold["recall"],
                "precision": gold["precision"],
                "worst retain family's FPR": max(retain, default=None),
            }
            for name, value in found.items():
                if value is not None:
                    points.setdefault(name, []).append((rung["share"], value))
    return points


def train_share(rung: dict[str, Any], family: str) -> float | None:
    found = rung["labels"]["families"].get(family, {}).get("train")
    return found["share"] if found else None


def samples(session: SessionDep, settings: SettingsDep, project: ProjectDep, found: Finding) -> list[tuple[Any, ...]]:
    """Train documents that hold the most different rungs, one of each side: (key, family, shaded pieces)."""
    store, rungs = (
        open_store(settings, session.get_one(Artifact, found.artifact.info["store_id"])),
        found.array("rungs"),
    )
    sides, classes = queries.sides_of(session, project.id), [f"rung-{n}" for n in range(1, SHADES + 1)]
    best: dict[str, tuple[int, int]] = {}
    for i in np.random.default_rng(0).permutation(len(store.keys))[:4000]:
        if store.doc_split[i] == "train":
            head = rungs[store.document(int(i))][:180]
            variety = len(np.unique(head)) * 1000 + int((head > 0).sum())
            side = sides.get(store.doc_family[i], "unknown")
            if variety > best.get(side, (0, 0))[0]:
                best[side] = variety, int(i)
    texts = queries.texts_by_key(session, project.id, [store.keys[i] for _, i in best.values()])
    return [
        (store.keys[i], store.doc_family[i], by_rung(store, i, rungs, texts.get(store.keys[i], ""), classes))
        for _, (_, i) in sorted(best.items())
    ]


def _page(request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep, budgets: str,
          error: str | None = None) -> Response:  # fmt: skip
    context = page_context(session, settings, project, "ladder", "ladder")
    sides = queries.sides_of(session, project.id)
    if (found := context["found"]) and not error:
        context |= {"curves": curves(found.said, sides), "samples": samples(session, settings, project, found)}
    context |= {"sides": sides, "budgets": budgets, "error": error, "train_share": train_share}
    return render(
        request, "ladder/index.html", "ladder/_form.html" if error else None, 422 if error else 200, **context
    )


@router.get("")
def index(request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep) -> Response:
    return _page(request, project, session, settings, DEFAULT)


@router.post("")
def climb(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    settings: SettingsDep,
    user: CurrentUser,
    budgets: Annotated[str, Form(max_length=200)] = DEFAULT,
) -> Response:
    try:
        chosen = budgets_of(budgets)
    except ValueError as error:
        return _page(request, project, session, settings, budgets, str(error))
    if start(session, project, "ladder", user, budgets=chosen) is None:
        raise HTTPException(409, "Save a rule first: the ladder orders tokens by its votes.")
    return redirect(request, f"/projects/{project.slug}/rule/ladder")


@router.post("/labels")
def take(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    user: CurrentUser,
    artifact_id: Annotated[int, Form(ge=1, lt=2**31)],
    rung: Annotated[int, Form(ge=1, le=SHADES)],
) -> Response:
    """Weak labels at one budget, to train on."""
    artifact = session.get(Artifact, artifact_id)
    if artifact is None or (artifact.project_id, artifact.kind) != (project.id, "ladder"):
        raise HTTPException(404, "There is no such ladder in this project.")
    if rung > len(artifact.info["budgets"]):
        raise HTTPException(404, f"This ladder has {len(artifact.info['budgets'])} rungs.")
    enqueue(session, "take labels", project.id, {"artifact_id": artifact_id, "rung": rung}, user)
    return redirect(request, f"/projects/{project.slug}/rule/versions")
