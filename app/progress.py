"""Draw a step's events in the terminal: one bar per stage with rate and remaining time, on stderr."""

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from labeling.events import Artifact, Event, Metric, Progress

console = Console(stderr=True)


class Rate(ProgressColumn):
    """Units a second, smoothed by rich over the last samples."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {task.fields['unit']}/s" if speed else "", style="progress.data.speed")


def drawn(events: Iterable[Event]) -> Iterator[Event]:
    """Pass events through, drawing them on the way; nothing is drawn before there is progress."""
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
