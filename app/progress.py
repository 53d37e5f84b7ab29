"""Show a step's events on stderr: a bar per stage with rate and remaining time, or lines where no terminal is."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from labeling.events import Artifact, Event, Metric, Progress

console = Console(stderr=True)
EVERY = 30.0  # seconds between two lines on a stage, in a log


class Rate(ProgressColumn):
    """Units a second, smoothed by rich over the last samples."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {task.fields['unit']}/s" if speed else "", style="progress.data.speed")


def drawn(events: Iterable[Event]) -> Iterator[Event]:
    """Pass events through, showing them on the way; nothing is shown before there is progress."""
    return _bars(events) if console.is_terminal else _lines(events, EVERY)


@dataclass
class Stage:
    """What a log is told of one stage: its beginning, where it is now and then, its end."""

    name: str
    newest: Progress
    started: float = field(default_factory=lambda: time.monotonic())
    metrics: dict[str, float] = field(default_factory=dict)
    told: float | None = None  # when its last line was written
    behind: bool = True  # something happened since

    def __post_init__(self) -> None:
        self.first = self.newest.done

    def tell(self) -> None:
        self.told, self.behind = time.monotonic(), False
        done, total, unit = self.newest.done, self.newest.total, self.newest.unit
        parts = [f"{done:,}" + (f" of {total:,}" if total else "") + f" {unit}".rstrip()] if done or total else []
        seconds = self.told - self.started
        if seconds >= 1 and (rate := (done - self.first) / seconds):
            parts.append(f"{rate:,.0f} a second" if rate >= 10 else f"{rate:.2g} a second")
            if total and done < total:
                left = round((total - done) / rate)
                parts.append(f"{left // 60} min {left % 60} s left")
        parts += [f"{name} {value:.4g}" for name, value in self.metrics.items()]
        console.print(f"{self.name}: {', '.join(parts) or 'begins'}", highlight=False, markup=False, soft_wrap=True)


def _lines(events: Iterable[Event], every: float) -> Iterator[Event]:
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    try:
        for event in events:
            match event:
                case Progress():
                    name = event.note or "working"
                    if name not in stages or event.done < stages[name].newest.done:  # the same work on another text
                        stages[name] = Stage(name, event)
                    stage = stages[name]
                    stage.behind |= event.done != stage.newest.done
                    stage.newest = event
                    over = event.done == event.total and stage.behind
                    if stage.told is None or over or time.monotonic() - stage.told >= every:
                        stage.tell()
                case Metric():
                    if stage is not None:
                        stage.metrics[event.name] = event.value
                case Artifact():
                    pass
            yield event
    finally:
        for stage in stages.values():
            if stage.behind:
                stage.tell()


def _bars(events: Iterable[Event]) -> Iterator[Event]:
    bars = Bars(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(),
        TimeRemainingColumn(elapsed_when_finished=True), TextColumn("{task.fields[metrics]}"), console=console,
    )  # fmt: skip
    tasks: dict[str, TaskID] = {}
    metrics: dict[str, float] = {}
    current: TaskID | None = None
    try:
        for event in events:
            match event:
                case Progress():
                    name = event.note or "working"
                    if name not in tasks:
                        bars.start()
                        tasks[name] = bars.add_task(name, total=event.total, unit=event.unit, metrics="")
                    current = tasks[name]
                    bars.update(current, completed=event.done, total=event.total)
                case Metric():
                    metrics[event.name] = event.value
                    if current is not None:
                        bars.update(current, metrics=" ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
                case Artifact():
                    pass
            yield event
    finally:
        if tasks:
            bars.stop()


def run(events: Iterable[Event]) -> list[Artifact]:
    """Run a step to its end with bars; returns what it made."""
    return [event for event in drawn(events) if isinstance(event, Artifact)]
