"""Finished folders, opened once and kept open: pages ask them many small questions.

Keyed by the folder and its manifest's time, so that a folder made again is opened again.
Nothing here imports torch: the web process reads artifacts with numpy only.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from app.models import Artifact
from app.settings import Settings
from labeling.artifacts import MANIFEST, ArtifactError, verify
from labeling.predictions import PredictionStore
from labeling.store import Store


@dataclass(frozen=True)
class LatentTable:
    """Every latent's statistics over the train split, as `labeling.discovery.discover` wrote them."""

    columns: dict[str, NDArray[Any]]  # (d_sae,) or (d_sae, families)
    families: list[str]
    info: dict[str, Any]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["density"])


def folder_of(settings: Settings, artifact: Artifact) -> Path:
    return settings.data_dir / artifact.path


def _time(folder: Path) -> int:
    try:
        return (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        raise ArtifactError(f"{folder}: no {MANIFEST}; not a finished Tokensieve folder") from None


def open_store(settings: Settings, artifact: Artifact) -> Store:
    folder = folder_of(settings, artifact)
    return _store(folder, _time(folder))


def open_table(settings: Settings, artifact: Artifact) -> LatentTable:
    folder = folder_of(settings, artifact)
    return _table(folder, _time(folder))


def open_labels(settings: Settings, artifact: Artifact) -> UInt8[np.ndarray, " tok"]:
    """0 retain, 1 grown, 2 seed, 3 vetoed; aligned with the tokens of the store they were made on."""
    folder = folder_of(settings, artifact)
    return _labels(folder, _time(folder))


def open_predictions(settings: Settings, artifact: Artifact) -> PredictionStore:
    folder = folder_of(settings, artifact)
    return _predictions(folder, _time(folder))


@lru_cache(maxsize=8)
def _store(folder: Path, time: int) -> Store:
    return Store.open(folder)


@lru_cache(maxsize=8)
def _table(folder: Path, time: int) -> LatentTable:
    info = verify(folder, "discovery")["info"]
    with np.load(folder / "latents.npz", allow_pickle=False) as arrays:
        return LatentTable({name: arrays[name] for name in arrays.files}, list(info["families"]), info)


@lru_cache(maxsize=8)
def _labels(folder: Path, time: int) -> UInt8[np.ndarray, " tok"]:
    verify(folder, "labels")
    labels: UInt8[np.ndarray, " tok"] = np.load(folder / "labels.npy", mmap_mode="r", allow_pickle=False)
    return labels


@lru_cache(maxsize=8)
def _predictions(folder: Path, time: int) -> PredictionStore:
    return PredictionStore.open(folder)
