"""Every link and form of every page leads to a route: a wrong address shows only when somebody presses it."""

import re
from collections.abc import Iterator
from html import unescape

from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from app.models import Artifact, Preflight, Project
from app.queries import save_rule
from app.settings import Settings
from tests.app.seeded import accept, seed
from tests.app.test_security import every_route

TAG = re.compile(r"<[a-z]+\b[^>]*>")
VERBS = {"href": "GET", "hx-get": "GET", "hx-post": "POST", "hx-put": "PUT", "hx-delete": "DELETE"}


def addresses(page: str) -> Iterator[tuple[str, str]]:
    """(method, path) of everything on the page that can be followed or sent."""
    for tag in TAG.findall(page):
        given = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        for name, verb in [*VERBS.items(), ("action", given.get("method", "get").upper())]:
            path = unescape(given.get(name, "")).split("?")[0].split("#")[0]
            if path.startswith("/") and not path.startswith(("/static/", "//")):
                yield verb, path


def pattern(route: str) -> "re.Pattern[str]":
    return re.compile(re.sub(r"(?<=/)1(?=/|\.|$)", "[^/]+", re.escape(route).replace(r"\.", ".")))


def test_every_link_and_form_leads_to_a_route(
    app: FastAPI, client: TestClient, project: Project, sessions: sessionmaker[Session], settings: Settings
) -> None:
    seed(sessions, settings, project)
    accept(sessions, project, 0, 1)
    with sessions.begin() as session:
        for k in (1, 2):
            save_rule(session, project.id, {"k": k, "z": 1}, [0, 1], [], "owner")
        report = {"tokens": 1, "checks": [{"name": "BOS", "state": "fail", "text": "no"}], "figures": {"fvu": 1.0}}
        whose = {"reference_id": project.reference_id, "project_id": project.id, "author": "owner"}
        session.add(Preflight(**whose, passed=False, report=report))
        session.add(Artifact(project_id=project.id, kind="filter", path="artifacts/none", info={}))
    routes = [(method, pattern(path)) for method, path in every_route(app, slug="medicine")]
    waiting, seen, lost = ["/projects/medicine"], set[str](), set[tuple[str, str, str]]()
    while waiting:
        at = waiting.pop()
        kind = re.sub(r"\d+", "1", at)
        if kind in seen or kind.endswith(("/download", "/logout", ".json")):
            continue
        seen.add(kind)
        for method, path in addresses(client.get(at).text):
            if not any(method == verb and route.fullmatch(path) for verb, route in routes):
                lost.add((at, method, path))
            elif method == "GET":
                waiting.append(path)
    assert lost == set()
    assert {"/references/1", "/projects/medicine/rule/versions", "/projects/medicine/latents/1"} <= seen, seen
