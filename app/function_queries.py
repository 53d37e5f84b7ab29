"""SQL of the labeling functions' pages."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import queries
from app.function_preview import CHARACTERS
from app.models import Artifact, Classifier, Document, Function
from app.votes import cast_on
from labeling.artifacts import sha256_json
from labeling.documents import Document as Text
from labeling.functions import Function as Voter
from labeling.functions import parse

PER_FAMILY = 40  # documents to try a function on


def functions_with_votes(session: Session, project_id: int) -> list[tuple[Function, Voter, Artifact | None]]:
    """(row, function, its votes on the newest store) of the functions in force, oldest first."""
    store = queries.newest_artifact(session, project_id, "store")
    cast = cast_on(session, project_id, store.id) if store else {}
    rows = queries.functions_of(session, project_id)
    return [(row, parse(row.config), cast.get(sha256_json(row.config))) for row in rows]


def samples_by_family(session: Session, project_id: int) -> list[list[Text]]:
    """The beginnings of some train documents of each family: those whose hashes come first, the same ones each time."""
    text = func.substr(Document.text, 1, CHARACTERS)
    out = []
    for family in queries.families_of(session, project_id):
        query = (
            select(Document.key, text)
            .where(Document.project_id == project_id, Document.family_id == family.id, Document.split == "train")
            .order_by(Document.sha256).limit(PER_FAMILY)
        )  # fmt: skip
        out.append([Text(key, body, family.name, family.side) for key, body in session.execute(query)])
    return out


def scores_of_classifier(session: Session, project_id: int, folder: str) -> Artifact | None:
    """What the classifier exported to `folder` says about the corpus, if it was asked."""
    made = select(Artifact.id).where(Artifact.project_id == project_id, Artifact.path == folder)
    query = select(Classifier).where(Classifier.project_id == project_id, Classifier.artifact_id.in_(made))
    classifier = session.scalar(query.order_by(Classifier.id.desc()).limit(1))
    return session.get(Artifact, classifier.predictions_id) if classifier and classifier.predictions_id else None
