"""Every hostile row is kept exactly or listed with its file and row; nothing is repaired."""

import gzip
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling import documents
from labeling.documents import Document, Rejection, must, parse_json, read, split_of, text_sha256, to_document


def rows_of(path, content, **fields):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read(path, **fields))


def line(**row):
    return json.dumps(row).encode() + b"\n"


GOOD = line(id="good", text="fine")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (rb'{"text": "a\u0000b"}', "NUL"),
        (rb'{"text": "a\ud800b"}', "lone surrogate at character 1"),
        (rb'{"id": "\udfff", "text": "a"}', "lone surrogate"),
        (b'\xef\xbb\xbf{"text": "a"}', "byte-order mark"),
        (b'{"text": "\xff"}', "not UTF-8 at byte 10"),
        (b'{"text": "a", "meta": {"x": NaN}}', "NaN"),
        (b'{"text": "a", "meta": {"x": -Infinity}}', "-Infinity"),
        (b'{"text": "a", "meta": {"x": 1e999}}', "too large"),
        (b'{"text": "a", "text": "b"}', "'text' appears twice"),
        (b'{"text": "a", "meta": {"x": 1, "x": 1}}', "'x' appears twice"),
        (b'{"text": "a", "meta": {"x": ' + b"9" * 5000 + b"}}", "5,000 digits"),
        (b'{"text": "a", "id": ' + b"9" * 900 + b"}", "at most 500"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"text": "a", "meta": ' + b'{"x":' * 50_000 + b"1" + b"}" * 50_001, "nested too deeply"),
        (b'{"text": "a"', "broken JSON at character"),
        (b'["text"]', "expected a JSON object"),
        (b'{"body": "a"}', "--text-field"),
        (b'{"text": null}', "missing or null"),
        (b'{"text": ""}', "empty"),
        (b'{"text": 5}', "int, not text"),
        (b'{"id": true, "text": "a"}', "bool, not text"),
        (b'{"id": 1.5, "text": "a"}', "float, not text"),
        (b'{"id": "", "text": "a"}', "'id' is empty"),
        (b'{"text": "a", "side": "bad"}', "side 'bad'"),
        (b'{"text": "a", "family": 3}', "'family' is int"),
        (rb'{"text": "a", "family": "\u0000"}', "'family' holds a NUL"),
        (b'{"text": "a", "meta": []}', "'meta' must be an object"),
        (rb'{"text": "a", "meta": {"x": "\u0000"}}', "'meta' holds a NUL"),
        (rb'{"text": "a", "meta": {"\ud800": 1}}', "'meta' cannot be kept"),
        (b'{"text": "abc", "spans": [[0, 4]]}', "'spans': [0, 4]"),
        (b'{"text": "abc", "spans": [[1, 1]]}', "'spans': [1, 1]"),
        (b'{"text": "abc", "spans": [[-1, 1]]}', "'spans'"),
        (b'{"text": "abc", "spans": [[0, true]]}', "'spans'"),
        (b'{"text": "abc", "spans": [[0, 1, 2]]}', "'spans'"),
        (b'{"text": "abc", "spans": "0-1"}', "'spans' must be a list"),
        (b'{"text": "abc", "ignore": [[0, 9]]}', "'ignore'"),
    ],
)
def test_a_hostile_row_is_listed_and_reading_goes_on(tmp_path, bad, reason):
    path = tmp_path / "rows.jsonl"
    first, second, last = rows_of(path, GOOD + bad + b"\n" + line(text="after"))
    assert first == Document("good", "fine")
    assert isinstance(second, Rejection)
    assert reason in second.reason, second
    assert str(second).startswith(f"{path}, row 2: ")
    assert last == Document("rows.jsonl:3", "after")
    with pytest.raises(ValueError, match="row 2"):
        list(must(read(path)))


@pytest.mark.parametrize(
    "text",
    [
        "a\u2028b\u2029c\x85d",
        "line\r\nline\rline",
        "\ufeffa",
        "👩‍👩‍👧 e\u0301 \u200b שלום",
        " \t",
        "\\u0000",
        "\x01\x1f\x7f",
    ],
)
def test_odd_text_comes_back_exactly(tmp_path, text):
    for escaped in (True, False):
        (found,) = rows_of(tmp_path / "a.jsonl", json.dumps({"text": text, "meta": {"x": text}}, ensure_ascii=escaped))
        assert (found.text, found.meta) == (text, {"x": text})
    pq.write_table(pa.table({"text": [text]}), tmp_path / "a.parquet")
    (found,) = read(tmp_path / "a.parquet")
    assert found.text == text
    (found,) = rows_of(tmp_path / "a.csv", 'text\r\n"' + text + '"\r\n')
    assert found.text == text
    (found,) = rows_of(tmp_path / "a.txt", text)
    assert found.text == text


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_text_survives_json(text):
    for escaped in (True, False):
        assert to_document(parse_json(json.dumps({"text": text}, ensure_ascii=escaped).encode()), "x").text == text


def test_crlf_files_and_blank_lines_keep_their_row_numbers(tmp_path):
    found = rows_of(tmp_path / "a.jsonl", b'{"text": "a"}\r\n\r\n{"text": "b"}\r\n{"no": 1}\r\n')
    assert found[:2] == [Document("a.jsonl:1", "a"), Document("a.jsonl:3", "b")]
    assert found[2].row == 4


def test_fields_can_be_named(tmp_path):
    (found,) = rows_of(tmp_path / "a.jsonl", line(body="x", key=7), text_field="body", id_field="key")
    assert found == Document("7", "x")


def test_gold_and_metadata_are_read(tmp_path):
    row = {
        "id": "a",
        "text": "abcd",
        "family": "f",
        "side": "mixed",
        "meta": {"year": 1999},
        "spans": [[0, 2]],
        "ignore": [],
    }
    assert rows_of(tmp_path / "a.jsonl", line(**row)) == [
        Document("a", "abcd", "f", "mixed", {"year": 1999}, [(0, 2)], [])
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv", "a.txt", "a.parquet"])
def test_an_empty_file_is_an_error_that_names_it(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(ValueError, match=name):
        rows_of(path, b"")


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("zst", pa.Codec("zstd").compress)])
def test_compressed_files_are_read_to_their_end_or_refused(tmp_path, suffix, compress):
    path = tmp_path / f"a.jsonl.{suffix}"
    content = b"".join(line(id=str(i), text=f"text {i * i}") for i in range(500))
    whole = bytes(compress(content))
    assert len(rows_of(path, whole)) == 500
    assert len(rows_of(path, whole + whole)) == 1000  # two frames, one file
    for cut in (whole[:-1], whole[: len(whole) // 2], whole + b"xx", b"garbage"):
        with pytest.raises(ValueError, match=f"a.jsonl.{suffix}: cannot be read to its end"):
            rows_of(path, cut)


def test_rows_before_a_cut_are_still_given(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(line(text=str(i)) for i in range(9)))[:-4])
    reading = read(path)
    assert [next(reading).text for _ in range(9)] == list("012345678")
    with pytest.raises(ValueError, match="cut off"):
        next(reading)


def test_csv_cells_may_be_long_and_hold_line_breaks(tmp_path):
    long = "x" * 300_000
    found = rows_of(tmp_path / "a.csv", f'id,text,other\r\n1,{long},z\r\n2,"a ""b""\r\nc",\r\n')
    assert found == [Document("1", long), Document("2", 'a "b"\r\nc')]


def test_csv_rows_that_do_not_fit_are_listed(tmp_path):
    found = rows_of(tmp_path / "a.csv", "id,text\n1,a,b\n2\n3,\n4,good\n")
    assert [str(r).partition(", ")[2] for r in found[:3]] == [
        "row 1: has 3 cells where the first line names 2 columns",
        "row 2: has 1 cells where the first line names 2 columns",
        "row 3: field 'text' is empty",
    ]
    assert found[3] == Document("4", "good")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"id,body\n1,a\n", "no column 'text'.*id, body.*--text-field"),
        (b"\xef\xbb\xbftext\na\n", "row 1 begins with a byte-order mark"),
        (b"text,text\na,b\n", "'text' appears 2 times"),
        (b"text\ngood\n\xff\n", "not UTF-8 near row"),
        (b'text\ngood\n"a"b\n', "row 2: "),
        (b'text\n"never closed\n', "row 1: "),
    ],
)
def test_a_csv_file_that_cannot_be_understood_is_refused(tmp_path, content, reason):
    with pytest.raises(ValueError, match=f"a.csv: .*{reason}"):
        rows_of(tmp_path / "a.csv", content)


def test_parquet_columns_and_bad_cells(tmp_path):
    path = tmp_path / "a.parquet"
    texts = pa.array([b"fine", b"\xff", None, b"a\0b"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": texts, "id": pa.array([1, 2, 3, None]), "odd": [float("nan")] * 4}), path)
    good, *bad = read(path)
    assert good == Document("1", "fine")
    assert [r.row for r in bad] == [2, 3, 4]
    assert [r.reason.split("'")[-1] for r in bad] == [
        "not UTF-8 at byte 0 of a text",
        " is missing or null",
        " holds a NUL character",
    ]


def test_parquet_gold_spans(tmp_path):
    pq.write_table(pa.table({"text": ["abc"], "spans": [[[0, 2]]], "meta": [{"year": 1999}]}), tmp_path / "a.parquet")
    assert list(read(tmp_path / "a.parquet")) == [Document("a.parquet:1", "abc", meta={"year": 1999}, spans=[(0, 2)])]


def test_a_damaged_or_other_parquet_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"a\.parquet: "):
        rows_of(tmp_path / "a.parquet", b"PAR1 not really")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: no column 'text' \(columns: body\)"):
        list(read(tmp_path / "b.parquet"))


def test_a_text_file_is_one_document(tmp_path):
    assert rows_of(tmp_path / "note.txt", "two\r\nlines\n") == [Document("note.txt:1", "two\r\nlines\n")]
    with pytest.raises(ValueError, match=r"note\.txt: not UTF-8 at byte 2"):
        rows_of(tmp_path / "note.txt", b"ab\xff")


def test_an_overlong_row_is_listed_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "MAX_LINE", 100)
    first, second = rows_of(tmp_path / "a.jsonl", line(text="x" * 1000) + line(text="ok"))
    assert "longer than 100 bytes" in first.reason
    assert second == Document("a.jsonl:2", "ok")


def test_unknown_and_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"a\.docx: unknown file type"):
        list(read(tmp_path / "a.docx"))
    with pytest.raises(ValueError, match=r"a\.jsonl: no such file"):
        list(read(tmp_path / "a.jsonl"))


def test_standard_input_is_jsonl():
    code = "from labeling.documents import read\nfor d in read('-'): print(d)"
    done = subprocess.run([sys.executable, "-c", code], input=GOOD + b"{\n", capture_output=True, check=True)
    assert b"text='fine'" in done.stdout
    assert b"standard input, row 2: broken JSON" in done.stdout


def test_splits_follow_the_text_alone():
    splits = [split_of(text_sha256(str(i))) for i in range(2000)]
    assert splits == [split_of(text_sha256(str(i))) for i in range(2000)]
    assert 0.75 < splits.count("train") / 2000 < 0.85
    assert 0.07 < splits.count("test") / 2000 < 0.13
