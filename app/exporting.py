"""A classifier as it is handed out: its folder with the newest figures and a card that tells them."""

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.orm import Session

from app.artifacts import folder_of
from app.details import details_of
from app.models import Artifact, Classifier
from app.settings import Settings
from labeling.card import SETS
from labeling.export import SETTINGS, read_settings, with_metrics


def parts_of(session: Session, settings: Settings, classifier: Classifier) -> tuple[Path, Mapping[str, bytes]]:
    """The folder, and the files that replace or join its own."""
    folder = folder_of(settings, session.get_one(Artifact, classifier.artifact_id))
    details = details_of(settings, classifier.id)
    tables = {
        name: classifier.info[name] | {"calibration": details.get(name, {}).get("calibration")}
        for name in SETS
        if isinstance(classifier.info.get(name), dict)
    }
    if not tables or not (folder / SETTINGS).is_file():
        return folder, {}
    named = {"name": f"{classifier.name}-{classifier.version}"}
    return folder, with_metrics(read_settings(folder) | named, tables)
