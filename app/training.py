"""What a job's arguments mean to `labeling.train`: its settings, its teacher, and labels that are probabilities."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy.orm import Session, sessionmaker

from app import models as m
from app.artifacts import folder_of, open_labels, open_store
from app.backbones import located
from app.db import reading
from app.settings import Settings
from labeling.events import Event
from labeling.examples import Labelled, TrainConfig
from labeling.predictions import in_store


def config_of(settings: Settings, sessions: sessionmaker[Session], args: dict[str, Any]) -> TrainConfig:
    """Settings that the arguments name; a teacher is a classifier's row id or a folder."""
    given = {f.name: args[f.name] for f in fields(TrainConfig) if args.get(f.name) is not None}
    if isinstance(teacher := given.get("teacher"), int):
        with reading(sessions) as session:
            row = session.get_one(m.Classifier, teacher)
            given["teacher"] = str(settings.data_dir / session.get_one(m.Artifact, row.artifact_id).path)
    if "layers" in given:
        given["layers"] = tuple(given["layers"])
    return TrainConfig(**given | {"backbone": located(settings, args.get("backbone"))})


def latent_teacher(
    settings: Settings, sessions: sessionmaker[Session], label_set_id: int, out: Path
) -> Iterator[Event]:
    """Score the label set's store by a probe that its labels taught (`labeling.latent_probe`)."""
    from labeling.latent_probe import teach
    from labeling.rule import is_forget

    with reading(sessions) as session:
        row = session.get_one(m.LabelSet, label_set_id)
        labels, store = (session.get_one(m.Artifact, id_) for id_ in (row.artifact_id, row.store_id))
        lineage = {"label_set_id": label_set_id, "labels_sha256": row.info.get("sha256")}
    forget = is_forget(open_labels(settings, labels))
    yield from teach(folder_of(settings, store), forget, out, info=lineage)


def with_probabilities(
    settings: Settings, sessions: sessionmaker[Session], label_set_id: int, examples: list[Labelled]
) -> list[Labelled]:
    """The same examples with P(forget) of each token, where the label set holds it: a label model's `p.npy`."""
    with reading(sessions) as session:
        row = session.get_one(m.LabelSet, label_set_id)
        labels, held = (session.get_one(m.Artifact, id_) for id_ in (row.artifact_id, row.store_id))
    file = folder_of(settings, labels) / "p.npy"
    if not file.exists():
        return examples
    store, p = open_store(settings, held), np.load(file, mmap_mode="r", allow_pickle=False)
    return [replace(e, soft=in_store(store, store.index_of(e.document.id), p)) for e in examples]
