"""What a classifier was made from, as its model card tells it: definition, data, labels, licence."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.assets import read_assets
from app.models import Definition, LabelSet, Project
from labeling.artifacts import ArtifactError, read_manifest, sha256_json
from labeling.documents import Document, text_sha256


def of_classifier(session: Session, label_set_id: int, documents: Iterable[Document], backbone: str) -> dict[str, Any]:
    labels = session.get_one(LabelSet, label_set_id)
    project, rule = session.get_one(Project, labels.project_id), labels.rule
    newest = select(Definition).where(Definition.project_id == project.id).order_by(Definition.version.desc()).limit(1)
    definition, reference = session.scalar(newest), project.reference
    return {
        "project": project.name,
        "definition": {"includes": definition.includes, "excludes": definition.excludes} if definition else None,
        "label_set": labels.id,
        "rule": {
            "version": rule.version, "sha256": rule.sha256, "config": rule.config, "latents": rule.latents,
            "functions": [{"kind": f["kind"], "name": f.get("name", "")} for f in rule.functions],
        },
        "reference": {
            "name": reference.name, "model": shareable(reference.model), "sae": shareable(reference.sae),
            "layer": reference.layer,
        } if reference else None,
        "data": data_of(documents),
        "licence": licence_of(backbone),
    }  # fmt: skip


def shareable(source: str) -> str:
    """A hub id as it is, of a local path its last name: an export goes to others, and where a folder lies is not theirs."""
    return Path(source).name if Path(source).is_absolute() or Path(source).exists() else source


def data_of(documents: Iterable[Document]) -> dict[str, Any]:
    """How many documents of which family, and one hash of all texts, whatever their order."""
    families: Counter[str] = Counter()
    hashes = []
    for document in documents:
        families[document.family or "(no family)"] += 1
        hashes.append(text_sha256(document.text))
    return {"documents": len(hashes), "families": dict(sorted(families.items())), "sha256": sha256_json(sorted(hashes))}


def licence_of(backbone: str) -> str | None:
    """The licence of a fetched asset, or the one a model folder's card names; None if nothing says."""
    folder = Path(backbone)
    try:
        return read_assets()[read_manifest(folder, "asset")["info"]["asset"]].licence
    except (ArtifactError, KeyError, TypeError):
        pass
    try:
        found = re.search(r"^license:\s*\"?([\w.+-]+)\"?\s*$", (folder / "README.md").read_text(encoding="utf-8"), re.M)
    except (OSError, UnicodeDecodeError):
        return None
    return found[1] if found else None
