"""Tokens per second of `labeling.predict` against `transformers.pipeline`, on one exported folder.

    python -m benchmarks.predict CLASSIFIER CORPUS.jsonl [--characters 200000]

Both read the same documents, long ones included, with the same window and overlap. The pipeline gets
its best of several batch sizes, in fp32 (its default) and in bf16; every figure is printed.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from labeling.documents import Document, must, read
from labeling.predict import LoadedClassifier, load_classifier, predict
from labeling.references import pick_device, pick_dtype

BATCH_SIZES = (8, 16, 32, 64)


def ours(classifier: LoadedClassifier, documents: list[Document]) -> tuple[int, float]:
    """(tokens, seconds)."""
    begin = time.perf_counter()
    tokens = sum(len(p) for p in predict(classifier, documents))
    return tokens, time.perf_counter() - begin


def pipeline_seconds(
    folder: str, classifier: LoadedClassifier, documents: list[Document], batch: int, dtype: Any
) -> float:
    """Its own way to read long texts is `stride`, which needs an aggregation; "simple" costs the least."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=classifier.window)
    model = AutoModelForTokenClassification.from_pretrained(folder, dtype=dtype)
    pipe = pipeline(
        "token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple",
        stride=classifier.overlap, batch_size=batch, device=pick_device(),
    )  # fmt: skip
    texts = [d.text for d in documents]
    pipe(texts[:2])
    begin = time.perf_counter()
    for _ in pipe(text for text in texts):
        pass
    return time.perf_counter() - begin


def main() -> None:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifier")
    parser.add_argument("corpus")
    parser.add_argument("--characters", type=int, default=200_000)
    arguments = parser.parse_args()
    classifier = load_classifier(arguments.classifier)
    documents, held = [], 0
    for document in must(read(arguments.corpus)):
        if held >= arguments.characters:
            break
        documents.append(document)
        held += len(document.text)
    list(predict(classifier, documents[:4]))
    print(f"{len(documents)} documents, {torch.get_num_threads()} threads, {pick_device()}")
    best: dict[str, float] = {}
    for dtype in dict.fromkeys((torch.float32, pick_dtype(pick_device()))):
        name = str(dtype).removeprefix("torch.")
        for batch in BATCH_SIZES:
            tokens, seconds = ours(classifier, documents)
            best["ours"] = max(best.get("ours", 0), tokens / seconds)
            rate = tokens / pipeline_seconds(arguments.classifier, classifier, documents, batch, dtype)
            best[name] = max(best.get(name, 0), rate)
            print(
                f"labeling.predict {tokens / seconds:8,.0f}   pipeline {name} batch {batch:2} {rate:8,.0f} tokens/s",
                flush=True,
            )
    mine = best.pop("ours")
    print(f"best of labeling.predict: {mine:,.0f} tokens/s")
    for name, rate in best.items():
        print(f"best of pipeline {name}: {rate:,.0f} tokens/s, ratio {mine / rate:.2f}")


if __name__ == "__main__":
    main()
