"""Score shards of documents for a filter run: here, or by actors on a Ray cluster.

A shard is scored by itself into two files of the run's folder, `NAME.parquet` and then `NAME.json`, so it
does not matter where that happens, nor how often: whoever finds the .json leaves the shard alone. On a
cluster of several machines the classifier's and the run's folder must lie where all of them can reach them.
"""

import json
import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from labeling.artifacts import write_json
from labeling.documents import Document, Rejection
from labeling.events import Event, Progress, value_of
from labeling.predict import LoadedClassifier, covering, load_classifier, predict_tokens
from labeling.references import load_tokenizer
from labeling.tokens import tokenize

ENGINES = ("local", "ray")
SCORED = pa.schema([
    ("id", pa.string()), ("text", pa.string()), ("input_ids", pa.list_(pa.int32())),
    ("starts", pa.list_(pa.int32())), ("ends", pa.list_(pa.int32())), ("p", pa.list_(pa.float32())),
])  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """Rows that are scored, and later treated, together."""

    name: str
    rows: list[Document | Rejection]


class Scorer:
    """A classifier and the tokenizer of the output, opened once in each process that scores."""

    def __init__(self, classifier: Path | str, tokenizer: str | None, precision: str) -> None:
        self.classifier: LoadedClassifier = load_classifier(classifier, precision)
        self.tokenizer = load_tokenizer(tokenizer) if tokenizer else self.classifier.tokenizer

    def score(self, shard: Shard, folder: Path, before: int = 0) -> Generator[Event, None, int]:
        """Write one p per token of the output's tokenizer; returns how many there are."""
        rows, tokens = [], 0
        documents = [row for row in shard.rows if isinstance(row, Document)]
        for document, own, prediction in predict_tokens(self.classifier, documents):
            if self.tokenizer is self.classifier.tokenizer:
                ids, starts, ends = own.ids, prediction.starts, prediction.ends
            else:
                [target] = tokenize(self.tokenizer, [document.text])
                ids, (starts, ends) = target.ids, covering(document.text, target)
            p = prediction.carried(starts, ends)
            rows.append({
                "id": document.id, "text": document.text, "input_ids": ids, "starts": starts, "ends": ends, "p": p,
            })  # fmt: skip
            tokens += len(p)
            if len(rows) % 32 == 0:
                yield Progress(before + tokens, None, "tokens", "score")
        write_rows(folder / f"{shard.name}.parquet", rows, SCORED)
        rejected = [asdict(row) for row in shard.rows if isinstance(row, Rejection)]
        write_json(folder / f"{shard.name}.json", {"rejected": rejected, "tokens": tokens})
        return tokens

    def score_whole(self, shard: Shard, folder: Path) -> int:
        """`score` in one call, as an actor is called."""
        return value_of(self.score(shard, folder))


def tokens_in(folder: Path, shard: str) -> int | None:
    """How many tokens a shard had, or None if it was not scored yet."""
    try:
        return int(json.loads((folder / f"{shard}.json").read_text(encoding="utf-8"))["tokens"])
    except FileNotFoundError:
        return None


def write_rows(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    beside = path.with_name(path.name + ".tmp")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), beside, compression="zstd")
    pa.default_memory_pool().release_unused()  # else the largest shard's columns stay held while the next is scored
    os.replace(beside, path)


def score_here(shards: Iterable[Shard], folder: Path, scorer: Scorer) -> Iterator[Event]:
    tokens = 0
    for shard in shards:
        known = tokens_in(folder, shard.name)
        tokens += (yield from scorer.score(shard, folder, tokens)) if known is None else known
        yield Progress(tokens, None, "tokens", "score")


def score_on_ray(
    shards: Iterable[Shard], folder: Path, classifier: Path | str, tokenizer: str | None, precision: str
) -> Iterator[Event]:
    """One actor per GPU of the cluster, or per CPU core where it has none; each has at most one shard waiting.

    A cluster is joined if RAY_ADDRESS names one, else one is started on this machine for the run.
    """
    ray = _ray()
    own = not ray.is_initialized()
    if own:
        ray.init(address=os.environ.get("RAY_ADDRESS"), include_dashboard=False, log_to_driver=False)
    try:
        total = ray.cluster_resources()
        gpus = int(total.get("GPU", 0))
        needs = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        actor = ray.remote(max_restarts=3, max_task_retries=3, **needs)(Scorer)
        free = [
            actor.remote(str(Path(classifier).absolute()), tokenizer, precision)
            for _ in range(max(1, gpus or int(total.get("CPU", 1))))
        ]
        running: dict[Any, Any] = {}
        tokens = 0
        for shard in shards:
            known = tokens_in(folder, shard.name)
            if known is not None:
                tokens += known
                continue
            if not free:
                tokens += _await_one(ray, running, free)
                yield Progress(tokens, None, "tokens", "score")
            worker = free.pop()
            running[worker.score_whole.remote(shard, folder.absolute())] = worker
        while running:
            tokens += _await_one(ray, running, free)
            yield Progress(tokens, None, "tokens", "score")
    finally:
        if own:
            ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ValueError("--engine ray needs Ray; install tokensieve[ray], or leave --engine out") from None
    return ray


def _await_one(ray: Any, running: dict[Any, Any], free: list[Any]) -> int:
    """Wait until any shard is scored; its actor is free again. Returns the shard's tokens."""
    [done], _ = ray.wait(list(running), num_returns=1)
    free.append(running.pop(done))
    try:
        return int(ray.get(done))
    except ray.exceptions.RayError as error:
        raise ValueError(f"a shard could not be scored on Ray: {str(error).strip().splitlines()[-1]}") from error
