"""The demo project's corpus: real text of a dozen registers, built from the fetched assets.

`build` writes one `<family>.jsonl` per family and an `unseen/` folder of documents that no family
holds, so that filtering can be shown on text the project has never met. Everything is ordered by
hash: the same assets give the same files.
"""

import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from app.demo_cleaning import Text, estimate_tokens, fingerprint, is_prose, medical_rate
from app.demo_pubmed import read_pubmed
from app.demo_texts import (
    read_biographies,
    read_encyclopedia,
    read_gene_ontology,
    read_legal,
    read_medical_encyclopedia,
    read_medical_questions,
    read_news,
    read_phenotypes,
    read_stories,
    read_web,
    read_wikipedia,
)
from labeling.artifacts import ArtifactError, read_manifest, staged
from labeling.events import Artifact, Event, Progress

Row = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """A register: its declared side, and how much of it the demo takes.

    `most_medical` bounds the share of medical words in a document of a retain family: the pages
    about illness that every general register has would otherwise count as retain. Those between
    the sides (`least_medical`) are a mixed family: the rule labels them, no statistic counts them.
    """

    name: str
    side: str
    tokens: int
    read: Callable[[Path], Iterator[Text]] | None = None
    most_medical: float = 1.0
    least_medical: float = 0.0
    least_words: int = 40
    prose: bool = True


FAMILIES = (
    Family("pubmed-medicine", "forget", 60_000),
    Family("medical-questions", "forget", 50_000, read_medical_questions, least_words=45, prose=False),
    Family("phenotypes", "forget", 15_000, read_phenotypes, prose=False),
    Family("encyclopedia-medicine", "forget", 20_000, read_medical_encyclopedia),
    Family("pubmed-biology", "retain", 60_000, most_medical=0.015),
    Family("gene-ontology", "retain", 15_000, read_gene_ontology, most_medical=0.012, prose=False),
    Family("pubmed-science", "retain", 15_000),
    Family("pubmed-society", "retain", 15_000),
    Family("pubmed-psychology", "retain", 45_000),
    Family("pubmed-health-care", "retain", 30_000),
    Family("wikipedia", "retain", 50_000, read_wikipedia, most_medical=0.008),
    Family("encyclopedia", "retain", 30_000, read_encyclopedia, most_medical=0.008),
    Family("encyclopedia-between", "mixed", 130_000, read_encyclopedia, most_medical=0.05, least_medical=0.012),
    Family("web", "retain", 40_000, read_web, most_medical=0.008),
    Family("news", "retain", 40_000, read_news, most_medical=0.008),
    Family("biographies", "retain", 10_000, read_biographies, most_medical=0.006, least_words=100),
    Family("stories", "retain", 10_000, read_stories, most_medical=0.008),
    Family("legal", "retain", 10_000, read_legal, most_medical=0.005),
    Family("pubmed-unclassed", "mixed", 0),
)
PUBMED = {
    "medicine": "pubmed-medicine",
    "biology": "pubmed-biology",
    "science": "pubmed-science",
    "society": "pubmed-society",
    "psychology": "pubmed-psychology",
    "health-care": "pubmed-health-care",
    None: "pubmed-unclassed",
}
SCHOLARLY = {*PUBMED.values(), "phenotypes", "gene-ontology", "medical-questions"}


@dataclass(frozen=True)
class CorpusConfig:
    """How much to write. `limit` scales every family's share; None writes all there is."""

    limit: float | None = 1.0
    tokens_per_family: Mapping[str, int] = field(default_factory=lambda: {f.name: f.tokens for f in FAMILIES})
    unseen_per_family: int = 12
    longest_words: int = 2_000

    @property
    def identity(self) -> dict[str, object]:
        return {**asdict(self), "tokens_per_family": dict(self.tokens_per_family)}


def build(assets: Path, out: Path, config: CorpusConfig | None = None) -> Iterator[Event]:
    """Step: read, clean, deduplicate, choose, write. `out` appears whole, and is kept if it is already."""
    config = config or CorpusConfig()
    if not _is_built(out, config):
        with staged(out, "corpus", config.identity) as folder:
            yield from _build(assets, folder, config)
    yield Artifact("corpus", out)


def _is_built(out: Path, config: CorpusConfig) -> bool:
    try:
        return bool(read_manifest(out, "corpus")["info"] == config.identity)
    except ArtifactError:
        return False


def _build(assets: Path, out: Path, config: CorpusConfig) -> Iterator[Event]:
    pubmed: dict[str, list[Text]] = {name: [] for name in PUBMED.values()}
    for count, (kind, text) in enumerate(read_pubmed(assets)):
        pubmed[PUBMED[kind]].append(text)
        if count % 1000 == 0:
            yield Progress(count, None, "abstracts", "reading PubMed")
    seen: set[str] = set()
    unseen: list[Row] = []
    for number, family in enumerate(FAMILIES):
        yield Progress(number, len(FAMILIES), "families", family.name)
        wanted = config.limit and config.limit * config.tokens_per_family.get(family.name, 0)
        if wanted == 0:
            continue
        texts = iter(pubmed.pop(family.name)) if family.read is None else family.read(assets)
        rows = choose(texts, family, config, seen)
        if family.side != "mixed":  # held back before the budget: no limit ever shows them
            unseen += islice(rows, config.unseen_per_family)
        write_jsonl(out / f"{family.name}.jsonl", rows if wanted is None else within(rows, wanted))
    write_unseen(out / "unseen", unseen)
    yield Progress(len(FAMILIES), len(FAMILIES), "families")


def choose(texts: Iterable[Text], family: Family, config: CorpusConfig, seen: set[str]) -> Iterator[Row]:
    """The family's fit texts that no family before it had, in the order of their hashes.

    Fitness is judged only as rows are asked for: the demo takes a twentieth of what there is.
    """
    by_key = {fingerprint(text.text): text for text in texts}
    for key in sorted(by_key):
        text = by_key[key]
        if key not in seen and _fits(text.text, family, config):
            seen.add(key)
            yield {
                "id": f"{family.name}/{key[:12]}",
                "text": text.text,
                "family": family.name,
                "side": family.side,
                "meta": {"source": text.source, **text.meta},
            }


def _fits(text: str, family: Family, config: CorpusConfig) -> bool:
    return (
        family.least_words <= len(text.split()) <= config.longest_words
        and (not family.prose or is_prose(text, family.least_words))
        and family.least_medical <= medical_rate(text) <= family.most_medical
    )


def within(rows: Iterable[Row], tokens: float) -> Iterator[Row]:
    """Whole documents until the budget is spent."""
    spent = 0
    for row in rows:
        if spent >= tokens:
            return
        spent += estimate_tokens(row["text"])
        yield row


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_unseen(folder: Path, rows: list[Row]) -> None:
    """Two files in two of the formats that `filter` reads: papers and references, and the rest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    scholarly = [row for row in rows if row["family"] in SCHOLARLY]
    columns = {name: [row[name] for row in scholarly] for name in ("id", "text", "family", "side")}
    pq.write_table(pa.table(columns), folder / "scholarly.parquet")
    with (
        open(folder / "general.jsonl.gz", "wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,  # no name, no time: same bytes every time
        io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows if row not in scholarly)
