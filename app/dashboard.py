"""A latent's evidence, drawn together from the store, its discovery and the weights."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app import charts, queries
from app.artifacts import LatentTable, LatentWeights
from app.models import Project, Verdict
from app.shading import Pieces, decile, pieces
from labeling import evidence
from labeling.evidence import Example, Firings

# What `at` in the address means: the heading, and (quantile, how many) of each group of examples.
SAMPLES: dict[str, list[tuple[str, float | None, int]]] = {
    "all": [("Strongest", None, 8), ("Upper quarter", 0.75, 3), ("Middle", 0.5, 3), ("Lower quarter", 0.25, 3)],
    "top": [("Strongest", None, 20)],
    "75": [("Upper quarter", 0.75, 20)],
    "50": [("Middle", 0.5, 20)],
    "25": [("Lower quarter", 0.25, 20)],
}


class Texts:
    """Document texts by key, each fetched once per request."""

    def __init__(self, session: Session, project: Project) -> None:
        self.session, self.project = session, project
        self.known: dict[str, str] = {}

    def __call__(self, key: str) -> str:
        if key not in self.known:
            self.known |= queries.texts_by_key(self.session, self.project.id, [key])
        return self.known.get(key, "")


@dataclass(frozen=True)
class Shown:
    """An example as a template draws it."""

    key: str
    family: str
    value: float
    pieces: Pieces
    document: int | None  # its id, if it is still in the project


@dataclass(frozen=True)
class Near:
    """Another latent, one key away."""

    key: str
    latent: int
    likeness: float  # cosine or Jaccard index
    surfaces: list[str]
    ratio: float
    decision: str


def example_groups(firings: Firings, texts: Texts, top: float, at: str, family: str) -> list[tuple[str, list[Shown]]]:
    """(heading, examples) by strength; what one group shows, the next leaves out."""
    groups: list[tuple[str, list[Example]]] = []
    seen: set[tuple[str, int]] = set()
    for heading, quantile, n in SAMPLES[at]:
        found = evidence.examples(firings, texts, n, family or None, quantile)
        fresh = [e for e in found if (e.key, e.offset) not in seen]
        seen |= {(e.key, e.offset) for e in fresh}
        groups.append((heading, fresh))
    keys = [e.key for _, group in groups for e in group]
    ids = queries.document_ids(texts.session, texts.project.id, keys)
    return [(heading, [_shown(e, top, ids.get(e.key)) for e in group]) for heading, group in groups if group]


def _shown(example: Example, top: float, document: int | None) -> Shown:
    """Shaded by activation: the deepest shade is the latent's maximum over train tokens."""
    starts, ends, values = zip(*example.tokens, strict=True) if example.tokens else ((), (), ())
    return Shown(example.key, example.family, example.value, shaded(example.text, starts, ends, values, top), document)


def shaded(text: str, starts: Sequence[int], ends: Sequence[int], values: Sequence[float], top: float) -> Pieces:
    """Pieces marked `t7 3.42`: the shade, then the value that the page shows on focus."""
    marks = [f"{decile(min(1.0, v / (top or 1)) * 0.999)} {v:.3g}" if v > 0 else "" for v in values]
    return pieces(text, starts, ends, marks, join=False)


def pictures(firings: Firings, table: LatentTable, sides: Mapping[str, str], latent: int) -> dict[str, Any]:
    """The histogram of both sides and the density of each family."""
    edges, _ = evidence.histogram(firings)
    tokens = firings.store.stats.family_tokens
    per_side: dict[str, list[float]] = {}
    for side in ("forget", "retain"):
        families = {family for family in firings.store.families if sides.get(family) == side}
        total = sum(int(n) for f, n in zip(firings.store.families, tokens, strict=True) if f in families)
        per_side[side] = [float(count / max(total, 1)) for count in evidence.histogram(firings, families=families)[1]]
    threshold = float(table["mean"][latent] + table.info.get("z", 4.0) * table["sd"][latent])
    return {
        "histogram": charts.overlay(per_side["retain"], per_side["forget"], 330, 110),
        "edges": edges,
        "marks": [(threshold / float(edges[-1]), "strong")] if threshold < edges[-1] else [],
        "densities": sorted(evidence.densities(firings), key=lambda d: (sides.get(d.family) != "forget", -d.share)),
    }


def near(
    table: LatentTable, weights: LatentWeights | None, verdicts: Mapping[int, Verdict], latent: int
) -> dict[str, list[Near]]:
    """The five nearest by decoder direction (keys 1 to 5) and by firing together (6 to 0)."""
    together: list[tuple[int, float]] = []
    if "near_fired" in table.columns:
        pairs = zip(table["near_fired"][latent], table["near_fired_share"][latent], strict=True)
        together = [(int(other), float(share)) for other, share in pairs if other >= 0]
    decoder = list(weights.near(latent)) if weights else []

    def listed(pairs: list[tuple[int, float]], keys: str) -> list[Near]:
        return [
            Near(key, other, likeness, table.surfaces(other)[:3], float(table["ratio"][other]),
                 verdicts[other].decision if other in verdicts else "")
            for key, (other, likeness) in zip(keys, pairs, strict=False)
            if other < len(table)
        ]  # fmt: skip

    return {"decoder": listed(decoder, "12345"), "together": listed(together, "67890")}


def neuronpedia(weights: LatentWeights | None, latent: int) -> str:
    """Where the world's page of this latent is, if its SAE says so."""
    name = str((weights.info.get("neuronpedia") if weights else None) or "")
    return f"https://www.neuronpedia.org/{name}/{latent}" if re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name) else ""
