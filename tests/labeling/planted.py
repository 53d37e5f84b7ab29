"""Activation stores with chosen activations: in memory for many small cases, on disk for the real thing."""

from dataclasses import dataclass, field

import numpy as np

from labeling.ballots import Ballots, Votes
from labeling.rule import RuleConfig
from labeling.store import DocumentRow, Stats, Store, finish, write_shard, write_tables


@dataclass
class MemoryStore:
    """What `labeling.rule` asks of a Store. `acts` is dense, (tok, d_sae); `lengths` are tokens per document.

    Token i of each document covers characters [2i, 2i + 1).
    """

    acts: np.ndarray
    lengths: list[int]
    doc_family: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.n_tokens, self.d_sae = self.acts.shape
        assert sum(self.lengths) == self.n_tokens, (self.lengths, self.acts.shape)
        self.keys = [f"d{i}" for i in range(len(self.lengths))]
        self.doc_family = self.doc_family or ["any"] * len(self.lengths)
        self.doc_split = ["train"] * len(self.lengths)
        self.doc_indptr = np.concatenate(([0], np.cumsum(self.lengths))).astype(np.int64)
        self.starts = np.concatenate([np.arange(n) * 2 for n in self.lengths] or [[]]).astype(np.int32)
        self.ends = self.starts + 1
        self.info = {}
        wide = self.acts.astype(np.float64)
        self.stats = Stats(
            wide.sum(0), (wide**2).sum(0), wide.max(0, initial=0), (wide > 0).sum(0)[:, None], np.array([self.n_tokens])
        )

    def latent(self, latent):
        tokens = np.flatnonzero(self.acts[:, latent] > 0)
        return tokens, self.acts[tokens, latent].astype(np.float32)

    def __contains__(self, key):
        return key in self.keys

    def index_of(self, key):
        return {k: i for i, k in enumerate(self.keys)}[key]

    def doc_of_tokens(self, tokens):
        return np.searchsorted(self.doc_indptr, tokens, side="right") - 1

    def document(self, i):
        return slice(int(self.doc_indptr[i]), int(self.doc_indptr[i + 1]))


def disk_store(folder, acts, lengths, families, splits=None):
    """The same as a sealed store of one shard."""
    memory = MemoryStore(acts, lengths, families)
    tokens, latents = np.nonzero(acts)
    write_shard(folder / "shards" / "00000", latents, tokens, acts[tokens, latents], *acts.shape)
    splits = splits or ["train"] * len(lengths)
    rows = [
        DocumentRow(k, "0" * 64, f, s, n, 0) for k, f, s, n in zip(memory.keys, families, splits, lengths, strict=True)
    ]
    write_tables(folder, rows, np.zeros(len(acts), np.int32), memory.starts, memory.ends)
    finish(folder, rows, acts.shape[1], {"reference": "planted"})
    return Store.open(folder)


def ballots_of(rows, lengths=None, kinds=(), vetoes=(), **config):
    """Ballots of a dense vote matrix, one row a function: [[1, 0, -1], …]. Named a, b, c …; nothing grows."""
    rows = np.array(rows, dtype=np.int8).reshape(len(rows), -1)
    lengths = lengths or [rows.shape[1]]
    functions = [
        Votes(chr(97 + n) if n < 26 else f"f{n}", "latent", np.flatnonzero(row).astype(np.int32), row[row != 0],
              np.zeros(0, np.int32), veto=n in vetoes)
        for n, row in enumerate(rows)
    ]  # fmt: skip
    vetoed = (rows[list(vetoes)] < 0).any(0) if vetoes else np.zeros(rows.shape[1], bool)
    counted = np.delete(rows, list(vetoes), axis=0)
    n = rows.shape[1]
    return Ballots(
        RuleConfig(boundary="seeds", **config), functions, np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        counted.sum(0, dtype=np.int32), np.zeros(n, np.float32), np.zeros(n, np.uint16), vetoed, {},
    )  # fmt: skip
