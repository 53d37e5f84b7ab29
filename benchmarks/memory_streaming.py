"""Memory of `tokensieve predict` and `tokensieve filter` while a long file streams through them.

    python -m benchmarks.memory_streaming [--megabytes 10 100 1000] [--ways predict pipe filter] [--work DIR]

Each way is the command itself in a process of its own, its resident memory (RSS) read five times a second.
The text is random words in documents of about 3 kB; every 100 MB hold one document each of 1, 2, 5 and 10 MB
(10 MB of text: of 1 and 2 MB). The classifier is a random encoder, one block of width 32: how much is held
at a time does not depend on what the weights say.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

MB = 1_000_000
WAYS = ("predict", "pipe", "filter")


def vocabulary(rng: random.Random, size: int = 2000) -> list[str]:
    """Words of 4 to 24 letters: few tokens a megabyte, for they are what takes time."""
    letters = "etaoinshrdlucmfw"
    return sorted({"".join(rng.choices(letters, k=rng.randint(4, 24))) for _ in range(size)})


def text_of(rng: random.Random, paragraphs: list[str], characters: int) -> str:
    pieces: list[str] = []
    while characters > 0:
        pieces.append(rng.choice(paragraphs))
        characters -= len(pieces[-1]) + 1
    return "\n".join(pieces)


def write_corpus(path: Path, megabytes: int, words: list[str], seed: int = 0) -> int:
    """Documents of log-normal length until the file is so large; returns how many."""
    rng = random.Random(seed)
    paragraphs = [" ".join(rng.choices(words, k=rng.randint(5, 45))) + "." for _ in range(500)]
    blocks = [(100, (1, 2, 5, 10))] * (megabytes // 100) + [(megabytes % 100, (1, 2))] * (megabytes % 100 > 0)
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for size, large in blocks:
            end = file.tell() + size * MB
            due = [(end - size * MB * (len(large) - i) // (len(large) + 1), m * MB) for i, m in enumerate(large)]
            while file.tell() < end:
                length = due.pop(0)[1] if due and file.tell() >= due[0][0] else int(rng.lognormvariate(8, 0.8))
                file.write(json.dumps({"id": str(count), "text": text_of(rng, paragraphs, length)}) + "\n")
                count += 1
    return count


def write_tiny_classifier(folder: Path, words: list[str]) -> Path:
    """A random encoder whose tokens are whole words, exported as ours are."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from labeling.examples import TrainConfig
    from labeling.export import write_classifier
    from labeling.train import untrained

    vocabulary = {piece: i for i, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=256,
    )  # fmt: skip
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=256, pad_token_id=0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "encoder", safe_serialization=True)
    tokenizer.save_pretrained(folder / "encoder")
    write_classifier(untrained(TrainConfig(str(folder / "encoder"), window=256)), folder / "classifier", {}, onnx=False)
    return folder / "classifier"


def run(way: str, classifier: Path, corpus: Path, out: Path) -> tuple[list[int], float, float]:
    """(RSS in bytes over time, seconds, CPU seconds) of one command."""
    treatment = ["--treatment", "mask"] if way == "filter" else []
    command = "filter" if way == "filter" else "predict"
    words = [command, str(classifier), "-" if way == "pipe" else str(corpus), "-o", str(out), *treatment]
    feeder = subprocess.Popen(["cat", str(corpus)], stdout=subprocess.PIPE) if way == "pipe" else None
    begin = time.monotonic()
    process = psutil.Popen(
        [sys.executable, "-m", "app", *words], cwd=Path(__file__).parents[1], env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=feeder.stdout if feeder else subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    if feeder and feeder.stdout:
        feeder.stdout.close()  # the command's alone, so that it sees the end
    rss: list[int] = []
    cpu = 0.0
    while process.poll() is None:
        try:
            rss.append(process.memory_info().rss)
            cpu = sum(process.cpu_times()[:2])
        except psutil.Error:
            break
        time.sleep(0.2)
    if process.wait() or (feeder and feeder.wait()):
        raise SystemExit(f"{way}: exit code {process.returncode}")
    return rss, time.monotonic() - begin, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--work", type=Path, help="where the text and the results lie meanwhile: 8 bytes for one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as temporary:
        folder = Path(temporary)
        words = vocabulary(random.Random(0))
        classifier = write_tiny_classifier(folder, words)
        for megabytes in arguments.megabytes:
            corpus = folder / f"{megabytes}.jsonl"
            documents = write_corpus(corpus, megabytes, words)
            for way in arguments.ways:
                with tempfile.TemporaryDirectory(dir=folder) as made:
                    rss, seconds, cpu = run(way, classifier, corpus, Path(made) / "out")
                tenths = [
                    max(part) // MB for i in range(10) if (part := rss[i * len(rss) // 10 : (i + 1) * len(rss) // 10])
                ]
                print(
                    f"{way:8} {megabytes:5} MB, {documents:,} documents: peak RSS {max(rss) // MB:,} MB, "
                    f"{seconds:,.0f} s, {cpu:,.0f} CPU s; by tenths of the time {tenths}",
                    flush=True,
                )
            corpus.unlink()


if __name__ == "__main__":
    main()
