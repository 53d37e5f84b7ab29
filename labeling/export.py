"""A classifier's folder: what `AutoModelForTokenClassification` opens, plus how to use it.

model.safetensors, config.json     id2label {0: RETAIN, 1: FORGET}
tokenizer.json, …                  the backbone's own
model.onnx, model.int8.onnx        the same graph for onnxruntime, without torch
tokensieve.json                    threshold, window, overlap, smoothing, definition, lineage
metrics.json                       evaluation tables, once there are any
README.md                          a model card
MANIFEST.json                      sha256 of all of the above, written last

Weights never change; a threshold or newer metrics make another folder beside (`copy_with`). No torch
is imported here, so that the web process can hand folders out.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labeling.artifacts import amended, sha256_json, staged, verify
from labeling.card import model_card

if TYPE_CHECKING:
    from labeling.predict import LoadedClassifier

SETTINGS, METRICS, CARD = "tokensieve.json", "metrics.json", "README.md"
LABELS = {0: "RETAIN", 1: "FORGET"}


def write_classifier(
    classifier: "LoadedClassifier", out: Path, info: dict[str, Any], onnx: bool = True
) -> dict[str, Any]:
    """Write the folder whole or not at all. `info` (JSON-able) joins its settings; they are returned.

    `onnx` asks for the ONNX files too, where the packages that write them (extra [onnx]) are installed.
    """
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
        if onnx:
            from labeling.onnx_files import write_onnx

            settings["onnx"] = write_onnx(classifier.model, folder)
        settings["architecture"] = config.model_type
        (folder / SETTINGS).write_text(_json(settings), encoding="utf-8")
        (folder / CARD).write_text(model_card(settings), encoding="utf-8")
    return settings


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True)


def identity_of(manifest: Mapping[str, Any]) -> str:
    """Hash of the files that decide what the classifier says: not of its card, not of how it was measured."""
    return sha256_json({name: file for name, file in manifest["files"].items() if name not in (CARD, METRICS)})


def with_metrics(settings: Mapping[str, Any], tables: Mapping[str, Any]) -> dict[str, bytes]:
    """The files that carry a classifier's figures: metrics.json and the card, from evaluation tables."""
    kept = {name: {k: v for k, v in table.items() if k != "errors"} for name, table in tables.items()}
    return {METRICS: _json(kept).encode(), CARD: model_card(settings, kept).encode()}


def with_threshold(folder: Path, threshold: float, how: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The same classifier with another threshold, as another folder. `how` says by what it was chosen."""
    settings = read_settings(folder) | {"threshold": threshold, "threshold_chosen": dict(how)}
    settings.pop("validation", None)  # measured at the other threshold
    files = {SETTINGS: _json(settings).encode(), CARD: model_card(settings).encode()}
    copy_with(folder, files, out, settings)
    return settings


def read_settings(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    return settings


def copy_with(folder: Path, files: Mapping[str, bytes], out: Path, info: dict[str, Any] | None = None) -> None:
    """A verified copy of a classifier folder with some files replaced or added."""
    manifest = verify(folder, "classifier")
    with staged(out, "classifier", manifest["info"] if info is None else info) as beside:
        for name in manifest["files"]:
            if name not in files:
                (beside / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, beside / name)
        for name, content in files.items():
            (beside / name).write_bytes(content)


def manifest_with(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """MANIFEST.json of the folder with these files replaced or added, for a download made on the fly."""
    return _json(amended(manifest, files)).encode()
