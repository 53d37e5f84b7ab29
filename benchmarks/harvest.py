"""Harvest speed against the bare early-exit forward pass: what encoding and writing cost.

    python benchmarks/harvest.py --model MODEL --sae SAE --text FILE [--tokens 50000] [--rounds 3]

Both sides run in one process with the same model, dtype and batches, turn by turn. A harvest
counts whole: tokenizing, forward pass, SAE, shards, statistics, checksums. The bare pass is given
its tokens. Rounds alternate and medians are printed, so that a busy machine hits both alike.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from labeling.documents import must, read
from labeling.harvest import HarvestConfig, StoreDocument, harvest, open_reference
from labeling.references import Reference
from labeling.saes import LoadedSAE
from labeling.store import Store


def load(paths: list[str], limit: int, reference: Reference) -> list[StoreDocument]:
    """Documents up to `limit` tokens, nine of ten in train."""
    out: list[StoreDocument] = []
    total = 0
    for path in paths:
        for document in must(read(path)):
            if total >= limit:
                return out
            total += len(reference.tokenize([document.text])[0])
            split = "validation" if len(out) % 10 == 9 else "train"
            out.append(StoreDocument(f"{path}:{len(out)}", document.text, document.family or "text", split))
    return out


def bare(store: Store, reference: Reference, config: HarvestConfig) -> float:
    """Seconds for the forward passes alone, over exactly the batches the harvest made."""
    ids = [store.ids[store.document(i)] for i in range(len(store.keys))]
    begin = time.perf_counter()
    for shard in range(len(store.shards)):
        here = [i for i, of in zip(ids, store.doc_shard, strict=True) if of == shard]
        for windows in reference.plan([len(i) for i in here], config.batch_tokens, config.overlap):
            reference.activations(*reference.batch(windows, here))
    if reference.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def whole(
    documents: list[StoreDocument], reference: Reference, sae: LoadedSAE, out: Path, config: HarvestConfig
) -> float:
    begin = time.perf_counter()
    for _ in harvest(documents, reference, sae, out, config):
        pass
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sae", required=True)
    parser.add_argument("--text", required=True, nargs="+", help="document files, any format Tokensieve imports")
    parser.add_argument("--layer", type=int, help="default: as the SAE says")
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    config = HarvestConfig()
    reference, sae = open_reference(args.model, args.sae, args.layer)
    documents = load(args.text, args.tokens, reference)
    harvested, forward = [], []
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "store"
        whole(documents[: max(1, len(documents) // 20)], reference, sae, out, config)  # warm up
        for _ in range(args.rounds):
            harvested.append(whole(documents, reference, sae, out, config))
            store = Store.open(out)
            forward.append(bare(store, reference, config))
        tokens, l0 = store.n_tokens, store.info["l0"]
    speeds = tokens / statistics.median(forward), tokens / statistics.median(harvested)
    print(f"{tokens:,} tokens, {reference.dtype}, {reference.device}, {args.rounds} rounds")
    print(f"SAE: {sae.d_sae:,} latents, L0 {l0:.1f}")
    print(f"bare forward pass  {speeds[0]:>10,.0f} tokens/s")
    print(f"harvest            {speeds[1]:>10,.0f} tokens/s")
    print(f"ratio              {speeds[1] / speeds[0]:>10.3f}")
    print(json.dumps({"tokens": tokens, "forward": speeds[0], "harvest": speeds[1], "ratio": speeds[1] / speeds[0]}))


if __name__ == "__main__":
    main()
