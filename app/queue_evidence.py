"""A candidate's evidence on one screen, kept once gathered: the next candidates are made ready while this one is read."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from app.artifacts import LatentTable
from app.dashboard import pictures, shaded
from app.latents import values_of
from app.shading import Pieces
from labeling.evidence import Example, Firings, examples, token_profile
from labeling.store import Store

AROUND = 15  # tokens on each side of the peak: about two lines
TOP, MIDDLE, TOKENS, FAMILIES = 5, 4, 14, 18
MIDDLE_FROM = 0.5  # the quantile that middling examples go down from
KEPT = 256


@dataclass(frozen=True)
class Line:
    """One example, cut to about two lines around its peak."""

    family: str
    value: float
    pieces: Pieces


@dataclass(frozen=True)
class Evidence:
    """Everything a person judges one latent by."""

    values: dict[str, float]
    pictures: dict[str, Any]  # as on the latent's own page
    tokens: list[tuple[str, int, float]]
    top: list[Line]
    middle: list[Line]


_kept: OrderedDict[tuple[Any, ...], tuple[Evidence, LatentTable]] = OrderedDict()
_lock = Lock()


def evidence(
    store: Store, table: LatentTable, latent: int, sides: Mapping[str, str], text_of: Callable[[str], str]
) -> Evidence:
    """From the cache if it was made ready."""
    key = (store, id(table.columns), latent, tuple(sorted(sides.items())))
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key][0]
    made = _gather(store, table, latent, sides, text_of)
    with _lock:
        _kept[key] = made, table  # holding the table keeps its id its own
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    return made


def _gather(
    store: Store, table: LatentTable, latent: int, sides: Mapping[str, str], text_of: Callable[[str], str]
) -> Evidence:
    firings = Firings.of(store, latent)
    drawn = pictures(firings, table, sides, latent)
    drawn["densities"] = drawn["densities"][:FAMILIES]
    peak = float(table["max"][latent])
    shown = {"top": (TOP, None), "middle": (MIDDLE, MIDDLE_FROM)}
    lines = {
        name: [_line(example, peak) for example in examples(firings, text_of, n, quantile=quantile)]
        for name, (n, quantile) in shown.items()
    }
    tokens = token_profile(firings, table.words, TOKENS).tokens if table.words else []
    return Evidence(values_of(table, latent), drawn, tokens, **lines)


def _line(example: Example, peak: float) -> Line:
    values = [value for _, _, value in example.tokens]
    at = values.index(max(values)) if values else 0
    near = example.tokens[max(0, at - AROUND) : at + AROUND + 1]
    if not near:
        return Line(example.family, example.value, [(example.text, "")])
    begin, stop = near[0][0], max(end for _, end, _ in near)
    text = example.text[begin:stop].replace("\n", " ")  # same length: offsets hold
    starts, ends = [start - begin for start, _, _ in near], [end - begin for _, end, _ in near]
    shown = shaded(text, starts, ends, [value for _, _, value in near], peak)
    return Line(example.family, example.value, [(piece, mark.split(" ")[0]) for piece, mark in shown])
