"""Rules as the command line uses them: save one from the accepted latents, or label other text by it."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from app import models as m
from app import queries
from app.db import reading
from app.settings import Settings
from app.steps import parts_of, store_under
from labeling.documents import must, read, text_sha256
from labeling.events import Artifact, Event, Progress


def save_rule(session: Session, project_id: int, changes: dict[str, Any], author: str) -> m.Rule:
    """The newest rule with `changes`, over the latents accepted now and the functions in force."""
    from labeling.rule import RuleConfig

    project = session.get_one(m.Project, project_id)
    old = queries.newest_rule(session, project_id)
    config = RuleConfig.model_validate((old.config if old else {}) | changes)
    functions = [f.config for f in queries.functions_of(session, project_id)]
    latents = queries.accepted_latents(session, project)
    if not latents and not functions:
        raise ValueError("no latent is accepted and no labeling function is active; accept some latents first")
    return queries.save_rule(session, project_id, config.model_dump(mode="json"), latents, functions, author)


def predict_with_rule(
    settings: Settings, sessions: sessionmaker[Session], project_id: int, inputs: list[str], out: Path
) -> Iterator[Event]:
    """Predictions (p is 0 or 1) of the newest rule on files the project has not seen.

    Means and deviations stay those of the project's train split (METHOD, traps).
    """
    from labeling.harvest import HarvestConfig, StoreDocument, harvest, open_reference
    from labeling.predictions import in_store
    from labeling.rule import is_forget, label
    from labeling.store import Store

    with reading(sessions) as session:
        rule = queries.newest_rule(session, project_id)
        if rule is None:
            raise ValueError("the project has no saved rule yet; run `tokensieve label` first")
        trained_on = Store.open(settings.data_dir / store_under(session, rule).path)
        parts, version = parts_of(settings, rule), rule.version
    documents = [d for file in inputs for d in must(read(file))]
    texts = {text_sha256(d.text): d.text for d in documents}
    yield Progress(0, None, "", "load reference")
    reference, sae = open_reference(trained_on.info["model"], trained_on.info["sae"], trained_on.info["layer"])
    with tempfile.TemporaryDirectory(dir=settings.data_dir) as folder:
        rows = [StoreDocument(sha, text, "input", "test") for sha, text in texts.items()]
        yield from (
            e
            for e in harvest(rows, reference, sae, Path(folder) / "store", HarvestConfig(), {})
            if not isinstance(e, Artifact)
        )
        store = Store.open(Path(folder) / "store")
        forget = is_forget(label(store, *parts, texts.__getitem__, trained_on.stats).flags)
        beside = out.with_name(f".{out.name}.tmp")
        with beside.open("w", encoding="utf-8") as file:
            for document in documents:
                found = in_store(store, store.index_of(text_sha256(document.text)), forget)
                file.write(json.dumps(found.to_json(0.5) | {"id": document.id}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, out)
    yield Artifact("predictions", out, {"documents": len(documents), "rule": version})
