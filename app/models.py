"""The database: everything people decide, and the registry of artifacts.

Decisions (verdicts, annotation events, definitions, rules) are append-only rows with an author
and a time; the newest row is the current state. Artifacts are folders under the data directory;
rows here only point at them.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    DateTime,
    Float,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    event,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Mapper, mapped_column, object_session, relationship


class UTCDateTime(TypeDecorator[datetime]):
    """Timezone-aware on both databases; SQLite itself forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


def now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    type_annotation_map = {datetime: UTCDateTime, dict[str, Any]: JSON, list[Any]: JSON, str: Text}


class Project(Base):
    """One concept to filter, over one corpus with one reference."""

    __tablename__ = "project"
    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(String(80), unique=True)  # what the command line calls PROJECT
    name: Mapped[str]
    reference_id: Mapped[int | None] = mapped_column(ForeignKey("reference.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    reference: Mapped["Reference | None"] = relationship()


class Definition(Base):
    """What the concept includes and excludes; a change is a new version."""

    __tablename__ = "definition"
    __table_args__ = (UniqueConstraint("project_id", "version"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    version: Mapped[int]
    includes: Mapped[str]
    excludes: Mapped[str]
    author: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Family(Base):
    """A source register of a project's corpus, and which side it is declared to be on."""

    __tablename__ = "family"
    __table_args__ = (UniqueConstraint("project_id", "name"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    name: Mapped[str] = mapped_column(String(200))
    side: Mapped[str] = mapped_column(String(10))  # forget | retain | mixed | unknown


class Import(Base):
    """One file taken in. `rows` is committed together with the documents: it is the resume offset."""

    __tablename__ = "import"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    filename: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))
    family_id: Mapped[int] = mapped_column(ForeignKey("family.id"))
    rows: Mapped[int] = mapped_column(default=0)
    added: Mapped[int] = mapped_column(default=0)
    finished: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (UniqueConstraint("project_id", "sha256", "family_id"),)


class ImportIssue(Base):
    """A row left out: a rejection (cannot be stored exactly) or a conflict (same id, other text)."""

    __tablename__ = "import_issue"
    id: Mapped[int] = mapped_column(primary_key=True)
    import_id: Mapped[int] = mapped_column(ForeignKey("import.id"), index=True)
    row: Mapped[int]
    kind: Mapped[str] = mapped_column(String(10))  # rejected | conflict
    reason: Mapped[str]


class Document(Base):
    """Immutable text. `key` is the id the file gave."""

    __tablename__ = "document"
    __table_args__ = (
        UniqueConstraint("project_id", "key"),
        Index("ix_document_family", "project_id", "family_id", "split"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    family_id: Mapped[int] = mapped_column(ForeignKey("family.id"))
    import_id: Mapped[int] = mapped_column(ForeignKey("import.id"))
    key: Mapped[str] = mapped_column(String(500))
    sha256: Mapped[str] = mapped_column(String(64))
    split: Mapped[str] = mapped_column(String(10))  # train | validation | test | sealed
    characters: Mapped[int]
    text: Mapped[str] = mapped_column(Text, deferred=True)
    meta: Mapped[dict[str, Any]] = mapped_column(default=dict)
    family: Mapped[Family] = relationship()


class Annotation(Base):
    """One event a person made on a document. Append-only.

    `layer` says whose labels these are: each member of a team has a layer of their own, named after
    them; the layer without a name is the project's own (solo mode, imported gold, adjudication).
    `version` counts a layer's events on a document from 1: writing at an already taken version
    fails on the unique constraint, which is how a stale page gets its 409. `spans` is the layer's
    whole set after the event ([[start, end], …]), so undo is writing an earlier set again.
    """

    __tablename__ = "annotation"
    __table_args__ = (UniqueConstraint("document_id", "layer", "version"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    document_id: Mapped[int] = mapped_column(ForeignKey("document.id"))
    layer: Mapped[str] = mapped_column(String(80), default="")
    version: Mapped[int]
    action: Mapped[str] = mapped_column(String(10))  # an Event's, or: bulk, import, adjudicate
    start: Mapped[int | None]
    end: Mapped[int | None]
    surface_sha256: Mapped[str | None] = mapped_column(String(64))  # of text[start:end]
    spans: Mapped[list[Any]]  # forget spans after this event
    ignored: Mapped[list[Any]] = mapped_column(default=list)  # not scored, as imported gold said
    judged: Mapped[list[Any]]  # suggestions judged so far: [[start, end, "right" | "wrong"], …]
    state: Mapped[str] = mapped_column(String(10))  # todo | part | done | clean | skip
    author: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)


class BulkVerdict(Base):
    """One verdict on many suggestions, or the undoing of one. What it did to each document is an annotation there."""

    __tablename__ = "bulk_verdict"
    __table_args__ = (UniqueConstraint("undoes_id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"), index=True)
    asked: Mapped[dict[str, Any]]  # `app.bulk.BulkFilter`
    suggestions: Mapped[int]
    written: Mapped[list[Any]]  # [[document_id, version], …] of the annotations
    undoes_id: Mapped[int | None] = mapped_column(ForeignKey("bulk_verdict.id"))
    author: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Reference(Base):
    """A language model and one SAE at one hook point."""

    __tablename__ = "reference"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    model: Mapped[str]  # hub id or folder
    sae: Mapped[str]  # release/sae_id or folder
    layer: Mapped[int]
    info: Mapped[dict[str, Any]] = mapped_column(default=dict)  # d_in, d_sae, architecture, context, l0…
    created_at: Mapped[datetime] = mapped_column(default=now)


class Preflight(Base):
    """A reference checked on a project's text before the harvest. Append-only; the newest counts."""

    __tablename__ = "preflight"
    __table_args__ = (Index("ix_preflight_of", "reference_id", "project_id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    reference_id: Mapped[int] = mapped_column(ForeignKey("reference.id"))
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    passed: Mapped[bool]
    report: Mapped[dict[str, Any]]  # `labeling.preflight.Report`
    author: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)


class PreflightOverride(Base):
    """A person's decision to harvest although a check failed, with the reason. Append-only."""

    __tablename__ = "preflight_override"
    id: Mapped[int] = mapped_column(primary_key=True)
    preflight_id: Mapped[int] = mapped_column(ForeignKey("preflight.id"), index=True)
    reason: Mapped[str]
    author: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Artifact(Base):
    """A finished folder under the data directory: store, discovery, labels, predictions, export, filter run."""

    __tablename__ = "artifact"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int | None] = mapped_column(ForeignKey("project.id"), index=True)
    job_id: Mapped[int | None] = mapped_column(ForeignKey("job.id"))
    kind: Mapped[str] = mapped_column(String(20))
    path: Mapped[str]  # relative to the data directory
    info: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Verdict(Base):
    """A person's accept, reject or unsure on a latent (or `clear`, which withdraws it). The newest counts.

    Taking one back writes what counted before it once more, with `undoes_id` pointing at it.
    """

    __tablename__ = "verdict"
    __table_args__ = (Index("ix_verdict_latent", "project_id", "reference_id", "latent"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    reference_id: Mapped[int] = mapped_column(ForeignKey("reference.id"))
    latent: Mapped[int]
    decision: Mapped[str] = mapped_column(String(10))  # accept | reject | unsure | clear
    note: Mapped[str] = mapped_column(default="")
    author: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)
    undoes_id: Mapped[int | None] = mapped_column(ForeignKey("verdict.id", name="fk_verdict_undoes"))  # taken back


class Explanation(Base):
    """What a language model said of a latent: shown beside the evidence, never a gate. The newest counts."""

    __tablename__ = "explanation"
    __table_args__ = (Index("ix_explanation_latent", "project_id", "reference_id", "latent"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    reference_id: Mapped[int] = mapped_column(ForeignKey("reference.id"))
    latent: Mapped[int]
    text: Mapped[str]
    judgement: Mapped[str] = mapped_column(String(10))  # yes | no | unsure: does it stand for the concept
    score: Mapped[float | None] = mapped_column(Float)  # detection: share of unseen passages told right
    model: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))  # of everything that was asked: the same is not asked twice
    tokens_in: Mapped[int]
    tokens_out: Mapped[int]
    cost: Mapped[float] = mapped_column(Float)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Function(Base):
    """A labeling function besides the accepted latents: a latent with a weight, pattern, terms, family, classifier."""

    __tablename__ = "function"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"), index=True)
    name: Mapped[str] = mapped_column(String(120))
    config: Mapped[dict[str, Any]]  # a `labeling.functions` model, with its `kind`
    reference_id: Mapped[int | None] = mapped_column(ForeignKey("reference.id"))  # whose latent it names, if it does
    author: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)
    retired_at: Mapped[datetime | None]


class Rule(Base):
    """How votes become labels, with the functions it was made from; immutable, identified by its hash."""

    __tablename__ = "rule"
    __table_args__ = (UniqueConstraint("project_id", "version"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    reference_id: Mapped[int | None] = mapped_column(ForeignKey("reference.id"))  # whose latents these are
    version: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    config: Mapped[dict[str, Any]]  # `labeling.rule.RuleConfig`
    latents: Mapped[list[Any]]  # accepted latents, sorted
    functions: Mapped[list[Any]]  # configs of the other functions
    lineage: Mapped[dict[str, Any]] = mapped_column(default=dict)  # `app.lineage.of_rule`
    author: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)


class LabelSet(Base):
    """Weak labels: a rule's output on one activation store. Immutable."""

    __tablename__ = "label_set"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"), index=True)
    rule_id: Mapped[int] = mapped_column(ForeignKey("rule.id"))
    store_id: Mapped[int] = mapped_column(ForeignKey("artifact.id"))
    artifact_id: Mapped[int] = mapped_column(ForeignKey("artifact.id"))
    info: Mapped[dict[str, Any]] = mapped_column(default=dict)  # share of tokens per family, …
    created_at: Mapped[datetime] = mapped_column(default=now)
    rule: Mapped[Rule] = relationship()


@event.listens_for(Rule, "before_update")
@event.listens_for(LabelSet, "before_update")
@event.listens_for(Rule, "before_delete")
@event.listens_for(LabelSet, "before_delete")
def _saved_is_saved(mapper: Mapper[Any], connection: Any, target: Any) -> None:
    """A version is never changed or deleted; whoever wants another saves another."""
    session = object_session(target)
    changed = session is None or session.is_modified(target) or target in session.deleted
    assert not changed, f"{target.__tablename__} {target.id} is saved and cannot change"


class Classifier(Base):
    """Backbone, probe and threshold; the folder is an export that runs on its own."""

    __tablename__ = "classifier"
    __table_args__ = (UniqueConstraint("project_id", "name", "version"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    name: Mapped[str] = mapped_column(String(80))
    version: Mapped[int]
    label_set_id: Mapped[int | None] = mapped_column(ForeignKey("label_set.id"))
    artifact_id: Mapped[int] = mapped_column(ForeignKey("artifact.id"))
    predictions_id: Mapped[int | None] = mapped_column(ForeignKey("artifact.id"))  # over the project's corpus
    threshold: Mapped[float] = mapped_column(Float)
    info: Mapped[dict[str, Any]] = mapped_column(default=dict)  # evaluation tables
    created_at: Mapped[datetime] = mapped_column(default=now)


class Job(Base):
    """One run of a step. RUNNING counts only while the lease is fresh."""

    __tablename__ = "job"
    __table_args__ = (Index("ix_job_state", "state", "id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int | None] = mapped_column(ForeignKey("project.id"), index=True)
    kind: Mapped[str] = mapped_column(String(20))  # a key of app.jobs.KINDS
    args: Mapped[dict[str, Any]] = mapped_column(default=dict)
    state: Mapped[str] = mapped_column(String(12), default="queued")  # queued | running | done | failed | cancelled
    worker: Mapped[str | None] = mapped_column(String(120))
    lease_until: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    done: Mapped[int] = mapped_column(default=0)
    total: Mapped[int | None]
    unit: Mapped[str] = mapped_column(String(30), default="")
    note: Mapped[str] = mapped_column(default="")
    message: Mapped[str | None]  # for the user, when failed
    traceback: Mapped[str | None]
    result: Mapped[dict[str, Any]] = mapped_column(default=dict)
    author: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobMetric(Base):
    """One point of a job's curves."""

    __tablename__ = "job_metric"
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True)
    name: Mapped[str] = mapped_column(String(80))
    step: Mapped[int | None]
    value: Mapped[float] = mapped_column(Float)


class LoginLink(Base):
    """A single-use way in, printed by `serve`; only its hash is kept."""

    __tablename__ = "login_link"
    id: Mapped[int] = mapped_column(primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class LoginSession(Base):
    """A browser that is logged in; only the cookie's hash is kept. Deleting the row logs it out."""

    __tablename__ = "login_session"
    id: Mapped[int] = mapped_column(primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    user: Mapped[str] = mapped_column(String(80))
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime]


class Account(Base):
    """A member of a team. Solo mode has none: its one user is `owner`, who may do everything."""

    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)  # never changes: labels carry it
    role: Mapped[str] = mapped_column(String(10))  # admin | curator | annotator
    password_hash: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)
    disabled_at: Mapped[datetime | None]


class Membership(Base):
    """Which projects a curator or annotator may see; admins see all."""

    __tablename__ = "membership"
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"), primary_key=True)


class Invite(Base):
    """A single-use way to an account; only the link's hash is kept."""

    __tablename__ = "invite"
    id: Mapped[int] = mapped_column(primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    name: Mapped[str] = mapped_column(String(80))
    role: Mapped[str] = mapped_column(String(10))
    projects: Mapped[list[Any]]  # ids of the projects it opens
    invited_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class ApiToken(Base):
    """A script's way in (`Authorization: Bearer …`), with its maker's role; only its hash is kept."""

    __tablename__ = "api_token"
    id: Mapped[int] = mapped_column(primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    name: Mapped[str] = mapped_column(String(80))
    scope: Mapped[str] = mapped_column(String(10))  # read | write
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class LoginFailure(Base):
    """A wrong password, kept for as long as it counts against further tries."""

    __tablename__ = "login_failure"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80), index=True)  # as typed, whether there is such an account or not
    created_at: Mapped[datetime] = mapped_column(default=now)


class Assignment(Base):
    """A document somebody is asked to read; `blind`: without suggestions and others' labels."""

    __tablename__ = "assignment"
    __table_args__ = (UniqueConstraint("document_id", "user"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    document_id: Mapped[int] = mapped_column(ForeignKey("document.id"))
    user: Mapped[str] = mapped_column(String(80), index=True)
    blind: Mapped[bool]
    assigned_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)


class AccessLog(Base):
    """What was asked of sealed and blind documents. Append-only: the database itself refuses changes."""

    __tablename__ = "access_log"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"), index=True)
    action: Mapped[str] = mapped_column(String(20))  # seal | reveal | refused | blind
    document_id: Mapped[int | None] = mapped_column(ForeignKey("document.id"))
    user: Mapped[str] = mapped_column(String(80))
    reason: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)
