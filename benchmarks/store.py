"""The activation store against Delphi's layout and Parquet with DuckDB: bytes, one latent, the whole ranking.

    pip install duckdb
    python -m benchmarks.store --work DIR [--tokens 5000000] [--compare-tokens 400000]

One process; rounds alternate between the layouts and medians are printed. CPU seconds stand beside
wall seconds, because only the first mean anything on a busy machine. Delphi (EleutherAI/delphi,
`LatentCache.save_splits`) writes 5 safetensors files by ranges of latents, uint16 locations (batch,
position, latent) in token order and float16 activations, and finds a latent by a mask over its file;
its layout and the Parquet one are built from the same postings over the first `--compare-tokens`.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from benchmarks.planted import SIDES, plant
from labeling.cofiring import cofiring
from labeling.discovery import latent_table
from labeling.store import Store

CONTEXT, SPLITS = 256, 5


def postings(store: Store) -> tuple[Any, Any, Any]:
    """(latent, token, value) of the whole store, latent after latent within each shard."""
    latent = [np.repeat(np.arange(store.d_sae), np.diff(shard.indptr)) for shard in store.shards]
    token = [shard.tokens + np.int64(shard.first) for shard in store.shards]
    value = [np.asarray(shard.values) for shard in store.shards]
    return np.concatenate(latent), np.concatenate(token), np.concatenate(value)


def write_delphi(store: Store, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    latent, token, value = postings(store)
    order = np.lexsort((latent, token))
    latent, token, value = latent[order], token[order], value[order]
    edges = np.linspace(0, store.d_sae, SPLITS + 1).astype(int)
    for begin, end in pairwise(edges):
        mine = (latent >= begin) & (latent < end)
        where = np.stack([token[mine] // CONTEXT, token[mine] % CONTEXT, latent[mine] - begin], 1)
        assert where.max() < 2**16, where.max()
        save_file(
            {"locations": where.astype(np.uint16), "activations": value[mine]},
            folder / f"{begin}_{end - 1}.safetensors",
        )


def read_delphi(folder: Path, latent: int) -> int:
    for path in folder.iterdir():
        begin, end = map(int, path.stem.split("_"))
        if begin <= latent <= end:
            split = load_file(path)
            mine = split["locations"][:, 2] == latent - begin
            return len(split["locations"][mine]) + 0 * len(split["activations"][mine])
    raise AssertionError(latent)


def write_parquet(store: Store, path: Path) -> None:
    latent, token, value = postings(store)
    order = np.lexsort((token, latent))
    columns = {"latent": latent[order].astype(np.int32), "token": token[order].astype(np.int32), "value": value[order]}
    pq.write_table(pa.table(columns), path, compression="zstd")


def size(path: Path) -> int:
    return sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(store: Store, work: Path, rounds: int) -> Iterator[str]:
    n = sum(int(shard.indptr[-1]) for shard in store.shards)
    delphi, parquet = work / "delphi", work / "postings.parquet"
    if not delphi.exists():
        write_delphi(store, delphi)
    if not parquet.exists():
        write_parquet(store, parquet)
    connection = duckdb.connect()
    query = f"SELECT token, value FROM '{parquet}' WHERE latent = ?"
    ways: dict[str, tuple[Path, Callable[[int], int]]] = {
        "store": (store.path / "shards", lambda latent: len(store.latent(latent)[0])),
        "parquet + duckdb": (parquet, lambda latent: len(connection.execute(query, [latent]).fetchnumpy()["token"])),
        "delphi": (delphi, lambda latent: read_delphi(delphi, latent)),
    }
    fired = np.argsort(-store.stats.active.sum(1))
    chosen = [int(latent) for latent in fired[np.linspace(100, len(fired) // 2, rounds).astype(int)]]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for latent in chosen:
        counts = {name: read(latent) for name, (_, read) in ways.items()}  # and warm
        assert len(set(counts.values())) == 1, (latent, counts)
        for name, (_, read) in ways.items():
            seconds[name].append(timed(partial(read, latent)))
    yield f"{n:,} postings over {store.n_tokens:,} tokens, {store.d_sae:,} latents; {rounds} latents, medians"
    for name, (path, _) in ways.items():
        wall, cpu = (statistics.median(column) for column in zip(*seconds[name], strict=True))
        yield f"{name:<18} {size(path) / n:5.2f} bytes each   one latent {1e3 * wall:8.2f} ms (CPU {1e3 * cpu:.2f} ms)"


def ranking(store: Store) -> Iterator[str]:
    n = sum(int(shard.indptr[-1]) for shard in store.shards)
    yield f"{n:,} postings over {store.n_tokens:,} tokens, {store.d_sae:,} latents"
    shards = size(store.path / "shards")
    yield f"bytes each            {shards / n:8.2f} with its index"
    wide = int(np.argmax(store.stats.active.sum(1)))
    usual = int(np.argsort(store.stats.active.sum(1))[store.d_sae // 2])
    for name, latent in (("widest", wide), ("median", usual)):
        store.latent(latent)
        wall, cpu = timed(partial(store.latent, latent))
        yield f"{name} latent         {1e3 * wall:8.2f} ms (CPU {1e3 * cpu:.2f} ms), {len(store.latent(latent)[0]):,} firings"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = timed(lambda: latent_table(store, SIDES))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield f"ranking               {wall:8.2f} s (CPU {cpu:.2f} s), peak memory + {(after - before) / 1024:.0f} MiB"
    wall, cpu = timed(lambda: [None for _ in cofiring(store)])
    yield f"neighbours, all pairs {wall:8.2f} s (CPU {cpu:.2f} s)"


def planted(path: Path, latents: int, tokens: int, l0: float) -> Store:
    if not path.exists():
        plant(path, latents, tokens, l0)
    return Store.open(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True, help="folder for the stores; kept for the next run")
    parser.add_argument("--latents", type=int, default=65_536)
    parser.add_argument("--tokens", type=int, default=5_000_000)
    parser.add_argument("--compare-tokens", type=int, default=400_000)
    parser.add_argument("--l0", type=float, default=24)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    small = planted(args.work / f"store-{args.compare_tokens}", args.latents, args.compare_tokens, args.l0)
    for line in compare(small, args.work / f"other-{args.compare_tokens}", args.rounds):
        print(line, flush=True)
    for line in ranking(planted(args.work / f"store-{args.tokens}", args.latents, args.tokens, args.l0)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
