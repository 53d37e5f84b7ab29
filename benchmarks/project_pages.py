"""Server time of the pages people leaf through: latent table, dashboards, documents, classifiers.

    TOKENSIEVE_DATA_DIR=data python -m benchmarks.project_pages [PROJECT] [--requests 60]

Runs the app in this process on an existing project (`make demo` makes one), asks for pages of different
latents and documents in turn, and prints median, p95 and maximum of CPU and of clock time a request.
The goal is a p95 of 100 ms. The first request of each kind, which opens the files, is told apart.
"""

import argparse
import random
import statistics
import time
from collections.abc import Iterable

from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.artifacts import open_table
from app.main import create_app
from app.models import Artifact, Classifier, Document, Project
from app.security import cookie_name, open_session
from app.serving import settle
from app.settings import Settings, settings

GOAL = 0.1


def pages_of(session: Session, config: Settings, project: Project, requests: int) -> dict[str, list[str]]:
    """Addresses to ask for, by kind; the same ones each time."""
    root, rng = f"/projects/{project.slug}", random.Random(0)
    made = select(Artifact).where(Artifact.project_id == project.id, Artifact.kind == "discovery")
    table = session.scalars(made.order_by(Artifact.id.desc())).first()
    documents = session.scalars(
        select(Document.id).where(Document.project_id == project.id, Document.split != "sealed")
    )
    classifiers = session.scalars(select(Classifier.id).where(Classifier.project_id == project.id))
    latents = len(open_table(config, table)) if table else 0
    kinds: dict[str, Iterable[str]] = {
        "latent table": (f"{root}/latents?page={1 + i % 20}" for i in range(requests if latents else 0)),
        "dashboard": (f"{root}/latents/{rng.randrange(latents)}" for _ in range(requests if latents else 0)),
        "document": (f"{root}/documents/{i}" for i in rng.choices(list(documents) or [0], k=requests)),
        "review queue": (f"{root}/review?page={1 + i % 5}" for i in range(requests)),
        "classifier": (f"{root}/classifiers/{i}" for i in [*classifiers] * requests),
        "overview": (root for _ in range(requests)),
    }
    return {name: list(urls)[:requests] for name, urls in kinds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", nargs="?", default="medicine")
    parser.add_argument("--requests", type=int, default=60)
    arguments = parser.parse_args()
    config = settings()
    app = create_app(config)
    with app.state.sessions.begin() as session:
        token = open_session(session, config)
        project = session.scalars(select(Project).where(Project.slug == arguments.project)).one()
        pages = pages_of(session, config, project, arguments.requests)
    client = TestClient(app, base_url=f"http://127.0.0.1:{config.port}", headers={"Sec-Fetch-Site": "same-origin"})
    client.cookies.set(cookie_name(config), token)
    settle()  # as `serve` does
    for name, urls in pages.items():
        if not urls:
            print(f"{name:14} nothing to show")
            continue
        cpu, clock = [], []
        for url in urls:
            before = time.process_time(), time.perf_counter()
            answer = client.get(url)
            cpu.append(time.process_time() - before[0])
            clock.append(time.perf_counter() - before[1])
            assert answer.status_code in (200, 404), (url, answer.status_code, answer.text[:300])
        first, rest = cpu[0], sorted(cpu[1:]) or cpu
        p95 = rest[min(len(rest) - 1, int(0.95 * len(rest)))]
        slow = sorted(clock[1:] or clock)[min(len(rest) - 1, int(0.95 * len(rest)))]
        print(
            f"{name:14} CPU ms: median {1e3 * statistics.median(rest):6.1f}  p95 {1e3 * p95:6.1f}  max {1e3 * rest[-1]:6.1f}"
            f"  first {1e3 * first:6.1f}   clock p95 {1e3 * slow:6.1f}   {'ok' if p95 <= GOAL else 'TOO SLOW'}"
        )


if __name__ == "__main__":
    main()
