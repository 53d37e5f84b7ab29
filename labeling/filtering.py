from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from labeling.events import Event

TREATMENTS = ("mask", "remove", "document")


@dataclass(frozen=True)
class FilterConfig:
    treatment: str = "mask"
    threshold: float | None = None
    budget: float | None = None
    tokenizer: str | None = None
    document_share: float = 0.5


def filter_corpus(
    classifier_path: Path, inputs: list[str], out: Path, config: FilterConfig, text_field: str = "text", id_field: str = "id"
) -> Iterator[Event]:
    raise NotImplementedError
    yield
