"""How long the latent table and a latent's dashboard take, at 65k latents and 5M tokens.

    python -m benchmarks.pages --work DIR [--tokens 5000000]

Requests go through the whole application in process (guard, database, templates), texts from SQLite.
The list is asked for random orders, ranges, texts and pages; dashboards are of random latents among
the thousand that fire most, the costliest ones. CPU time stands beside clock time, because only the
first means anything on a busy machine. Uses the store that `benchmarks.store` left in DIR.
"""

import argparse
import random
import statistics
import string
import time
from pathlib import Path

import numpy as np
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from app import models as m
from app.db import migrate, session_factory
from app.main import create_app
from app.security import cookie_name, open_session
from app.serving import settle
from app.settings import Settings
from benchmarks.planted import SIDES
from benchmarks.store import planted
from labeling.discovery import discover
from labeling.store import Store

URL = "/projects/bench/latents"


def register(session: Session, settings: Settings, store: Store) -> None:
    """A project over the store, with a text for every document."""
    letters = random.Random(0)
    project, reference = m.Project(slug="bench", name="Bench"), m.Reference(name="planted", model="m", sae="s", layer=0)
    session.add_all([project, reference])
    session.flush()
    project.reference_id = reference.id
    families = {name: m.Family(project_id=project.id, name=name, side=side) for name, side in SIDES.items()}
    session.add_all(families.values())
    session.flush()
    source = m.Import(project_id=project.id, filename="bench", sha256="0" * 64, family_id=families["web"].id)
    session.add(source)
    session.flush()
    for i, key in enumerate(store.keys):
        text = " ".join(letters.choices(string.ascii_letters, k=len(range(store.n_tokens)[store.document(i)])))
        session.add(
            m.Document(
                project_id=project.id, family_id=families[store.doc_family[i]].id, import_id=source.id, key=key,
                sha256="0" * 64, split=store.doc_split[i], characters=len(text), text=text,
            )
        )  # fmt: skip
    for kind in ("store", "discovery"):
        session.add(m.Artifact(project_id=project.id, kind=kind, path=f"artifacts/{kind}"))


def prepare(settings: Settings, store: Store) -> None:
    settings.artifacts_dir.mkdir(parents=True)
    (settings.artifacts_dir / "store").symlink_to(store.path.resolve())
    migrate(settings)
    with session_factory(settings).begin() as session:
        register(session, settings, store)
        session.flush()
        texts = {d.key: d.text for d in session.query(m.Document)}
    for _ in discover(store.path, SIDES, settings.artifacts_dir / "discovery", text_of=texts.__getitem__):
        pass


def milliseconds(client: TestClient, urls: list[str]) -> dict[str, list[float]]:
    """Of each request, by kind of time."""
    taken: dict[str, list[float]] = {"clock": [], "CPU": []}
    for url in urls:
        clock, cpu = time.perf_counter(), time.process_time()
        answer = client.get(url)
        taken["clock"].append(1e3 * (time.perf_counter() - clock))
        taken["CPU"].append(1e3 * (time.process_time() - cpu))
        assert answer.status_code == 200, (url, answer.text[:500])
    return taken


def list_urls(n: int) -> list[str]:
    draw = random.Random(1)
    columns = ["ratio", "ratio_nearest", "auroc", "density", "documents", "strong_forget", "max", "ratio:biology"]
    urls = []
    for _ in range(n):
        query = f"?minimum={draw.choice([0, 20])}&sort={draw.choice(columns)}&page={draw.randint(1, 40)}"
        query += draw.choice(["", f"&text={draw.choice(string.ascii_lowercase)}", "&column=auroc&least=0.5&most="])
        urls.append(URL + query + draw.choice(["", "&down=false"]))
    return urls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--latents", type=int, default=65_536)
    parser.add_argument("--tokens", type=int, default=5_000_000)
    parser.add_argument("--l0", type=float, default=24)
    parser.add_argument("--requests", type=int, default=100)
    args = parser.parse_args()
    store = planted(args.work / f"store-{args.tokens}", args.latents, args.tokens, args.l0)
    settings = Settings(data_dir=args.work / f"pages-{args.tokens}", database_url="")
    if not (settings.artifacts_dir / "discovery").exists():
        prepare(settings, store)
    with session_factory(settings).begin() as session:
        token = open_session(session, settings)
    client = TestClient(
        create_app(settings), base_url="http://127.0.0.1:8765", headers={"Sec-Fetch-Site": "same-origin"}
    )
    client.cookies.set(cookie_name(settings), token)
    busiest = np.argsort(-store.stats.active.sum(1))[:1000]
    dashboards = [
        f"{URL}/{n}?minimum=0" for n in np.random.default_rng(0).choice(busiest, args.requests, replace=False)
    ]
    settle()  # as `serve` does
    print(f"{store.d_sae:,} latents, {store.n_tokens:,} tokens, {args.requests} requests each; milliseconds")
    for name, urls in (("latent table", list_urls(args.requests)), ("dashboard", dashboards)):
        milliseconds(client, urls[:3])
        for kind, taken in milliseconds(client, urls).items():
            p95 = np.quantile(taken, 0.95)
            print(
                f"{name:<13} {kind:<6} median {statistics.median(taken):6.1f}   p95 {p95:6.1f}   max {max(taken):6.1f}"
            )


if __name__ == "__main__":
    main()
