"""Gold to other tools' formats and back: nothing moves, and what does not fit is named."""

import json
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labeling.documents import Document, Rejection
from labeling.gold_formats import FORMATS, conll_tokens, write_conll
from labeling.offsets import Offsets, located, placed
from labeling.tokens import merge

NASTY = "Dose 💊 for 👩‍⚕️:\r\nwarfarin 5 mg\r\rCafe\u0301 \u05d0\u05d1 \u200bzero\u2028end 🩺"
EXACT = ("jsonl", "label-studio", "doccano", "prodigy", "parquet")


def at(word: str) -> tuple[int, int]:
    start = NASTY.index(word)
    return start, start + len(word)


def nasty() -> Document:
    """Spans before, after and on emoji, over CRLF, on a combining mark, right-to-left, zero-width."""
    spans = [at("💊"), at(":\r\nwarfarin"), at("e\u0301"), at("\u200bzero"), at("🩺")]
    return Document("a/1", NASTY, "clinic", "forget", {"page": 3, "family": "x"}, merge(spans), [at("\u05d0\u05d1")])


def round_trip(name: str, documents: list[Document], folder: Path) -> list[Document | Rejection]:
    path = folder / f"gold{FORMATS[name].suffix}"
    path.write_bytes(b"".join(piece for piece in FORMATS[name].write(documents) if isinstance(piece, bytes)))
    return list(FORMATS[name].read(path))


def read_line(name: str, folder: Path, row: object) -> Document | Rejection:
    path = folder / f"gold{FORMATS[name].suffix}"
    path.write_text(json.dumps([row] if name == "label-studio" else row), encoding="utf-8")
    (found,) = FORMATS[name].read(path)
    return found


@pytest.mark.parametrize("name", EXACT)
def test_gold_comes_back_as_it_was(name: str, tmp_path: Path):
    clean = Document("b", "Nothing here.", "sport", "retain", {}, [])
    assert round_trip(name, [nasty(), clean], tmp_path) == [nasty(), clean]


def test_conll_keeps_spans_that_tokens_can_hold(tmp_path: Path):
    assert round_trip("conll", [nasty()], tmp_path) == [nasty()]
    blank = Document("b", "a b", spans=[(1, 2)])
    (left_out,) = write_conll([blank])
    assert isinstance(left_out, Rejection) and "'b': the span [1, 2) begins or ends with a blank" in left_out.reason


text = st.text(alphabet=st.sampled_from("ab \r\n\t.é\u0301💊🩺\u200d👩\u05d0\u2028"), min_size=1, max_size=30)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=text, data=st.data(), name=st.sampled_from(sorted(FORMATS)))
def test_any_text_and_spans_come_back_or_are_named(text: str, data: st.DataObject, name: str, tmp_path: Path):
    def spans() -> list[tuple[int, int]]:
        edges = data.draw(st.lists(st.integers(0, len(text)), max_size=4))
        return merge([(min(pair), max(pair)) for pair in zip(edges[::2], edges[1::2], strict=False)])

    document = Document("x", text, "f", None, {}, spans(), None)
    written = list(FORMATS[name].write([document]))
    if any(isinstance(piece, Rejection) for piece in written):
        assert name == "conll"
    else:
        assert round_trip(name, [document], tmp_path) == [document]


# How each tool counts


def test_doccano_counts_utf16_units():
    (line,) = FORMATS["doccano"].write([Document("x", "💊 pill", spans=[(2, 6)])])
    assert isinstance(line, bytes) and json.loads(line)["label"] == [[3, 7, "forget"]]


def test_label_studio_counts_code_points_and_old_files_utf16(tmp_path: Path):
    def task(start: int, end: int, **value: str) -> dict[str, object]:
        result = {"type": "labels", "value": {"start": start, "end": end, "labels": ["forget"], **value}}
        return {"id": 7, "data": {"text": "💩 an annotation"}, "annotations": [{"result": [result]}]}

    for start in (5, 6):
        found = read_line("label-studio", tmp_path, task(start, start + 10, text="annotation"))
        assert isinstance(found, Document) and found.spans == [(5, 15)]
    unclear = read_line("label-studio", tmp_path, task(3, 4))
    assert isinstance(unclear, Rejection) and "fit both" in unclear.reason


def test_a_surface_that_is_elsewhere_is_never_shifted(tmp_path: Path):
    result = {"type": "labels", "value": {"start": 3, "end": 7, "text": "pill", "labels": ["forget"]}}
    task = {"data": {"text": "a\r\npill"}, "annotations": [{"result": [result]}]}
    assert isinstance(read_line("label-studio", tmp_path, task), Document)
    result["value"] = {"start": 2, "end": 6, "text": "pill", "labels": ["forget"]}  # the browser swallowed \r
    found = read_line("label-studio", tmp_path, task)
    assert isinstance(found, Rejection) and "the record says 'pill'" in found.reason


def test_offsets_inside_a_surrogate_pair_are_refused():
    assert Offsets("a💊b").to_points(3) == 2 and Offsets("a💊b").to_units(2) == 3
    for unit in (2, 5):
        with pytest.raises(ValueError, match="UTF-16 offset"):
            Offsets("a💊b").to_points(unit)
    with pytest.raises(ValueError, match="behind"):
        placed([(0, 9, "forget")], "short", "UTF-16 units")


def test_text_settles_which_unit_is_meant():
    assert located([(2, 4, "forget")], ["ab"], "💊ab") == [(1, 3, "forget")]
    assert located([(1, 3, "forget")], ["ab"], "💊ab") == [(1, 3, "forget")]


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("jsonl", {"id": "x", "text": "abc"}, "no 'spans'"),
        ("jsonl", {"id": "x", "text": "abc", "spans": [[0, 4]]}, "is not [start, end]"),
        ("doccano", {"text": "abc", "label": [[0, 9, "forget"]]}, "behind"),
        ("doccano", {"text": "abc", "label": [[0, 2, "PER"]]}, "label 'PER'"),
        ("doccano", {"text": "abc", "label": [["0", 2, "forget"]]}, "is not a range"),
        ("doccano", {"text": "abc"}, "expected 'label'"),
        ("prodigy", {"text": "abc", "answer": "ignore"}, "its answer is 'ignore'"),
        (
            "prodigy",
            {"text": "abc", "spans": [{"start": 0, "end": 1, "label": "forget", "text": "b"}]},
            "the record says",
        ),
        ("label-studio", {"data": {"text": "abc"}}, "expected a task"),
        ("label-studio", {"data": {"text": "abc"}, "annotations": [{"result": []}, {"result": []}]}, "2 annotations"),
        (
            "label-studio",
            {"data": {"text": "abc"}, "annotations": [{"result": [{"type": "choices"}]}]},
            "not a text label",
        ),
    ],
)
def test_what_does_not_fit_is_named(name: str, row: object, reason: str, tmp_path: Path):
    found = read_line(name, tmp_path, row)
    assert isinstance(found, Rejection) and found.row == 1 and reason in found.reason


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("a\tO\n", "no '# text"),
        ('# text = "a b"\na\tO\n', "its tokens end at character 1 of 3"),
        ('# text = "a b"\na\tO\nc\tO\n', "token 'c' does not come next"),
        ('# text = "a b"\na\tX\nb\tO\n', "tag 'X'"),
        ("# text = a\na\tO\n", "not JSON"),
    ],
)
def test_conll_that_does_not_fit_its_text_is_named(lines: str, reason: str, tmp_path: Path):
    path = tmp_path / "gold.conll"
    path.write_text(lines + '\n# text = "b"\nb\tB-forget\n', encoding="utf-8")
    bad, good = FORMATS["conll"].read(path)
    assert isinstance(bad, Rejection) and reason in bad.reason
    assert isinstance(good, Document) and good.spans == [(0, 1)]


def test_conll_tokens_are_cut_at_labels():
    assert conll_tokens("beta-blocker", [(0, 2, "forget")]) == [(0, 2), (2, 4), (4, 5), (5, 12)]


def test_a_cut_off_array_says_after_which_task(tmp_path: Path):
    path = tmp_path / "gold.json"
    whole = b"".join(p for p in FORMATS["label-studio"].write([nasty()]) if isinstance(p, bytes))
    path.write_bytes(whole.rstrip().removesuffix(b"]"))
    found = FORMATS["label-studio"].read(path)
    assert next(found) == nasty()
    with pytest.raises(ValueError, match="after task 1"):
        next(found)


def test_the_datasets_library_reads_and_writes_it(tmp_path: Path):
    path = tmp_path / "gold.parquet"
    path.write_bytes(b"".join(p for p in FORMATS["parquet"].write([nasty()]) if isinstance(p, bytes)))
    loaded = Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["spans"][0] == {"start": 5, "end": 6, "label": "forget"} and loaded[0]["text"] == NASTY
    loaded.to_parquet(str(path))
    assert list(FORMATS["parquet"].read(path)) == [nasty()]
