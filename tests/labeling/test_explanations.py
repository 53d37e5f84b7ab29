"""Explanations against a real HTTP server that speaks the chat-completions protocol."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from labeling.explanations import Chat, Endpoint, Explanation, Question, detected, explain, parsed, question
from labeling.store import Store
from tests.chat_server import ChatServer
from tests.fakes import planted_store

TEXT = {f"d{i}": f"case {i} the dose was given then rest " + "word " * 40 for i in range(30)}


@pytest.fixture
def server() -> Iterator[ChatServer]:
    made = ChatServer()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Question:
    surfaces = [text.split() for text in TEXT.values()]
    dense = np.array([[word == "dose"] for text in surfaces for word in text], float) * 3
    documents = [(key, text, "clinic", "train") for key, text in TEXT.items()]
    store = Store.open(planted_store(tmp_path_factory.mktemp("store") / "s", dense, documents))
    return question(store, 0, TEXT.__getitem__, "medicine; not cosmetics", ["mg", "dose"])


def test_the_request_holds_concept_marked_examples_and_promoted_tokens(asked: Question) -> None:
    said = asked.evidence[-1]["content"]
    assert "medicine; not cosmetics" in said and "«dose»9" in said and "'mg', 'dose'" in said
    assert sorted(asked.fires) == [False] * 5 + [True] * 5
    assert all(
        ("dose" in text) == fires and "«" not in text for text, fires in zip(asked.passages, asked.fires, strict=True)
    )
    assert not any(text in said for text, fires in zip(asked.passages, asked.fires, strict=True) if fires)


def test_a_latent_is_explained_judged_and_scored(server: ChatServer, asked: Question) -> None:
    *_, found, last = explain([asked], Endpoint(server.url, "tiny", "secret-key"))
    assert found == Explanation(0, "doses of drugs", "yes", 1.0, 200, 20, asked.sha256("tiny"))
    assert (last.done, last.total) == (1, 1)
    assert server.authorization == ["Bearer secret-key"] * 2
    assert [body["model"] for body in server.seen] == ["tiny"] * 2 and server.seen[0]["temperature"] == 0


def test_a_busy_server_is_asked_again_and_a_refusal_is_told(server: ChatServer, asked: Question) -> None:
    chat = Chat(Endpoint(server.url, "tiny", "secret-key"))
    chat.wait = 0.01
    server.fail = [503, 429]
    assert chat.ask(asked.evidence).tokens_in == 100 and len(server.seen) == 3
    server.fail = [401]
    with pytest.raises(ValueError, match=r"answered 401.*TOKENSIEVE_EXPLAIN_URL") as refused:
        chat.ask(asked.evidence)
    assert len(server.seen) == 4 and "secret-key" not in str(refused.value)


def test_a_silent_port_and_another_protocol_are_told(server: ChatServer, asked: Question) -> None:
    chat = Chat(Endpoint("http://127.0.0.1:9/v1", "tiny"))
    chat.wait = 0.01
    with pytest.raises(ValueError, match="does not answer"):
        chat.ask(asked.evidence)
    server.answer = lambda messages: [1]  # type: ignore[method-assign, assignment, return-value]
    assert parsed(Chat(Endpoint(server.url, "tiny")).ask(asked.evidence).text) == ("[1]", "unsure")


def test_stopping_does_not_wait_for_answers(server: ChatServer, asked: Question) -> None:
    server.delay = 5
    steps = explain([asked] * 8, Endpoint(server.url, "tiny"), parallel=2)
    assert next(steps).total == 8
    began = time.monotonic()
    next(steps)
    steps.close()
    assert time.monotonic() - began < 2 and len(server.seen) <= 2


@pytest.mark.parametrize("url", ["ftp://host/v1", "host:80", "https://user:pw@host/v1", "https://host/v1?key=1"])
def test_addresses_that_hide_a_key_or_are_none_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="TOKENSIEVE_EXPLAIN_URL"):
        Endpoint(url, "tiny")


def test_answers_are_read_with_patience() -> None:
    assert parsed('{"concept": "No", "explanation": "dates\\n of birth"}') == ("dates of birth", "no")
    assert parsed("just words") == ("just words", "unsure")
    assert parsed('{"concept": "perhaps"}')[1] == "unsure"
    fires = [True, False, True, False]
    assert detected('{"fires": [1, 3]}', fires) == 1
    assert detected('It is {"fires": [1, 2]}.', fires) == 0.5
    assert detected("none of them", fires) is None
