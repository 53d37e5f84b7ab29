"""Scored documents: one in memory, a corpus of them on disk. numpy only, so pages may read them."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from labeling.artifacts import read_manifest, staged
from labeling.events import Artifact, Event, Progress
from labeling.store import Store
from labeling.tokens import Spans, to_spans


@dataclass(frozen=True)
class Prediction:
    """P(forget) of every token of one document, each exactly once, in order."""

    id: str
    starts: NDArray[np.int32]  # (tok,) code points of the document's text
    ends: NDArray[np.int32]  # (tok,)
    p: NDArray[np.float32]  # (tok,)

    def __len__(self) -> int:
        return len(self.p)

    def spans(self, threshold: float) -> Spans:
        return to_spans(self.p >= threshold, self.starts, self.ends)

    def to_json(self, threshold: float) -> dict[str, Any]:
        """One line of a predictions file (DESIGN, formats)."""
        rows = zip(self.starts.tolist(), self.ends.tolist(), self.p.tolist(), strict=True)
        return {
            "id": self.id,
            "spans": [list(span) for span in self.spans(threshold)],
            "tokens": [[start, end, round(p, 6)] for start, end, p in rows],
        }

    def carried(self, starts: NDArray[np.integer[Any]], ends: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Scores for another tokenizer's tokens of the same text: the highest p each one touches.

        What lies between two tokens (blanks, mostly) has the lower of their two scores, as a span
        runs across it only when both are forget. So thresholding what comes back gives the tokens
        that overlap `spans(threshold)`, for every threshold at once (METHOD step 1.5).
        """
        pieces = _with_gaps(self.starts, self.ends, self.p)
        return _highest(*pieces, starts, ends)


def in_store(store: Store, i: int, p: NDArray[Any]) -> Prediction:
    """Document `i` of a store with its part of `p` (tok,), which has a number for each of the store's tokens."""
    where = store.document(i)
    starts, ends = np.array(store.starts[where]), np.array(store.ends[where])
    return Prediction(store.keys[i], starts, ends, p[where].astype(np.float32))


def _with_gaps(
    starts: NDArray[np.int32], ends: NDArray[np.int32], p: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Tokens and the gaps between them, in text order: (tok,) each -> (2 tok - 1,) each."""
    n = max(2 * len(p) - 1, 0)
    begin, stop, value = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.float32)
    begin[::2], stop[::2], value[::2] = starts, ends, p
    begin[1::2], value[1::2] = ends[:-1], np.minimum(p[:-1], p[1:])
    stop[1::2] = np.maximum(starts[1:], ends[:-1])  # bytes of one character share their offsets: no gap
    return begin, stop, value


def _highest(
    begin: NDArray[np.int32],
    stop: NDArray[np.int32],
    value: NDArray[np.float32],
    starts: NDArray[np.integer[Any]],
    ends: NDArray[np.integer[Any]],
) -> NDArray[np.float32]:
    """Highest value among the pieces that overlap each [start, end); 0 where none does."""
    first = np.searchsorted(np.maximum.accumulate(stop), starts, side="right")
    last = np.searchsorted(np.maximum.accumulate(begin), ends, side="left")
    touched = (first < last) & (ends > starts)
    out = np.zeros(len(starts), np.float32)
    if touched.any():
        # reduceat takes [first, last) pairs flattened; every other result is the one between pairs.
        edges = np.stack((first[touched], last[touched]), axis=1).ravel()
        out[touched] = np.maximum.reduceat(np.append(value, np.float32(0)), edges)[::2]
    return out


@dataclass(frozen=True)
class PredictionStore:
    """A corpus's predictions in memory-mapped arrays; one document is a slice of them."""

    path: Path
    info: dict[str, Any]
    keys: list[str]
    indptr: NDArray[np.int64]  # (documents + 1,)
    starts: NDArray[np.int32]  # (tok,)
    ends: NDArray[np.int32]  # (tok,)
    p: NDArray[np.float16]  # (tok,)

    @classmethod
    def open(cls, path: Path) -> "PredictionStore":
        manifest = read_manifest(path, "predictions")
        keys = json.loads((path / "keys.json").read_text(encoding="utf-8"))
        return cls(path, manifest["info"], keys, *(_open_array(path / f"{name}.npy") for name in _ARRAYS))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {key: i for i, key in enumerate(self.keys)}

    def document(self, key: str) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]] | None:
        """(starts, ends, p) of one document, or None if it was not scored."""
        i = self._index.get(key)
        if i is None:
            return None
        tokens = slice(int(self.indptr[i]), int(self.indptr[i + 1]))
        return np.array(self.starts[tokens]), np.array(self.ends[tokens]), self.p[tokens].astype(np.float32)

    def __iter__(self) -> Iterator[Prediction]:
        for key in self.keys:
            found = self.document(key)
            assert found is not None, key
            yield Prediction(key, *found)


_ARRAYS = ("indptr", "starts", "ends", "p")


def _open_array(path: Path) -> NDArray[Any]:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def write_predictions(predictions: Iterable[Prediction], out: Path, info: dict[str, Any]) -> Iterator[Event]:
    """Write a PredictionStore while predictions stream in; nothing but the keys is held in memory."""
    with staged(out, "predictions", info) as folder:
        keys, indptr = [], [0]
        with (
            open(folder / "starts", "wb") as starts,
            open(folder / "ends", "wb") as ends,
            open(folder / "p", "wb") as p,
        ):
            for prediction in predictions:
                starts.write(prediction.starts.astype(np.int32).tobytes())
                ends.write(prediction.ends.astype(np.int32).tobytes())
                p.write(prediction.p.astype(np.float16).tobytes())
                keys.append(prediction.id)
                indptr.append(indptr[-1] + len(prediction))
                yield Progress(indptr[-1], None, "tokens", "predict")
        (folder / "keys.json").write_text(json.dumps(keys), encoding="utf-8")
        np.save(folder / "indptr.npy", np.array(indptr, np.int64), allow_pickle=False)
        for name, dtype in (("starts", np.int32), ("ends", np.int32), ("p", np.float16)):
            _add_header(folder / name, np.dtype(dtype), indptr[-1])
        info |= {"documents": len(keys), "tokens": indptr[-1]}
    yield Artifact("predictions", out, info)


def _add_header(raw: Path, dtype: np.dtype[Any], length: int) -> None:
    """Raw numbers become a .npy file; its header holds the length, which is only known now."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    with open(raw.with_suffix(".npy"), "wb") as whole, open(raw, "rb") as numbers:
        np.lib.format.write_array_header_1_0(whole, header)
        _copy(numbers, whole)
    raw.unlink()


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    while block := source.read(1 << 22):
        target.write(block)
    target.flush()
    os.fsync(target.fileno())
