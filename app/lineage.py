"""Where a version comes from: what a rule was saved under, what its labels were made of."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Definition, Project, Rule, Verdict
from labeling.artifacts import MANIFEST, sha256_file, sha256_json
from labeling.store import Store
from labeling.versions import corpus_hash

DECISIONS = ("accept", "reject", "unsure")


def definition_version(session: Session, project_id: int) -> int | None:
    where = Definition.project_id == project_id
    return session.scalar(select(Definition.version).where(where).order_by(Definition.version.desc()).limit(1))


def of_rule(session: Session, project: Project, verdicts: dict[int, Verdict]) -> dict[str, Any]:
    """What was decided when a rule is saved: definition, reference, and every verdict in force, hashed."""
    judged = {d: sorted(n for n, v in verdicts.items() if v.decision == d) for d in DECISIONS}
    reference = project.reference
    return {
        "definition": definition_version(session, project.id),
        "reference": {"name": reference.name, "model": reference.model, "sae": reference.sae, "layer": reference.layer}
        if reference
        else None,
        "verdicts": {d: len(latents) for d, latents in judged.items()} | {"sha256": sha256_json(judged)},
    }


def of_labels(session: Session, rule: Rule, store: Store) -> dict[str, Any]:
    """What labels are made of: the texts, their activations, the dictionary, the rule and the scope of the day."""
    about = ("model", "sae", "layer", "d_sae")
    return {
        "corpus_sha256": corpus_hash(store),
        "store_sha256": sha256_file(store.path / MANIFEST),
        "source": {name: store.info.get(name) for name in about},
        "rule_sha256": rule.sha256,
        "definition": definition_version(session, rule.project_id),
        "verdicts_sha256": rule.lineage.get("verdicts", {}).get("sha256"),
    }
