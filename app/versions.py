"""Versions of a rule in one project: going back to one, taking one in, writing one out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import lineage, queries
from app.annotating import GOLD_STATES
from app.artifacts import open_labels, open_store
from app.jobs import enqueue
from app.models import (
    Annotation,
    Artifact,
    Classifier,
    Definition,
    Document,
    LabelSet,
    Project,
    Reference,
    Rule,
    Verdict,
    now,
)
from app.settings import Settings
from labeling.artifacts import sha256_json
from labeling.functions import parse
from labeling.rule import Flags, RuleConfig
from labeling.store import Store
from labeling.versions import (
    FORMAT,
    LabelsNote,
    RuleNote,
    SourceNote,
    VersionFile,
    document_notes,
)


def rule_of(session: Session, project_id: int, version: int) -> Rule | None:
    return session.scalar(select(Rule).where(Rule.project_id == project_id, Rule.version == version))


def labels_of(session: Session, rule: Rule) -> LabelSet | None:
    """A version's newest labels as the rule itself made them, not by another aggregator or budget."""
    rows = session.scalars(select(LabelSet).where(LabelSet.rule_id == rule.id).order_by(LabelSet.id.desc()))
    return next((row for row in rows if not row.info.keys() & {"aggregator", "budget"}), None)


def label_sets(session: Session, project_id: int) -> dict[int, list[LabelSet]]:
    """Every label set by rule id, newest first."""
    query = select(LabelSet).where(LabelSet.project_id == project_id).order_by(LabelSet.id.desc())
    found: dict[int, list[LabelSet]] = {}
    for row in session.scalars(query):
        found.setdefault(row.rule_id, []).append(row)
    return found


def definitions(session: Session, project_id: int) -> Sequence[Definition]:
    return session.scalars(
        select(Definition).where(Definition.project_id == project_id).order_by(Definition.version.desc())
    ).all()


def adopt(
    session: Session,
    project: Project,
    config: Mapping[str, Any],
    latents: Sequence[int],
    functions: Sequence[dict[str, Any]],
    author: str,
    origin: dict[str, Any],
) -> Rule:
    """Make this the rule in force, as new rows: verdicts, functions, and the next version that says the same."""
    note = ", ".join(f"{name} {value}" for name, value in origin.items())
    wanted, accepted = set(map(int, latents)), set(queries.accepted_latents(session, project))
    for latent, decision in [(n, "accept") for n in wanted - accepted] + [(n, "clear") for n in accepted - wanted]:
        session.add(
            Verdict(
                project_id=project.id, reference_id=project.reference_id, latent=latent, decision=decision,
                note=note, author=author,
            )
        )  # fmt: skip
    missing = {sha256_json(f): f for f in functions}
    for row in queries.functions_of(session, project.id):
        if missing.pop(sha256_json(row.config), None) is None:
            row.retired_at = now()
    for said in missing.values():
        queries.add_function(session, project, parse(said).name[:120], said, author)
    session.flush()
    full = RuleConfig.model_validate(dict(config)).model_dump(mode="json")
    return queries.save_rule(session, project.id, full, sorted(wanted), list(functions), author, origin)


def restore(session: Session, project: Project, rule: Rule, author: str) -> Rule:
    """ValueError if the version's latents are another dictionary's."""
    if names_latents(rule.latents, rule.functions):
        made_under = session.get(Reference, rule.reference_id) if rule.reference_id else None
        known = {"sae": made_under.sae, "layer": made_under.layer} if made_under else None
        _same_source(rule.lineage.get("reference") or known, project)
    return adopt(
        session, project, rule.config, rule.latents, rule.functions, author, {"restored from version": rule.version}
    )


def names_latents(latents: Sequence[int], functions: Sequence[dict[str, Any]]) -> bool:
    return bool(latents) or any(function["kind"] == "latent" for function in functions)


def dictionary(sae: str) -> str:
    """An SAE by the name that other machines know too: of a folder, its own name."""
    return Path(sae).name if Path(sae).is_absolute() else sae


def _same_source(source: Mapping[str, Any] | None, project: Project) -> None:
    """Latent numbers mean nothing in another SAE."""
    here = project.reference
    if here is None:
        raise ValueError("choose a reference (model and SAE) for this project first; latents are numbers of its SAE")
    if source and (dictionary(source["sae"]), source["layer"]) != (dictionary(here.sae), here.layer):
        raise ValueError(
            f"its latents are of {source['sae']}, layer {source['layer']}; this project uses {here.sae}, layer"
            f" {here.layer}. Choose that reference first"
        )


def written(session: Session, settings: Settings, project: Project, rule: Rule) -> VersionFile:
    """The version as a file: ids and indices, no text."""
    labels, note = labels_of(session, rule), None
    about = rule.lineage.get("reference")
    if labels is not None:
        store, flags = opened(session, settings, labels)
        about = about or store.info
        made = labels.info.get("lineage") or lineage.of_labels(session, rule, store)
        note = LabelsNote(
            sha256=labels.info.get("sha256", ""), corpus_sha256=made["corpus_sha256"],
            documents=list(document_notes(store, flags)),
        )  # fmt: skip
    if not about:
        raise ValueError("this version was saved without a reference; label with it first")
    source = SourceNote(model=dictionary(about["model"]), sae=dictionary(about["sae"]), layer=about["layer"])
    return VersionFile(
        format=FORMAT, project=project.slug, version=rule.version, definition=rule.lineage.get("definition"), source=source,
        rule=RuleNote(sha256=rule.sha256, config=rule.config, latents=rule.latents, functions=rule.functions), labels=note,
    )  # fmt: skip


def take_in(session: Session, project: Project, file: VersionFile, store: Store | None, author: str) -> Rule:
    """The file's rule becomes this project's newest version. ValueError if it does not fit its SAE."""
    if names_latents(file.rule.latents, file.rule.functions):
        _same_source(file.source.model_dump(), project)
        if store is not None and max(file.rule.latents, default=0) >= store.d_sae:
            raise ValueError(
                f"rule.latents: {max(file.rule.latents)} is not a latent of this SAE, which has {store.d_sae}"
            )
    origin: dict[str, Any] = {"imported from": f"{file.project} version {file.version}"}
    if file.labels is not None:
        origin["labels sha256"] = file.labels.sha256
    return adopt(session, project, file.rule.config, file.rule.latents, file.rule.functions, author, origin)


@dataclass(frozen=True)
class Scope:
    """Whether what was computed is of the definition and the families' sides as they are now."""

    definition: int
    labelled: int | None  # definition in force when the newest labels were made
    sides: list[tuple[str, str, str]]  # (family, side when latents were ranked, side now)
    gold_before: int  # gold documents finished before the present definition was written

    @property
    def changed(self) -> bool:
        return bool(self.sides) or (self.labelled is not None and self.labelled != self.definition)


def scope(session: Session, project: Project) -> Scope:
    definition = queries.definition_of(session, project.id)
    newest = queries.newest_label_set(session, project.id)
    labelled = (newest.info.get("lineage") or {}).get("definition") if newest else None
    discovery = queries.newest_artifact(session, project.id, "discovery")
    then = (discovery.info.get("sides") or {}) if discovery else {}
    sides = queries.sides_of(session, project.id)
    moved = [(family, was, sides[family]) for family, was in then.items() if sides.get(family, was) != was]
    before = gold_before(session, project.id, definition.created_at) if definition else 0
    return Scope(definition.version if definition else 0, labelled, moved, before)


def rescore(session: Session, project: Project, author: str) -> int:
    """Queue everything that depends on the scope: ranking, labels, what is known of them, the newest classifier."""
    rule = queries.newest_rule(session, project.id)
    kinds: list[tuple[str, dict[str, Any]]] = [("discover", {})]
    if rule is not None:
        kinds += [("label", {"rule_id": rule.id})]
        kinds += [(kind, {"rule_id": rule.id}) for kind in ("analyse", "aggregate", "ladder")]
    classifier = session.scalar(
        select(Classifier).where(Classifier.project_id == project.id).order_by(Classifier.id.desc()).limit(1)
    )
    if classifier is not None and classifier.predictions_id is not None:
        kinds.append(("evaluate", {"classifier_id": classifier.id}))
    for kind, args in kinds:
        enqueue(session, kind, project.id, args, author)
    return len(kinds)


def gold_before(session: Session, project_id: int, when: datetime) -> int:
    """Gold documents that nobody has looked at since."""
    newest = (
        select(func.max(Annotation.id)).join(Document, Document.id == Annotation.document_id)
        .where(Document.project_id == project_id).group_by(Annotation.document_id)
    )  # fmt: skip
    done = (Annotation.id.in_(newest), Annotation.state.in_(GOLD_STATES), Annotation.created_at < when)
    return session.scalar(select(func.count()).select_from(Annotation).where(*done)) or 0


def opened(session: Session, settings: Settings, labels: LabelSet) -> tuple[Store, Flags]:
    """A label set's store and flags."""
    store = open_store(settings, session.get_one(Artifact, labels.store_id))
    return store, open_labels(settings, session.get_one(Artifact, labels.artifact_id))
