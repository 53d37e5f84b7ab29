"""Two references on one corpus, each from its registration to weak labels, offline."""

import json
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app import models as m
from app import preflights, queries
from app.importing import import_file
from app.references import add
from app.rules import predict_with_rule, save_rule
from app.running import run_job
from app.settings import Settings
from app.steps import weak_documents
from labeling.sae_registry import search
from labeling.store import Store
from tests import fakes, hub

DOCUMENTS = fakes.corpus(60)


@pytest.fixture
def project_id(settings: Settings, sessions: sessionmaker[Session], tmp_path: Path) -> int:
    with sessions.begin() as session:
        row = m.Project(slug="medicine", name="Medicine")
        session.add(row)
        session.flush()
        made = row.id
    for family, side in fakes.SIDES.items():
        file = tmp_path / f"{family}.jsonl"
        mine = [d for d in DOCUMENTS if d.family == family]
        file.write_text("".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for d in mine))
        list(import_file(sessions, made, str(file), file.name, family, side))
    return made


def choose(sessions: sessionmaker[Session], project_id: int, reference: m.Reference) -> None:
    with sessions.begin() as session:
        session.get_one(m.Project, project_id).reference_id = reference.id


def rule_over_the_best(settings: Settings, sessions: sessionmaker[Session], project_id: int) -> m.LabelSet:
    """Accept the latents that tell the sides apart best, save a rule and label by it."""
    with sessions.begin() as session:
        project = session.get_one(m.Project, project_id)
        made = queries.harvested(session, project_id, project.reference_id, "discovery")
        assert made is not None and project.reference_id is not None
        with np.load(settings.data_dir / made.path / "latents.npz", allow_pickle=False) as table:
            best = np.argsort(-table["auroc"])[:6]
        for latent in best:
            whose = {"project_id": project_id, "reference_id": project.reference_id, "author": "owner"}
            session.add(m.Verdict(**whose, latent=int(latent), decision="accept"))
        session.flush()
        rule_id = save_rule(session, project_id, {"k": 1, "z": 1}, "owner").id
    run_job(settings, sessions, "label", project_id, {"rule_id": rule_id}, "owner")
    with sessions() as session:
        return session.scalars(select(m.LabelSet).order_by(m.LabelSet.id.desc()).limit(1)).one()


def test_gemma_scope_and_an_encoder_with_an_sae_of_our_own_on_one_corpus(
    project_id: int,
    settings: Settings,
    sessions: sessionmaker[Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A Gemma 2 and a Gemma Scope SAE of the registry, small and random, in the hub's cache.
    entry = next(e for e in search("gemma-scope-2b-pt-res layer_2/width_16k") if e.l0 and 20 < e.l0 < 70)
    texts = [d.text for d in DOCUMENTS]
    model = fakes.tiny_gemma2(tmp_path / "gemma")
    hub.lay_out(tmp_path / "hub", entry.model, lambda f: fakes.tiny_gemma2(f))
    hub.lay_out(tmp_path / "hub", entry.repo, lambda f: fakes.fitted_gemma_scope(f / entry.path, str(model), 2, texts))
    hub.offline(monkeypatch, tmp_path / "hub")
    gemma = add(sessions, "gemma", entry.model, entry.source)
    assert (gemma.layer, gemma.info["hook"], gemma.info["d_sae"]) == (2, "blocks.2.hook_resid_post", 64)
    choose(sessions, project_id, gemma)
    run_job(settings, sessions, "discover", project_id, {}, "owner")
    with sessions() as session:
        checked = preflights.newest_preflight(session, gemma.id, project_id)
        assert checked is not None and checked.passed, checked and checked.report
    by_gemma = rule_over_the_best(settings, sessions, project_id)

    # The same corpus through an encoder, with an SAE trained on its hook; the same texts serve.
    from labeling.sae_training import SAEConfig, train_from_text

    config = SAEConfig(str(fakes.tiny_encoder(tmp_path / "mini")), 1, d_sae=48, k=6, samples=64 * 300, batch=64,
                       lr=3e-3, warmup_steps=10, context=64, shard_tokens=1500, held_out_tokens=300)  # fmt: skip
    files = [str(tmp_path / f"{family}.jsonl") for family in fakes.SIDES]
    *_, trained = train_from_text(files, config, tmp_path / "work", tmp_path / "sae")
    card = (tmp_path / "sae" / "README.md").read_text()
    for said in (
        "encoder.layer.1",
        "blocks.1.hook_resid_post",
        files[0],
        "FVU",
        "tokensieve sae train",
        f"{trained.info['held_out_fvu']:.3f}",
    ):  # type: ignore[union-attr]
        assert said in card
    mini = add(sessions, "mini", config.model, str(tmp_path / "sae"))
    choose(sessions, project_id, mini)
    run_job(settings, sessions, "discover", project_id, {}, "owner")
    by_mini = rule_over_the_best(settings, sessions, project_id)

    with sessions() as session:
        stores = {}
        for labels in (by_gemma, by_mini):
            rule = session.get_one(m.Rule, labels.rule_id)
            artifact = session.get_one(m.Artifact, labels.store_id)
            assert artifact.info["reference_id"] == rule.reference_id
            stores[rule.reference_id] = Store.open(settings.data_dir / artifact.path)
            assert 0 < labels.info["share"] < 1
        assert (stores[gemma.id].d_sae, stores[mini.id].d_sae) == (64, 48)
        assert stores[gemma.id].keys == stores[mini.id].keys
        assert len(session.scalars(select(m.Artifact).where(m.Artifact.kind == "store")).all()) == 2
    # Back to the first: nothing is harvested again, and its own verdicts and rule are there.
    choose(sessions, project_id, gemma)
    run_job(settings, sessions, "discover", project_id, {}, "owner")
    with sessions() as session:
        assert len(session.scalars(select(m.Artifact).where(m.Artifact.kind == "store")).all()) == 2
        newest = queries.newest_rule(session, project_id)
        assert newest is not None and newest.id == by_gemma.rule_id
    # The newest store is the encoder's; a rule over Gemma's latents labels other text as it labeled its own.
    list(predict_with_rule(settings, sessions, project_id, [files[0]], tmp_path / "predictions.jsonl"))
    predicted = {row["id"]: row["spans"] for row in map(json.loads, (tmp_path / "predictions.jsonl").open())}
    labelled = {d.id: d.spans for d, _ in weak_documents(settings, sessions, by_gemma.id) if d.id in predicted}
    assert len(predicted) == len(labelled) == 20
    assert {key: [tuple(span) for span in spans] for key, spans in predicted.items()} == labelled


def test_a_harvest_waits_for_an_override_of_a_failed_check(
    project_id: int, settings: Settings, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    """The SAE was fitted one block before the one that it says."""
    model, texts = str(fakes.tiny_gemma2(tmp_path / "gemma")), [d.text for d in DOCUMENTS]
    sae = fakes.fitted_gemma_scope(tmp_path / "layer_2", model, 1, texts)
    off = add(sessions, "off", model, str(sae))
    choose(sessions, project_id, off)
    with pytest.raises(ValueError, match="block 1 is reconstructed better"):
        run_job(settings, sessions, "discover", project_id, {}, "owner")
    with sessions() as session:
        assert session.scalars(select(m.Artifact)).all() == []
    run_job(settings, sessions, "discover", project_id, {"override": "to see what happens"}, "ada")
    with sessions() as session:
        kept = session.scalars(select(m.PreflightOverride)).one()
        assert (kept.reason, kept.author) == ("to see what happens", "ada")
        assert session.scalars(select(m.Artifact).where(m.Artifact.kind == "discovery")).one()


def test_what_does_not_fit_is_refused_when_it_is_added(sessions: sessionmaker[Session], tmp_path: Path) -> None:
    model = str(fakes.tiny_reference(tmp_path / "model"))
    wide, high = fakes.tiny_sae(tmp_path / "wide", d_in=48), fakes.tiny_sae(tmp_path / "high", layer=9)
    for sae, said in ((wide, "48 dimensions"), (high, "blocks 0 to 3")):
        with pytest.raises(ValueError, match=said):
            add(sessions, "tiny", model, str(sae))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "m.M"}}))
    with pytest.raises(ValueError, match="its own code"):
        add(sessions, "tiny", model, str(fakes.tiny_sae(tmp_path / "sae")))
    with sessions() as session:
        assert session.scalars(select(m.Reference)).all() == []
