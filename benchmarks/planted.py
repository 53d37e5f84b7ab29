"""A synthetic activation store of any size: heavy-tailed densities, some latents that follow one family."""

import os
import shutil
from pathlib import Path

import numpy as np

from labeling.store import DocumentRow, finish, write_shard, write_tables

FAMILIES = ("pubmed", "biology", "encyclopedia", "web")
SIDES = {"pubmed": "forget", "biology": "retain", "encyclopedia": "retain", "web": "retain"}


def plant(
    folder: Path, latents: int, tokens: int, l0: float, document: int = 512, shard: int = 131_072, seed: int = 0,
    distinct: int = 3,
) -> None:  # fmt: skip
    """Write a sealed store; documents in turn from each family, every tenth one not in train.

    Only the first `distinct` full shards are drawn, the others are links to them: drawing takes longer
    than most of what is measured.
    """
    assert shard % (document * len(FAMILIES)) == 0, (shard, document)
    rng = np.random.default_rng(seed)
    density = np.minimum(rng.lognormal(0, 2, latents), 400)
    density = np.minimum(density * l0 / density.sum(), 0.5)
    lean = rng.choice(len(FAMILIES) + 12, latents)  # most latents follow no family
    rows = [
        DocumentRow(f"d{i}", "0" * 64, FAMILIES[i % len(FAMILIES)], "validation" if i % 10 == 9 else "train",
                    min(document, tokens - at), at // shard)
        for i, at in enumerate(range(0, tokens, document))
    ]  # fmt: skip
    for number in range(rows[-1].shard + 1):
        out, size = folder / "shards" / f"{number:05d}", min(shard, tokens - number * shard)
        if number >= distinct and size == shard:
            shutil.copytree(folder / "shards" / f"{number % distinct:05d}", out, copy_function=os.link)
            continue
        counts = rng.poisson(density * size)
        latent = np.repeat(np.arange(latents), counts)
        token = rng.integers(0, size, len(latent))
        follows = (token // document) % len(FAMILIES) == lean[latent]
        stays = (lean[latent] >= len(FAMILIES)) | follows | (rng.random(len(token)) < 0.05)
        latent, token = np.divmod(np.unique(latent[stays] * np.int64(size) + token[stays]), size)
        values = rng.exponential(size=len(latent)).astype(np.float32) + 0.05
        write_shard(out, latent, token, values, size, latents)
    ids = (rng.zipf(1.3, tokens) % 50_000).astype(np.int32)
    inside = np.concatenate([np.arange(row.tokens) for row in rows]).astype(np.int32)
    write_tables(folder, rows, ids, inside * 2, inside * 2 + 1)
    finish(folder, rows, latents, {"reference": "planted"})
