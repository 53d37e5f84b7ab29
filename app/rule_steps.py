"""Steps that look at a rule: analysis, aggregators, ladder, transfer, and taking labels from one of them.

Run by workers, as `app.steps` are; pages only read the folders they leave.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select

from app import lineage, queries
from app import models as m
from app.db import reading
from app.gold import CHOOSING, gold_texts
from app.jobs import JobView
from app.settings import Settings
from app.steps import Corpus, Sessions, corpus_of, once, parts_of, register, relay, store_under
from labeling.artifacts import read_manifest, staged, verify
from labeling.documents import Document
from labeling.events import Artifact, Event
from labeling.functions import Function
from labeling.ladder import rung_flags
from labeling.rule import Flags, Labels, RuleConfig, describe
from labeling.store import Store


@dataclass(frozen=True)
class Curated:
    """A saved rule, the store it is asked of, and what people said about train and validation documents."""

    latents: list[int]
    config: RuleConfig
    functions: list[Function]
    store_id: int
    store: Path
    corpus: Corpus
    gold: list[Document]
    info: dict[str, Any]  # which rule and store an artifact is about


def curated(settings: Settings, sessions: Sessions, job: JobView) -> Curated:
    """The job's rule, or the newest one. Raises ValueError saying which step is missing."""
    assert job.project_id is not None
    corpus = corpus_of(sessions, job.project_id)
    with reading(sessions) as session:
        chosen = job.args.get("rule_id")
        rule = session.get_one(m.Rule, chosen) if chosen else queries.newest_rule(session, job.project_id)
        if rule is None:
            raise ValueError("the project has no saved rule yet; save one first")
        store = store_under(session, rule)
        gold = list(gold_texts(session, job.project_id, CHOOSING))
        return Curated(
            *parts_of(settings, rule), store.id, settings.data_dir / store.path, corpus, gold,
            {"rule": rule.version, "rule_id": rule.id, "rule_sha256": rule.sha256, "store_id": store.id,
             "gold": len(gold)},
        )  # fmt: skip


def _make(
    settings: Settings, sessions: Sessions, job: JobView, kind: str, run: Iterator[Event], out: Path
) -> Iterator[Event]:
    made: list[Artifact] = []
    yield from relay(once(out, kind, lambda: run), made)
    register(sessions, settings, job, made[-1])


def analyse(settings: Settings, sessions: Sessions, job: JobView) -> Iterator[Event]:
    from labeling.analysis import KIND, analyse_corpus

    c, out = curated(settings, sessions, job), settings.artifacts_dir / f"analysis-{job.id}"
    spans = {d.id: (d.spans or [], d.ignore or []) for d in c.gold}
    run = analyse_corpus(c.store, c.latents, c.config, c.functions, c.corpus.text_of, spans, out, c.info)
    yield from _make(settings, sessions, job, KIND, run, out)


def aggregate(settings: Settings, sessions: Sessions, job: JobView) -> Iterator[Event]:
    """The vote, the majority and Dawid-Skene on the same votes."""
    from labeling.label_models import KIND, compare_corpus

    c, out = curated(settings, sessions, job), settings.artifacts_dir / f"aggregation-{job.id}"
    run = compare_corpus(c.store, c.latents, c.config, c.functions, c.corpus.text_of, c.gold, out, c.info)
    yield from _make(settings, sessions, job, KIND, run, out)


def ladder(settings: Settings, sessions: Sessions, job: JobView) -> Iterator[Event]:
    from labeling.ladder import BUDGETS, KIND, ladder_corpus

    c, out = curated(settings, sessions, job), settings.artifacts_dir / f"ladder-{job.id}"
    budgets = job.args.get("budgets") or BUDGETS
    run = ladder_corpus(c.store, c.latents, c.config, c.functions, c.corpus.text_of, c.gold, out, budgets, c.info)
    yield from _make(settings, sessions, job, KIND, run, out)


def transfer(settings: Settings, sessions: Sessions, job: JobView) -> Iterator[Event]:
    """Leave one family out."""
    from labeling.transfer import KIND, Screen, transfer_corpus

    c, out = curated(settings, sessions, job), settings.artifacts_dir / f"transfer-{job.id}"
    chosen = {name: job.args[name] for name in ("ratio", "minimum", "z") if name in job.args}
    screen = Screen(**chosen, among=tuple(c.latents) if job.args.get("among") == "rule" else None)
    run = transfer_corpus(c.store, c.corpus.sides, c.config, screen, c.gold, out, c.info)
    yield from _make(settings, sessions, job, KIND, run, out)


def take_labels(settings: Settings, sessions: Sessions, job: JobView) -> Iterator[Event]:
    """Weak labels from another aggregator or a rung of the ladder: args `artifact_id`, and `aggregator` or `rung`.

    Dawid-Skene's come with their probabilities, `p.npy`, which training learns from unless told to round them.
    """
    from labeling.label_models import soft_labels

    assert job.project_id is not None
    a = job.args
    with reading(sessions) as session:
        source = session.get_one(m.Artifact, a["artifact_id"])
        folder, made_from = settings.data_dir / source.path, dict(source.info)
        store_path = settings.data_dir / session.get_one(m.Artifact, made_from["store_id"]).path
    verify(folder, source.kind)
    store = Store.open(store_path)
    flags: Flags
    if source.kind == "aggregation":
        flags, how = np.load(folder / f"{a['aggregator']}.npy"), {"aggregator": a["aggregator"]}
    else:
        flags, how = (
            rung_flags(np.load(folder / "rungs.npy"), a["rung"]),
            {"budget": made_from["budgets"][a["rung"] - 1]},
        )
    soft = None
    if how.get("aggregator") == "dawid_skene":
        soft = soft_labels(np.load(folder / "p.npy"), flags, store.doc_indptr)
    out = settings.artifacts_dir / f"labels-{job.id}"
    info = {k: made_from[k] for k in ("rule", "rule_sha256")} | how | describe(store, Labels(flags))

    def make() -> Iterator[Event]:
        with staged(out, "labels", info) as beside:
            np.save(beside / "labels.npy", flags, allow_pickle=False)
            if soft is not None:
                np.save(beside / "p.npy", soft, allow_pickle=False)
        yield Artifact("labels", out, info)

    made: list[Artifact] = []
    yield from relay(once(out, "labels", make), made)
    artifact_id = register(sessions, settings, job, made[-1])
    add_label_set(sessions, job.project_id, made_from["rule_id"], made_from["store_id"], artifact_id, made[-1], store)


def add_label_set(
    sessions: Sessions, project_id: int, rule_id: int, store_id: int, artifact_id: int, made: Artifact, store: Store
) -> None:
    """Record labels once, with their hash and lineage, whatever number of times their job ran."""
    sha256 = read_manifest(made.path, "labels")["files"]["labels.npy"]["sha256"]
    with sessions() as session, session.begin():
        if session.scalar(select(m.LabelSet).where(m.LabelSet.artifact_id == artifact_id)) is None:
            rule = session.get_one(m.Rule, rule_id)
            info = made.info | {"sha256": sha256, "lineage": lineage.of_labels(session, rule, store)}
            session.add(
                m.LabelSet(
                    project_id=project_id, rule_id=rule_id, store_id=store_id, artifact_id=artifact_id, info=info
                )
            )
