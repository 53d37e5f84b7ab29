"""Gold in the formats of other annotation tools, and back, without moving a label.

Inside, offsets are code points. Other tools count differently, so each format says how:

| format | offsets |
|---|---|
| ours (`jsonl`), Prodigy, Hugging Face | code points |
| Label Studio | code points since its front end counts them (label-studio-frontend #308), UTF-16 units before (label-studio #1347); a result carries its text, which tells which |
| doccano | UTF-16 units (doccano #2290) |
| CoNLL | none: tokens in order, tied to the text by `# text` |

Where a record says what text it means, it must be exactly that text; a carriage return that some
browser swallowed, or a span that only fits after shifting, makes the record a `Rejection` with the
reason. On export, what a format cannot hold is a `Rejection` too.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from labeling.documents import STRICT, Document, Rejection, check_meta, check_text, open_lines, parse_json, to_document
from labeling.offsets import UNITS, Marks, Offsets, located, placed
from labeling.tokens import Spans, merge

FORGET, IGNORE = "forget", "ignore"
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Format:
    """How one tool writes gold. `write` yields pieces of a file, and Rejections for what it cannot hold."""

    name: str
    title: str
    suffix: str
    write: Callable[[Iterable[Document]], Iterator[bytes | Rejection]]
    read: Callable[[Path], Iterator[Document | Rejection]]


# Documents and marks


def marks_of(document: Document) -> Marks:
    """A document's spans and ignored ranges as labelled ranges, in order."""
    spans = [(s, e, FORGET) for s, e in merge(document.spans or [])]
    return sorted([*spans, *((s, e, IGNORE) for s, e in merge(document.ignore or []))])


def labelled(document: Document, marks: Marks) -> Document:
    """The document with these labels. Raises ValueError for a label that is not ours."""
    for _, _, label in marks:
        if label.lower() not in (FORGET, IGNORE):
            raise ValueError(f"label {label!r} is neither {FORGET!r} nor {IGNORE!r}")
    spans, ignore = (merge([(s, e) for s, e, label in marks if label.lower() == kind]) for kind in (FORGET, IGNORE))
    return replace(document, spans=spans, ignore=ignore or None)


def _beside(document: Document) -> dict[str, Any]:
    """What stands beside a text in other tools' records, so that it comes back as it was."""
    own = {"id": document.id, "family": document.family, "side": document.side, "meta": document.meta or None}
    return {key: value for key, value in own.items() if value is not None}


def _base(text: Any, beside: dict[str, Any], default_id: str) -> Document:
    """A document from a text and what stands beside it; what is not ours is kept as metadata. Raises ValueError."""
    own = {key: beside[key] for key in ("id", "family", "side") if beside.get(key) is not None}
    foreign = {key: value for key, value in beside.items() if key not in ("id", "family", "side", "meta")}
    return to_document({"text": text, **own, "meta": foreign | check_meta(beside.get("meta"))}, default_id)


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _each(
    name: str, rows: Iterator[tuple[int, Any]], take: Callable[[Any, str], Document]
) -> Iterator[Document | Rejection]:
    """A file's records as documents; what does not fit becomes a Rejection and reading goes on."""
    for number, row in rows:
        try:
            if isinstance(row, ValueError):
                raise row
            yield take(row, f"{name}:{number}")
        except ValueError as error:
            yield Rejection(name, number, str(error))


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with open_lines(str(path)) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield number, parse_json(line)
                except ValueError as error:
                    yield number, error


def _string(row: dict[str, Any], key: str) -> str:
    return check_text(row.get(key), key)


# Ours


def write_jsonl(documents: Iterable[Document]) -> Iterator[bytes | Rejection]:
    for d in documents:
        row: dict[str, Any] = {"id": d.id, "text": d.text, "family": d.family, "side": d.side, "meta": d.meta}
        row["spans"] = [list(span) for span in d.spans or []]
        yield _line({k: v for k, v in row.items() if v is not None} | ({"ignore": d.ignore} if d.ignore else {}))


def _own_row(row: dict[str, Any], default_id: str) -> Document:
    document = to_document(row, default_id)
    if document.spans is None:
        raise ValueError("has no 'spans'; give [] if the document was checked and holds none")
    return document


def read_jsonl(path: Path) -> Iterator[Document | Rejection]:
    yield from _each(path.name, _json_lines(path), _own_row)


# Label Studio: a JSON array of tasks, each with annotations made of results


def write_label_studio(documents: Iterable[Document]) -> Iterator[bytes | Rejection]:
    yield b"["
    for number, d in enumerate(documents):
        results = [
            {
                "id": f"r{i}", "type": "labels", "from_name": "label", "to_name": "text", "origin": "manual",
                "value": {"start": start, "end": end, "text": d.text[start:end], "labels": [label]},
            }
            for i, (start, end, label) in enumerate(marks_of(d))
        ]  # fmt: skip
        task = {
            "data": {"text": d.text},
            "meta": _beside(d) | {"offsets": UNITS[0]},
            "annotations": [{"result": results}],
        }
        yield (b",\n" if number else b"\n") + json.dumps(task, ensure_ascii=False).encode()
    yield b"\n]\n"


def _label_studio_task(task: Any, default_id: str) -> Document:
    match task:
        case {"data": {"text": text}, "annotations": [*annotations]}:
            pass
        case _:
            raise ValueError("expected a task with data.text and annotations")
    kept = [a for a in annotations if isinstance(a, dict) and not a.get("was_cancelled")]
    if len(kept) != 1:
        raise ValueError(f"has {len(kept)} annotations that count; export one per task (adjudicate first)")
    beside = task.get("meta") or {key: value for key, value in task["data"].items() if key != "text"}
    units = UNITS[:1] if beside.get("offsets") == UNITS[0] else UNITS
    document = _base(text, {key: value for key, value in beside.items() if key != "offsets"}, default_id)
    marks, surfaces = Marks(), list[str | None]()
    for result in kept[0].get("result", []):
        match result:
            case {"type": "labels", "value": {"start": start, "end": end, "labels": [str(label)]} as value}:
                marks.append((_whole(start), _whole(end), label))
                surfaces.append(value.get("text"))
            case {"type": "labels"}:
                raise ValueError("a span has several labels, or none")
            case _:
                raise ValueError("has a result that is not a text label")
    return labelled(document, located(marks, surfaces, document.text, units))


def _whole(offset: Any) -> Any:
    """Label Studio has written offsets as text and as 12.0."""
    if isinstance(offset, str) and offset.isdecimal():
        return int(offset)
    return int(offset) if isinstance(offset, float) and offset.is_integer() else offset


def read_label_studio(path: Path) -> Iterator[Document | Rejection]:
    yield from _each(path.name, _json_array(path), _label_studio_task)


def _json_array(path: Path) -> Iterator[tuple[int, Any]]:
    """The elements of one JSON array, a few at a time: such files are one line of hundreds of megabytes."""
    decoder, between = json.JSONDecoder(**STRICT), re.compile(r"\s*[\[,]?\s*")
    buffer, at, number = "", 0, 0
    with path.open(encoding="utf-8", newline="") as file:
        while True:
            gap = between.match(buffer, at)
            assert gap is not None
            at = gap.end()
            if buffer.startswith("]", at):
                return
            try:
                value, at = decoder.raw_decode(buffer, at)
            except json.JSONDecodeError as error:
                piece = file.read(max(1 << 20, len(buffer) - at))
                if not piece:
                    reason = f"not a whole JSON array: {error.msg} after task {number}"
                    raise ValueError(f"{path.name}: {reason}") from None
                buffer, at = buffer[at:] + piece, 0
            else:
                number += 1
                yield number, value


# doccano: JSONL with label triples; offsets are JavaScript's


def write_doccano(documents: Iterable[Document]) -> Iterator[bytes | Rejection]:
    for d in documents:
        offsets = Offsets(d.text)
        label = [[offsets.to_units(s), offsets.to_units(e), name] for s, e, name in marks_of(d)]
        beside = _beside(d)
        yield _line(
            {"text": d.text, "label": label, "document_id": beside.pop("id"), **beside}
        )  # doccano sets `id` itself


def _doccano_row(row: dict[str, Any], default_id: str) -> Document:
    text, given = _string(row, "text"), row.get("label", row.get("labels", row.get("entities")))
    if not isinstance(given, list):
        raise ValueError("expected 'label', a list of [start, end, label]")
    marks = Marks()
    for item in given:
        match item:
            case [start, end, str(label)] | {"start_offset": start, "end_offset": end, "label": str(label)}:
                marks.append((start, end, label))
            case _:
                raise ValueError(f"{item!r} is not [start, end, label]")
    used = ("text", "label", "labels", "entities", "relations", "Comments", "id", "document_id")
    beside = {key: value for key, value in row.items() if key not in used}
    document = _base(text, beside | {"id": row.get("document_id", row.get("id"))}, default_id)
    return labelled(document, placed(marks, text, "UTF-16 units"))


def read_doccano(path: Path) -> Iterator[Document | Rejection]:
    yield from _each(path.name, _json_lines(path), _doccano_row)


# Prodigy: JSONL with spans; tokens help its interface


def write_prodigy(documents: Iterable[Document]) -> Iterator[bytes | Rejection]:
    for d in documents:
        spans = [{"start": s, "end": e, "label": label} for s, e, label in marks_of(d)]
        yield _line({"text": d.text, "spans": spans, "meta": _beside(d), "answer": "accept"})


def _prodigy_row(row: dict[str, Any], default_id: str) -> Document:
    if row.get("answer", "accept") != "accept":
        raise ValueError(f"its answer is {row['answer']!r}, not 'accept'")
    document = _base(_string(row, "text"), check_meta(row.get("meta")), default_id)
    marks, surfaces = Marks(), list[str | None]()
    for span in row.get("spans") or []:
        match span:
            case {"start": start, "end": end, "label": str(label)}:
                marks.append((start, end, label))
                surfaces.append(span.get("text"))
            case _:
                raise ValueError(f"{span!r} has no start, end and label")
    return labelled(document, located(marks, surfaces, document.text, UNITS[:1]))


def read_prodigy(path: Path) -> Iterator[Document | Rejection]:
    yield from _each(path.name, _json_lines(path), _prodigy_row)


# CoNLL: a token and its BIO tag a line; `# text` ties the tokens to the exact text


def conll_tokens(text: str, marks: Marks) -> Spans:
    """Words and signs, cut wherever a label begins or ends, so that tags lose nothing."""
    edges = sorted({edge for start, end, _ in marks for edge in (start, end)})
    out: Spans = []
    for match in _TOKEN.finditer(text):
        cuts = [match.start(), *(edge for edge in edges if match.start() < edge < match.end()), match.end()]
        out += pairwise(cuts)
    return out


def _bio(document: Document) -> list[tuple[str, str]]:
    """(token, tag) in order. Raises ValueError for labels that tags cannot hold."""
    marks = marks_of(document)
    tokens = conll_tokens(document.text, marks)
    firsts, lasts = {start for start, _ in tokens}, {end for _, end in tokens}
    tags = ["O"] * len(tokens)
    for start, end, label in marks:
        if start not in firsts or end not in lasts:
            raise ValueError(f"the span [{start}, {end}) begins or ends with a blank, which no token holds")
        inside = [i for i, (s, e) in enumerate(tokens) if start <= s and e <= end]
        if any(tags[i] != "O" for i in inside):
            raise ValueError(f"the span [{start}, {end}) overlaps another")
        for i in inside:
            tags[i] = f"{'B' if i == inside[0] else 'I'}-{label}"
    return [(document.text[s:e], tag) for (s, e), tag in zip(tokens, tags, strict=True)]


def write_conll(documents: Iterable[Document]) -> Iterator[bytes | Rejection]:
    for number, d in enumerate(documents, 1):
        try:
            rows = _bio(d)
        except ValueError as error:
            yield Rejection("CoNLL", number, f"document {d.id!r}: {error}")
            continue
        head = f"# meta = {json.dumps(_beside(d))}\n# text = {json.dumps(d.text)}\n"
        yield (head + "".join(f"{token}\t{tag}\n" for token, tag in rows) + "\n").encode()


def _conll_document(lines: list[str], default_id: str) -> Document:
    comments = dict(line[1:].split("=", 1) for line in lines if line.startswith("# ") and "=" in line)
    head = {key.strip(): value for key, value in comments.items()}
    if "text" not in head:
        raise ValueError("has no '# text = …' line; tokens alone do not say which blanks stand between them")
    try:
        text, meta = json.loads(head["text"]), json.loads(head.get("meta", "{}"))
    except json.JSONDecodeError as error:
        raise ValueError(f"its comment lines are not JSON ({error.msg})") from None
    document = _base(text, check_meta(meta), default_id)
    marks, at, open_ = Marks(), 0, ""
    for line in lines:
        token, tab, tag = line.rpartition("\t")
        if line.startswith("# ") and not tab:
            continue
        start = document.text.find(token, at) if token else -1
        if start < 0 or document.text[at:start].strip():
            raise ValueError(f"token {token!r} does not come next in the text, after character {at}")
        at = start + len(token)
        kind, _, label = tag.strip().partition("-")
        if kind == "B" or (kind == "I" and label != open_):
            marks.append((start, at, label))
        elif kind == "I":
            marks[-1] = (marks[-1][0], at, label)
        elif kind != "O":
            raise ValueError(f"tag {tag!r} is not O, B-label or I-label")
        open_ = label
    if document.text[at:].strip():
        raise ValueError(f"its tokens end at character {at} of {len(document.text)}")
    return labelled(document, marks)


def _blocks(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, lines) of each document; blank lines stand between them."""
    block, first = list[str](), 1
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError:
                line = "\ufffd\tnot UTF-8"
            if line.strip() and not block:
                first = number
            if line.strip():
                block.append(line)
            elif block:
                yield first, block
                block = []
    if block:
        yield first, block


def read_conll(path: Path) -> Iterator[Document | Rejection]:
    yield from _each(path.name, _blocks(path), _conll_document)


# Hugging Face `datasets`: Parquet that `load_dataset("parquet", …)` reads


def write_parquet(documents: Iterable[Document]) -> Iterator[bytes | Rejection]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    mark = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("label", pa.string())])
    names = ("id", "text", "family", "side", "meta")
    schema = pa.schema([*((name, pa.string()) for name in names), ("spans", pa.list_(mark))])
    sink, rows = pa.BufferOutputStream(), (_flat(d) for d in documents)
    with pq.ParquetWriter(sink, schema) as writer:
        while batch := list(islice(rows, 256)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
    yield sink.getvalue().to_pybytes()


def _flat(d: Document) -> dict[str, Any]:
    """A row of the Parquet file. Metadata is JSON text: its fields differ from row to row."""
    row = {"id": d.id, "text": d.text, "family": d.family, "side": d.side}
    marks = [{"start": start, "end": end, "label": label} for start, end, label in marks_of(d)]
    return {**row, "meta": json.dumps(d.meta, ensure_ascii=False), "spans": marks}


def _parquet_row(row: dict[str, Any], default_id: str) -> Document:
    """Spans as a list of structs, or, as older `datasets` stored them, as a struct of lists."""
    spans = row.get("spans")
    if isinstance(spans, dict):
        spans = [dict(zip(spans, values, strict=True)) for values in zip(*spans.values(), strict=True)]
    if not isinstance(spans, list):
        raise ValueError("has no 'spans'")
    marks: Marks = [(s["start"], s["end"], str(s.get("label", FORGET))) for s in spans if {"start", "end"} <= s.keys()]
    if len(marks) != len(spans):
        raise ValueError("a span has no start and end")
    meta = row.get("meta") or "{}"
    try:
        beside = json.loads(meta) if isinstance(meta, str) else dict(meta)
    except json.JSONDecodeError as error:
        raise ValueError(f"'meta' is not JSON ({error.msg})") from None
    own = {key: row.get(key) for key in ("id", "family", "side")}
    document = _base(_string(row, "text"), own | {"meta": check_meta(beside)}, default_id)
    return labelled(document, placed(marks, document.text, "code points"))


def read_parquet(path: Path) -> Iterator[Document | Rejection]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def rows() -> Iterator[tuple[int, Any]]:
        number = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row

    try:
        yield from _each(path.name, rows(), _parquet_row)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name}: not a readable Parquet file ({error})") from None


FORMATS = {
    f.name: f
    for f in (
        Format("jsonl", "Tokensieve JSONL", ".jsonl", write_jsonl, read_jsonl),
        Format("label-studio", "Label Studio JSON", ".json", write_label_studio, read_label_studio),
        Format("doccano", "doccano JSONL", ".jsonl", write_doccano, read_doccano),
        Format("prodigy", "Prodigy JSONL", ".jsonl", write_prodigy, read_prodigy),
        Format("conll", "CoNLL BIO", ".conll", write_conll, read_conll),
        Format("parquet", "Hugging Face datasets (Parquet)", ".parquet", write_parquet, read_parquet),
    )
}
