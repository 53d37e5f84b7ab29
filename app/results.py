"""The results table in plain text."""

from typing import Any

ROWS = ("validation", "test", "gold")


def results_table(info: dict[str, Any]) -> str:
    """One line per evaluated set, then false positives per retain family."""
    from labeling.evaluate import Scores, format_table

    found = {name: Scores.from_json(info[name]) for name in ROWS if name in info}
    return format_table(found) if found else "not evaluated yet"
