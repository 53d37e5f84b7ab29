"""A project with a planted activation store: which latent fires on which word is known."""

from pathlib import Path

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker, undefer

from app.models import Artifact, Document, Family, Project, Reference, Verdict
from app.settings import Settings
from labeling.discovery import discover
from labeling.store import Store
from labeling.tokens import words
from tests.fakes import planted_store

# latent -> the words it fires on, and how strongly
FIRES = {
    0: (
        {
            "patient",
            "warfarin",
            "inr",
            "biopsy",
            "mesangial",
            "prednisone",
            "catheter",
            "insulin",
            "antibiotics",
            "sepsis",
        },
        6.0,
    ),
    1: ({"patient", "warfarin", "prednisone", "renal", "dose", "insulin", "surgeon", "chemotherapy", "knee"}, 5.0),
    2: ({"the", "and"}, 1.0),
    3: ({"chlorophyll", "rna", "cells", "moss", "striker"}, 4.0),
}
LATENTS = 6  # 4 and 5 never fire


def plant(session: Session, project_id: int, folder: Path) -> Store:
    """The store of a project's documents, one token per word."""
    query = (
        select(Document).where(Document.project_id == project_id).order_by(Document.id).options(undefer(Document.text))
    )
    documents = [(d.key, d.text, d.family.name, d.split) for d in session.scalars(query)]
    surfaces = [text[start:end].lower() for _, text, _, _ in documents for start, end in words(text)]
    dense = np.zeros((len(surfaces), LATENTS), dtype=np.float32)
    for latent, (fires_on, value) in FIRES.items():
        dense[[i for i, word in enumerate(surfaces) if word in fires_on], latent] = value
    return Store.open(planted_store(folder, dense, documents))


def seed(sessions: sessionmaker[Session], settings: Settings, project: Project) -> Store:
    """Reference, store and discovery, registered as the worker would."""
    store_path, table_path = settings.artifacts_dir / "store-1", settings.artifacts_dir / "discovery-1"
    with sessions.begin() as session:
        reference = Reference(name="planted", model="tiny", sae="tiny", layer=2)
        session.add(reference)
        session.flush()
        session.get_one(Project, project.id).reference_id = reference.id
        project.reference_id = reference.id
        store = plant(session, project.id, store_path)
        sides = {f.name: f.side for f in session.scalars(select(Family).where(Family.project_id == project.id))}
        texts = dict(session.execute(select(Document.key, Document.text)).tuples().all())
        for _ in discover(store_path, sides, table_path, z=1.0, text_of=texts.__getitem__):
            pass
        for kind, path in (("store", store_path), ("discovery", table_path)):
            at, info = path.relative_to(settings.data_dir).as_posix(), {"reference_id": reference.id}
            session.add(Artifact(project_id=project.id, kind=kind, path=at, info=info))
    return store


def accept(sessions: sessionmaker[Session], project: Project, *latents: int) -> None:
    assert project.reference_id is not None
    with sessions.begin() as session:
        for latent in latents:
            session.add(
                Verdict(
                    project_id=project.id,
                    reference_id=project.reference_id,
                    latent=latent,
                    decision="accept",
                    author="owner",
                )
            )
