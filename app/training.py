"""What a job's arguments mean to `labeling.train`: its settings, its teacher, and labels that are probabilities."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy.orm import Session, sessionmaker

from app import models as m
from app.backbones import located
from app.db import reading
from app.settings import Settings
from labeling.events import Event
from labeling.examples import Labelled, TrainConfig
from labeling.predictions import Prediction
from labeling.store import Store


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
        labels = session.get_one(m.LabelSet, label_set_id)
        folder = settings.data_dir / session.get_one(m.Artifact, labels.artifact_id).path
        store_path = settings.data_dir / session.get_one(m.Artifact, labels.store_id).path
        lineage = {"label_set_id": label_set_id, "labels_sha256": labels.info.get("sha256")}
    yield from teach(store_path, is_forget(np.load(folder / "labels.npy")), out, info=lineage)


def with_probabilities(
    settings: Settings, sessions: sessionmaker[Session], label_set_id: int, examples: list[Labelled]
) -> list[Labelled]:
    """The same examples with P(forget) of each token, where the label set holds it (`p.npy`, NaN: all abstained)."""
    with reading(sessions) as session:
        labels = session.get_one(m.LabelSet, label_set_id)
        folder = settings.data_dir / session.get_one(m.Artifact, labels.artifact_id).path
        store_path = settings.data_dir / session.get_one(m.Artifact, labels.store_id).path
    if not (folder / "p.npy").exists():
        return examples
    store, p = Store.open(store_path), np.load(folder / "p.npy", mmap_mode="r", allow_pickle=False)
    out = []
    for example in examples:
        where = store.document(store.index_of(example.document.id))
        soft = Prediction(
            example.document.id, np.array(store.starts[where]), np.array(store.ends[where]), p[where].astype(np.float32)
        )
        out.append(Labelled(example.document, example.split, soft))
    return out
