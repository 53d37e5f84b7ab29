"""The results table in plain text."""

from typing import Any

ROWS = ("validation", "test", "gold", "sealed")


def results_table(info: dict[str, Any]) -> str:
    """One line per evaluated set, false positives per retain family, then the baselines beside it on each set."""
    from labeling.evaluate import Scores, format_table, summary

    found = {name: Scores.from_json(info[name]) for name in ROWS if name in info}
    if not found:
        return "not evaluated yet"
    tables = [format_table(found)]
    baselines: dict[str, dict[str, Any]] = info.get("baselines") or {}
    for name, own in found.items():
        others = {b: Scores.from_json(stored[name]) for b, stored in baselines.items() if name in stored}
        if others:
            rule = "" if "rule" in others else " (the rule made these labels, so they cannot judge it)"
            tables.append(f"{name}, beside its baselines{rule}\n" + summary({"classifier": own, **others}))
    if missing := info.get("baselines_missing"):
        tables.append(f"baselines: {missing}")
    return "\n\n".join(tables)
