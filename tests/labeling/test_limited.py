"""User patterns and lists run in a child: a document over the limit costs its votes and nothing else."""

import time

import numpy as np
import pytest

from labeling.functions import Family, Pattern, Terms
from labeling.limited import Child, limited
from labeling.votes import cast, cast_votes, open_votes
from tests.labeling.planted import MemoryStore, disk_store

STARTS, ENDS = np.array([0, 2, 4], np.int32), np.array([1, 3, 5], np.int32)


def test_a_child_votes_as_the_function_itself_and_learns_another_one() -> None:
    child = Child(Pattern(pattern="b|🙂"))
    try:
        assert child.vote("a b 🙂", STARTS, ENDS, None).tolist() == [0, 1, 1]
        child.function = Terms(terms=["a"], votes="retain")
        assert child.vote("a b c", STARTS, ENDS, None).tolist() == [-1, 0, 0]
    finally:
        child.close()


def test_a_document_that_takes_too_long_is_refused_in_time_and_the_next_one_is_served() -> None:
    with limited(Terms(terms=["b"]), seconds=0.1) as voter:
        begun = time.process_time()
        with pytest.raises(ValueError, match=r"took more than 0\.1 s"):
            voter.vote("b c " * 1_000_000, STARTS, ENDS, None)
        assert time.process_time() - begun < 1  # the time was spent in the child
        assert voter.vote("b b", STARTS[:2], ENDS[:2], None).tolist() == [1, 1]


def test_functions_that_people_cannot_write_into_need_no_child() -> None:
    family = Family(family="sport")
    with limited(family) as voter:
        assert voter is family


def test_a_failing_function_abstains_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(np.zeros((6, 1)), [3, 3])
    texts = {"d0": "a b c", "d1": "\ud800"}  # the second cannot even be sent
    votes = cast(store, Terms(terms=["c"]), texts.__getitem__)
    assert (votes.tokens.tolist(), votes.votes.tolist(), votes.failed) == ([2], [1], 1)
    assert votes.reason.startswith("d1: ")


def test_votes_come_back_from_disk_as_they_were_cast(tmp_path) -> None:
    disk_store(tmp_path / "store", np.eye(6, 2), [3, 3], ["f", "f"])
    function = Terms(terms=["b"], votes="retain", veto=True)
    events = list(
        cast_votes(
            tmp_path / "store", function, {"d0": "a b c", "d1": "b"}.__getitem__, tmp_path / "v", {"store_id": 7}
        )
    )
    found = open_votes(tmp_path / "v")
    assert found.function == function and found.failed == 0
    assert (found.tokens.tolist(), found.votes.tolist()) == ([1, 3], [-1, -1])
    assert events[-1].info["store_id"] == 7 and events[-1].info["tokens"] == 2
