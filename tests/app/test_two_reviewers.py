"""Two reviewers at one document, in every order and at once: nothing acknowledged is ever lost.

Hypothesis plays both of them against the real routes. The model is a second implementation, of sets
of characters and a stack, so that the two can only agree if both are right.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.models import Annotation, Document, Project
from labeling.documents import text_sha256
from tests.app.reviewed import documents_of

TEXT = "Give warfarin 💊 5 mg daily, then stop. 👩‍⚕️ ok"
RANGES = st.tuples(st.integers(0, len(TEXT) - 1), st.integers(1, 12)).map(lambda p: (p[0], min(len(TEXT), p[0] + p[1])))
STATES = st.sampled_from(["todo", "part", "done", "clean", "skip"])
TABS = st.integers(0, 1)
numbers = count()


@dataclass(frozen=True)
class Labels:
    """What the document's labels should be."""

    letters: frozenset[int] = frozenset()
    judged: frozenset[tuple[int, int, str]] = frozenset()
    state: str = "todo"


def after(labels: Labels, body: dict, stack: list[Labels]) -> Labels | None:
    """The labels after an event; None if it makes no sense."""
    action = body["action"]
    if action == "undo":
        return stack[-2] if len(stack) > 1 else None
    if action == "state":
        return None if body["state"] == "clean" and labels.letters else replace(labels, state=body["state"])
    here = frozenset(range(body["start"], body["end"]))
    letters = labels.letters | here if action in ("add", "right") else labels.letters - here
    judged = labels.judged
    if action in ("right", "wrong"):
        others = {j for j in judged if j[:2] != (body["start"], body["end"])}
        judged = frozenset(others | {(body["start"], body["end"], action)})
    return Labels(letters, judged, "part")


@dataclass
class Tab:
    """One reviewer's browser: the version it shows, and an event that came too late."""

    version: int = 0
    late: dict = field(default_factory=dict)


class TwoReviewers(RuleBasedStateMachine):
    """Set `client`, `sessions`, `project` and `posts` on a subclass."""

    client: TestClient
    sessions: sessionmaker[Session]
    project: Project
    posts: "count[int]"  # one taken for every event sent

    @initialize()
    def open_document(self) -> None:
        with self.sessions.begin() as session:
            first = documents_of(session, self.project)[0]
            document = Document(
                project_id=self.project.id, family_id=first.family_id, import_id=first.import_id,
                key=f"new-{next(numbers)}", sha256=text_sha256(TEXT), split="train", characters=len(TEXT), text=TEXT, meta={},
            )  # fmt: skip
            session.add(document)
            session.flush()
            self.document_id = document.id
        self.tabs = [Tab(), Tab()]
        self.stack = [Labels()]
        self.acknowledged: list[tuple[int, str, list[list[int]]]] = []  # (version, action, spans after)

    def post(self, tab: Tab, body: dict):
        url = f"/projects/medicine/documents/{self.document_id}/annotations"
        next(self.posts)
        return self.client.post(url, json=body | {"version": tab.version})

    def send(self, tab: Tab, body: dict) -> None:
        stale, expected = tab.version != len(self.acknowledged), after(self.stack[-1], body, self.stack)
        answer = self.post(tab, body)
        if stale:
            assert answer.status_code == 409
            tab.version, tab.late = answer.json()["version"], body
            assert answer.json()["version"] == len(self.acknowledged)
        elif expected is None:
            assert answer.status_code == 422, answer.text
        else:
            assert answer.status_code == 200, answer.text
            self.accept(body, expected, answer.json())
            tab.version = answer.json()["version"]

    def accept(self, body: dict, expected: Labels, shown: dict) -> None:
        assert {i for s, e in shown["spans"] for i in range(s, e)} == expected.letters
        assert {tuple(j) for j in shown["judged"]} == expected.judged and shown["state"] == expected.state
        self.acknowledged.append((shown["version"], body["action"], shown["spans"]))
        if body["action"] == "undo":
            self.stack.pop()
        else:
            self.stack.append(expected)

    @rule(tab=TABS, action=st.sampled_from(["add", "remove", "right", "wrong"]), at=RANGES)
    def edit(self, tab: int, action: str, at: tuple[int, int]) -> None:
        start, end = at
        self.send(self.tabs[tab], {"action": action, "start": start, "end": end, "surface": TEXT[start:end]})

    @rule(tab=TABS, state=STATES)
    def finish(self, tab: int, state: str) -> None:
        self.send(self.tabs[tab], {"action": "state", "state": state})

    @rule(tab=TABS)
    def undo(self, tab: int) -> None:
        self.send(self.tabs[tab], {"action": "undo"})

    @rule()
    def apply_anyway(self) -> None:
        """What came too late is sent again at the newer version.

        No precondition: who is late is a race, and Hypothesis must draw the same rules whoever wins it.
        """
        if tab := next((tab for tab in self.tabs if tab.late), None):
            body, tab.late = tab.late, {}
            self.send(tab, body)

    @rule(first=RANGES, second=RANGES)
    def both_at_once(self, first: tuple[int, int], second: tuple[int, int]) -> None:
        """Two tabs at the same version: one wins, the other is told the winner's state."""
        for tab in self.tabs:
            tab.version = len(self.acknowledged)
        bodies = [{"action": "add", "start": s, "end": e} for s, e in (first, second)]
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(self.post, self.tabs, bodies))
        assert sorted(a.status_code for a in answers) == [200, 409]
        won = 0 if answers[0].status_code == 200 else 1
        expected = after(self.stack[-1], bodies[won], self.stack)
        assert expected is not None and answers[1 - won].json()["spans"] == answers[won].json()["spans"]
        self.accept(bodies[won], expected, answers[won].json())
        for tab in self.tabs:
            tab.version = len(self.acknowledged)
        self.tabs[1 - won].late = bodies[1 - won]

    @invariant()
    def every_acknowledged_event_is_stored(self) -> None:
        query = select(Annotation.version, Annotation.action, Annotation.spans)
        with self.sessions() as session:
            rows = session.execute(query.where(Annotation.document_id == self.document_id).order_by(Annotation.version))
            assert [tuple(row) for row in rows] == self.acknowledged
        assert [version for version, _, _ in self.acknowledged] == list(range(1, len(self.acknowledged) + 1))


def play(client: TestClient, sessions: sessionmaker[Session], project: Project, examples: int, steps: int) -> int:
    """How many events were sent."""
    posts = count()
    given = {"client": client, "sessions": sessions, "project": project, "posts": posts}
    machine = type("Machine", (TwoReviewers,), given)
    chosen = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(machine, settings=chosen)
    return next(posts)


def test_two_reviewers_lose_nothing(client, sessions, project):
    play(client, sessions, project, examples=5, steps=20)


@pytest.mark.slow
def test_ten_thousand_operations_lose_nothing(client, sessions, project):
    assert play(client, sessions, project, examples=110, steps=100) >= 10_000
