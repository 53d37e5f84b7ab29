"""Ten people label while 50,000 documents are imported, against a real server process (RELIABILITY 27)."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from sqlalchemy import select

from app.db import MIGRATIONS
from app.importing import import_file
from app.models import Annotation, Document, Project
from app.security import cookie_name, open_session
from tests.app.reviewed import documents_of

DOCUMENTS, REVIEWERS, P95_SECONDS = 50_000, 10, 0.250
PAUSE = 0.5  # between two decisions: faster than anybody reads


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Reviewer:
    """One browser at one document, labelling until told to stop."""

    address: str
    cookies: dict[str, str]
    document: Document
    stop: threading.Event
    seconds: list[float] = field(default_factory=list)
    acknowledged: int = 0
    errors: list[str] = field(default_factory=list)

    def work(self) -> None:
        url, at = f"{self.address}/projects/medicine/documents/{self.document.id}/annotations", 0
        with httpx.Client(cookies=self.cookies, headers={"Sec-Fetch-Site": "same-origin"}, timeout=30) as client:
            while not self.stop.is_set():
                start = at % (self.document.characters - 1)
                body = {"version": self.acknowledged, "action": "add", "start": start, "end": start + 1}
                body |= {"surface": self.document.text[start : start + 1]}
                begun = time.perf_counter()
                try:
                    answer = client.post(url, json=body)
                except httpx.HTTPError as error:
                    self.errors.append(repr(error))
                    continue
                self.seconds.append(time.perf_counter() - begun)
                if answer.status_code == 200:
                    self.acknowledged = answer.json()["version"]
                else:
                    self.errors.append(f"{answer.status_code}: {answer.text[:200]}")
                at += 2
                self.stop.wait(PAUSE)


def corpus_file(folder: Path) -> Path:
    path = folder / "large.jsonl"
    sentence = "The cat sat on the mat and looked at the rain, which did not stop that day. "
    with path.open("w") as file:
        for i in range(DOCUMENTS):
            file.write(json.dumps({"id": f"large-{i}", "text": f"{i}. " + sentence * 12}) + "\n")
    return path


@pytest.mark.slow
def test_reviewers_are_not_held_up_by_an_import(settings, sessions, project: Project, tmp_path: Path, capsys):
    if "sqlite" not in settings.url:
        pytest.skip("PostgreSQL has no single writer to wait for")
    source, port = corpus_file(tmp_path), free_port()
    with sessions.begin() as session:
        documents = documents_of(session, project)[:REVIEWERS]
        cookies = {cookie_name(settings.model_copy(update={"port": port})): open_session(session, settings)}
    env = os.environ | {"TOKENSIEVE_DATA_DIR": str(settings.data_dir), "TOKENSIEVE_PORT": str(port)}
    command = [sys.executable, "-m", "app", "serve", "--no-worker"]
    server = subprocess.Popen(command, env=env, cwd=MIGRATIONS.parent, stderr=subprocess.DEVNULL)
    stop, address = threading.Event(), f"http://127.0.0.1:{port}"
    reviewers = [Reviewer(address, cookies, document, stop) for document in documents]
    threads = [threading.Thread(target=reviewer.work) for reviewer in reviewers]
    try:
        wait_for(address)
        for thread in threads:
            thread.start()
        begun = time.monotonic()
        for _ in import_file(sessions, project.id, str(source), source.name, "large", "retain"):
            pass
        took = time.monotonic() - begun
    finally:
        stop.set()
        for thread in threads:
            if thread.ident:
                thread.join()
        server.terminate()
        server.wait(20)
    seconds = np.array([s for reviewer in reviewers for s in reviewer.seconds])
    p50, p95, worst = (float(np.quantile(seconds, q)) for q in (0.5, 0.95, 1))
    with capsys.disabled():
        print(
            f"\n{len(seconds):,} saves by {REVIEWERS} reviewers while {DOCUMENTS:,} documents came in ({took:.0f} s): "
            f"p50 {1000 * p50:.0f} ms, p95 {1000 * p95:.0f} ms, slowest {1000 * worst:.0f} ms"
        )
    assert [error for reviewer in reviewers for error in reviewer.errors] == []
    with sessions() as session:
        for reviewer in reviewers:
            where = Annotation.document_id == reviewer.document.id
            versions = session.scalars(select(Annotation.version).where(where).order_by(Annotation.version)).all()
            assert versions == list(range(1, reviewer.acknowledged + 1))
        assert session.query(Document).where(Document.project_id == project.id).count() == DOCUMENTS + 12
    assert p95 <= P95_SECONDS


def wait_for(address: str) -> None:
    for _ in range(600):
        try:
            httpx.get(f"{address}/health")
        except httpx.HTTPError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError("the server did not start")
