"""SQL beyond get-by-id, one named function each (the review's own are in review_queries.py)."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, and_, case, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, undefer

from app import lineage
from app.models import (
    Artifact,
    Classifier,
    Definition,
    Document,
    Explanation,
    Family,
    Function,
    Import,
    ImportIssue,
    Job,
    LabelSet,
    Project,
    Reference,
    Rule,
    Verdict,
)
from labeling.artifacts import sha256_json

T = TypeVar("T")
SPLITS = ("train", "validation", "test", "sealed")


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a long list; `number` counts from 1."""

    rows: list[T]
    number: int
    size: int
    total: int

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // self.size))

    @property
    def first(self) -> int:
        return min((self.number - 1) * self.size + 1, self.total)

    @property
    def last(self) -> int:
        return min(self.number * self.size, self.total)


def nearest_page(asked: int, total: int, size: int) -> int:
    """The page that was asked for, or the nearest there is."""
    return min(max(asked, 1), max(1, -(-total // size)))


# Projects


def project_by_slug(session: Session, slug: str) -> Project | None:
    return session.scalar(select(Project).where(Project.slug == slug))


def slug_of(name: str) -> str:
    """What the command line and the address bar call the project; empty if the name has no letter or digit."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80].strip("-")


def create_project(session: Session, name: str, includes: str, excludes: str, author: str) -> Project:
    """A project with its first definition. Raises ValueError if the name cannot be used."""
    slug = slug_of(name)
    if not slug:
        raise ValueError("give the project a name with at least one letter or digit")
    if project_by_slug(session, slug):
        raise ValueError(f"a project called {slug} exists already; choose another name")
    project = Project(slug=slug, name=name.strip())
    session.add(project)
    session.flush()
    session.add(Definition(project_id=project.id, version=1, includes=includes, excludes=excludes, author=author))
    return project


def projects_with_counts(session: Session) -> list[tuple[Project, int, int, int]]:
    """(project, documents, accepted latents, classifiers), newest project first."""

    def count_by_project(model: Any) -> dict[int, int]:
        rows = session.execute(select(model.project_id, func.count()).group_by(model.project_id))
        return dict(rows.tuples().all())

    documents, classifiers = count_by_project(Document), count_by_project(Classifier)
    projects = session.scalars(select(Project).order_by(Project.id.desc())).all()
    return [
        (p, documents.get(p.id, 0), len(accepted_latents(session, p)), classifiers.get(p.id, 0)) for p in projects
    ]  # fmt: skip


def definition_of(session: Session, project_id: int) -> Definition | None:
    where = Definition.project_id == project_id
    return session.scalar(select(Definition).where(where).order_by(Definition.version.desc()).limit(1))


def revise_definition(session: Session, project_id: int, includes: str, excludes: str, author: str) -> Definition:
    """The next version, unless nothing changed."""
    old = definition_of(session, project_id)
    if old and (old.includes, old.excludes) == (includes, excludes):
        return old
    new = Definition(
        project_id=project_id,
        version=old.version + 1 if old else 1,
        includes=includes,
        excludes=excludes,
        author=author,
    )  # fmt: skip
    session.add(new)
    return new


def references(session: Session) -> Sequence[Reference]:
    return session.scalars(select(Reference).order_by(Reference.name)).all()


def newest_artifact(session: Session, project_id: int, kind: str) -> Artifact | None:
    """The project's newest of a kind. Stores and discoveries: of its present reference."""
    if kind in ("store", "discovery"):
        reference_id = session.scalar(select(Project.reference_id).where(Project.id == project_id))
        return harvested(session, project_id, reference_id, kind)
    where = (Artifact.project_id == project_id, Artifact.kind == kind)
    return session.scalar(select(Artifact).where(*where).order_by(Artifact.id.desc()).limit(1))


def harvested(session: Session, project_id: int, reference_id: int | None, kind: str) -> Artifact | None:
    """The project's newest store or discovery of one reference; a project may have been read by several."""
    where = (Artifact.project_id == project_id, Artifact.kind == kind)
    rows = session.scalars(select(Artifact).where(*where).order_by(Artifact.id.desc()))
    return next((row for row in rows if row.info.get("reference_id", reference_id) == reference_id), None)


def newest_label_set(session: Session, project_id: int) -> LabelSet | None:
    return session.scalar(
        select(LabelSet).where(LabelSet.project_id == project_id).order_by(LabelSet.id.desc()).limit(1)
    )


def newest_jobs(session: Session, project_id: int, kinds: Iterable[str] = (), limit: int = 5) -> Sequence[Job]:
    """A project's newest jobs, of some kinds only if given."""
    query = select(Job).where(Job.project_id == project_id)
    if kinds := list(kinds):
        query = query.where(Job.kind.in_(kinds))
    return session.scalars(query.order_by(Job.id.desc()).limit(limit)).all()


def classifiers_of(session: Session, project_id: int) -> Sequence[Classifier]:
    query = select(Classifier).where(Classifier.project_id == project_id)
    return session.scalars(query.order_by(Classifier.id.desc())).all()


# Corpus


def families_of(session: Session, project_id: int) -> Sequence[Family]:
    return session.scalars(select(Family).where(Family.project_id == project_id).order_by(Family.name)).all()


def sides_of(session: Session, project_id: int) -> dict[str, str]:
    return {family.name: family.side for family in families_of(session, project_id)}


def document_counts(session: Session, project_id: int) -> dict[int, dict[str, int]]:
    """Documents by family id and split; 'characters' holds the family's text length."""
    rows = session.execute(
        select(Document.family_id, Document.split, func.count(), func.sum(Document.characters))
        .where(Document.project_id == project_id)
        .group_by(Document.family_id, Document.split)
    )
    counts: dict[int, dict[str, int]] = {}
    for family_id, split, number, characters in rows:
        family = counts.setdefault(family_id, {"documents": 0, "characters": 0})
        family[split] = number
        family["documents"] += number
        family["characters"] += int(characters)
    return counts


def documents_page(
    session: Session, project_id: int, text: str = "", family: str = "", split: str = "", page: int = 1, size: int = 50
) -> Page[Document]:
    """Documents whose id or text holds `text`, oldest first."""
    where = [Document.project_id == project_id]
    if text:
        in_text = and_(Document.text.contains(text, autoescape=True), Document.split != "sealed")
        where.append(or_(Document.key.contains(text, autoescape=True), in_text))
    if family:
        where.append(Document.family.has(Family.name == family))
    if split:
        where.append(Document.split == split)
    total = session.scalar(select(func.count()).select_from(Document).where(*where)) or 0
    number = nearest_page(page, total, size)
    query = select(Document).where(*where).order_by(Document.id).offset((number - 1) * size).limit(size)
    rows = session.scalars(query.options(undefer(Document.text))).all()
    return Page(list(rows), number, size, total)


def texts_by_key(session: Session, project_id: int, keys: Iterable[str]) -> dict[str, str]:
    """Texts of some documents; asked for in pieces, databases limit the length of a statement."""
    wanted = sorted(set(keys))
    found: dict[str, str] = {}
    for start in range(0, len(wanted), 500):
        piece = wanted[start : start + 500]
        rows = session.execute(
            select(Document.key, Document.text).where(Document.project_id == project_id, Document.key.in_(piece))
        )
        found.update(rows.tuples().all())
    return found


def document_ids(session: Session, project_id: int, keys: Iterable[str]) -> dict[str, int]:
    rows = session.execute(
        select(Document.key, Document.id).where(Document.project_id == project_id, Document.key.in_(sorted(set(keys))))
    )
    return dict(rows.tuples().all())


def imports_of(session: Session, project_id: int) -> list[tuple[Import, Family, int, int]]:
    """(import, family, rejected rows, conflicting rows), newest first."""
    rejected = func.count(case((ImportIssue.kind == "rejected", 1)))
    conflicts = func.count(case((ImportIssue.kind == "conflict", 1)))
    rows = session.execute(
        select(Import, Family, rejected, conflicts)
        .join(Family, Family.id == Import.family_id)
        .outerjoin(ImportIssue, ImportIssue.import_id == Import.id)
        .where(Import.project_id == project_id)
        .group_by(Import.id, Family.id)
        .order_by(Import.id.desc())
    )
    return list(rows.tuples().all())


def issues_page(session: Session, import_id: int, page: int = 1, size: int = 100) -> Page[ImportIssue]:
    """The rows of one import that were left out, in file order."""
    where = ImportIssue.import_id == import_id
    total = session.scalar(select(func.count()).select_from(ImportIssue).where(where)) or 0
    number = nearest_page(page, total, size)
    query = select(ImportIssue).where(where).order_by(ImportIssue.row, ImportIssue.id)
    return Page(list(session.scalars(query.offset((number - 1) * size).limit(size))), number, size, total)


# Latents


def verdicts_of(
    session: Session, project: Project, as_of: int | None = None, reference_id: int | None = None
) -> dict[int, Verdict]:
    """The verdict that counts for each judged latent: its newest, unless that withdrew it.

    `as_of` is the id of the last verdict to know of, for what was true at that time. Without
    `reference_id`, on the latents of the project's present reference.
    """
    mine = [Verdict.project_id == project.id, Verdict.reference_id == (reference_id or project.reference_id)]
    if as_of is not None:
        mine.append(Verdict.id <= as_of)
    newest = select(func.max(Verdict.id)).where(*mine).group_by(Verdict.latent)
    rows = session.scalars(select(Verdict).where(Verdict.id.in_(newest), Verdict.decision != "clear"))
    return {verdict.latent: verdict for verdict in rows}


def accepted_latents(session: Session, project: Project) -> list[int]:
    return sorted(n for n, verdict in verdicts_of(session, project).items() if verdict.decision == "accept")


def weights_of(session: Session, reference_id: int) -> Artifact | None:
    """What a reference's weights say of its latents, whichever project's discovery worked it out."""
    found = session.scalars(select(Artifact).where(Artifact.kind == "weights").order_by(Artifact.id.desc()))
    return next((artifact for artifact in found if artifact.info.get("reference_id") == reference_id), None)


def explanations_of(session: Session, project: Project) -> dict[int, Explanation]:
    """The newest explanation of each latent that has one."""
    mine = (Explanation.project_id == project.id, Explanation.reference_id == project.reference_id)
    newest = select(func.max(Explanation.id)).where(*mine).group_by(Explanation.latent)
    return {e.latent: e for e in session.scalars(select(Explanation).where(Explanation.id.in_(newest)))}


def verdict_history(session: Session, project: Project, latent: int) -> Sequence[Verdict]:
    mine = (Verdict.project_id == project.id, Verdict.reference_id == project.reference_id, Verdict.latent == latent)
    return session.scalars(select(Verdict).where(*mine).order_by(Verdict.id.desc())).all()


# Functions and rules


def functions_of(session: Session, project_id: int, retired: bool = False) -> Sequence[Function]:
    """Functions in force under the project's present reference, or the retired ones."""
    state = Function.retired_at.is_not(None) if retired else Function.retired_at.is_(None)
    mine = (Function.project_id == project_id, of_present_reference(Function.reference_id, project_id))
    return session.scalars(select(Function).where(*mine, state).order_by(Function.id)).all()


def add_function(session: Session, project: Project, name: str, config: dict[str, Any], author: str) -> None:
    """A latent's number means nothing in another SAE, so a function that names one is of the present reference."""
    reference_id = project.reference_id if config["kind"] == "latent" else None
    session.add(Function(project_id=project.id, name=name, config=config, reference_id=reference_id, author=author))


def of_present_reference(column: InstrumentedAttribute[int | None], project_id: int) -> ColumnElement[bool]:
    """Rows of the project's present reference, and those that are of none."""
    present = select(Project.reference_id).where(Project.id == project_id).scalar_subquery()
    return or_(column == present, column.is_(None))


def rules_of(session: Session, project_id: int) -> list[tuple[Rule, LabelSet | None]]:
    """Rule versions, newest first, each with its newest label set."""
    rules = session.scalars(select(Rule).where(Rule.project_id == project_id).order_by(Rule.version.desc())).all()
    sets = session.scalars(select(LabelSet).where(LabelSet.project_id == project_id).order_by(LabelSet.id)).all()
    by_rule = {labels.rule_id: labels for labels in sets}
    return [(rule, by_rule.get(rule.id)) for rule in rules]


def newest_rule(session: Session, project_id: int) -> Rule | None:
    """The newest rule over the latents of the project's present reference."""
    mine = (Rule.project_id == project_id, of_present_reference(Rule.reference_id, project_id))
    return session.scalar(select(Rule).where(*mine).order_by(Rule.version.desc()).limit(1))


def save_rule(
    session: Session,
    project_id: int,
    config: dict[str, Any],
    latents: list[int],
    functions: list[dict[str, Any]],
    author: str,
    origin: dict[str, Any] | None = None,
) -> Rule:
    """The next rule version, or the newest one if it says exactly this already (hashed as `labeling.rule.rule_hash`).

    `origin` joins its lineage: what it was restored or imported from.
    """
    functions = sorted(functions, key=sha256_json)
    sha256 = sha256_json({"config": config, "latents": latents, "functions": functions})
    old = newest_rule(session, project_id)
    if old and old.sha256 == sha256:
        return old
    project = session.get_one(Project, project_id)
    taken = session.scalar(select(func.max(Rule.version)).where(Rule.project_id == project_id)) or 0
    rule = Rule(
        project_id=project_id, reference_id=project.reference_id, version=taken + 1, sha256=sha256,
        config=config, latents=latents, functions=functions, author=author,
        lineage=lineage.of_rule(session, project, verdicts_of(session, project)) | (origin or {}),
    )  # fmt: skip
    session.add(rule)
    session.flush()
    return rule
