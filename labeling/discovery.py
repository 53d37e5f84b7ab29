"""Which latents belong to the concept: figures per latent, and the text they fire on.

Everything comes from the train split of the store (METHOD: statistics from the corpus that is
then evaluated inflate the scores). Families of side mixed or unknown count on neither side.
A **strong** firing is more than `z` standard deviations above the latent's mean (METHOD step 1.3).
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling.artifacts import staged, verify
from labeling.events import Artifact, Event, Progress
from labeling.store import Store

KIND = "discovery"
CONTEXT = 24  # tokens shown on each side of an example's peak

Table = dict[str, NDArray[Any]]


def latent_table(store: Store, sides: dict[str, str], z: float = 4.0) -> Table:
    """Figures per latent, each an array (d_sae,); `family_…` are (d_sae, family).

    density…        share of tokens on which the latent fires
    strong_…, rate_…  number and share of tokens on which it fires strongly
    ratio           smoothed strong rate on forget families over that on retain families
    ratio_nearest   the same against the one retain family where it fires most
    auroc           of its value as a detector of forget-family tokens among both sides' tokens
    """
    table = _firing(store, sides)
    for _ in _strong(store, sides, z, table):
        pass
    return table


def _side_of(store: Store, sides: dict[str, str]) -> NDArray[np.int8]:
    """+1 forget, -1 retain, 0 neither, per family of the store."""
    sign = {"forget": 1, "retain": -1}
    return np.array([sign.get(sides.get(family, "unknown"), 0) for family in store.families], np.int8)


def _firing(store: Store, sides: dict[str, str]) -> Table:
    """The columns that follow from the sums the store already keeps."""
    stats, side = store.stats, _side_of(store, sides)
    tokens = stats.family_tokens
    return {
        "density": stats.active.sum(1) / max(stats.tokens, 1),
        "density_forget": stats.active[:, side > 0].sum(1) / max(tokens[side > 0].sum(), 1),
        "density_retain": stats.active[:, side < 0].sum(1) / max(tokens[side < 0].sum(), 1),
        "mean": stats.mean,
        "sd": stats.sd,
        "max": stats.max,
        "family_density": stats.active / np.maximum(tokens, 1),
    }


def _strong(store: Store, sides: dict[str, str], z: float, table: Table) -> Iterator[int]:
    """Add the columns that need every posting; yields the number of latents done."""
    side, tokens, families = _side_of(store, sides), store.stats.family_tokens, len(store.families)
    family = np.where(store.token_split_mask("train"), store.token_family, np.int16(-1))
    threshold = store.stats.mean + z * store.stats.sd
    strong = np.zeros((store.d_sae, families), np.int64)
    auroc = np.full(store.d_sae, 0.5)
    forget, retain = int(tokens[side > 0].sum()), int(tokens[side < 0].sum())
    signs = np.append(side, np.int8(0))  # family -1, not train, is on neither side
    for latent in range(store.d_sae):
        where, values = store.latent(latent)
        if len(where):
            fam = family[where]
            hits = fam[(values > threshold[latent]) & (fam >= 0)]
            strong[latent] = np.bincount(hits, minlength=families)
            sign = signs[fam]
            auroc[latent] = _auroc(values[sign > 0], values[sign < 0], forget, retain)
        if latent % 256 == 255:
            yield latent + 1
    forgets, retains = strong[:, side > 0].sum(1), strong[:, side < 0].sum(1)
    table |= {
        "strong_forget": forgets,
        "strong_retain": retains,
        "rate_forget": forgets / max(forget, 1),
        "rate_retain": retains / max(retain, 1),
        "ratio": jeffreys(forgets, forget) / jeffreys(retains, retain),
        "auroc": auroc,
        "family_strong": strong,
    }
    rates = [jeffreys(strong[:, f], int(tokens[f])) for f in np.flatnonzero((side < 0) & (tokens > 0))]
    nearest = np.max(rates, axis=0) if rates else jeffreys(retains, retain)
    table["ratio_nearest"] = jeffreys(forgets, forget) / nearest


def jeffreys(hits: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Rate under the Jeffreys prior: never 0, so a ratio of two is finite and modest on few tokens."""
    return (hits + 0.5) / (n + 1)


def _auroc(forget: NDArray[np.float32], retain: NDArray[np.float32], n_forget: int, n_retain: int) -> float:
    """AUROC from the values above 0 alone: all other tokens tie at zero."""
    if not n_forget or not n_retain:
        return 0.5
    retain = np.sort(retain)
    below = np.searchsorted(retain, forget, "left").sum() + np.searchsorted(retain, forget, "right").sum()
    zeros = n_retain - len(retain)
    wins = below / 2 + len(forget) * zeros + (n_forget - len(forget)) * zeros / 2
    return float(wins / (n_forget * n_retain))


def discover(store_path: Path, sides: dict[str, str], out: Path, z: float = 4.0) -> Iterator[Event]:
    """Write the latent table of a store as an artifact."""
    store = Store.open(store_path)
    sides = {family: sides.get(family, "unknown") for family in store.families}
    for side in ("forget", "retain"):
        if not any(sides[f] == side and n for f, n in zip(store.families, store.stats.family_tokens, strict=True)):
            raise ValueError(f"no train tokens of a {side} family; import text of that side and harvest again")
    table = _firing(store, sides)
    for done in _strong(store, sides, z, table):
        yield Progress(done, store.d_sae, "latents", "discover")
    yield Progress(store.d_sae, store.d_sae, "latents", "discover")
    info = {
        "families": store.families,
        "sides": sides,
        "z": z,
        "latents": store.d_sae,
        "fired": int((table["density"] > 0).sum()),
        "selective": len(selective(table)),
    }
    with staged(out, KIND, info) as folder:
        np.savez(folder / "latents.npz", **table)  # type: ignore[arg-type]
    yield Artifact(KIND, out, info)


def open_table(path: Path) -> tuple[Table, dict[str, Any]]:
    """The table `discover` wrote, and its info (families in the order of the `family_…` columns)."""
    info = verify(path, KIND)["info"]
    with np.load(path / "latents.npz", allow_pickle=False) as columns:
        return dict(columns), info


def selective(table: Table, ratio: float = 10, minimum: int = 50) -> NDArray[np.int64]:
    """Latents whose ratio reaches `ratio` with at least `minimum` strong firings, best first.

    The ratio screen, not captions, is what makes a selection precise (METHOD step 1.2).
    """
    chosen = np.flatnonzero((table["ratio"] >= ratio) & (table["strong_forget"] >= minimum))
    return chosen[np.argsort(-table["ratio"][chosen], kind="stable")]


# --- evidence: the text a latent fires on ---------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A stretch of one document around a firing; `text` begins at `offset` of the document."""

    key: str
    family: str
    value: float  # at the peak
    text: str
    offset: int
    tokens: list[tuple[int, int, float]]  # (start, end, value), code points of `text`


def _train_postings(store: Store, latent: int) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """(token, value, document) of a latent's firings in train documents."""
    where, values = store.latent(latent)
    document = store.doc_of_tokens(where)
    train = np.array([split == "train" for split in store.doc_split], bool)[document]
    return where[train], values[train], document[train]


def examples(
    store: Store,
    latent: int,
    text_of: Callable[[str], str],
    n: int = 20,
    family: str | None = None,
    quantile: float | None = None,
) -> list[Example]:
    """Up to `n` firings, strongest first; with `quantile`, those from that share of its values downwards.

    The strongest firings always look clean: a middle quantile shows what the latent does on an
    ordinary day. Stretches that overlap or read the same are shown once.
    """
    where, values, document = _train_postings(store, latent)
    if family is not None:
        inside = np.array([f == family for f in store.doc_family], bool)[document]
        where, values, document = where[inside], values[inside], document[inside]
    order = np.argsort(-values, kind="stable")
    if quantile is not None:
        order = order[int((1 - quantile) * len(order)) :]
    text = lru_cache(maxsize=256)(text_of)
    shown: list[tuple[int, int]] = []  # (document, peak token)
    seen: set[str] = set()
    out: list[Example] = []
    for at in order[: 50 * n]:
        doc, token = int(document[at]), int(where[at])
        if any(d == doc and abs(t - token) <= CONTEXT for d, t in shown):
            continue
        whole = text(store.keys[doc])
        near = _text_span(store, doc, token, 4)
        surface = " ".join(whole[slice(*near)].lower().split())
        if surface in seen:
            continue
        seen.add(surface)
        shown.append((doc, token))
        out.append(_example(store, doc, token, float(values[at]), whole, where, values))
        if len(out) == n:
            break
    return out


def _stretch(store: Store, doc: int, token: int, around: int) -> tuple[int, int]:
    """Token range of `around` tokens on each side, within the document."""
    tokens = store.document(doc)
    return max(tokens.start, token - around), min(tokens.stop, token + around + 1)


def _text_span(store: Store, doc: int, token: int, around: int) -> tuple[int, int]:
    begin, end = _stretch(store, doc, token, around)
    return int(store.starts[begin]), int(store.ends[begin:end].max())


def _example(
    store: Store,
    doc: int,
    token: int,
    value: float,
    text: str,
    where: NDArray[np.int64],
    values: NDArray[np.float32],
) -> Example:
    begin, end = _stretch(store, doc, token, CONTEXT)
    first, last = _text_span(store, doc, token, CONTEXT)
    active = np.zeros(end - begin, np.float32)
    low, high = np.searchsorted(where, [begin, end])
    active[where[low:high] - begin] = values[low:high]
    spans = zip(store.starts[begin:end] - first, store.ends[begin:end] - first, active, strict=True)
    tokens = [(int(a), int(b), float(v)) for a, b, v in spans]
    return Example(store.keys[doc], store.doc_family[doc], value, text[first:last], first, tokens)


def token_profile(
    store: Store, latent: int, text_of: Callable[[str], str], limit: int = 30
) -> list[tuple[str, int, float]]:
    """The words a latent fires on: (surface, firings, mean value), most frequent first."""
    where, values, document = _train_postings(store, latent)
    ids, first, inverse, counts = np.unique(
        store.ids[where], return_index=True, return_inverse=True, return_counts=True
    )
    sums = np.bincount(inverse, values, len(ids))
    text = lru_cache(maxsize=256)(text_of)
    merged: dict[str, tuple[int, float]] = {}
    for i in np.argsort(-counts, kind="stable")[:limit]:
        token = int(where[first[i]])
        whole = text(store.keys[int(document[first[i]])])
        surface = whole[int(store.starts[token]) : int(store.ends[token])]
        count, total = merged.get(surface, (0, 0.0))
        merged[surface] = (count + int(counts[i]), total + float(sums[i]))
    profile = [(surface, count, total / count) for surface, (count, total) in merged.items()]
    return sorted(profile, key=lambda row: -row[1])


def histogram(
    store: Store, latent: int, bins: int = 40, families: Collection[str] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Train firings by value: (edges, counts). Counts span decades; draw them on a log scale.

    Edges do not depend on `families`, so that one selection can be drawn over another.
    """
    _, values, document = _train_postings(store, latent)
    edges = np.linspace(0, float(values.max()) if len(values) else 1.0, bins + 1)
    if families is not None:
        values = values[np.array([f in families for f in store.doc_family], bool)[document]]
    return edges, np.histogram(values, edges)[0]
