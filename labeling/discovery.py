"""Which latents belong to the concept: figures per latent, from the store alone.

Everything comes from the train split of the store (METHOD: statistics from the corpus that is
then evaluated inflate the scores). Families of side mixed or unknown count on neither side.
A **strong** firing is more than `z` standard deviations above the latent's mean (METHOD step 1.3).
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling.artifacts import staged, verify
from labeling.cofiring import cofiring
from labeling.events import Artifact, Event, Progress
from labeling.store import Store
from labeling.tally import Tally, tallies
from labeling.vocabulary import Vocabulary, vocabulary

KIND = "discovery"

Table = dict[str, NDArray[Any]]


def latent_table(store: Store, sides: dict[str, str], z: float = 4.0) -> Table:
    """Figures per latent, each an array (d_sae,); `family_…` are (d_sae, family).

    density…        share of tokens on which the latent fires
    documents       share of documents in which it fires
    strong_…, rate_…  number and share of tokens on which it fires strongly
    ratio           smoothed strong rate on forget families over that on retain families
    family_ratio    the same against each retain family alone; NaN for other families
    ratio_nearest   its smallest: the retain family nearest to being a false positive
    auroc           of its value as a detector of forget-family tokens among both sides' tokens
    top_tokens      (d_sae, TOP) token ids on which it fires most, -1 where there are fewer
    """
    return _ranked(store, sides, list(tallies(store, _side_of(store, sides), z)))


def _side_of(store: Store, sides: dict[str, str]) -> NDArray[np.int8]:
    """+1 forget, -1 retain, 0 neither, per family of the store."""
    sign = {"forget": 1, "retain": -1}
    return np.array([sign.get(sides.get(family, "unknown"), 0) for family in store.families], np.int8)


def _ranked(store: Store, sides: dict[str, str], found: list[Tally]) -> Table:
    stats, side = store.stats, _side_of(store, sides)
    tokens = stats.family_tokens
    forget, retain = int(tokens[side > 0].sum()), int(tokens[side < 0].sum())
    strong = np.concatenate([tally.strong for tally in found])
    forgets, retains = strong[:, side > 0].sum(1), strong[:, side < 0].sum(1)
    forget_rate, retain_rate = jeffreys(forgets, forget), jeffreys(retains, retain)
    against = (side < 0) & (tokens > 0)
    family_ratio = np.full(strong.shape, np.nan)
    family_ratio[:, against] = forget_rate[:, None] / jeffreys(strong[:, against], tokens[against])
    ratio = forget_rate / retain_rate
    train_documents = sum(split == "train" for split in store.doc_split)
    return {
        "density": stats.active.sum(1) / max(stats.tokens, 1),
        "density_forget": stats.active[:, side > 0].sum(1) / max(forget, 1),
        "density_retain": stats.active[:, side < 0].sum(1) / max(retain, 1),
        "documents": np.concatenate([tally.documents for tally in found]) / max(train_documents, 1),
        "mean": stats.mean,
        "sd": stats.sd,
        "max": stats.max,
        "strong_forget": forgets,
        "strong_retain": retains,
        "rate_forget": forgets / max(forget, 1),
        "rate_retain": retains / max(retain, 1),
        "ratio": ratio,
        "ratio_nearest": np.nanmin(family_ratio, axis=1) if against.any() else ratio,
        "auroc": _auroc(stats.active, side, tokens, np.concatenate([tally.wins for tally in found])),
        "top_tokens": np.concatenate([tally.top for tally in found]),
        "family_density": stats.active / np.maximum(tokens, 1),
        "family_strong": strong,
        "family_ratio": family_ratio,
    }


def jeffreys(hits: NDArray[np.int64], n: int | NDArray[np.int64]) -> NDArray[np.float64]:
    """Rate under the Jeffreys prior: never 0, so a ratio of two is finite and modest on few tokens."""
    return (hits + 0.5) / (n + 1)


def _auroc(
    active: NDArray[np.int64], side: NDArray[np.int8], tokens: NDArray[np.int64], wins: NDArray[np.float64]
) -> NDArray[np.float64]:
    """AUROC from the firings alone: all other tokens tie at zero."""
    forget, retain = int(tokens[side > 0].sum()), int(tokens[side < 0].sum())
    if not forget or not retain:
        return np.full(len(wins), 0.5)
    fired = active[:, side > 0].sum(1)
    silent_retain, silent_forget = retain - active[:, side < 0].sum(1), forget - fired
    return (wins + fired * silent_retain + silent_forget * silent_retain / 2) / (forget * retain)


def discover(
    store_path: Path,
    sides: dict[str, str],
    out: Path,
    z: float = 4.0,
    text_of: Callable[[str], str] | None = None,
) -> Iterator[Event]:
    """Write the latent table of a store as an artifact; with `text_of`, also what its token ids read like."""
    store = Store.open(store_path)
    sides = {family: sides.get(family, "unknown") for family in store.families}
    for side in ("forget", "retain"):
        if not any(sides[f] == side and n for f, n in zip(store.families, store.stats.family_tokens, strict=True)):
            raise ValueError(f"no train tokens of a {side} family; import text of that side and harvest again")
    found: list[Tally] = []
    for tally in tallies(store, _side_of(store, sides), z):
        found.append(tally)
        yield Progress(tally.end, store.d_sae, "latents", "discover")
    table = _ranked(store, sides, found)
    for done, columns in cofiring(store):
        table |= columns
        yield Progress(done, store.d_sae, "latents", "fire together")
    words = None
    if text_of is not None:
        yield Progress(0, None, "", "read tokens")
        words = vocabulary(store, text_of)
    info = {
        "families": store.families,
        "sides": sides,
        "z": z,
        "latents": store.d_sae,
        "tokens": store.stats.tokens,
        "fired": int((table["density"] > 0).sum()),
        "selective": len(selective(table)),
        "l0": {f: float(l0) for f, l0 in zip(store.families, table["family_density"].sum(0), strict=True)},
    }
    with staged(out, KIND, info) as folder:
        np.savez(folder / "latents.npz", **table)  # type: ignore[arg-type]
        if words is not None:
            (folder / "vocabulary.json").write_text(json.dumps(words.to_json(), ensure_ascii=True), encoding="ascii")
    yield Artifact(KIND, out, info)


def open_table(path: Path) -> tuple[Table, dict[str, Any], Vocabulary | None]:
    """What `discover` wrote: the table, its info (families in the order of the `family_…` columns), the words."""
    info = verify(path, KIND)["info"]
    words = path / "vocabulary.json"
    known = Vocabulary.from_json(json.loads(words.read_text(encoding="ascii"))) if words.is_file() else None
    with np.load(path / "latents.npz", allow_pickle=False) as columns:
        return dict(columns), info, known


def selective(table: Table, ratio: float = 10, minimum: int = 50) -> NDArray[np.int64]:
    """Latents whose ratio reaches `ratio` with at least `minimum` strong firings, best first.

    The ratio screen, not captions, is what makes a selection precise (METHOD step 1.2).
    """
    chosen = np.flatnonzero((table["ratio"] >= ratio) & (table["strong_forget"] >= minimum))
    return chosen[np.argsort(-table["ratio"][chosen], kind="stable")]
