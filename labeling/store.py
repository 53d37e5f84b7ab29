"""The activation store: harvest once, ask often (DESIGN, storage). numpy only, no torch.

Postings are kept by latent (CSC): a question about one latent over the whole corpus reads that
latent's bytes and nothing else.

    shards/00000/indptr.npy   int64 (d_sae + 1,)
                 tokens.npy   int32, index within the shard, ascending within a latent
                 values.npy   float16, > 0
    ids.npy starts.npy ends.npy   int32 (tok,), the whole corpus; offsets are code points
    documents.parquet         key, sha256, family, split, first_token, shard
    stats.npz                 per-latent sums over the tokens of the train split only
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from labeling.artifacts import read_manifest, seal

KIND = "store"
HALF_MIN, HALF_MAX = np.float16(6e-8), np.float16(65504)


def half_below(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Bits of the largest float16 not above each value (0 below 0): `x > value` is `bits(x) > half_below(value)`."""
    values = np.clip(values, 0, float(HALF_MAX))
    bits = values.astype(np.float16).view(np.uint16)
    return bits - (bits.view(np.float16).astype(np.float64) > values).astype(np.uint16)


@dataclass(frozen=True)
class Stats:
    """Sums over train tokens, zeros included, special tokens left out (METHOD step 1.3)."""

    sum: NDArray[np.float64]  # (d_sae,)
    sumsq: NDArray[np.float64]  # (d_sae,)
    max: NDArray[np.float64]  # (d_sae,)
    active: NDArray[np.int64]  # (d_sae, family): tokens on which the latent is above 0
    family_tokens: NDArray[np.int64]  # (family,)

    @property
    def tokens(self) -> int:
        return int(self.family_tokens.sum())

    @property
    def mean(self) -> NDArray[np.float64]:
        return self.sum / max(self.tokens, 1)

    @property
    def sd(self) -> NDArray[np.float64]:
        """Population standard deviation."""
        variance = self.sumsq / max(self.tokens, 1) - self.mean**2
        return np.sqrt(np.maximum(variance, 0))


@dataclass(frozen=True)
class DocumentRow:
    """A document as the store knows it: everything but its text."""

    key: str
    sha256: str
    family: str
    split: str
    tokens: int
    shard: int


@dataclass(frozen=True)
class Shard:
    """Postings of a stretch of whole documents, by latent."""

    first: int  # corpus index of the shard's first token
    indptr: NDArray[np.int64]
    tokens: NDArray[np.int32]
    values: NDArray[np.float16]

    @classmethod
    def open(cls, folder: Path, first: int) -> "Shard":
        return cls(first, *(_map(folder / f"{name}.npy") for name in ("indptr", "tokens", "values")))


def _map(path: Path) -> NDArray[Any]:
    """A plain view of the file's memory map: slicing np.memmap itself costs several times as much."""
    return np.load(path, mmap_mode="r").view(np.ndarray)  # type: ignore[no-any-return]


class Store:
    """A sealed store, memory-mapped. Safe to share between threads: nothing is written."""

    def __init__(self, path: Path, info: dict[str, Any]):
        self.path, self.info = path, info
        self.d_sae: int = info["d_sae"]
        self.families: list[str] = info["families"]
        load = (_map(path / f"{name}.npy") for name in ("ids", "starts", "ends"))
        self.ids, self.starts, self.ends = load  # each int32 (tok,)
        self.n_tokens = len(self.ids)
        table = pq.read_table(path / "documents.parquet").to_pydict()
        self.keys: list[str] = table["key"]
        self.doc_sha256: list[str] = table["sha256"]
        self.doc_family: list[str] = table["family"]
        self.doc_split: list[str] = table["split"]
        self.doc_indptr: NDArray[np.int64] = np.append(np.array(table["first_token"], np.int64), self.n_tokens)
        shard_of = np.array(table["shard"], np.int64)
        self.doc_shard = shard_of
        firsts = self.doc_indptr[np.flatnonzero(np.diff(shard_of, prepend=-1))]
        self.shards = [Shard.open(path / "shards" / f"{i:05d}", int(first)) for i, first in enumerate(firsts)]
        with np.load(path / "stats.npz", allow_pickle=False) as stats:
            self.stats = Stats(**{name: stats[name] for name in ("sum", "sumsq", "max", "active", "family_tokens")})

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open a finished store; ArtifactError if it is missing, incomplete or of another kind."""
        return cls(path, read_manifest(path, KIND)["info"])

    def latent(self, latent: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Where one latent fires, over the whole corpus: (token indices ascending, values)."""
        if not 0 <= latent < self.d_sae:
            raise ValueError(f"latent {latent} does not exist; this SAE has latents 0 to {self.d_sae - 1}")
        where: list[NDArray[np.int64]] = []
        values: list[NDArray[np.float16]] = []
        for shard in self.shards:
            begin, end = shard.indptr[latent], shard.indptr[latent + 1]
            if begin < end:
                where.append(shard.tokens[begin:end] + np.int64(shard.first))
                values.append(shard.values[begin:end])
        if not where:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        return np.concatenate(where), np.concatenate(values).astype(np.float32)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {key: i for i, key in enumerate(self.keys)}

    def index_of(self, key: str) -> int:
        """Position of a document; KeyError if the store does not hold it."""
        return self._index[key]

    def __contains__(self, key: str) -> bool:
        return key in self._index

    def document(self, i: int) -> slice:
        """The tokens of document `i`."""
        return slice(int(self.doc_indptr[i]), int(self.doc_indptr[i + 1]))

    def doc_of_tokens(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Document index of each token index."""
        return np.searchsorted(self.doc_indptr, tokens, side="right") - 1

    def doc_in_split(self, split: str) -> NDArray[np.bool_]:
        """Which documents are of `split`. Shape (document,)."""
        return self._doc_split == split

    @cached_property
    def _doc_split(self) -> NDArray[np.str_]:
        return np.array(self.doc_split, np.str_)

    @cached_property
    def doc_family_index(self) -> NDArray[np.int16]:
        """Index into `families`, per document."""
        index = {family: i for i, family in enumerate(self.families)}
        return np.array([index[f] for f in self.doc_family], np.int16)

    def token_split_mask(self, split: str) -> NDArray[np.bool_]:
        """Which tokens belong to documents of `split`. Shape (tok,)."""
        return np.repeat(self.doc_in_split(split), np.diff(self.doc_indptr))

    @cached_property
    def token_family(self) -> NDArray[np.int16]:
        """Index into `families`, per token."""
        return np.repeat(self.doc_family_index, np.diff(self.doc_indptr))


# --- writing ------------------------------------------------------------------------------------


def _save(path: Path, array: NDArray[Any]) -> None:
    """np.save, on the disk before it returns: a shard that was renamed into place is whole."""
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def write_shard(
    folder: Path,
    latents: NDArray[np.integer[Any]],
    tokens: NDArray[np.integer[Any]],
    values: NDArray[np.floating[Any]],
    n_tokens: int,
    d_sae: int,
) -> None:
    """Write the three arrays of one shard from (latent, token, value) triples in any order.

    float16 keeps three digits, plenty for thresholds. What is above 0 stays above 0 and large
    values are cut at 65504 rather than becoming infinite.
    """
    order = np.argsort(latents.astype(np.int64) * n_tokens + tokens)
    indptr = np.zeros(d_sae + 1, np.int64)
    np.cumsum(np.bincount(latents, minlength=d_sae), out=indptr[1:])
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / "indptr.npy", indptr)
    _save(folder / "tokens.npy", tokens[order].astype(np.int32))
    _save(folder / "values.npy", np.clip(values[order], HALF_MIN, HALF_MAX).astype(np.float16))


def write_tables(
    folder: Path,
    documents: Sequence[DocumentRow],
    ids: NDArray[np.int32],
    starts: NDArray[np.int32],
    ends: NDArray[np.int32],
) -> None:
    """The token table and the document table of the whole corpus."""
    for name, array in (("ids", ids), ("starts", starts), ("ends", ends)):
        _save(folder / f"{name}.npy", array.astype(np.int32, copy=False))
    first = np.cumsum([0] + [d.tokens for d in documents])
    assert first[-1] == len(ids), (first[-1], len(ids))
    texts = ("key", "sha256", "family", "split")
    columns = {name: pa.array([getattr(d, name) for d in documents], pa.string()) for name in texts}
    columns["first_token"] = pa.array(first[:-1], pa.int64())
    columns["shard"] = pa.array([d.shard for d in documents], pa.int32())
    pq.write_table(pa.table(columns), folder / "documents.parquet")


def train_statistics(folder: Path, documents: Sequence[DocumentRow], families: list[str], d_sae: int) -> Stats:
    """Sums over the train split, read back from the shards on disk: any other token counts nowhere."""
    sums, sumsq, peak = (np.zeros(d_sae) for _ in range(3))
    active = np.zeros((d_sae, len(families)), np.int64)
    family_tokens = np.zeros(len(families), np.int64)
    index = {family: i for i, family in enumerate(families)}
    by_shard: dict[int, list[DocumentRow]] = {}
    for document in documents:
        by_shard.setdefault(document.shard, []).append(document)
    for number, rows in by_shard.items():
        codes = np.array([index[d.family] if d.split == "train" else -1 for d in rows], np.int16)
        family = np.repeat(codes, [d.tokens for d in rows])  # (tok,), -1: not train
        family_tokens += np.bincount(family[family >= 0], minlength=len(families))
        shard = Shard.open(folder / "shards" / f"{number:05d}", 0)
        for begin in range(0, d_sae, 1024):  # blocks of latents keep the temporaries small
            end = min(begin + 1024, d_sae)
            span = slice(shard.indptr[begin], shard.indptr[end])
            code = family[shard.tokens[span]]
            train = code >= 0
            latent = np.repeat(np.arange(end - begin), np.diff(shard.indptr[begin : end + 1]))[train]
            value = shard.values[span][train].astype(np.float64)
            sums[begin:end] += np.bincount(latent, value, end - begin)
            sumsq[begin:end] += np.bincount(latent, value**2, end - begin)
            np.maximum.at(peak[begin:end], latent, value)
            cells = np.bincount(latent * len(families) + code[train], minlength=(end - begin) * len(families))
            active[begin:end] += cells.reshape(end - begin, len(families))
    return Stats(sums, sumsq, peak, active, family_tokens)


def finish(folder: Path, documents: Sequence[DocumentRow], d_sae: int, info: dict[str, Any]) -> dict[str, Any]:
    """Statistics and manifest for a folder that has its shards and tables. Returns the stored info."""
    families = sorted({d.family for d in documents})
    stats = train_statistics(folder, documents, families, d_sae)
    np.savez(
        folder / "stats.npz",
        sum=stats.sum, sumsq=stats.sumsq, max=stats.max, active=stats.active, family_tokens=stats.family_tokens,
    )  # fmt: skip
    full = info | {
        "d_sae": d_sae,
        "families": families,
        "documents": len(documents),
        "tokens": sum(d.tokens for d in documents),
        "train_tokens": stats.tokens,
        "l0": float(stats.active.sum() / max(stats.tokens, 1)),
    }
    seal(folder, KIND, full)
    return full
