"""Peak memory of discovery, and of the harvest beyond its model, at 10M tokens and 65k latents (Linux).

    python -m benchmarks.memory --work DIR --model MODEL [--tokens 10000000] [--latents 65536] [--l0 24]

Three parts, each in a process of its own:

    discovery  of a planted store, words included
    shard      a real harvest of one full shard, block 0 of MODEL under a random TopK SAE
    corpus     a harvest of all the tokens in which every shard is a link to a planted one: texts, token
               table, statistics, checksums, all that could grow with the corpus

`own` is anonymous memory above what the process held when its part began, model, SAE and texts loaded;
`mapped` is what it had of the store's files, which the system takes back whenever it wants.
"""

import argparse
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.planted import FAMILIES, SIDES
from benchmarks.store import planted
from labeling import harvest as module
from labeling.discovery import discover
from labeling.harvest import HarvestConfig, StoreDocument, harvest
from labeling.references import Reference
from labeling.saes import LoadedSAE
from labeling.store import write_shard

WORDS, SHARD = 512, HarvestConfig.shard_tokens  # of a document, of a shard


def resident() -> tuple[int, int]:
    """(anonymous, mapped from files) bytes of this process."""
    kilobytes = {}
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile"):
            kilobytes[name] = int(value.split()[0])
    return 1024 * kilobytes["RssAnon"], 1024 * kilobytes["RssFile"]


def peak(run: Callable[[], object]) -> tuple[int, int]:
    """The largest `resident` seen meanwhile, every 10 ms, less what there was before."""
    before = most = np.array(resident())
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = np.maximum(most, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    own, mapped = most - before
    return int(own), int(mapped)


def exhaust(events: Iterator[object]) -> None:
    for _ in events:
        pass


def texts(words: int) -> list[StoreDocument]:
    rng = np.random.default_rng(0)
    known = np.array(["".join(map(chr, rng.integers(97, 123, rng.integers(2, 9)))) for _ in range(5000)])
    return [
        StoreDocument(f"d{i}", " ".join(rng.choice(known, WORDS)), FAMILIES[i % 4], "train" if i % 10 else "test")
        for i in range(words // WORDS + 1)
    ]


def random_sae(reference: Reference, latents: int, l0: float) -> LoadedSAE:
    from sae_lens import TopKSAE, TopKSAEConfig

    width = reference.d_in
    sae = TopKSAE(TopKSAEConfig(d_in=width, d_sae=latents, k=int(l0), dtype="float32", device="cpu"))
    with torch.no_grad():
        sae.W_enc.normal_(std=width**-0.5)
        sae.W_dec.copy_(sae.W_enc.T)
    return LoadedSAE(sae.eval(), width, latents, "topk", {})


def discovery(args: argparse.Namespace) -> tuple[int, int]:
    path = planted(args.work / f"store-{args.tokens}", args.latents, args.tokens, args.l0).path
    out = args.work / "memory-discovery"
    shutil.rmtree(out, ignore_errors=True)
    return peak(lambda: exhaust(discover(path, SIDES, out, text_of=lambda key: "x" * 2 * WORDS)))


def shard(args: argparse.Namespace) -> tuple[int, int]:
    reference = Reference(args.model, 0, context=512)
    sae, out = random_sae(reference, args.latents, args.l0), args.work / "memory-shard"
    shutil.rmtree(out, ignore_errors=True)
    documents, counted, size = texts(SHARD), 0, 0
    while counted < SHARD:
        counted += len(reference.tokenize([documents[size].text])[0])
        size += 1
    return peak(lambda: exhaust(harvest(documents[:size], reference, sae, out)))


def corpus(args: argparse.Namespace) -> tuple[int, int]:
    store = planted(args.work / f"store-{args.tokens}", args.latents, args.tokens, args.l0)
    reference = Reference(args.model, 0, context=512)
    sae, out = random_sae(reference, args.latents, args.l0), args.work / "memory-corpus"
    for folder in (out, out.with_name(out.name + ".partial")):
        shutil.rmtree(folder, ignore_errors=True)

    def linked(ids: list[Any], _reference: Any, _sae: Any, folder: Path, _config: Any) -> Iterator[int]:
        size, none = sum(map(len, ids)), np.zeros(0, np.int64)
        if size < SHARD:  # the last one
            write_shard(folder, none, none, none.astype(np.float32), size, args.latents)
        else:
            shutil.copytree(store.path / "shards" / "00000", folder, copy_function=os.link)
        yield size

    module._harvest_shard = linked
    documents = texts(1000 * WORDS)
    a_document = np.mean([len(t) for t in reference.tokenize([d.text for d in documents])])
    documents = texts(int(args.tokens / a_document) * WORDS)
    return peak(lambda: exhaust(harvest(documents, reference, sae, out)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True, help="folder for the stores; kept for the next run")
    parser.add_argument("--model", required=True)
    parser.add_argument("--latents", type=int, default=65_536)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--l0", type=float, default=24)
    parser.add_argument("--parts", nargs="+", default=["discovery", "shard", "corpus"])
    args = parser.parse_args()
    planted(args.work / f"store-{args.tokens}", args.latents, args.tokens, args.l0)
    parts = {"discovery": discovery, "shard": shard, "corpus": corpus}
    print(f"{args.latents:,} latents, {args.tokens:,} tokens, L0 {args.l0:g}")
    for name in args.parts:
        begin = time.perf_counter()
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            own, mapped = pool.submit(partial(parts[name], args)).result()
        taken = time.perf_counter() - begin
        print(f"{name:<10} own {own / 1e6:7,.0f} MB   mapped {mapped / 1e6:7,.0f} MB   {taken:.0f} s", flush=True)


if __name__ == "__main__":
    main()
