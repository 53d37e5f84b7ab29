"""A synthetic activation store of any size: heavy-tailed densities, some latents that follow one family."""

from pathlib import Path

import numpy as np

from labeling.store import DocumentRow, finish, write_shard, write_tables

FAMILIES = ("pubmed", "biology", "encyclopedia", "web")
SIDES = {"pubmed": "forget", "biology": "retain", "encyclopedia": "retain", "web": "retain"}


def plant(
    folder: Path, latents: int, tokens: int, l0: float, document: int = 500, shard: int = 131_072, seed: int = 0
) -> None:
    """Write a sealed store; documents of `document` tokens, families in turn, every tenth one not in train."""
    rng = np.random.default_rng(seed)
    density = np.minimum(rng.lognormal(0, 2, latents), 400)
    density *= l0 / density.sum()
    density = np.minimum(density, 0.5)
    lean = rng.choice(len(FAMILIES) + 12, latents)  # most latents follow no family
    rows = [
        DocumentRow(f"d{i}", "0" * 64, FAMILIES[i % len(FAMILIES)], "validation" if i % 10 == 9 else "train",
                    min(document, tokens - at), at // shard)
        for i, at in enumerate(range(0, tokens, document))
    ]  # fmt: skip
    family = np.repeat([i % len(FAMILIES) for i in range(len(rows))], [row.tokens for row in rows])
    shards = np.repeat([row.shard for row in rows], [row.tokens for row in rows])
    for number in range(rows[-1].shard + 1):
        at = np.flatnonzero(shards == number)
        counts = rng.poisson(density * len(at))
        latent = np.repeat(np.arange(latents), counts)
        token = rng.integers(0, len(at), len(latent))
        stays = (lean[latent] >= len(FAMILIES)) | (family[at[token]] == lean[latent]) | (rng.random(len(token)) < 0.05)
        cell = np.unique(latent[stays] * np.int64(len(at)) + token[stays])
        latent, token = np.divmod(cell, len(at))
        values = rng.exponential(size=len(cell)).astype(np.float32) + 0.05
        write_shard(folder / "shards" / f"{number:05d}", latent, token, values, len(at), latents)
    ids = (rng.zipf(1.3, tokens) % 50_000).astype(np.int32)
    inside = np.concatenate([np.arange(row.tokens) for row in rows]).astype(np.int32)
    write_tables(folder, rows, ids, inside * 2, inside * 2 + 1)
    finish(folder, rows, latents, {"reference": "planted"})
