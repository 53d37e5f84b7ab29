"""Filter a corpus, files to files: mask, remove, or drop whole documents (METHOD, step 3).

Two passes over shards of documents: one scores (slow), one treats (fast), so that a budget can see all
scores before it picks a threshold. Work lies in `OUT.partial`; a shard counts as done in a pass once
its small .json is there, written last, so a killed run repeats one shard at most (with standard input all of them: it
cannot be read again). `OUT` appears whole:

    000-corpus-00000.parquet   mask, remove: id, text, input_ids, loss_mask (uint8, 1 = learn)
                               document: id, text, kept
    _scores/000-corpus-00000.parquet   id, starts, ends, p: one p per token of the output's tokenizer,
                               so that another threshold needs no second scoring
    rejected.jsonl             rows that could not be read exactly: file, row, reason
    MANIFEST.json              counts, threshold, lineage, sha256 of every file

(Readers of Parquet folders skip names that begin with an underscore.) No special tokens are added.
`loss_mask[i]` speaks of token i as the one to be predicted. The placeholder's id is the tokenizer's
own for it, else the first free one; the manifest says which.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from labeling.artifacts import MANIFEST, read_manifest, replace_folder, seal, write_json
from labeling.documents import Document, Rejection, read, sources
from labeling.events import Artifact, Event, Progress
from labeling.predict import pick_precision
from labeling.scoring import ENGINES, SCORED, Scorer, Shard, score_here, score_on_ray, write_rows

TREATMENTS = ("mask", "remove", "document")
PLACEHOLDER = "<|hidden|>"
TOKENS = pa.schema([
    ("id", pa.string()), ("text", pa.string()),
    ("input_ids", pa.list_(pa.int32())), ("loss_mask", pa.list_(pa.uint8())),
])  # fmt: skip
SCORES = pa.schema([field for field in SCORED if field.name not in ("text", "input_ids")])
DOCUMENTS = pa.schema([("id", pa.string()), ("text", pa.string()), ("kept", pa.bool_())])


@dataclass(frozen=True)
class FilterConfig:
    """What to do with forget tokens, and how many of them there are."""

    treatment: str = "mask"
    threshold: float | None = None  # a token is forget from this p on; None: the classifier's own
    budget: float | None = None  # share of all tokens to remove at most, instead of a threshold
    tokenizer: str | None = None  # hub id or folder of the output's tokenizer; None: the classifier's
    document_share: float = 0.5  # document: dropped from this share of forget tokens on (a budget picks its own)
    shard_documents: int = 2000  # a shard ends with the document that brings it to so many,
    shard_characters: int = 8_000_000  # or to so much text, for it is held in memory
    precision: str = "auto"  # of the forward pass: full, int8, or whichever pays on this machine
    engine: str = "local"  # or ray

    def __post_init__(self) -> None:
        if self.treatment not in TREATMENTS:
            raise ValueError(f"treatment {self.treatment!r} is not one of {', '.join(TREATMENTS)}")
        if self.engine not in ENGINES:
            raise ValueError(f"engine {self.engine!r} is not one of {', '.join(ENGINES)}")
        if self.threshold is not None and self.budget is not None:
            raise ValueError("give a threshold or a budget, not both")
        for name in ("threshold", "budget", "document_share"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {value}")
        for name in ("shard_documents", "shard_characters"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Decision:
    """What is forget: tokens from `threshold` on; for `document`, documents from `share` of such tokens on."""

    threshold: float
    share: float


def filter_corpus(
    classifier_path: Path | str,
    inputs: list[str],
    out: Path,
    config: FilterConfig,
    text_field: str = "text",
    id_field: str = "id",
) -> Iterator[Event]:
    """Filter files into the folder `out` (artifact kind "filter"). A finished one is not made again."""
    if not inputs:
        raise ValueError("no input to filter; name at least one file")
    inputs = sources(inputs)
    precision = pick_precision(Path(classifier_path), config.precision)
    scorer = Scorer(classifier_path, config.tokenizer, precision)
    classifier = scorer.classifier
    asked = {name: value for name, value in asdict(config).items() if name != "engine"}  # which changes no result
    plan = {
        "classifier": classifier.identity, "config": asked | {"precision": precision}, "inputs": [_fingerprint(name) for name in inputs],
        "text_field": text_field, "id_field": id_field,
    }  # fmt: skip
    work = out.with_name(out.name + ".partial")
    if "-" in inputs:  # what came from standard input before may have been another text: nothing of it is taken up
        shutil.rmtree(work, ignore_errors=True)
    elif (out / MANIFEST).exists() and (info := read_manifest(out)["info"]).get("plan") == plan:
        shutil.rmtree(work, ignore_errors=True)
        yield Artifact("filter", out, info)
        return
    _begin(work, plan)
    documents = _shards(inputs, config, text_field, id_field)
    if config.engine == "ray":
        yield from score_on_ray(documents, work / "scored", classifier_path, config.tokenizer, precision)
    else:
        yield from score_here(documents, work / "scored", scorer)
    shards = sorted(path.stem for path in (work / "scored").glob("*.json"))
    decision = decide(work, shards, config, classifier.threshold)
    placeholder = _placeholder_id(scorer.tokenizer)
    for done, shard in enumerate(shards):
        if not (work / "treated" / f"{shard}.json").exists():
            _treat(work, shard, decision, config.treatment, placeholder)
        yield Progress(done + 1, len(shards), "shards", config.treatment)
    counts = _totals(work, shards)
    info = {
        "plan": plan, "treatment": config.treatment, "threshold": decision.threshold, "budget": config.budget,
        "classifier": classifier.identity, "tokenizer": config.tokenizer or "the classifier's",
        "documents": counts["documents"], "tokens": counts["tokens"], "removed_tokens": counts["removed"],
        "removed_share": counts["removed"] / max(counts["tokens"], 1), "rejected": _gather_rejected(work, shards),
    }  # fmt: skip
    if config.treatment == "remove":
        info |= {"placeholder": PLACEHOLDER, "placeholder_id": placeholder}
    if config.treatment == "document":
        info |= {"document_share": decision.share, "kept_documents": counts["kept"]}
    seal(work / "whole", "filter", info)
    replace_folder(work / "whole", out)
    shutil.rmtree(work)
    yield Artifact("filter", out, info)


def _fingerprint(name: str) -> list[Any]:
    """Enough to notice that a file changed between a killed run and its rerun, without reading it all."""
    path = Path(name)
    return [name, path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else [name]


def _begin(work: Path, plan: dict[str, Any]) -> None:
    known = work / "plan.json"
    if known.exists() and json.loads(known.read_text(encoding="utf-8")) != plan:
        raise ValueError(
            f"{work} belongs to a run with other inputs or settings; remove it or give another output folder"
        )
    for folder in ("scored", "treated", "whole/_scores"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    write_json(known, plan)


def _placeholder_id(tokenizer: Any) -> int:
    known = tokenizer.get_vocab().get(PLACEHOLDER)
    return len(tokenizer) if known is None else int(known)


# --- read --------------------------------------------------------------------------------------


def _shards(inputs: list[str], config: FilterConfig, text: str, id_: str) -> Iterator[Shard]:
    """The inputs' rows in shards, named by file and place; every run cuts them alike."""
    for number, name in enumerate(inputs):
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", "stdin" if name == "-" else Path(name).name.split(".")[0]).strip(".-")
        for part, rows in enumerate(_cut(read(name, text, id_), config)):
            yield Shard(f"{number:03d}-{stem}-{part:05d}", rows)


def _cut(rows: Iterable[Document | Rejection], config: FilterConfig) -> Iterator[list[Document | Rejection]]:
    """Stretches of rows that end with the document that fills them; one stretch is all that is held in memory."""
    chunk: list[Document | Rejection] = []
    held = 0
    for row in rows:
        chunk.append(row)
        held += len(row.text) if isinstance(row, Document) else 0
        if len(chunk) == config.shard_documents or held >= config.shard_characters:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a scored shard, lists as arrays."""
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(batch_size=64):
            for values in zip(*batch.columns, strict=True):
                row = zip(batch.schema.names, values, strict=True)
                yield {n: v.values.to_numpy() if isinstance(v, pa.ListScalar) else v.as_py() for n, v in row}


# --- decide -------------------------------------------------------------------------------------


def decide(work: Path, shards: Iterable[str], config: FilterConfig, default: float) -> Decision:
    """The threshold asked for, or the lowest one that keeps within the budget over all scored shards."""
    threshold = default if config.threshold is None else config.threshold
    if config.budget is None:
        return Decision(threshold, config.document_share)
    counts = np.zeros(_BINS, np.int64)
    for shard in shards:
        for row in _rows(work / "scored" / f"{shard}.parquet"):
            if config.treatment == "document":
                share = np.array([_share(row["p"], threshold)], np.float32)
                counts[_bins(share)] += len(row["p"])
            else:
                counts += np.bincount(_bins(row["p"]), minlength=_BINS)
    chosen = _within(counts, config.budget)
    return Decision(threshold, chosen) if config.treatment == "document" else Decision(chosen, config.document_share)


# Bit patterns of non-negative floats sort like the floats, so dropping the low bits gives a histogram as
# fine near 0 as near 1 (8 steps to a thousandth), in constant memory whatever the corpus.
_SHIFT = 10
_BINS = (int(np.float32(1).view(np.uint32)) >> _SHIFT) + 1


def _bins(p: NDArray[np.float32]) -> NDArray[np.intp]:
    return (p.view(np.uint32) >> _SHIFT).astype(np.intp)


def _within(counts: NDArray[np.int64], budget: float) -> float:
    """The lowest value with at most `budget` of all counts at or above it; above 1 if even p = 1 is too many."""
    above = np.cumsum(counts[::-1])[::-1]
    fits = np.flatnonzero(above <= budget * counts.sum())
    if not len(fits):
        return float(np.nextafter(np.float32(1), np.float32(2)))
    return float(np.array([fits[0] << _SHIFT], np.uint32).view(np.float32)[0])


def _share(p: NDArray[np.float32], threshold: float) -> float:
    return float((p >= threshold).mean()) if len(p) else 0.0


# --- treat --------------------------------------------------------------------------------------


def _treat(work: Path, shard: str, decision: Decision, treatment: str, placeholder: int) -> None:
    """Write a shard's output and its scores, then its counts."""
    out: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    count = {"documents": 0, "tokens": 0, "removed": 0, "kept": 0}
    for row in _rows(work / "scored" / f"{shard}.parquet"):
        forget = row["p"] >= decision.threshold
        scores.append({name: row[name] for name in ("id", "starts", "ends", "p")})
        treated = {"id": row["id"], "text": row["text"]}
        if treatment == "document":
            share = np.float32(_share(row["p"], decision.threshold))
            kept = not len(forget) or bool(share < np.float32(decision.share)) or not forget.any()
            forget = np.full(len(forget), not kept)
            treated |= {"kept": kept}
            count["kept"] += kept
        else:
            treated |= {"input_ids": row["input_ids"], "loss_mask": (~forget).astype(np.uint8)}
            if treatment == "remove":
                treated["input_ids"] = np.where(forget, placeholder, row["input_ids"])
                treated["text"] = hidden(row["text"], row["starts"][forget], row["ends"][forget])
        out.append(treated)
        count["documents"] += 1
        count["tokens"] += len(forget)
        count["removed"] += int(forget.sum())
    write_rows(work / "whole" / "_scores" / f"{shard}.parquet", scores, SCORES)
    write_rows(work / "whole" / f"{shard}.parquet", out, DOCUMENTS if treatment == "document" else TOKENS)
    write_json(work / "treated" / f"{shard}.json", count)


def hidden(text: str, starts: NDArray[np.int32], ends: NDArray[np.int32]) -> str:
    """The text with one placeholder for each of the tokens given; those that share characters share it."""
    pieces, at = [], 0
    for start, end in sorted(set(zip(starts.tolist(), ends.tolist(), strict=True))):
        if end <= at:
            continue
        pieces += [text[at : max(start, at)], PLACEHOLDER]
        at = end
    return "".join([*pieces, text[at:]])


def _totals(work: Path, shards: Iterable[str]) -> Counter[str]:
    total: Counter[str] = Counter()
    for shard in shards:
        total.update(json.loads((work / "treated" / f"{shard}.json").read_text(encoding="utf-8")))
    return total


def _gather_rejected(work: Path, shards: Iterable[str]) -> int:
    """One file of all rejections; returns how many."""
    rejected = 0
    with open(work / "whole" / "rejected.jsonl", "w", encoding="utf-8") as file:
        for shard in shards:
            for row in json.loads((work / "scored" / f"{shard}.json").read_text(encoding="utf-8"))["rejected"]:
                file.write(json.dumps(row) + "\n")
                rejected += 1
    return rejected
