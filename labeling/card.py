"""The model card of a classifier folder: what it flags, how well, how to run it, what not to expect. No torch."""

import json
from collections.abc import Mapping
from typing import Any

SETS = {
    "gold": "gold labels",
    "test": "weak labels of the test split",
    "validation": "weak labels of the validation split (the threshold was chosen here)",
}
FIGURES = {
    "f1": "F1", "precision": "precision", "recall": "recall", "f2": "F2", "auroc": "AUROC",
    "pauroc": "AUROC at FPR ≤ 0.05", "fpr": "false-positive rate",
}  # fmt: skip


def model_card(settings: Mapping[str, Any], metrics: Mapping[str, Any] | None = None) -> str:
    """Hugging Face model card. `settings` as in tokensieve.json, `metrics` as in metrics.json."""
    metrics = {name: table for name, table in (metrics or {}).items() if name in SETS and table}
    name = settings.get("name") or "token classifier"
    parts = [
        _front_matter(settings, name, metrics),
        f"# {name}\n\n"
        "Marks the tokens of a text that a language model must not learn (FORGET) and those it may (RETAIN),\n"
        "after Rathi & Radford, *Shaping capabilities with token-level data filtering* (arXiv 2601.21571).",
        "## What FORGET means here\n" + _definition(settings.get("definition")),
        "## How to run it\n" + _usage(settings),
        "## Made from\n" + _lineage(settings),
        "## How well\n" + _figures(settings, metrics),
        "## Limits\n"
        "It learned from weak labels and repeats their mistakes. It was measured on the families of its own\n"
        "project; on other registers look at the false-positive rate on near-miss retain text first. F1 depends\n"
        "on how much forget text there is: with 19 retain documents per forget one, a false-positive rate of 10%\n"
        "means a precision of about 0.3.",
        "## Licence\n" + _licence(settings),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(settings: Mapping[str, Any], name: str, metrics: Mapping[str, Any]) -> str:
    # JSON strings are YAML strings, whatever they hold.
    lines = ["library_name: transformers", "pipeline_tag: token-classification", "tags: [tokensieve, data-filtering]"]
    if settings.get("licence"):
        lines.append(f"license: {json.dumps(str(settings['licence']).lower())}")
    backbone = str(settings.get("backbone", ""))
    if backbone.count("/") == 1:  # a hub id; the name of a folder would be a dead link
        lines.append(f"base_model: {json.dumps(backbone)}")
    if metrics:
        lines += ["model-index:", f"- name: {json.dumps(name, ensure_ascii=False)}", "  results:"]
        for key, table in metrics.items():
            shown = {k: table[k] for k in ("f1", "precision", "recall") if table.get(k) is not None}
            lines += [
                "  - task: {type: token-classification}",
                f"    dataset: {{name: {json.dumps(SETS[key])}, type: {json.dumps(key)}}}",
                "    metrics:",
                *(f"    - {{type: {k}, value: {value:.4f}}}" for k, value in shown.items()),
            ]
    return "\n".join(["---", *lines, "---"])


def _definition(definition: Any) -> str:
    if not definition:
        return "No definition was recorded."
    if isinstance(definition, str):
        return definition
    return "\n\n".join(f"**{key.capitalize()}:** {text}" for key, text in definition.items() if text)


def _usage(settings: Mapping[str, Any]) -> str:
    text = f"""```
tokensieve predict THIS_FOLDER documents.jsonl -o predictions.jsonl
tokensieve filter THIS_FOLDER corpus.parquet -o filtered --treatment mask
```
A token is forget when P(FORGET) >= {settings["threshold"]:.6g}. Texts are cut into windows of {settings["window"]} tokens that
overlap by {settings["overlap"]}; probabilities are averaged over {settings["smooth"]} tokens to either side."""
    if settings.get("architecture") != "bilm":  # whose code is not part of transformers
        text += """

With transformers alone:
```python
from transformers import pipeline
pipeline("token-classification", model="THIS_FOLDER")("The nurse inserted a catheter.")
```"""
    if settings.get("onnx"):
        text += """

With onnxruntime alone (no torch, no transformers):
```python
import numpy as np, onnxruntime as ort
from tokenizers import Tokenizer
tokenizer, session = Tokenizer.from_file("THIS_FOLDER/tokenizer.json"), ort.InferenceSession("THIS_FOLDER/model.onnx")
tokenizer.no_padding()
tokens = tokenizer.encode("The nurse inserted a catheter.")
feed = {"input_ids": np.array([tokens.ids]), "attention_mask": np.array([tokens.attention_mask])}
logits = session.run(["logits"], feed)[0][0]
p_forget = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
```"""
        if "model.int8.onnx" in settings["onnx"]:
            text += "\n`model.int8.onnx` has its matrices in 8 bits: smaller, faster where the CPU has VNNI, not quite the same p."
    return text


def _lineage(settings: Mapping[str, Any]) -> str:
    layer = f", a linear probe after block {settings['layer']}" if settings.get("layer") else ""
    lines = [f"- Backbone `{settings.get('backbone', 'unknown')}`, mode `{settings.get('mode', 'unknown')}`{layer}."]
    if data := settings.get("data"):
        families = ", ".join(f"{name} ({count:,})" for name, count in sorted(data["families"].items()))
        lines.append(f"- {data['documents']:,} documents: {families}. sha256 over all texts: `{data['sha256']}`.")
    if settings.get("train_tokens"):
        lines.append(f"- {settings['train_tokens']:,} training tokens.")
    if rule := settings.get("rule"):
        lines.append(f"- Weak labels of rule {rule.get('version')} (`{rule.get('sha256')}`): {_rule(rule)}")
    if reference := settings.get("reference"):
        lines.append(f"- Reference `{reference['model']}`, SAE `{reference['sae']}`, block {reference['layer']}.")
    return "\n".join(lines)


def _rule(rule: Mapping[str, Any]) -> str:
    latents = rule.get("latents") or []
    if isinstance(latents, int):  # an older export kept only how many
        return f"{latents} latents."
    shown = ", ".join(map(str, latents[:40])) + (f" and {len(latents) - 40} more" if len(latents) > 40 else "")
    text = f"{len(latents)} latents ({shown})" if latents else "no latents"
    others = [f"{f.get('kind')} `{f.get('name') or ''}`".replace(" ``", "") for f in rule.get("functions") or []]
    text += f"; {', '.join(others)}" if others else ""
    config = ", ".join(f"{key}={value}" for key, value in (rule.get("config") or {}).items() if value not in (None, []))
    return text + (f"; {config}." if config else ".")


def _figures(settings: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    if not metrics:
        validation = settings.get("validation")
        if not validation:
            return "Not measured yet at this threshold."
        rows = "\n".join(f"| {k} | {v:.4g} |" for k, v in validation.items() if isinstance(v, (int, float)))
        return f"Per word, against held-out *weak* labels, not gold:\n\n| validation | |\n|---|---|\n{rows}"
    head = f"Per word; 95% intervals resample documents.\n\n| | {' | '.join(SETS[name] for name in metrics)} |"
    lines = [head, "|---" * (len(metrics) + 1) + "|"]
    for key, label in FIGURES.items():
        lines.append(f"| {label} | " + " | ".join(_with(table, key) for table in metrics.values()) + " |")
    sizes = (f"{table['documents']:,} documents, {table['words']:,} words" for table in metrics.values())
    lines.append("| measured on | " + " | ".join(sizes) + " |")
    first, table = next(iter(metrics.items()))
    retain = {n: f for n, f in table.get("families", {}).items() if f.get("fpr") is not None}
    if retain:
        lines += ["", f"False-positive rate and recall per family, on {SETS[first]}:", "", "| | side | FPR | recall |", "|---|---|---|---|"]  # fmt: skip
        for family, row in sorted(retain.items(), key=lambda item: -item[1]["fpr"]):
            lines.append(f"| {family} | {row.get('side') or ''} | {_with(row, 'fpr')} | {_with(row, 'recall')} |")
    return "\n".join(lines)


def _with(table: Mapping[str, Any], key: str) -> str:
    value, interval = table.get(key), (table.get("intervals") or {}).get(key)
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _licence(settings: Mapping[str, Any]) -> str:
    backbone = settings.get("backbone", "unknown")
    if settings.get("licence"):
        return (
            f"The backbone `{backbone}` is under {settings['licence']}, and so are these weights, which derive from it."
        )
    return f"The licence of the backbone `{backbone}` was not recorded; these weights derive from it, so look it up before sharing them."
