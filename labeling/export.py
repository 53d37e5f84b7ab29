"""A classifier's folder: what `AutoModelForTokenClassification` opens, plus how to use it.

model.safetensors, config.json     id2label {0: RETAIN, 1: FORGET}
tokenizer.json, …                  the backbone's own
tokensieve.json                    threshold, window, overlap, smoothing, definition, lineage
README.md                          a model card
MANIFEST.json                      sha256 of all of the above, written last
"""

import json
from pathlib import Path
from typing import Any

from labeling.artifacts import staged
from labeling.predict import SETTINGS, LoadedClassifier

LABELS = {0: "RETAIN", 1: "FORGET"}


def write_classifier(classifier: LoadedClassifier, out: Path, info: dict[str, Any]) -> dict[str, Any]:
    """Write the folder whole or not at all. `info` (JSON-able) joins its settings; they are returned."""
    settings = info | {
        "threshold": classifier.threshold,
        "window": classifier.window,
        "overlap": classifier.overlap,
        "smooth": classifier.smooth,
    }
    config = classifier.model.config
    config.id2label, config.label2id = dict(LABELS), {name: i for i, name in LABELS.items()}
    # Where it was loaded from is a path on this machine, of no use to who opens the folder.
    config._name_or_path = ""
    with staged(out, "classifier", settings) as folder:
        classifier.model.float().save_pretrained(folder, safe_serialization=True)
        classifier.tokenizer.save_pretrained(folder)
        (folder / SETTINGS).write_text(json.dumps(settings, indent=1, sort_keys=True), encoding="utf-8")
        (folder / "README.md").write_text(model_card(settings), encoding="utf-8")
    return settings


def model_card(settings: dict[str, Any]) -> str:
    """Hugging Face model card: what it flags, how well, how to run it, what not to expect."""
    name = settings.get("name", "token classifier")
    validation = settings.get("validation", {})
    figures = "\n".join(
        f"| {key} | {value:.4g} |" for key, value in validation.items() if isinstance(value, (int, float))
    )
    definition = settings.get("definition")
    meant = definition if isinstance(definition, str) else json.dumps(definition, indent=1, ensure_ascii=False)
    return f"""---
library_name: transformers
pipeline_tag: token-classification
tags: [tokensieve, data-filtering]
---
# {name}

Marks the tokens of a text that a language model must not learn (FORGET) and those it may (RETAIN),
after Rathi & Radford, *Shaping capabilities with token-level data filtering* (arXiv 2601.21571).

## What FORGET means here
{meant if definition else "No definition was recorded."}

## How to run it
```
tokensieve predict THIS_FOLDER documents.jsonl -o predictions.jsonl
tokensieve filter THIS_FOLDER corpus.parquet -o filtered --treatment mask
```
or load it with `AutoModelForTokenClassification.from_pretrained`. A token is forget when
P(FORGET) >= {settings["threshold"]:.6g}. Texts are cut into windows of {settings["window"]} tokens that overlap by
{settings["overlap"]}; probabilities are averaged over {settings["smooth"]} tokens to either side.

## Made from
Backbone `{settings.get("backbone", "unknown")}`, mode `{settings.get("mode", "unknown")}`{_layer(settings)}.

Against held-out *weak* labels, per word (not against people's labels; those are in the project's evaluation):

| validation | |
|---|---|
{figures}

## Limits
It learned from weak labels and repeats their mistakes. It was measured on the families of its own
project; on other registers look at the false-positive rate on near-miss retain text first.
"""


def _layer(settings: dict[str, Any]) -> str:
    return f", a linear probe after block {settings['layer']}" if settings.get("layer") else ""
