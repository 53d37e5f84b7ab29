"""Live what-if and the verdict queue, through the real routes, at 2M tokens and 300 accepted latents.

    python -m benchmarks.curation [--tokens 2000000] [--latents 300]

A planted store (13 families, bursts of firing as concepts have) and its project are made in a
temporary folder. Every control move is one GET of the rule page's fragment, database, template
and gold figures included; beside it, in the same run, the labels alone made afresh by
`labeling.rule.label`, which is what a page without caches would have to do first. Every verdict
is one POST of the queue that commits and answers with the next candidate's evidence.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from fastapi.testclient import TestClient

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from app.db import migrate, session_factory
from app.main import create_app
from app.models import Annotation, Artifact, Definition, Document, Family, Import, Project, Reference, Verdict
from app.security import cookie_name, open_session
from app.settings import Settings
from labeling.discovery import discover
from labeling.rule import RuleConfig, label
from labeling.store import DocumentRow, Store, finish, write_shard, write_tables

FAMILIES = {f"family-{i:02d}": "forget" if i < 4 else "retain" for i in range(13)}
LENGTH = 400  # tokens of a document; token i covers characters [5 i, 5 i + 4)
TEXT = "word " * LENGTH
WAITING = 60  # candidates beside the accepted ones
MOVES = [
    {"k": 3}, {"k": 2}, {"z": 2.5}, {"z": 3.0}, {"boundary": "seeds"}, {"boundary": "grow_above", "grow_above": 1.0},
    {"grow_above": 2.0}, {"boundary": "grow_positive", "close_gap": 3}, {"min_tokens": 2}, {"k": 5}, {"z": 1.5}, {"k": 4},
]  # fmt: skip


def plant(folder: Path, tokens: int, latents: int) -> None:
    """A sealed store; a latent fires on 0.3 to 2% of tokens, in bursts, mostly in forget documents."""
    random = np.random.default_rng(0)
    documents, names = tokens // LENGTH, list(FAMILIES)
    family = np.arange(documents) % len(names)
    weight = np.where(family < 4, 8.0, 1.0)
    splits = np.where(random.random(documents) < 0.9, "train", "validation")
    where: list[np.ndarray] = []
    for _ in range(latents):
        bursts = random.choice(documents, int(random.uniform(0.003, 0.02) * tokens / 6), p=weight / weight.sum())
        at = (
            bursts[:, None] * LENGTH
            + random.integers(0, LENGTH - 12, (len(bursts), 1))
            + random.integers(0, 12, (1, 6))
        )
        where.append(np.unique(at))
    count = [len(w) for w in where]
    values = random.exponential(1.0, sum(count)).astype(np.float32)
    write_shard(
        folder / "shards" / "00000",
        np.repeat(np.arange(latents), count),
        np.concatenate(where),
        values,
        tokens,
        latents,
    )
    rows = [DocumentRow(f"d{i}", "0" * 64, names[family[i]], str(splits[i]), LENGTH, 0) for i in range(documents)]
    starts = np.tile(np.arange(LENGTH, dtype=np.int32) * 5, documents)
    write_tables(folder, rows, random.integers(0, 5000, tokens).astype(np.int32), starts, starts + 4)
    finish(folder, rows, latents, {"reference": "planted"})


def fill(settings: Settings, store: Store, accepted: int) -> str:
    """The project's rows; the cookie of a logged-in browser."""
    sessions = session_factory(settings)
    with sessions.begin() as session:
        reference = Reference(name="planted", model="m", sae="s", layer=1)
        project = Project(slug="bench", name="Bench", reference=reference)
        session.add(project)
        session.flush()
        session.add(Definition(project_id=project.id, version=1, includes="x", excludes="y", author="owner"))
        ids = {}
        for name, side in FAMILIES.items():
            row = Family(project_id=project.id, name=name, side=side)
            session.add(row)
            session.flush()
            source = Import(project_id=project.id, filename=name, sha256=name, family_id=row.id, finished=True)
            session.add(source)
            session.flush()
            ids[name] = row.id, source.id
        made = [
            Document(project_id=project.id, family_id=ids[f][0], import_id=ids[f][1], key=key, sha256=key, split=split, characters=len(TEXT), text=TEXT, meta={})
            for key, f, split in zip(store.keys, store.doc_family, store.doc_split, strict=True)
        ]  # fmt: skip
        session.add_all(made)
        session.flush()
        for document in made[:200]:
            session.add(
                Annotation(
                    document_id=document.id,
                    version=1,
                    action="state",
                    spans=[[100, 400]],
                    judged=[],
                    state="done",
                    author="owner",
                )
            )
        for kind in ("store", "discovery"):
            session.add(Artifact(project_id=project.id, kind=kind, path=f"artifacts/{kind}", info={}))
        for latent in range(accepted):
            session.add(
                Verdict(
                    project_id=project.id, reference_id=reference.id, latent=latent, decision="accept", author="owner"
                )
            )
        return open_session(session, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--latents", type=int, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), database_url="")
        migrate(settings)
        plant(settings.artifacts_dir / "store", arguments.tokens, arguments.latents + WAITING)
        store = Store.open(settings.artifacts_dir / "store")
        for _ in discover(settings.artifacts_dir / "store", FAMILIES, settings.artifacts_dir / "discovery", z=2.0):
            pass
        cookie = fill(settings, store, arguments.latents)
        client = TestClient(
            create_app(settings),
            base_url="http://127.0.0.1:8765",
            headers={"Sec-Fetch-Site": "same-origin", "HX-Request": "true"},
        )
        client.cookies.set(cookie_name(settings), cookie)
        postings = sum(len(store.latent(n)[0]) for n in range(arguments.latents))
        print(
            f"{store.n_tokens:,} tokens, {arguments.latents} accepted latents, {postings:,} postings, 200 gold documents"
        )
        what_if(client, store, arguments.latents)
        verdicts(client)


def what_if(client: TestClient, store: Store, latents: int) -> None:
    values = RuleConfig().model_dump()
    form = {name: str(value) for name, value in values.items()}
    assert client.post("/projects/bench/rule", data=form).status_code == 204  # a saved rule to compare with
    begun = time.perf_counter()
    client.get("/projects/bench/rule", params=form)
    print(f"first look, postings read and gold lined up: {1000 * (time.perf_counter() - begun):.0f} ms")
    moves, afresh = [], []
    for move in MOVES:
        values |= move
        begun = time.perf_counter()
        answer = client.get("/projects/bench/rule", params=values)
        moves.append(1000 * (time.perf_counter() - begun))
        assert answer.status_code == 200 and "On gold" in answer.text, answer.text[:300]
        begun = time.perf_counter()
        label(store, range(latents), RuleConfig(**values))
        afresh.append(1000 * (time.perf_counter() - begun))
    print(f"a control moves: median {statistics.median(moves):.0f} ms, worst {max(moves):.0f} ms")
    print(
        f"the labels alone, afresh: median {statistics.median(afresh):.0f} ms; ratio {statistics.median(afresh) / statistics.median(moves):.1f}"
    )


def verdicts(client: TestClient) -> None:
    query = {"minimum": 0, "ratio": 0}
    for order in ("ratio", "uncertainty", "effect"):
        begun = time.perf_counter()
        answer = client.get("/projects/bench/queue", params={**query, "order": order})
        print(f"queue opens by {order}: {1000 * (time.perf_counter() - begun):.0f} ms")
    took: list[float] = []
    while (url := answer.headers["HX-Replace-Url"]).split("?")[0].rsplit("/", 1)[1].isdigit():
        if "ready?" in answer.text:  # what the page asks for while the person reads
            client.get(answer.text.split('hx-get="')[1].split('"')[0].replace("&amp;", "&"))
        begun = time.perf_counter()
        answer = client.post(url, data={"decision": "reject"})
        took.append(1000 * (time.perf_counter() - begun))
        assert answer.status_code == 200, answer.text
    print(
        f"{len(took)} verdicts, each committed and answered by the next candidate: median {statistics.median(took):.0f} ms, worst {max(took):.0f} ms"
    )


if __name__ == "__main__":
    main()
