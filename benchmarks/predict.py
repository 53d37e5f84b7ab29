"""Tokens per second of `labeling.predict` against `transformers.pipeline`, on one exported folder.

    python -m benchmarks.predict CLASSIFIER CORPUS.jsonl… [--characters 200000] [--threads 1] [--rounds 3]

Both read the same documents, long ones included, with the same window and overlap. The pipeline gets
its best of several batch sizes, in fp32 (its default) and in bf16 where the hardware has it. The bare
passes are given the very batches that predict makes, tokenised and padded. Everything alternates in one
process. CPU seconds are compared, not the clock, so that a busy machine does not decide; with one
thread they are what an idle core would take.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from labeling.documents import Document, must, read
from labeling.onnx_files import ONNX, OnnxModel
from labeling.predict import LoadedClassifier, batched, load_classifier, plan, predict
from labeling.references import pick_device, pick_dtype
from labeling.tokens import tokenize

BATCH_SIZES = (4, 8, 16, 32)


def whole(classifier: LoadedClassifier, documents: list[Document]) -> None:
    """All that `tokensieve predict` does but reading the file: tokens, windows, scores, JSON lines."""
    import json

    for prediction in predict(classifier, documents):
        json.dumps(prediction.to_json(classifier.threshold))


def batches(classifier: LoadedClassifier, documents: list[Document]) -> list[tuple[Any, Any]]:
    ids = [t.ids for t in tokenize(classifier.tokenizer, [d.text for d in documents])]
    found = plan(classifier, [len(i) for i in ids], 2048)
    return [batched(classifier, [ids[d][start:end] for d, start, end, _ in batch]) for batch in found]


def bare_torch(model: Any, packed: list[tuple[Any, Any]]) -> None:
    with torch.inference_mode():
        for ids, mask in packed:
            model.base_model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))


def bare_onnx(model: OnnxModel, packed: list[tuple[Any, Any]]) -> None:
    for ids, mask in packed:
        model.logits(ids, mask)


def pipeline_of(folder: str, classifier: LoadedClassifier, batch: int, dtype: Any) -> Any:
    """Its own way to read long texts is `stride`, which needs an aggregation; "simple" costs the least."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=classifier.window)
    model = AutoModelForTokenClassification.from_pretrained(folder, dtype=dtype)
    return pipeline(
        "token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple",
        stride=classifier.overlap, batch_size=batch, device=pick_device(),
    )  # fmt: skip


def drained(items: Iterator[Any]) -> None:
    for _ in items:
        pass


def agreement(full: LoadedClassifier, fast: LoadedClassifier, documents: list[Document]) -> str:
    a, b = (np.concatenate([p.p for p in predict(c, documents)]) for c in (full, fast))
    other = ((a >= full.threshold) != (b >= full.threshold)).mean()
    return f"mean |difference of p| {np.abs(a - b).mean():.4f}, other side of the threshold {other:.2%} of tokens"


def taken(paths: list[str], characters: int) -> list[Document]:
    """Documents of all files in turn."""
    out: list[Document] = []
    for group in zip(*(must(read(path)) for path in paths), strict=False):
        out += group
        if sum(len(d.text) for d in out) >= characters:
            break
    return out


def main() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifier")
    parser.add_argument("corpus", nargs="+")
    parser.add_argument("--characters", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder, documents = arguments.classifier, taken(arguments.corpus, arguments.characters)
    full, int8 = load_classifier(folder, "full"), load_classifier(folder, "int8")
    packed, texts = batches(full, documents), [d.text for d in documents]
    tokens = sum(len(t) for t in tokenize(full.tokenizer, texts))
    onnx = OnnxModel(Path(folder) / ONNX, arguments.threads)
    assert int8.onnx is not None
    eight = int8.onnx
    contenders: dict[str, Callable[[], None]] = {
        "predict, full": lambda: whole(full, documents),
        "predict, int8": lambda: whole(int8, documents),
        "bare torch pass": lambda: bare_torch(full.model, packed),
        "bare onnx pass": lambda: bare_onnx(onnx, packed),
        "bare int8 pass": lambda: bare_onnx(eight, packed),
    }
    for dtype in dict.fromkeys((torch.float32, pick_dtype(pick_device()))):
        for batch in BATCH_SIZES:
            pipe = pipeline_of(folder, full, batch, dtype)
            name = f"pipeline {str(dtype).removeprefix('torch.')}, batch {batch}"
            contenders[name] = lambda pipe=pipe: drained(pipe(text for text in texts))  # type: ignore[misc]
    print(f"{len(documents)} documents, {tokens:,} tokens, {arguments.threads} threads, {pick_device()}", flush=True)
    best: dict[str, float] = {}
    for _ in range(arguments.rounds):
        for name, run in contenders.items():
            begin = time.process_time()
            run()
            best[name] = min(best.get(name, np.inf), time.process_time() - begin)
            print(f"{name:28} {tokens / best[name]:9,.0f} tokens a CPU second", flush=True)
    pipeline = min(seconds for name, seconds in best.items() if name.startswith("pipeline"))
    for name in ("full", "int8"):
        bare = best["bare torch pass" if name == "full" else "bare int8 pass"]
        mine = best[f"predict, {name}"]
        print(f"predict, {name}: {pipeline / mine:.2f} of the best pipeline, {bare / mine:.2f} of the bare pass")
    print("int8 against full:", agreement(full, int8, documents))


if __name__ == "__main__":
    main()
