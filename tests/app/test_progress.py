"""What a log file is told of a long step; bars are rich's own."""

import pytest
from rich.console import Console

from app import progress
from labeling.events import Artifact, Metric, Progress


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "console", Console(stderr=True, force_terminal=False, width=20))


def told(capsys: pytest.CaptureFixture[str], events: list) -> list[str]:
    assert list(progress.drawn(events)) == events
    return capsys.readouterr().err.splitlines()


def test_a_stage_has_a_line_when_it_begins_and_when_it_is_over(capsys):
    lines = told(capsys, [Progress(i, 400, "tokens", "harvest the store") for i in range(401)])
    assert lines == ["harvest the store: 0 of 400 tokens", "harvest the store: 400 of 400 tokens"]


def test_between_them_one_whenever_the_time_is_up(capsys, monkeypatch):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    lines = told(capsys, [Progress(i, 50, "steps", "train") for i in range(50)])
    assert 10 < len(lines) < 30
    assert all("a second" in line and "left" in line for line in lines[1:])


def test_metrics_stand_behind_the_stage_they_belong_to(capsys, tmp_path):
    lines = told(
        capsys,
        [
            Progress(0, 2, "steps", "train"),
            Metric("loss", 0.25),
            Progress(2, 2, "steps", "train"),
            Artifact("x", tmp_path),
        ],
    )
    assert lines[-1].endswith("loss 0.25")


def test_a_stage_cut_short_still_says_how_far_it_came(capsys):
    def broken():
        yield Progress(0, 9, "steps", "train")
        yield Progress(5, 9, "steps", "train")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        list(progress.drawn(broken()))
    assert capsys.readouterr().err.splitlines()[-1].startswith("train: 5 of 9 steps")


def test_a_stage_without_a_number_is_named(capsys):
    assert told(capsys, [Progress(0, None, "", "learn a vocabulary")]) == ["learn a vocabulary: begins"]


def test_a_stage_that_begins_again_is_timed_anew(capsys):
    lines = told(capsys, [Progress(n, None, "tokens", "predict") for n in (0, 5000, 0, 10)])
    assert [line.split(",")[0] for line in lines] == ["predict: begins", "predict: begins", "predict: 10 tokens"]
