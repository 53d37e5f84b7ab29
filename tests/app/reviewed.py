"""A project with everything the review pages show: store, weak labels, a classifier and its scores."""

import json

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker, undefer

from app.models import Artifact, Classifier, Document, Job, LabelSet, Project, Reference, Rule
from app.settings import Settings
from labeling.artifacts import staged
from labeling.predictions import Prediction, write_predictions
from labeling.tokens import words
from tests.fakes import planted_store

TABLE = {
    "precision": 0.8, "recall": 0.5, "f1": 0.62, "f2": 0.54, "auroc": 0.91, "fpr": 0.04,
    "documents": 12, "words": 140, "forget_words": 40,
    "intervals": {"f1": [0.5, 0.7], "precision": None, "recall": [0.4, 0.6], "fpr": [0.01, 0.08]},
    "families": {
        "biology": {"side": "retain", "documents": 4, "words": 40, "forget_words": 0, "fpr": 0.02, "recall": None,
                    "intervals": {"fpr": [0.0, 0.05]}},
        "sport": {"side": "retain", "documents": 4, "words": 50, "forget_words": 0, "fpr": 0.1, "recall": None,
                  "intervals": {"fpr": None}},
        "clinic": {"side": "forget", "documents": 4, "words": 50, "forget_words": 40, "fpr": None, "recall": 0.5,
                   "intervals": {}},
    },
    "pr_curve": [[0.9, 1.0, 0.25], [0.5, 0.8, 0.5], [0.1, 0.4, 1.0]],
}  # fmt: skip


def documents_of(session: Session, project: Project) -> list[Document]:
    where = Document.project_id == project.id
    return list(session.scalars(select(Document).where(where).options(undefer(Document.text)).order_by(Document.id)))


def seed(settings: Settings, sessions: sessionmaker[Session], project: Project) -> int:
    """The rule flags words 2 and 3 (grown, seed) of clinic documents; the classifier words 2, 3 and 4 of
    those and word 0 of sport documents. Returns the classifier's id."""
    folder = settings.artifacts_dir
    with sessions.begin() as session:
        _write(folder, documents_of(session, project))
        reference = Reference(name="planted", model="m", sae="s", layer=1)
        job = Job(kind="train", project_id=project.id, state="done", author="owner")
        session.add_all([reference, job])
        session.flush()
        session.get_one(Project, project.id).reference_id = reference.id
        made = {
            kind: Artifact(project_id=project.id, job_id=job.id, kind=kind, path=f"artifacts/{kind}", info={})
            for kind in ("store", "labels", "predictions", "classifier")
        }
        rule = Rule(
            project_id=project.id, version=1, sha256="0" * 64, config={"k": 1, "z": 2.0}, latents=[5], functions=[],
            author="owner",
        )  # fmt: skip
        session.add_all([*made.values(), rule])
        session.flush()
        labels = LabelSet(
            project_id=project.id, rule_id=rule.id, store_id=made["store"].id, artifact_id=made["labels"].id,
            info={"share": 0.06},
        )  # fmt: skip
        session.add(labels)
        session.flush()
        classifier = Classifier(
            project_id=project.id, name="probe", version=1, label_set_id=labels.id, artifact_id=made["classifier"].id,
            predictions_id=made["predictions"].id, threshold=0.6, info={"test": TABLE},
        )  # fmt: skip
        session.add(classifier)
        session.flush()
        return classifier.id


def _write(folder, documents: list[Document]) -> None:
    tokens = [words(d.text) for d in documents]
    total = sum(len(t) for t in tokens)
    acts = np.zeros((total, 8), np.float32)
    flags, scores, at = np.zeros(total, np.uint8), [], 0
    for document, spans in zip(documents, tokens, strict=True):
        p = np.full(len(spans), 0.05, np.float32)
        if document.family.name == "clinic":
            acts[at + 2 : at + 4, 5] = 2.0
            flags[at + 2 : at + 4] = (1, 2)
            p[2:5] = (0.75, 0.95, 0.65)
        elif document.family.name == "sport":
            p[0] = 0.7
        starts, ends = np.array(spans, np.int32).T
        scores.append(Prediction(document.key, starts, ends, p))
        at += len(spans)
    planted_store(folder / "store", acts, [(d.key, d.text, d.family.name, d.split) for d in documents])
    with staged(folder / "labels", "labels", {}) as beside:
        np.save(beside / "labels.npy", flags)
    list(write_predictions(scores, folder / "predictions", {}))
    with staged(folder / "classifier", "classifier", {"threshold": 0.6}) as beside:
        (beside / "model.safetensors").write_bytes(b"weights" * 1000)
        settings = {"threshold": 0.6, "window": 256, "overlap": 64, "smooth": 0, "backbone": "minilm"}
        (beside / "tokensieve.json").write_text(json.dumps(settings), encoding="utf-8")
