"""Leave one family out: does a selection of latents hold for a register it has never seen?

Each forget and each retain family of the corpus is held out in turn. Means, deviations and the
ratio screen (METHOD step 1.2) are computed anew on the other families' train tokens, the rule
labels by that selection, and a row of the matrix says what share of each family's tokens it
flags. Shares are of validation documents, so that no row is measured on what it was chosen on.
Only latents vote: a family function would give the held-out family away.
"""

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling.artifacts import staged
from labeling.discovery import jeffreys
from labeling.documents import Document
from labeling.events import Artifact, Event, Progress
from labeling.label_models import score_labels
from labeling.rule import RuleConfig, is_forget, label
from labeling.store import Stats, Store

KIND = "transfer"
NONE = -1  # the first row: no family is held out


@dataclass(frozen=True)
class Screen:
    """The selection that is repeated for each family left out."""

    ratio: float = 10.0  # strong firing rate on forget text over that on retain text, at least
    minimum: int = 20  # strong firings on forget text, at least
    z: float = 4.0  # a firing is strong so many SDs above the latent's mean
    among: tuple[int, ...] | None = None  # choose among these latents only; None: all


@dataclass(frozen=True)
class Fold:
    """One selection: the family it has not seen, its statistics and its latents."""

    held_out: int  # index into the store's families, NONE for none
    stats: Stats
    latents: list[int]


def sums_by_family(store: Store) -> Generator[Event, None, NDArray[np.float64]]:
    """Sums of values and of their squares over train tokens: (d_sae, family, 2). The store keeps only their totals."""
    family = _train_family(store)
    sums = np.zeros((store.d_sae, len(store.families), 2))
    for latent in range(store.d_sae):
        tokens, values = store.latent(latent)
        mine = family[tokens]
        wide, count = values.astype(np.float64), len(store.families) + 1
        for power in (1, 2):
            sums[latent, :, power - 1] = np.bincount(mine + 1, wide**power, count)[1:]
        if latent % 256 == 0:
            yield Progress(latent, store.d_sae, "latents", "statistics per family")
    return sums


def _train_family(store: Store) -> NDArray[np.int64]:
    """Family of each token, -1 outside the train split."""
    return np.where(store.token_split_mask("train"), store.token_family, -1).astype(np.int64)


def stats_without(store: Store, sums: NDArray[np.float64], held_out: int) -> Stats:
    """The store's statistics as they were without one family."""
    keep = np.arange(len(store.families)) != held_out
    return Stats(
        sums[:, keep, 0].sum(1), sums[:, keep, 1].sum(1), store.stats.max,
        np.where(keep, store.stats.active, 0), np.where(keep, store.stats.family_tokens, 0),
    )  # fmt: skip


def select(
    store: Store, sides: Mapping[str, str], folds: Sequence[tuple[int, Stats]], screen: Screen
) -> Generator[Event, None, list[Fold]]:
    """Each fold with the latents that the screen lets through on its families."""
    family, count = _train_family(store), len(store.families)
    side = np.array([{"forget": 1, "retain": -1}.get(sides.get(f, ""), 0) for f in store.families])
    thresholds = np.array([s.mean + screen.z * s.sd for _, s in folds])  # (fold, d_sae)
    masks = np.array([[side * (np.arange(count) != held) == sign for sign in (1, -1)] for held, _ in folds])
    tokens = np.array([[int(store.stats.family_tokens[m].sum()) for m in mask] for mask in masks])  # (fold, 2)
    chosen: list[list[int]] = [[] for _ in folds]
    pool = range(store.d_sae) if screen.among is None else screen.among
    for done, latent in enumerate(pool):
        where, values = store.latent(latent)
        mine = family[where]
        for fold, threshold in enumerate(thresholds[:, latent]):
            strong = np.bincount(mine[values > threshold] + 1, minlength=count + 1)[1:]
            forget, retain = (int(strong[mask].sum()) for mask in masks[fold])
            n_forget, n_retain = tokens[fold]
            ratio = jeffreys(np.array(forget), n_forget) / jeffreys(np.array(retain), n_retain)
            if forget >= screen.minimum and ratio >= screen.ratio:
                chosen[fold].append(int(latent))
        if done % 64 == 0:
            yield Progress(done, len(pool), "latents", "select without each family")
    return [Fold(held, stats, latents) for (held, stats), latents in zip(folds, chosen, strict=True)]


def transfer_corpus(
    store_path: Path,
    sides: Mapping[str, str],
    config: RuleConfig,
    screen: Screen,
    gold: Sequence[Document],
    out: Path,
    info: dict[str, Any] | None = None,
) -> Iterator[Event]:
    """The step: `transfer.json`, a row per held-out family (first: none), a column per family."""
    store = Store.open(store_path)
    held = [i for i, f in enumerate(store.families) if sides.get(f) in ("forget", "retain") and _train_tokens(store, i)]
    for side in ("forget", "retain"):
        if sum(sides.get(store.families[i]) == side for i in held) < 2:
            raise ValueError(
                f"leaving one {side} family out needs at least two of them with train documents; import another"
            )
    sums = yield from sums_by_family(store)
    folds = yield from select(store, sides, [(i, stats_without(store, sums, i)) for i in (NONE, *held)], screen)
    rows: list[dict[str, Any]] = []
    for fold in folds:
        yield Progress(len(rows), len(folds), "families", "label without each family")
        rows.append(_row(store, fold, config, gold))
    base = set(folds[0].latents)
    for row in rows:
        row["kept"] = len(base & set(row["chosen"]))
    families = [
        {"name": f, "side": sides.get(f, "unknown"), "tokens": tokens}
        for f, tokens in zip(store.families, _validation_tokens(store), strict=True)
    ]
    said = {"families": families, "rows": rows, "screen": vars(screen), "config": config.model_dump(mode="json")}
    info = {**(info or {}), "latents": len(base), "families": len(held)}
    with staged(out, KIND, info) as folder:
        (folder / "transfer.json").write_text(json.dumps(said), encoding="utf-8")
    yield Artifact(KIND, out, info)


def _row(store: Store, fold: Fold, config: RuleConfig, gold: Sequence[Document]) -> dict[str, Any]:
    """Shares flagged per family on validation documents, and scores on gold."""
    labels = label(store, fold.latents, config, stats=fold.stats)
    mine = np.where(store.token_split_mask("validation"), store.token_family, -1).astype(np.int64)
    flagged = np.bincount(mine[is_forget(labels.flags)] + 1, minlength=len(store.families) + 1)[1:]
    shares = [int(f) / t if t else None for f, t in zip(flagged, _validation_tokens(store), strict=True)]
    held_out = None if fold.held_out == NONE else store.families[fold.held_out]
    return {"held_out": held_out, "latents": len(fold.latents), "chosen": fold.latents, "shares": shares,
            "gold": score_labels(store, labels.flags, gold)}  # fmt: skip


def _train_tokens(store: Store, family: int) -> int:
    return int(store.stats.family_tokens[family])


def _validation_tokens(store: Store) -> list[int]:
    mine = store.token_family[store.token_split_mask("validation")]
    return np.bincount(mine, minlength=len(store.families)).tolist()
