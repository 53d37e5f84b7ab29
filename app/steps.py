"""The steps a worker runs: read rows, call one step of `labeling`, register what it made.

Only the worker imports this module's targets, so torch stays out of the web process. Output
folders are named after the job, so a job that is run again after a kill finds its own shards.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker, undefer

from app import details, gold_import, queries
from app import models as m
from app.artifacts import open_labels, open_store
from app.db import reading
from app.gold import gold_texts
from app.importing import import_file
from app.jobs import JobView
from app.preflights import clear_for_harvest
from app.provenance import of_classifier
from app.settings import Settings
from labeling.artifacts import ArtifactError, read_manifest
from labeling.documents import Document
from labeling.events import Artifact, Event, Progress
from labeling.functions import Function, parse
from labeling.rule import RuleConfig

Sessions = sessionmaker[Session]


def newest(session: Session, project_id: int, kind: str) -> m.Artifact:
    """The project's newest artifact of a kind. Raises ValueError saying which step makes one."""
    maker = {"store": "discover", "discovery": "discover", "labels": "label"}.get(kind, kind)
    found = queries.newest_artifact(session, project_id, kind)
    if found is None:
        raise ValueError(f"the project has no {kind} yet; run `tokensieve {maker}` first")
    return found


def store_under(session: Session, rule: m.Rule) -> m.Artifact:
    """The newest store of the reference whose latents a rule holds. Raises ValueError if there is none."""
    if rule.reference_id is None:
        return newest(session, rule.project_id, "store")
    found = queries.harvested(session, rule.project_id, rule.reference_id, "store")
    if found is None:
        raise ValueError(
            f"rule {rule.version} holds latents of a reference that has read nothing here; "
            "choose that reference on the project's page and run `tokensieve discover`"
        )
    return found


def register(sessions: Sessions, settings: Settings, job: JobView, event: Artifact) -> int:
    """Record a finished folder once, whatever number of times its job ran."""
    path = event.path.resolve().relative_to(settings.data_dir.resolve()).as_posix()
    with sessions() as session, session.begin():
        row = session.scalar(select(m.Artifact).where(m.Artifact.path == path))
        if row is None:
            row = m.Artifact(project_id=job.project_id, job_id=job.id, kind=event.kind, path=path, info=event.info)
            session.add(row)
            session.flush()
        return row.id


def once(out: Path, kind: str, make: Callable[[], Iterator[Event]]) -> Iterator[Event]:
    """Run a step unless its folder is already whole (killed after the rename, before the database knew)."""
    try:
        manifest = read_manifest(out, kind)
    except ArtifactError:
        yield from make()
    else:
        yield Artifact(kind, out, manifest["info"])


def relay(events: Iterator[Event], made: list[Artifact]) -> Iterator[Event]:
    for event in events:
        if isinstance(event, Artifact):
            made.append(event)
        yield event


@dataclass(frozen=True)
class Corpus:
    """A project's families and sides, and where its texts are."""

    sides: dict[str, str]
    sessions: Sessions
    project_id: int

    def text_of(self, key: str) -> str:
        with reading(self.sessions) as session:
            return session.scalars(
                select(m.Document.text).where(m.Document.project_id == self.project_id, m.Document.key == key)
            ).one()


def corpus_of(sessions: Sessions, project_id: int) -> Corpus:
    with reading(sessions) as session:
        families = session.scalars(select(m.Family).where(m.Family.project_id == project_id))
        return Corpus({f.name: f.side for f in families}, sessions, project_id)


def project_documents(session: Session, project_id: int) -> list[m.Document]:
    """Every document but the sealed ones, in import order."""
    query = (
        select(m.Document)
        .where(m.Document.project_id == project_id, m.Document.split != "sealed")
        .options(undefer(m.Document.text))
        .order_by(m.Document.id)
    )
    return list(session.scalars(query))


def import_files(settings: Settings, sessions: Sessions, job: JobView) -> Iterator[Event]:
    assert job.project_id is not None
    a = job.args
    source = a["path"] if a["path"].startswith("hf:") else str(settings.data_dir / a["path"])
    yield from import_file(
        sessions, job.project_id, source, a["filename"], a["family"], a["side"],
        a.get("text_field") or "text", a.get("id_field") or "id", job.author,
    )  # fmt: skip


def import_gold(settings: Settings, sessions: Sessions, job: JobView) -> Generator[Event, None, dict[str, Any]]:
    """Labels from a file, for documents that are in the project already."""
    assert job.project_id is not None
    project_id, source, format_ = job.project_id, settings.data_dir / job.args["path"], job.args["format"]
    out = settings.artifacts_dir / f"gold-{job.id}"
    made: list[Artifact] = []

    def take() -> Iterator[Event]:
        return gold_import.import_file(sessions, project_id, source, format_, job.author, out)

    yield from relay(once(out, "gold", take), made)
    register(sessions, settings, job, made[-1])
    return made[-1].info


def harvest(settings: Settings, sessions: Sessions, job: JobView) -> Iterator[Event]:
    """Documents -> activation store."""
    from labeling.harvest import HarvestConfig, StoreDocument, open_reference
    from labeling.harvest import harvest as run

    assert job.project_id is not None
    with reading(sessions) as session:
        project = session.get_one(m.Project, job.project_id)
        reference = project.reference
        if reference is None:
            raise ValueError(
                "the project has no reference yet; choose one on its page or with `tokensieve discover --reference`"
            )
        documents = [
            StoreDocument(d.key, d.text, d.family.name, d.split) for d in project_documents(session, job.project_id)
        ]
        info: dict[str, Any] = {"reference": reference.name, "reference_id": reference.id, "model": reference.model, "sae": reference.sae, "layer": reference.layer}  # fmt: skip
    if not documents:
        raise ValueError("the project has no documents yet; import some first")
    out = settings.artifacts_dir / f"store-{job.id}"

    def make() -> Iterator[Event]:
        yield Progress(0, None, "", "load reference")
        model, sae = open_reference(info["model"], info["sae"], info["layer"])
        yield from clear_for_harvest(sessions, job, info["reference_id"], model, sae)
        yield from run(documents, model, sae, out, HarvestConfig(), info)

    made: list[Artifact] = []
    yield from relay(once(out, "store", make), made)
    register(sessions, settings, job, made[-1])


def discover(settings: Settings, sessions: Sessions, job: JobView) -> Iterator[Event]:
    """Harvest if the corpus has no store yet (or `again` is set), then rank every latent."""
    from labeling.discovery import discover as run

    assert job.project_id is not None
    with reading(sessions) as session:
        reference_id = session.get_one(m.Project, job.project_id).reference_id
        held = queries.harvested(session, job.project_id, reference_id, "store")
        fresh = held is None or (job.args.get("again") and held.job_id != job.id)
    if fresh:
        yield from harvest(settings, sessions, job)
    with reading(sessions) as session:
        store = settings.data_dir / newest(session, job.project_id, "store").path
    out = settings.artifacts_dir / f"discovery-{job.id}"
    corpus = corpus_of(sessions, job.project_id)
    made: list[Artifact] = []
    yield from relay(once(out, "discovery", lambda: run(store, corpus.sides, out, text_of=corpus.text_of)), made)
    register(sessions, settings, job, replace(made[-1], info=made[-1].info | {"reference_id": reference_id}))
    yield from describe_weights(settings, sessions, job)


def describe_weights(settings: Settings, sessions: Sessions, job: JobView) -> Iterator[Event]:
    """Promoted tokens and nearest latents, once per reference."""
    from labeling.harvest import open_reference
    from labeling.weights import describe

    assert job.project_id is not None
    with reading(sessions) as session:
        reference = session.get_one(m.Project, job.project_id).reference
        if reference is None or queries.weights_of(session, reference.id) is not None:
            return
    out = settings.artifacts_dir / f"weights-{reference.id}"

    def make() -> Iterator[Event]:
        yield Progress(0, None, "", "load reference")
        model, sae = open_reference(reference.model, reference.sae, reference.layer)
        yield from describe(model, sae, out, {"reference_id": reference.id})

    made: list[Artifact] = []
    yield from relay(once(out, "weights", make), made)
    register(sessions, settings, job, made[-1])


def label(settings: Settings, sessions: Sessions, job: JobView) -> Iterator[Event]:
    """Apply a saved rule to the newest store: weak labels."""
    from app.rule_steps import add_label_set
    from labeling.rule import label_corpus
    from labeling.store import Store

    assert job.project_id is not None
    corpus = corpus_of(sessions, job.project_id)
    with reading(sessions) as session:
        rule = session.get_one(m.Rule, job.args["rule_id"])
        store = store_under(session, rule)
        store_id, store_path = store.id, settings.data_dir / store.path
        parts, info = parts_of(settings, rule), {"rule": rule.version, "rule_sha256": rule.sha256}
    out = settings.artifacts_dir / f"labels-{job.id}"
    made: list[Artifact] = []
    yield from relay(
        once(out, "labels", lambda: label_corpus(store_path, *parts, corpus.text_of, out, info)),
        made,
    )
    artifact_id = register(sessions, settings, job, made[-1])
    add_label_set(
        sessions, job.project_id, job.args["rule_id"], store_id, artifact_id, made[-1], Store.open(store_path)
    )


def parts_of(settings: Settings, rule: m.Rule) -> tuple[list[int], RuleConfig, list[Function]]:
    """A saved rule as `labeling` takes it: latents, settings, functions."""
    functions = [parse(located(f, settings)) for f in rule.functions]
    return [int(n) for n in rule.latents], RuleConfig(**rule.config), functions


def located(function: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """A function's config with a classifier's folder made absolute; stored configs are relative to the data directory."""
    if function["kind"] != "classifier":
        return function
    return {**function, "classifier": str(settings.data_dir / function["classifier"])}


def weak_documents(settings: Settings, sessions: Sessions, label_set_id: int) -> list[tuple[Document, str]]:
    """(document with its weak labels as spans, split) for every document of a label set."""
    from labeling.rule import spans_of

    with reading(sessions) as session:
        labels = session.get_one(m.LabelSet, label_set_id)
        store = open_store(settings, session.get_one(m.Artifact, labels.store_id))
        flags = open_labels(settings, session.get_one(m.Artifact, labels.artifact_id))
        rows = {d.key: d for d in project_documents(session, labels.project_id)}
        out = []
        for i, key in enumerate(store.keys):
            if key in rows:
                d = rows[key]
                out.append(
                    (Document(key, d.text, d.family.name, d.family.side, spans=spans_of(store, flags, i)), d.split)
                )
        return out


def train(settings: Settings, sessions: Sessions, job: JobView) -> Iterator[Event]:
    """Distil weak labels into a classifier, score the corpus with it, evaluate it."""
    from app.backbones import LATENTS
    from app.training import config_of, latent_teacher, with_probabilities
    from labeling.predict import predict_corpus
    from labeling.train import Labelled
    from labeling.train import train as run

    assert job.project_id is not None
    args = job.args
    examples = [Labelled(d, split) for d, split in weak_documents(settings, sessions, args["label_set_id"])]
    examples = with_probabilities(settings, sessions, args["label_set_id"], examples)
    taught: dict[str, Any] = {}
    if args.get("teacher") == LATENTS:
        folder, by = settings.artifacts_dir / f"teacher-{job.id}", list[Artifact]()
        make = lambda: latent_teacher(settings, sessions, args["label_set_id"], folder)  # noqa: E731
        yield from relay(once(folder, "predictions", make), by)
        register(sessions, settings, job, by[0])
        taught, args = {"teacher": by[0].info}, {**args, "teacher": str(folder)}
    config = config_of(settings, sessions, args)
    with reading(sessions) as session:
        info = of_classifier(session, args["label_set_id"], (e.document for e in examples), config.backbone) | taught
    out, made = settings.artifacts_dir / f"classifier-{job.id}", list[Artifact]()
    yield from relay(once(out, "classifier", lambda: run(examples, config, out, info)), made)
    scored = settings.artifacts_dir / f"predictions-{job.id}"
    yield from relay(
        once(scored, "predictions", lambda: predict_corpus(out, [e.document for e in examples], scored)), made
    )
    trained, predicted = (next(a for a in made if a.kind == kind) for kind in ("classifier", "predictions"))
    artifact_id, predictions_id = (register(sessions, settings, job, a) for a in (trained, predicted))
    with sessions() as session, session.begin():
        row = session.scalar(select(m.Classifier).where(m.Classifier.artifact_id == artifact_id))
        if row is None:
            name = args.get("name") or "classifier"
            taken = session.scalars(
                select(m.Classifier.version).where(m.Classifier.project_id == job.project_id, m.Classifier.name == name)
            )
            row = m.Classifier(
                project_id=job.project_id, name=name, version=max(taken, default=0) + 1, label_set_id=args["label_set_id"],
                artifact_id=artifact_id, predictions_id=predictions_id,
                threshold=float(trained.info["threshold"]), info={"training": trained.info, "backbone": args.get("backbone")},
            )  # fmt: skip
            session.add(row)
            session.flush()
        classifier_id = row.id
    yield from evaluate_classifier(settings, sessions, classifier_id)


def evaluate(settings: Settings, sessions: Sessions, job: JobView) -> Iterator[Event]:
    yield from evaluate_classifier(settings, sessions, int(job.args["classifier_id"]))


def evaluate_classifier(settings: Settings, sessions: Sessions, classifier_id: int) -> Iterator[Event]:
    """Scores on weak labels of the validation and test splits, on gold, and apart from it on what was sealed once.

    The baselines stand beside it, on the same documents.
    """
    from app.baselines import baseline_predictions
    from app.baselines import scores as baseline_scores
    from labeling.evaluate import score
    from labeling.predict import predict_corpus
    from labeling.predictions import Prediction, PredictionStore

    with reading(sessions) as session:
        row = session.get_one(m.Classifier, classifier_id)
        assert row.label_set_id is not None and row.predictions_id is not None
        label_set_id, threshold, project_id = row.label_set_id, row.threshold, row.project_id
        store = PredictionStore.open(settings.data_dir / session.get_one(m.Artifact, row.predictions_id).path)
        folder, info = settings.data_dir / session.get_one(m.Artifact, row.artifact_id).path, row.info
    documents = weak_documents(settings, sessions, label_set_id)
    sets = {split: [d for d, s in documents if s == split] for split in ("validation", "test")}
    sets["gold"] = gold_documents(sessions, project_id, ("train", "validation", "test"))
    sets["sealed"] = gold_documents(sessions, project_id, ("revealed",))
    later = [d for name in ("gold", "sealed") for d in sets[name] if store.document(d.id) is None]
    results: dict[str, Any] = {}
    looked_at: dict[str, Any] = {}
    with TemporaryDirectory() as temporary:  # documents that came, or were revealed, after the corpus was scored
        if later:
            scoring = predict_corpus(folder, later, Path(temporary) / "later")
            yield from (event for event in scoring if not isinstance(event, Artifact))
        stores = [store, *([PredictionStore.open(Path(temporary) / "later")] if later else [])]
        for done, (name, truth) in enumerate(sets.items()):
            yield Progress(done, len(sets), "sets", f"evaluate on {name}")
            if truth:
                scored = ((d.id, at) for d in truth for s in stores if (at := s.document(d.id)))
                found = score((Prediction(id_, *at).to_json(threshold) for id_, at in scored), truth)
                results[name], looked_at[name] = found.to_json(), found.details()
    details.write(settings, classifier_id, looked_at)
    targets = {d.id: d for truth in sets.values() for d in truth}
    made: list[Artifact] = []
    results |= {"baselines": {}, "baselines_missing": None}
    try:
        yield from relay(baseline_predictions(settings, info, label_set_id, documents, list(targets.values())), made)
        results["baselines"] = baseline_scores(made[-1].path, sets, [d for d, _ in documents])
    except ValueError as error:  # too little text for them must not cost the classifier its own figures
        results["baselines_missing"] = str(error)
    with sessions() as session, session.begin():
        row = session.get_one(m.Classifier, classifier_id)
        row.info = {**row.info, **results}
    yield Progress(len(sets), len(sets), "sets", "evaluated")


def gold_documents(sessions: Sessions, project_id: int, splits: Sequence[str]) -> list[Document]:
    """What people decided: spans where forget, not scored where they disagree, retain elsewhere."""
    with reading(sessions) as session:
        return list(gold_texts(session, project_id, splits))


def filter_corpus(settings: Settings, sessions: Sessions, job: JobView) -> Iterator[Event]:
    """Stream files through a classifier into filtered parquet shards."""
    from labeling.filtering import FilterConfig
    from labeling.filtering import filter_corpus as run

    a = job.args
    with reading(sessions) as session:
        row = session.get_one(m.Classifier, a["classifier_id"])
        classifier = settings.data_dir / session.get_one(m.Artifact, row.artifact_id).path
    config = FilterConfig(treatment=a["treatment"], threshold=a.get("threshold"), budget=a.get("budget"))
    out = settings.artifacts_dir / f"filter-{job.id}"
    inputs = [str(settings.data_dir / p) for p in a["inputs"]]
    made: list[Artifact] = []
    yield from relay(once(out, "filter", lambda: run(classifier, inputs, out, config)), made)
    register(sessions, settings, job, made[-1])
