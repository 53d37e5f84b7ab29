"""Baselines of a project: fitted on its weak labels, scored beside each of its classifiers.

The folder is named for what it was fitted on and what it scores, so classifiers of one label set
share it, and it is made anew only when people have annotated more.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session, sessionmaker

from app import models as m
from app.backbones import located
from app.db import reading
from app.settings import Settings
from labeling.artifacts import ArtifactError, read_manifest, sha256_json
from labeling.documents import Document, must, read, text_sha256
from labeling.events import Artifact, Event
from labeling.tokens import words

if TYPE_CHECKING:
    from labeling.baselines import BaselineConfig

Sessions = sessionmaker[Session]
Sets = Mapping[str, Sequence[Document]]


def baseline_predictions(
    settings: Settings, info: dict[str, Any], label_set_id: int, documents: Sequence[tuple[Document, str]],
    targets: Sequence[Document],
) -> Iterator[Event]:  # fmt: skip
    """Fit and score, unless that is done already. `info` is a classifier's."""
    from labeling.baselines import KIND, baselines
    from labeling.examples import Labelled

    config = _config(settings, info)
    identity = sha256_json([label_set_id, asdict(config), sorted(text_sha256(d.text) for d in targets)])
    out = settings.artifacts_dir / f"baselines-{identity[:16]}"
    try:
        yield Artifact(KIND, out, read_manifest(out, KIND)["info"])
    except ArtifactError:
        yield from baselines([Labelled(d, split) for d, split in documents], targets, config, out)


def _config(settings: Settings, info: dict[str, Any]) -> "BaselineConfig":
    """On the classifier's own backbone and layer, so that only the labels differ."""
    from labeling.baselines import BaselineConfig

    training = info.get("training") or {}
    return BaselineConfig(
        located(settings, info.get("backbone")),
        layer=(training.get("layers") or [None])[-1],
        window=(training.get("training") or {}).get("window", 256),
    )


def rule_predictions(documents: Sequence[Document]) -> Iterator[dict[str, Any]]:
    """The rule's own labels in the form of predictions: a word it calls forget has p = 1."""
    for d in documents:
        edges = d.spans or []
        tokens = [[a, b, float(any(s < b and a < e for s, e in edges))] for a, b in words(d.text)]
        yield {"id": d.id, "spans": [list(span) for span in edges], "tokens": tokens}


def scores(folder: Path, sets: Sets, rule: Sequence[Document]) -> dict[str, dict[str, Any]]:
    """{baseline: {set: figures}}. The rule made the weak labels, so only people's labels can judge it."""
    from labeling.baselines import NAMES
    from labeling.evaluate import read_predictions, score

    out: dict[str, dict[str, Any]] = {}
    if gold := sets.get("gold"):
        ids = {d.id for d in gold}
        out["rule"] = {"gold": _figures(score(rule_predictions([d for d in rule if d.id in ids]), gold).to_json())}
    for name in NAMES:
        for of, truth in sets.items():
            if truth:
                table = score(read_predictions(folder / f"{name}.jsonl"), truth).to_json()
                out.setdefault(name, {})[of] = _figures(table)
    return out


def _figures(table: dict[str, Any]) -> dict[str, Any]:
    """Without curves and lists of errors, which are the classifier's own affair."""
    return {
        key: value
        for key, value in table.items()
        if key in ("intervals", "families") or not isinstance(value, list | dict)
    }


def predict_with_baselines(
    settings: Settings, sessions: Sessions, classifier_id: int, inputs: list[str], out: Path
) -> Iterator[Event]:
    """Score files with a project's baselines: `out/NAME.jsonl`, as `tokensieve score` reads them."""
    from app.steps import weak_documents
    from labeling.baselines import baselines
    from labeling.examples import Labelled

    with reading(sessions) as session:
        row = session.get_one(m.Classifier, classifier_id)
        if row.label_set_id is None:
            raise ValueError(f"{row.name}:{row.version} has no label set in this project to fit baselines on")
        label_set_id, info = row.label_set_id, row.info
    examples = [Labelled(d, split) for d, split in weak_documents(settings, sessions, label_set_id)]
    targets = [d for source in inputs for d in must(read(source))]
    yield from baselines(examples, targets, _config(settings, info), out)
