"""Statistics never touch validation, test or sealed documents: those may hold anything and no figure moves."""

import json

import numpy as np
import pytest

from labeling.analysis import analyse_corpus
from labeling.discovery import latent_table
from labeling.evidence import Firings, examples, histogram
from labeling.functions import Terms
from labeling.label_models import compare_corpus
from labeling.ladder import ladder_corpus
from labeling.rule import RuleConfig
from labeling.store import Store
from labeling.transfer import Screen, transfer_corpus
from tests.labeling.planted import disk_store

FAMILIES = ["clinic", "pubmed", "news", "sport"]
SIDES = {"clinic": "forget", "pubmed": "forget", "news": "retain", "sport": "retain"}
LENGTH = 120
CONFIG = RuleConfig(k=2, z=1)


def corpus(folder, other: int) -> Store:
    """A train document a family, always the same, then a validation, test and sealed one drawn with seed `other`."""
    same, free = np.random.default_rng(0), np.random.default_rng(other)
    sparse = [np.where(r.random((n, 6)) < 0.15, r.random((n, 6)) * s, 0)
              for r, n, s in ((same, 4 * LENGTH, 4), (free, 12 * LENGTH, 4 + other))]  # fmt: skip
    acts = np.vstack(sparse).astype(np.float16).astype(np.float32)
    splits = ["train"] * 4 + ["validation"] * 4 + ["test"] * 4 + ["sealed"] * 4
    return disk_store(folder, acts, [LENGTH] * 16, FAMILIES * 4, splits)


def text_of(other: int):
    words = {0: "a b ", 1: "x y ", 2: "a a "}
    return lambda key: words[0 if int(key[1:]) < 4 else other] * (LENGTH // 2)


def harvested(store, other, out):
    return {name: getattr(store.stats, name).tolist() for name in ("sum", "sumsq", "max", "active", "family_tokens")}


def discovered(store, other, out):
    table = latent_table(store, SIDES, z=1)
    firings = [Firings.of(store, latent) for latent in range(6)]
    evidence = [(e.key, e.value) for fires in firings for e in examples(fires, text_of(other))]
    return (
        {k: np.nan_to_num(v, nan=-1).tolist() for k, v in table.items()},
        evidence,
        [histogram(f)[1].tolist() for f in firings],
    )


def analysed(store, other, out):
    functions = [Terms(terms=["a"], votes="retain")]
    *_, made = analyse_corpus(store.path, range(6), CONFIG, functions, text_of(other), {}, out)
    return json.loads((made.path / "analysis.json").read_text()), np.load(made.path / "alike.npy").tolist()


def aggregated(store, other, out):
    *_, made = compare_corpus(store.path, range(6), CONFIG, [], None, [], out)
    said = json.loads((made.path / "comparison.json").read_text())
    return said["functions"], said["prior"], said["rounds"], said["train"]


def climbed(store, other, out):
    *_, made = ladder_corpus(store.path, range(6), CONFIG, [], None, [], out, (0.05, 0.2))
    said = json.loads((made.path / "ladder.json").read_text())
    return [(r["cut"], r["share"], r["reached"]) for r in said["rungs"]]


def transferred(store, other, out):
    screen = Screen(ratio=1.05, minimum=3, z=1)
    *_, made = transfer_corpus(store.path, SIDES, CONFIG, screen, [], out)
    said = json.loads((made.path / "transfer.json").read_text())
    return [(row["held_out"], row["chosen"], row["kept"]) for row in said["rows"]]


@pytest.mark.parametrize("statistic", [harvested, discovered, analysed, aggregated, climbed, transferred])
def test_no_statistic_moves_when_every_other_document_changes(tmp_path, statistic):
    stores = [corpus(tmp_path / f"store-{n}", n) for n in (1, 2)]
    assert stores[0].latent(0)[1].tolist() != stores[1].latent(0)[1].tolist()
    said = [statistic(store, n, tmp_path / f"out-{n}") for n, store in enumerate(stores, 1)]
    assert said[0] == said[1]
