"""The step that casts votes: of every function in force, on the newest store, where they are not cast yet."""

from collections.abc import Iterator

from app import queries
from app.db import reading
from app.jobs import JobView
from app.settings import Settings
from app.steps import Sessions, corpus_of, located, newest, once, register, relay
from app.votes import cast_on
from labeling.artifacts import sha256_json
from labeling.events import Artifact, Event
from labeling.functions import parse
from labeling.votes import KIND, cast_votes


def vote(settings: Settings, sessions: Sessions, job: JobView) -> Iterator[Event]:
    assert job.project_id is not None
    corpus = corpus_of(sessions, job.project_id)
    with reading(sessions) as session:
        store = newest(session, job.project_id, "store")
        store_id, store_path = store.id, settings.data_dir / store.path
        configs = {sha256_json(row.config): row.config for row in queries.functions_of(session, job.project_id)}
        done = cast_on(session, job.project_id, store_id)
    for sha256, config in configs.items():
        function = parse(located(config, settings))
        if sha256 in done or not function.needs_text:
            continue
        out = settings.artifacts_dir / f"votes-{store_id}-{sha256[:16]}"
        info = {"function": config, "sha256": sha256, "store_id": store_id}
        made: list[Artifact] = []
        make = lambda f=function, o=out, i=info: cast_votes(store_path, f, corpus.text_of, o, i)  # noqa: E731
        yield from relay(once(out, KIND, make), made)
        register(sessions, settings, job, made[-1])
