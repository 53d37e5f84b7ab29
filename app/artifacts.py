"""Finished folders, opened once and kept open: pages ask them many small questions.

Keyed by the folder and its manifest's time, so that a folder made again is opened again.
Nothing here imports torch: the web process reads artifacts with numpy only.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from app.models import Artifact
from app.settings import Settings
from labeling import discovery, votes
from labeling.artifacts import MANIFEST, ArtifactError, verify
from labeling.predictions import PredictionStore
from labeling.store import Store
from labeling.vocabulary import Vocabulary
from labeling.votes import StoredVotes


@dataclass(frozen=True)
class LatentTable:
    """Every latent's statistics over the train split, as `labeling.discovery.discover` wrote them."""

    columns: dict[str, NDArray[Any]]  # (d_sae,) or (d_sae, families)
    families: list[str]
    info: dict[str, Any]
    words: Vocabulary | None = None

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A column; `ratio:FAMILY` is the ratio against that retain family alone."""
        if name.startswith("ratio:"):
            column: NDArray[Any] = self.columns["family_ratio"][:, self.families.index(name[6:])]
            return column
        return self.columns[name]

    @property
    def complete(self) -> bool:
        """Whether this version made it; an older discovery has fewer columns and no words."""
        return "top_tokens" in self.columns and self.words is not None

    def surfaces(self, latent: int) -> list[str]:
        """The tokens on which it fires most; none in an older discovery."""
        if self.words is None or "top_tokens" not in self.columns:
            return []
        found = (self.words[int(token)] for token in self.columns["top_tokens"][latent] if token >= 0)
        return list(dict.fromkeys(surface for surface in found if surface.strip()))

    def __len__(self) -> int:
        return len(self.columns["density"])


@dataclass(frozen=True)
class LatentWeights:
    """What the model's and the SAE's weights say of every latent, as `labeling.weights.describe` wrote it."""

    columns: dict[str, NDArray[Any]]
    tokens: dict[str, str]
    info: dict[str, Any]

    def near(self, latent: int) -> Sequence[tuple[int, float]]:
        """(latent, cosine) of the nearest decoder directions."""
        pairs = zip(self.columns["near"][latent], self.columns["near_cosine"][latent], strict=True)
        return [(int(other), float(cosine)) for other, cosine in pairs]

    def logits(self, latent: int, which: str) -> Sequence[tuple[str, float]]:
        """(token, logit) of the `promoted` or `suppressed` tokens; none where the model has no output head."""
        if which not in self.columns:
            return []
        pairs = zip(self.columns[which][latent], self.columns[f"{which}_logit"][latent], strict=True)
        return [(self.tokens[str(token)], float(logit)) for token, logit in pairs]


def folder_of(settings: Settings, artifact: Artifact) -> Path:
    return settings.data_dir / artifact.path


def time_of(folder: Path) -> int:
    try:
        return (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        raise ArtifactError(f"{folder}: no {MANIFEST}; not a finished Tokensieve folder") from None


def open_store(settings: Settings, artifact: Artifact) -> Store:
    folder = folder_of(settings, artifact)
    return _store(folder, time_of(folder))


def open_table(settings: Settings, artifact: Artifact) -> LatentTable:
    folder = folder_of(settings, artifact)
    return _table(folder, time_of(folder))


def open_weights(settings: Settings, artifact: Artifact) -> LatentWeights:
    folder = folder_of(settings, artifact)
    return _weights(folder, time_of(folder))


def open_labels(settings: Settings, artifact: Artifact) -> UInt8[np.ndarray, " tok"]:
    """0 retain, 1 grown, 2 seed, 3 vetoed; aligned with the tokens of the store they were made on."""
    folder = folder_of(settings, artifact)
    return _labels(folder, time_of(folder))


def open_predictions(settings: Settings, artifact: Artifact) -> PredictionStore:
    folder = folder_of(settings, artifact)
    return _predictions(folder, time_of(folder))


def open_votes(settings: Settings, artifact: Artifact) -> StoredVotes:
    """One function's votes over a store."""
    folder = folder_of(settings, artifact)
    return _votes(folder, time_of(folder))


@lru_cache(maxsize=8)
def _store(folder: Path, time: int) -> Store:
    return Store.open(folder)


@lru_cache(maxsize=8)
def _table(folder: Path, time: int) -> LatentTable:
    columns, info, words = discovery.open_table(folder)
    return LatentTable(columns, list(info["families"]), info, words)


@lru_cache(maxsize=8)
def _weights(folder: Path, time: int) -> LatentWeights:
    info = verify(folder, "weights")["info"]
    tokens = json.loads((folder / "tokens.json").read_text(encoding="ascii"))
    with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
        return LatentWeights(dict(arrays), tokens, info)


@lru_cache(maxsize=8)
def _labels(folder: Path, time: int) -> UInt8[np.ndarray, " tok"]:
    verify(folder, "labels")
    labels: UInt8[np.ndarray, " tok"] = np.load(folder / "labels.npy", mmap_mode="r", allow_pickle=False)
    return labels


@lru_cache(maxsize=8)
def _predictions(folder: Path, time: int) -> PredictionStore:
    return PredictionStore.open(folder)


@lru_cache(maxsize=64)
def _votes(folder: Path, time: int) -> StoredVotes:
    return votes.open_votes(folder)
