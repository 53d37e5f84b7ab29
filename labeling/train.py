"""Distil weak labels into a small bidirectional classifier (METHOD, step 2).

Both modes end in the same plain `AutoModelForTokenClassification` folder: `probe` keeps a frozen
backbone up to its best layer and adds a linear head; `finetune` trains every weight. Threshold and
smoothing are those with the best word-level F1 against the weak labels of the validation split.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from labeling.events import Artifact, Event, Metric, Progress
from labeling.examples import Labelled, LabelledWindow, TrainConfig, Validation, labelled_windows, take, validate
from labeling.export import write_classifier
from labeling.finetune import finetune
from labeling.predict import LoadedClassifier, head_of
from labeling.probe import fit_probe
from labeling.references import load_model, pick_device

__all__ = ["Labelled", "TrainConfig", "train"]

RADII = (0, 1, 2, 3)


def train(examples: Sequence[Labelled], config: TrainConfig, out: Path, info: dict[str, Any]) -> Iterator[Event]:
    """Train and export to `out` (artifact kind "classifier"). A rerun after a kill goes on where it was.

    `info` goes into the folder: name, definition, what the labels were made from.
    """
    yield Progress(0, None, "tokens", "tokenize")
    classifier = untrained(config)
    documents = take(examples, "train", config.max_tokens, classifier.tokenizer)
    held_out = take(examples, "validation", config.validation_tokens, classifier.tokenizer)
    windows = labelled_windows(documents, classifier)
    _check(windows, held_out)
    radii = RADII if config.smooth is None else (config.smooth,)
    work = out.with_name(out.name + ".partial")

    def judge(candidate: LoadedClassifier) -> Validation:
        return validate(candidate, held_out, radii)

    settings: dict[str, Any] = {}
    if config.mode == "probe":
        classifier, settings["layer"] = yield from fit_probe(lambda: untrained(config), windows, judge, config)
    else:
        classifier, settings["step"] = yield from finetune(classifier, windows, judge, config, work)
    best = judge(classifier)
    classifier = replace(classifier, threshold=best.threshold, smooth=best.smooth)
    yield Metric("validation_f1", best.f1)
    settings |= {
        "mode": config.mode,
        "backbone": Path(config.backbone).name if Path(config.backbone).is_dir() else config.backbone,
        "training": asdict(config) | {"backbone": Path(config.backbone).name},
        "train_tokens": sum(len(w) for w in windows),
        "validation": asdict(best) | {"unit": "word", "against": "weak labels"},
    }
    written = write_classifier(classifier, out, info | settings)
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
    classes = {label for w in windows for label in set(w.labels.tolist())} - {-100}
    if classes != {0, 1}:
        missing = "retain" if 0 not in classes else "forget"
        raise ValueError(f"the train split has no {missing} token; change the rule or import text of both sides")
    if not any(d.spans for d in held_out):
        raise ValueError(
            f"none of the {len(held_out)} validation documents has a forget span, so no threshold can be chosen; "
            "import more text or give more validation_tokens"
        )
