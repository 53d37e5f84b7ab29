"""Documents and the files they come from.

Text is immutable: stored and scored exactly as read, offsets are code points. What cannot be
stored exactly (NUL, lone surrogates, invalid UTF-8, duplicate keys, NaN) is a `Rejection` with
its file and row, never a repair.
"""

import codecs
import csv
import gzip
import hashlib
import io
import json
import math
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from labeling.tokens import Spans

SIDES = ("forget", "retain", "mixed", "unknown")
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".csv", ".txt")
MAX_LINE = 64 * 1024 * 1024
csv.field_size_limit(MAX_LINE)
Row = tuple[int, dict[str, Any] | str]  # row number from 1; a string is the reason why it is unreadable


@dataclass(frozen=True)
class Document:
    """One text. `spans` and `ignore` are gold, where the file had them (None: not annotated)."""

    id: str
    text: str
    family: str | None = None
    side: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    spans: Spans | None = None
    ignore: Spans | None = None


@dataclass(frozen=True)
class Rejection:
    """A row that was left out, and why; `row` counts from 1."""

    file: str
    row: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}: {self.reason}"


def text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def split_of(sha256: str, validation: float = 0.1, test: float = 0.1) -> str:
    """train, validation or test, from the document's own hash: stable under re-import and reordering."""
    share = int(sha256[:13], 16) / 16**13
    if share < test:
        return "test"
    return "validation" if share < test + validation else "train"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {twice!r} appears twice")
    return out


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not valid JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"number {digits[:20]} is too large to be kept exactly")
    return value


def _integer(digits: str) -> int:
    if len(digits) > 1000:
        raise ValueError(f"a number of {len(digits):,} digits; write it as a string")
    return int(digits)


# Arguments of json.loads: what would not come back as it was written is refused.
STRICT: dict[str, Any] = {
    "object_pairs_hook": _unique, "parse_constant": _no_constant, "parse_float": _finite, "parse_int": _integer,
}  # fmt: skip


def parse_json(line: bytes) -> dict[str, Any]:
    """One JSON object, strictly. Raises ValueError with a reason a person can act on."""
    if line.startswith(codecs.BOM_UTF8):
        raise ValueError("begins with a byte-order mark; save the file as UTF-8 without one")
    try:
        value = json.loads(line.decode("utf-8"), **STRICT)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start} of the row; convert the file to UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"broken JSON at character {error.pos}: {error.msg}") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value


def check_text(text: Any, name: str) -> str:
    """The text itself, if it can be stored exactly; else ValueError."""
    if text is None:
        raise ValueError(f"field {name!r} is missing or null")
    if not isinstance(text, str):
        raise ValueError(f"field {name!r} is {type(text).__name__}, not text")
    if not text:
        raise ValueError(f"field {name!r} is empty")
    if "\0" in text:
        raise ValueError(f"field {name!r} holds a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"field {name!r} holds a lone surrogate at character {error.start}") from None
    return text


def check_name(value: Any, name: str, longest: int) -> str:
    """A short text: an id or a family."""
    if len(check_text(value, name)) > longest:
        raise ValueError(f"field {name!r} has {len(value):,} characters; at most {longest} are kept")
    return str(value)


def check_spans(value: Any, name: str, length: int) -> Spans | None:
    """Half-open code-point ranges inside the text; None if the field is absent."""
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name!r} must be a list of [start, end]")
    spans: Spans = []
    for item in value:
        match item:
            case [int(start), int(end)] if 0 <= start < end <= length and bool not in (type(start), type(end)):
                spans.append((start, end))
            case _:
                raise ValueError(f"{name!r}: {item!r} is not [start, end] with 0 <= start < end <= {length}")
    return spans


def check_meta(value: Any) -> dict[str, Any]:
    """Metadata as a JSON object that both databases keep exactly."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("field 'meta' must be an object")
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"field 'meta' cannot be kept as JSON: {error}") from None
    if "\\u0000" in text.replace("\\\\", ""):
        raise ValueError("field 'meta' holds a NUL character")
    return value


def to_document(row: dict[str, Any], default_id: str, text_field: str = "text", id_field: str = "id") -> Document:
    """Validate one row. Raises ValueError naming the field and what to change."""
    if text_field not in row:
        raise ValueError(f"field {text_field!r} is missing; name the text field with --text-field")
    text = check_text(row[text_field], text_field)
    id_ = row.get(id_field, default_id)
    if isinstance(id_, int) and not isinstance(id_, bool):
        id_ = str(id_)
    side, family = row.get("side"), row.get("family")
    if side is not None and side not in SIDES:
        raise ValueError(f"side {side!r} is not one of {', '.join(SIDES)}")
    return Document(
        id=check_name(id_, id_field, 500),
        text=text,
        family=None if family is None else check_name(family, "family", 200),
        side=side,
        meta=check_meta(row.get("meta")),
        spans=check_spans(row.get("spans"), "spans", len(text)),
        ignore=check_spans(row.get("ignore"), "ignore", len(text)),
    )


def format_of(name: str) -> str:
    """The suffix that says how to read a file. Raises ValueError listing what is understood."""
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return suffix
    raise ValueError(f"{name}: unknown file type; give one of {', '.join(SUFFIXES)} or hf:DATASET[:CONFIG][:SPLIT]")


def sources(names: Iterable[str]) -> list[str]:
    """The files behind the inputs of a command, folders opened. Raises ValueError before any work begins."""
    out: list[str] = []
    for name in names:
        if Path(name).is_dir():
            inside = sorted(str(p) for p in Path(name).iterdir() if p.name.lower().endswith(SUFFIXES))
            if not inside:
                raise ValueError(f"{name}: the folder holds no file of a known type ({', '.join(SUFFIXES)})")
            out += inside
            continue
        if name != "-" and not name.startswith("hf:"):
            format_of(name)
            if not Path(name).exists():
                raise ValueError(f"{name}: no such file")
        out.append(name)
    return out


@contextmanager
def open_lines(source: str) -> Iterator[IO[bytes]]:
    """Bytes of a possibly compressed file, or of standard input for '-'. Cut-off files raise at the cut."""
    if source == "-":
        yield sys.stdin.buffer
    elif source.lower().endswith(".gz"):
        with gzip.open(source, "rb") as file:
            yield file  # type: ignore[misc]
    elif source.lower().endswith(".zst"):
        import pyarrow as pa  # zstandard's own reader ends silently where a file is cut off

        with open(source, "rb") as raw, pa.CompressedInputStream(raw, "zstd") as stream:
            yield io.BufferedReader(stream)
    else:
        with open(source, "rb") as file:
            yield file


def _json_rows(source: str) -> Iterator[Row]:
    with open_lines(source) as lines:
        row = 0
        while line := lines.readline(MAX_LINE + 1):
            row += 1
            if len(line) > MAX_LINE:
                while (rest := lines.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield row, f"longer than {MAX_LINE:,} bytes; split it into several documents"
            elif line.strip():
                try:
                    yield row, parse_json(line)
                except ValueError as error:
                    yield row, str(error)


def _parquet_rows(source: str, fields: Sequence[str]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(source)
    except pa.ArrowException as error:
        raise ValueError(f"not a readable Parquet file ({error})") from None
    row = 0
    with parquet:
        names = parquet.schema_arrow.names
        _check_columns(names, fields[0])
        for batch in parquet.iter_batches(batch_size=256, columns=[n for n in fields if n in names]):
            for values in zip(*batch.columns, strict=True):
                row += 1
                try:
                    found = {n: v.as_py() for n, v in zip(batch.schema.names, values, strict=True)}
                    yield row, {n: v for n, v in found.items() if v is not None or n == fields[0]}
                except UnicodeDecodeError as error:
                    yield row, f"not UTF-8 at byte {error.start} of a text"


def _csv_rows(source: str, fields: Sequence[str]) -> Iterator[Row]:
    with open(source, encoding="utf-8", newline="") as text:
        reader = csv.reader(text, strict=True)
        names: list[str] = []
        row = 0  # of data; the line of names is not counted
        try:
            names = next(reader, [])
            if not names:
                return
            _check_columns(names, fields[0])
            for row, cells in enumerate(reader, 1):
                if cells and len(cells) != len(names):
                    yield row, f"has {len(cells)} cells where the first line names {len(names)} columns"
                elif cells:
                    found = zip(names, cells, strict=True)
                    yield row, {n: v for n, v in found if n in fields and (v or n == fields[0])}
        except UnicodeDecodeError:
            raise ValueError(f"not UTF-8 near row {row + 1}; convert the file to UTF-8") from None
        except csv.Error as error:
            raise ValueError(f"row {row + 1}: {error}") from None


def _check_columns(names: Sequence[str], text_field: str) -> None:
    if names and names[0].startswith("\ufeff"):
        raise ValueError("row 1 begins with a byte-order mark; save the file as UTF-8 without one")
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"column {name!r} appears {count} times")
    if text_field not in names:
        raise ValueError(f"no column {text_field!r} (columns: {', '.join(names)}); name it with --text-field")


def _text_rows(source: str, fields: Sequence[str]) -> Iterator[Row]:
    """A text file is one document."""
    with open(source, "rb") as file:
        content = file.read(MAX_LINE + 1)
    if len(content) > MAX_LINE:
        raise ValueError(f"longer than {MAX_LINE:,} bytes; split it into several documents")
    try:
        if content:
            yield 1, {fields[0]: content.decode("utf-8")}
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}; convert the file to UTF-8") from None


def read(source: str | Path, text_field: str = "text", id_field: str = "id") -> Iterator[Document | Rejection]:
    """Documents of one file ('-': JSONL on standard input; 'hf:…': a Hugging Face dataset), in order.

    A bad row comes back as a Rejection and reading goes on. A file that cannot be read to its end,
    or holds no row, raises ValueError.
    """
    name = str(source)
    shown = "standard input" if name == "-" else name
    fields = (text_field, id_field, "family", "side", "meta", "spans", "ignore")
    empty = True
    try:
        for row, value in _rows(name, fields):
            empty = False
            try:
                if isinstance(value, str):
                    raise ValueError(value)
                document = to_document(value, f"{Path(name).name}:{row}", text_field, id_field)
            except ValueError as error:
                yield Rejection(shown, row, str(error))
            else:
                yield document
    except FileNotFoundError:
        raise ValueError(f"{shown}: no such file") from None
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{shown}: cannot be read to its end ({error}); it may be cut off or damaged") from None
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(shown) else f"{shown}: {message}") from None
    if empty:
        raise ValueError(f"{shown}: the file is empty")


def _rows(source: str, fields: Sequence[str]) -> Iterator[Row]:
    if source.startswith("hf:"):
        return _hub_rows(source)
    suffix = ".jsonl" if source == "-" else format_of(source)
    if suffix == ".parquet":
        return _parquet_rows(source, fields)
    if suffix == ".csv":
        return _csv_rows(source, fields)
    return _text_rows(source, fields) if suffix == ".txt" else _json_rows(source)


def _hub_rows(source: str) -> Iterator[Row]:
    """`hf:DATASET[:CONFIG][:SPLIT]`, streamed. Remote code stays off."""
    from datasets import load_dataset

    dataset, *rest = source.removeprefix("hf:").split(":")
    config = rest[0] if len(rest) > 1 else None
    split = rest[-1] if rest else "train"
    stream = load_dataset(dataset, config, split=split, streaming=True, trust_remote_code=False)
    yield from enumerate(stream, 1)


def must(rows: Iterable[Document | Rejection]) -> Iterator[Document]:
    """Documents only; the first rejection becomes a ValueError (for commands that must not skip a row)."""
    for row in rows:
        if isinstance(row, Rejection):
            raise ValueError(str(row))
        yield row
