"""The queue, the reader page, annotation events, gold."""

import html
import json
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as settings_
from hypothesis import strategies as st
from sqlalchemy import select

from app import reader
from app.annotating import EMPTY, Event, Labels, apply, rewound, subtract, surface_sha256
from app.models import Annotation, Document
from app.reader import cuts, exact, runs
from app.suggestions import TokenTable, _words, disjoint, inside_grapheme
from tests.app.reviewed import documents_of, seed

TEXT = "Give warfarin 5 mg daily."
HTMX = {"HX-Request": "true"}


def event(action: str, start: int | None = None, end: int | None = None, **more) -> Event:
    return Event(version=0, action=action, start=start, end=end, **more)


# Events, by hand


def test_right_adds_the_suggestion_and_wrong_takes_it_away():
    right = apply(event("right", 5, 13), EMPTY, TEXT)
    assert right == Labels([(5, 13)], [(5, 13, "right")], "part")
    assert apply(event("wrong", 5, 13), right, TEXT) == Labels([], [(5, 13, "wrong")], "part")


def test_removing_the_middle_of_a_span_leaves_two():
    assert subtract([(0, 10), (12, 14)], 4, 6) == [(0, 4), (6, 10), (12, 14)]


def test_touching_spans_become_one():
    assert apply(event("add", 13, 18), Labels([(5, 13)], [], "part"), TEXT).spans == [(5, 18)]


def test_an_edit_reopens_a_finished_document():
    assert apply(event("add", 0, 4), Labels([], [], "clean"), TEXT).state == "part"


def test_clean_with_spans_is_impossible():
    with pytest.raises(ValueError, match="1 forget span is marked"):
        apply(event("state", state="clean"), Labels([(0, 4)], [], "part"), TEXT)


@pytest.mark.parametrize(("start", "end"), [(None, 4), (4, 4), (5, 4), (0, 26)])
def test_a_range_outside_the_text_is_refused(start, end):
    with pytest.raises(ValueError):
        apply(event("add", start, end), EMPTY, TEXT)


def test_a_surface_that_is_not_the_text_there_is_refused():
    with pytest.raises(ValueError, match="reload"):
        apply(event("add", 5, 13, surface="Warfarin"), EMPTY, TEXT)


def test_undo_and_redo_walk_back_and_forth_over_versions():
    history = [(1, "add"), (2, "add")]
    assert rewound(history, "undo") == 1
    assert rewound([*history, (3, "undo")], "undo") == 0
    assert rewound([*history, (3, "undo")], "redo") == 2
    assert rewound([*history, (3, "undo"), (4, "undo"), (5, "redo")], "redo") == 2
    assert rewound([*history, (3, "undo"), (4, "redo")], "undo") == 1


def test_a_new_event_ends_what_can_be_redone():
    with pytest.raises(ValueError, match="nothing to redo"):
        rewound([(1, "add"), (2, "undo"), (3, "wrong")], "redo")


def test_undo_does_not_go_behind_imported_gold():
    with pytest.raises(ValueError, match="nothing to undo"):
        rewound([(1, "add"), (2, "import")], "undo")


@settings_(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1), st.data())
def test_spans_never_leave_the_text_and_never_overlap(text: str, data: st.DataObject):
    labels = EMPTY
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(text) - 1))
        end = data.draw(st.integers(start + 1, len(text)))
        action = data.draw(st.sampled_from(["add", "remove", "right", "wrong"]))
        labels = apply(event(action, start, end, surface=text[start:end]), labels, text)
    edges = [edge for span in labels.spans for edge in span]
    assert edges == sorted(edges) and all(0 <= edge <= len(text) for edge in edges)


# Text on the page


def test_markup_is_escaped_and_a_carriage_return_survives_html():
    assert exact("a<b>\r\n") == "a&lt;b&gt;&#13;\n"


def test_the_bytes_of_one_emoji_become_one_token():
    starts, ends = np.array([0, 2, 2, 2, 5], np.int32), np.array([1, 3, 3, 3, 5], np.int32)
    table = TokenTable(starts, ends, np.array([0, 0, 2, 1, 2], np.uint8), np.array([0, 0.1, 0.9, 0.2, 1], np.float32))
    merged = disjoint(table)
    assert (merged.starts.tolist(), merged.ends.tolist(), merged.weak.tolist()) == ([0, 2], [1, 3], [0, 2])
    assert merged.p.tolist() == pytest.approx([0, 0.9])


@pytest.mark.parametrize(
    "grapheme",
    ["👩🏽‍⚕️", "e\u0301", "🇫🇷", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "ক্ষ", "❤\ufe0f"],
)
def test_no_token_begins_inside_a_grapheme(grapheme: str):
    text = f"x {grapheme} {grapheme}y"
    starts, ends = _words(text, 0, len(text))
    merged = disjoint(TokenTable(starts, ends, None, None), inside_grapheme(text, starts, 0, len(text)))
    second = 3 + len(grapheme)
    assert merged.starts.tolist()[:3] == [0, 2, second]


@settings_(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab \n\r🩺é\u0301"), max_size=400))
def test_chunks_are_the_text(text: str):
    original, reader.CHARACTERS = reader.CHARACTERS, 20
    try:
        edges = cuts(text)
    finally:
        reader.CHARACTERS = original
    assert edges[0] == 0 and edges[-1] == len(text) and edges == sorted(edges)
    assert all(b - a <= 25 for a, b in pairwise(edges))


def test_a_suggestion_is_a_run_of_flags_and_ends_with_its_chunk():
    flags = np.array([1, 1, 0, 1, 1, 1], bool)
    assert runs(flags, np.arange(6, dtype=np.int32), [0, 4, 6]).tolist() == [1, 1, 0, 2, 3, 3]


# Routes


@pytest.fixture
def first(sessions, project) -> Document:
    with sessions() as session:
        return documents_of(session, project)[0]


def post(client, document, version, action, **more):
    url = f"/projects/medicine/documents/{document.id}/annotations"
    return client.post(url, json={"version": version, "action": action, **more})


def test_an_event_is_stored_with_the_hash_of_its_surface(client, sessions, first):
    answer = post(client, first, 0, "add", start=4, end=11, surface=first.text[4:11])
    assert answer.status_code == 200
    assert answer.json() == {
        "version": 1, "state": "part", "spans": [[4, 11]], "judged": [],
        "last": {"action": "add", "start": 4, "end": 11, "author": "owner"},
    }  # fmt: skip
    with sessions() as session:
        stored = session.scalars(select(Annotation)).one()
        assert stored.surface_sha256 == surface_sha256(first.text, 4, 11)


def test_a_stale_tab_gets_409_with_the_newer_state_and_nothing_is_lost(client, sessions, first):
    post(client, first, 0, "add", start=0, end=3)
    stale = post(client, first, 0, "add", start=4, end=11)
    assert stale.status_code == 409
    assert (stale.json()["version"], stale.json()["spans"]) == (1, [[0, 3]])
    with sessions() as session:
        assert len(session.scalars(select(Annotation)).all()) == 1


def test_of_two_reviewers_at_once_one_wins_and_every_win_is_kept(client, sessions, first):
    def review(offset: int) -> int:
        """Add one-letter spans at versions read from the last answer; count the acknowledged ones."""
        version, wins = 0, 0
        for i in range(8):
            start = 4 * i + offset
            answer = post(client, first, version, "add", start=start, end=start + 1)
            version, wins = answer.json()["version"], wins + (answer.status_code == 200)
        return wins

    with ThreadPoolExecutor(2) as pool:
        wins = sum(pool.map(review, [0, 2]))
    with sessions() as session:
        rows = session.scalars(select(Annotation).order_by(Annotation.version)).all()
    assert [row.version for row in rows] == list(range(1, wins + 1))
    assert [len(row.spans) for row in rows] == list(range(1, wins + 1))


@pytest.mark.parametrize(
    "body",
    [
        {"version": 0, "action": "add"},
        {"version": 0, "action": "add", "start": 0, "end": 100_000},
        {"version": 0, "action": "add", "start": 0, "end": 3, "surface": "\ud800"},
        {"version": 0, "action": "state", "state": "gold"},
        {"version": 0, "action": "undo"},
        {"version": -1, "action": "undo"},
        {"version": 0, "action": "import"},
        {"version": 0, "action": "state", "state": "done", "author": "someone"},
    ],
)
def test_an_event_that_makes_no_sense_is_422(client, first, body):
    url = f"/projects/medicine/documents/{first.id}/annotations"
    answer = client.post(url, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422


def test_clean_with_spans_is_422(client, first):
    post(client, first, 0, "add", start=0, end=3)
    assert post(client, first, 1, "state", state="clean").status_code == 422


def test_sealed_documents_are_refused_everywhere(client, sessions, first):
    post(client, first, 0, "state", state="clean")
    with sessions.begin() as session:
        session.get_one(Document, first.id).split = "sealed"
    assert client.get(f"/projects/medicine/documents/{first.id}").status_code == 404
    assert client.get(f"/projects/medicine/documents/{first.id}/why?start=0").status_code == 404
    assert post(client, first, 1, "add", start=0, end=3).status_code == 404
    assert first.key not in client.get("/projects/medicine/review").text
    assert client.get("/projects/medicine/gold.jsonl").text == ""


def test_gold_holds_finished_documents_in_the_published_format(client, first):
    post(client, first, 0, "right", start=4, end=11)
    assert client.get("/projects/medicine/gold.jsonl").text == ""
    post(client, first, 1, "state", state="done")
    (line,) = client.get("/projects/medicine/gold.jsonl").text.splitlines()
    known = {"id": "clinic-1", "text": first.text, "family": "clinic", "side": "forget", "meta": {}}
    assert json.loads(line) == known | {"spans": [[4, 11]]}


def test_missing_rows_are_404(client, project):
    for path in ("documents/99999", "documents/99999/why?start=0", "gold.jsonl"):
        assert client.get(f"/projects/nothing/{path}").status_code == 404
    assert client.get("/projects/medicine/documents/99999").status_code == 404


def test_the_reader_works_before_any_harvest(client, first):
    page = client.get(f"/projects/medicine/documents/{first.id}")
    assert page.status_code == 200
    assert '<span class="tk" data-s="4" data-e="11">patient</span>' in page.text


def test_the_reader_shows_all_layers(client, settings, sessions, project, first):
    seed(settings, sessions, project)
    page = client.get(f"/projects/medicine/documents/{first.id}").text
    assert '<span class="tk t0" data-s="4" data-e="11" data-p="0.050">patient</span>' in page
    assert 'class="tk grown t7" data-s="12" data-e="15" data-r="1" data-p="0.750">was</span>' in page
    assert 'class="tk seed t9"' in page and 'class="t7"> </span>' in page
    why = client.get(f"/projects/medicine/documents/{first.id}/why?start=12").text
    assert "/projects/medicine/latents/5" in why


def test_the_queue_orders_by_reason_and_says_why(client, settings, sessions, project):
    seed(settings, sessions, project)
    page = client.get("/projects/medicine/review?why=retain").text
    assert "retain family, yet flagged" in page and "sport-1" in page
    assert "clinic-1" not in page and "biology-1" not in page
    flagged = client.get("/projects/medicine/review?why=flagged", headers=HTMX).text
    assert "clinic-1" in flagged and "sport-1" not in flagged


def test_a_finished_document_leaves_the_open_queue_but_keeps_its_place(client, settings, sessions, project, first):
    seed(settings, sessions, project)
    post(client, first, 0, "state", state="done")
    query = "why=flagged&state=open"
    assert "clinic-1" not in client.get(f"/projects/medicine/review?{query}").text
    page = client.get(f"/projects/medicine/documents/{first.id}?{query}").text
    assert f'data-key="]" href="/projects/medicine/documents/{first.id + 1}?why=flagged&amp;state=open"' in page


def test_the_fragment_stands_verbatim_in_the_page(client, settings, sessions, project):
    seed(settings, sessions, project)
    page, fragment = client.get("/projects/medicine/review"), client.get("/projects/medicine/review", headers=HTMX)
    assert fragment.text.strip() in page.text and "<html" not in fragment.text


@pytest.mark.parametrize("query", ["why=nonsense", "page=0", "split=sealed", "state=gold"])
def test_bad_filters_are_422(client, project, query):
    assert client.get(f"/projects/medicine/review?{query}").status_code == 422


def test_a_stale_page_can_ask_what_counts_now(client, first):
    url = f"/projects/medicine/documents/{first.id}/annotations"
    assert client.get(url).json()["version"] == 0
    saved = post(client, first, 0, "add", start=0, end=3)
    assert client.get(url).json() == saved.json()


def test_undo_then_redo_brings_the_spans_back(client, first):
    post(client, first, 0, "add", start=0, end=3)
    assert post(client, first, 1, "undo").json()["spans"] == []
    assert post(client, first, 2, "redo").json()["spans"] == [[0, 3]]
    assert post(client, first, 3, "redo").status_code == 422


def test_a_long_document_comes_in_chunks_that_make_up_its_text(client, sessions, first):
    with sessions.begin() as session:
        document = session.get_one(Document, first.id)
        document.text = "word 🩺 " * 2_000 + "x" * 9_000 + "\r\n end"
        document.characters = len(document.text)
        text = document.text
    url, at, chunks = f"/projects/medicine/documents/{first.id}/text", "0", []
    while at is not None:
        chunks.append(client.get(f"{url}?at={at}").text)
        found = re.search(r'data-after="(\d+)"', chunks[-1])
        at = found and found[1]
    assert len(chunks) > 5
    shown = "".join(html.unescape(re.sub(r"<[^>]*>", "", part)) for part in chunks)
    assert shown == text
    page = client.get(f"/projects/medicine/documents/{first.id}?at=8000").text
    assert client.get(f"{url}?at=8000").text in page


def test_ten_megabytes_open_with_less_than_one_of_html(client, sessions, first):
    with sessions.begin() as session:
        document = session.get_one(Document, first.id)
        document.text = "word 🩺 " * 1_430_000
        document.characters = len(document.text)
    page = client.get(f"/projects/medicine/documents/{first.id}?at={7 * 1_430_000 - 10}")
    assert len(page.content) < 1_000_000 and 'data-e="10009999"' in page.text
    saved = post(client, first, 0, "add", start=10_009_993, end=10_009_997, surface="word")
    assert saved.status_code == 200
