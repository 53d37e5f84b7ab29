"""The demo: project "Medicine", end to end, on a real model and real text.

Every stage asks the database whether it is done already, so a second start only serves and a
killed one goes on where it stopped. Nothing here is special-cased elsewhere: the demo calls the
functions that the commands call.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app import models as m
from app import queries
from app.assets import fetch
from app.demo_corpus import FAMILIES, CorpusConfig
from app.demo_corpus import build as build_corpus
from app.demo_review import ensure_review, load
from app.importing import import_file
from app.progress import console, run
from app.references import add as add_reference
from app.results import results_table
from app.rules import save_rule
from app.running import run_job
from app.settings import Settings
from app.vendor import vendor

DATA = Path(__file__).parent / "demo_data"
SAE = DATA / "smollm2-135m-block20"
SHARE = 0.5  # of the corpus that the assets give by default: about 290k tokens
NAME, SLUG, AUTHOR = "Medicine", "medicine", "demo"
TREATMENTS = ("mask", "remove", "document")

Sessions = sessionmaker[Session]


def build(settings: Settings, sessions: Sessions) -> None:
    """Build whatever is missing, print what each stage took and the results."""
    took: dict[str, float] = {}

    def stage(name: str, work: Callable[[], Any]) -> None:
        begun = time.monotonic()
        work()
        took[name] = time.monotonic() - begun

    stage("fetch assets", lambda: fetch_all(settings))
    corpus = settings.data_dir / "demo-corpus"
    stage("build corpus", lambda: run(build_corpus(settings.assets_dir, corpus, CorpusConfig(limit=SHARE))))
    project_id = ensure_project(sessions)
    stage("import", lambda: import_corpus(sessions, project_id, corpus))
    stage("reference", lambda: ensure_reference(settings, sessions, project_id))
    stage("discover", lambda: ensure(settings, sessions, project_id, "discover", {}))
    stage("verdicts", lambda: ensure_verdicts(sessions, project_id))
    rule_id = ensure_rule(sessions, project_id)
    stage("weak labels", lambda: ensure(settings, sessions, project_id, "label", {"rule_id": rule_id}))
    stage("review", lambda: import_review(sessions, project_id))
    for kind in ("analyse", "aggregate", "ladder", "transfer"):
        stage(kind, lambda kind=kind: ensure(settings, sessions, project_id, kind, {"rule_id": rule_id}))  # type: ignore[misc]
    with sessions.begin() as session:
        labels = session.scalars(
            select(m.LabelSet.id).where(m.LabelSet.rule_id == rule_id).order_by(m.LabelSet.id)
        ).first()
    training = {"label_set_id": labels, "name": "minilm", **recipe()["train"]}
    stage("train and evaluate", lambda: ensure(settings, sessions, project_id, "train", training))
    with sessions.begin() as session:
        classifier = session.scalars(
            select(m.Classifier).where(m.Classifier.project_id == project_id).order_by(m.Classifier.id)
        ).first()
    assert classifier is not None
    unseen = unseen_files(settings, corpus)
    for treatment in TREATMENTS:
        args = {"classifier_id": classifier.id, "inputs": unseen, "treatment": treatment}
        stage(f"filter: {treatment}", lambda args=args: ensure(settings, sessions, project_id, "filter", args))  # type: ignore[misc]
    report(settings, sessions, project_id, classifier, took)


def fetch_all(settings: Settings) -> None:
    vendor()
    run(fetch(recipe()["assets"], settings.assets_dir))


def recipe() -> dict[str, Any]:
    """Choices that ship with the demo: assets, definition, verdicts, rule, training."""
    return json.loads((DATA / "recipe.json").read_text(encoding="utf-8"))


def ensure_project(sessions: Sessions) -> int:
    with sessions.begin() as session:
        project = queries.project_by_slug(session, SLUG)
        if project is None:
            definition = recipe()["definition"]
            project = queries.create_project(session, NAME, definition["includes"], definition["excludes"], AUTHOR)
        return project.id


def import_corpus(sessions: Sessions, project_id: int, corpus: Path) -> None:
    for family in FAMILIES:
        file = corpus / f"{family.name}.jsonl"
        if file.exists():
            run(import_file(sessions, project_id, str(file), file.name, family.name, family.side, author=AUTHOR))


def ensure_reference(settings: Settings, sessions: Sessions, project_id: int) -> None:
    reference = add_reference(sessions, "smollm2-135m", str(settings.assets_dir / "smollm2"), str(SAE))
    with sessions.begin() as session:
        project = session.get_one(m.Project, project_id)
        if project.reference_id is None:
            project.reference_id = reference.id


def ensure(settings: Settings, sessions: Sessions, project_id: int, kind: str, args: dict[str, Any]) -> None:
    """Run a step unless the same one is done; one that was interrupted is taken up again as the same job."""
    with sessions.begin() as session:
        jobs = session.scalars(select(m.Job).where(m.Job.project_id == project_id, m.Job.kind == kind)).all()
        if any(job.state == "done" and job.args == args for job in jobs):
            return
    run_job(settings, sessions, kind, project_id, args, AUTHOR)


def ensure_verdicts(sessions: Sessions, project_id: int) -> None:
    """The curated verdicts, unless someone has judged latents here already."""
    with sessions.begin() as session:
        project = session.get_one(m.Project, project_id)
        if session.scalar(select(m.Verdict.id).where(m.Verdict.project_id == project_id).limit(1)) is not None:
            return
        for verdict in recipe()["verdicts"]:
            session.add(
                m.Verdict(
                    project_id=project_id,
                    reference_id=project.reference_id,
                    latent=verdict["latent"],
                    decision=verdict["decision"],
                    note=verdict.get("note", ""),
                    author="demo",
                )
            )


def import_review(sessions: Sessions, project_id: int) -> None:
    for line in ensure_review(sessions, project_id, load()):
        console.print(f"review: {line}")


def ensure_rule(sessions: Sessions, project_id: int) -> int:
    """The demo's first rule; later ones are the user's."""
    with sessions.begin() as session:
        for function in recipe()["functions"]:
            known = [f.config for f in queries.functions_of(session, project_id)]
            if function["config"] not in known and queries.newest_rule(session, project_id) is None:
                project = session.get_one(m.Project, project_id)
                queries.add_function(session, project, function["name"], function["config"], "demo")
        session.flush()
        first = session.scalars(select(m.Rule).where(m.Rule.project_id == project_id).order_by(m.Rule.version)).first()
        return (first or save_rule(session, project_id, recipe()["rule"], "demo")).id


def unseen_files(settings: Settings, corpus: Path) -> list[str]:
    """Files of documents that no family holds, relative to the data directory."""
    files = sorted(p for p in (corpus / "unseen").iterdir() if p.is_file())
    return [p.relative_to(settings.data_dir).as_posix() for p in files]


def report(
    settings: Settings, sessions: Sessions, project_id: int, classifier: m.Classifier, took: dict[str, float]
) -> None:
    with sessions.begin() as session:
        info = session.get_one(m.Classifier, classifier.id).info
        filters = session.scalars(
            select(m.Artifact).where(m.Artifact.project_id == project_id, m.Artifact.kind == "filter")
        ).all()
        runs = [(a.path, a.info) for a in filters][-len(TREATMENTS) :]
    print(results_table(info))
    console.print(f"gold: {load().about}")
    for path, details in runs:
        figures = {k: v for k, v in details.items() if isinstance(v, int | float)}
        shown = ", ".join(f"{k.replace('_', ' ')} {v:,.4g}" for k, v in figures.items())
        print(f"{details.get('treatment', 'filter')}: {settings.data_dir / path} ({shown})")
    table = Table("stage", "time", title="what each stage took")
    for name, seconds in took.items():
        table.add_row(name, f"{seconds // 60:.0f} min {seconds % 60:.1f} s" if seconds >= 60 else f"{seconds:.1f} s")
    table.add_row("all", f"{sum(took.values()) / 60:.1f} min")
    console.print(table)
