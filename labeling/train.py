"""Distil weak labels into a small bidirectional classifier (METHOD, step 2).

Both modes end in the same `AutoModelForTokenClassification` folder: `probe` keeps a frozen backbone
up to its best layer and adds a linear head; `finetune` trains every weight. The labels may be
coarser than tokens, or a smaller classifier's scores. Threshold and smoothing are those with the
best word-level F1 (or F2) against the weak token labels of the validation split, whatever was trained on.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from labeling.curves import BETAS
from labeling.events import Artifact, Event, Metric, Progress
from labeling.examples import (
    IGNORED,
    Labelled,
    LabelledWindow,
    TrainConfig,
    Validation,
    coarsened,
    labelled_windows,
    take,
    taught,
    validate,
)
from labeling.export import write_classifier
from labeling.finetune import finetune
from labeling.predict import LoadedClassifier, head_of
from labeling.probe import fit_probe
from labeling.references import load_model, pick_device

__all__ = ["Labelled", "TrainConfig", "train"]

RADII = (0, 1, 2, 3)


def train(
    examples: Sequence[Labelled], config: TrainConfig, out: Path, info: dict[str, Any], onnx: bool = True
) -> Iterator[Event]:
    """Train and export to `out` (artifact kind "classifier"). A rerun after a kill goes on where it was.

    `info` goes into the folder: name, definition, what the labels were made from.
    """
    yield Progress(0, None, "tokens", "tokenize")
    classifier = untrained(config)
    chosen = take(examples, "train", config.max_tokens, classifier.tokenizer)
    if config.teacher is not None:
        chosen = yield from taught(chosen, config.teacher, config.soft)
    coarse = [coarsened(e, config.labels, config.coarse_share) for e in chosen]
    windows = labelled_windows(coarse, classifier, config)
    held_out = [e.document for e in take(examples, "validation", config.validation_tokens, classifier.tokenizer)]
    _check(windows, held_out)
    radii = RADII if config.smooth is None else (config.smooth,)
    work = out.with_name(out.name + ".partial")

    def judge(candidate: LoadedClassifier) -> Validation:
        return validate(candidate, held_out, radii)

    settings: dict[str, Any] = {}
    if config.mode == "probe":
        classifier, layers = yield from fit_probe(lambda: untrained(config), windows, judge, config)
        settings |= {"layer": layers[-1], "layers": list(layers)}
    else:
        classifier, settings["step"] = yield from finetune(classifier, windows, judge, config, work)
    best = validate(classifier, held_out, radii, BETAS[config.threshold])
    classifier = replace(classifier, threshold=best.threshold, smooth=best.smooth)
    yield Metric("validation_f1", best.f1)
    settings |= {
        "mode": config.mode,
        "backbone": Path(config.backbone).name if Path(config.backbone).is_dir() else config.backbone,
        "training": asdict(config)
        | {name: Path(given).name for name in ("backbone", "teacher") if (given := getattr(config, name))},
        "train_tokens": sum(len(w) for w in windows),
        "validation": asdict(best) | {"unit": "word", "against": "weak labels"},
    }
    yield Progress(0, None, "", "export")
    written = write_classifier(classifier, out, info | settings, onnx)
    shutil.rmtree(work, ignore_errors=True)
    yield Artifact("classifier", out, written)


def untrained(config: TrainConfig) -> LoadedClassifier:
    """The backbone with a fresh two-label head, the same one each time for a seed."""
    from transformers import AutoModelForTokenClassification

    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model, tokenizer = load_model(config.backbone, AutoModelForTokenClassification)
        head = head_of(model)
        fresh = nn.Linear(head.in_features, 2)
    nn.init.normal_(fresh.weight, std=0.02, generator=torch.Generator().manual_seed(config.seed))
    nn.init.zeros_(fresh.bias)
    for module in model.modules():
        for child, value in module.named_children():
            if value is head:
                setattr(module, child, fresh)
                break
    model.config.num_labels = model.num_labels = 2
    limit = getattr(model.config, "max_position_embeddings", None) or config.window
    if config.window > limit:
        raise ValueError(
            f"window {config.window} is longer than the {limit} positions of {config.backbone}; give a smaller one"
        )
    model.to(pick_device())
    return LoadedClassifier(model, tokenizer, window=config.window, overlap=config.overlap)


def _check(windows: Sequence[LabelledWindow], held_out: Sequence[Any]) -> None:
    """Refuse now what would fail after an hour."""
    if not windows:
        raise ValueError("no document of the train split has a token to learn from; import more text")
    labels = np.concatenate([w.labels for w in windows])
    classes = set((labels[labels != IGNORED] >= 0.5).tolist())
    if classes != {False, True}:
        missing = "retain" if False not in classes else "forget"
        raise ValueError(f"the train split has no {missing} token; change the rule or import text of both sides")
    if not any(d.spans for d in held_out):
        raise ValueError(
            f"none of the {len(held_out)} validation documents has a forget span, so no threshold can be chosen; "
            "import more text or give more validation_tokens"
        )
