"""Leave one family out on a store whose latents are planted: one for each family, one for all of medicine."""

import json

import numpy as np
import pytest

from labeling.discovery import latent_table
from labeling.documents import Document
from labeling.events import value_of
from labeling.rule import RuleConfig
from labeling.store import Store
from labeling.transfer import NONE, Screen, select, stats_without, sums_by_family, transfer_corpus
from tests.labeling.planted import disk_store

FAMILIES = ("clinic", "pubmed", "news", "sport")
SIDES = {"clinic": "forget", "pubmed": "forget", "news": "retain", "sport": "retain"}
# Latent 0 fires in all of medicine, 1 only in clinic notes, 2 on news and clinic, 3 everywhere, 4 in pubmed and sport.
FIRES = {0: ("clinic", "pubmed"), 1: ("clinic",), 2: ("clinic", "news"), 3: FAMILIES, 4: ("pubmed", "sport")}


def planted_families(folder) -> Store:
    """1,000 train and 200 validation tokens a family; a latent fires on 5% of the tokens of its families."""
    rng = np.random.default_rng(0)
    families, splits = [f for f in FAMILIES for _ in range(2)], ["train", "validation"] * 4
    lengths = [1000, 200] * 4
    acts = np.zeros((sum(lengths), 5), np.float32)
    for begin, length, family in zip(np.cumsum([0, *lengths[:-1]]), lengths, families, strict=True):
        for latent, on in FIRES.items():
            if family in on:
                acts[begin : begin + length, latent] = np.where(rng.random(length) < 0.05, 8, 0)
    return disk_store(folder, acts, lengths, families, splits)


@pytest.fixture
def store(tmp_path) -> Store:
    return planted_families(tmp_path / "store")


def chosen(store, screen, *held):
    sums = value_of(sums_by_family(store))
    folds = [(h, stats_without(store, sums, h)) for h in held]
    return [fold.latents for fold in value_of(select(store, SIDES, folds, screen))]


def test_without_anything_held_out_it_is_the_ratio_screen(store):
    table = latent_table(store, SIDES, z=2)
    by_table = np.flatnonzero((table["ratio"] >= 3) & (table["strong_forget"] >= 20)).tolist()
    assert chosen(store, Screen(ratio=3, minimum=20, z=2), NONE) == [by_table] == [[0, 1]]


def test_statistics_without_a_family_are_those_of_the_others(store, tmp_path):
    sums = value_of(sums_by_family(store))
    whole = stats_without(store, sums, NONE)
    assert whole.sum == pytest.approx(store.stats.sum) and whole.sumsq == pytest.approx(store.stats.sumsq)
    without = stats_without(store, sums, store.families.index("sport"))
    assert without.tokens == 3000
    assert without.sum[4] == pytest.approx(sums[4, store.families.index("pubmed"), 0])


def test_a_latent_that_only_the_held_out_family_speaks_for_is_not_chosen(store):
    screen = Screen(ratio=3, minimum=20, z=2)
    at = store.families.index
    without_clinic, without_sport, without_news = chosen(store, screen, at("clinic"), at("sport"), at("news"))
    assert without_clinic == [0]  # 1 fires nowhere else
    assert without_sport == [0, 1, 4]  # 4 was kept out by sport alone
    assert without_news == [0, 1, 2]
    assert chosen(store, Screen(ratio=3, minimum=20, z=2, among=(1, 4)), at("sport")) == [[1, 4]]


def test_the_matrix_says_what_becomes_of_the_family_left_out(store, tmp_path):
    gold = [Document("d1", "x " * 200, "clinic", "forget", spans=[(0, 100)])]
    config, screen = RuleConfig(k=1, z=2, boundary="seeds"), Screen(ratio=3, minimum=20, z=2)
    *_, made = transfer_corpus(store.path, SIDES, config, screen, gold, tmp_path / "out", {"rule": 2})
    said = json.loads((made.path / "transfer.json").read_text())
    rows = {row["held_out"]: row for row in said["rows"]}
    column = {family["name"]: i for i, family in enumerate(said["families"])}
    assert list(rows) == [None, *sorted(FAMILIES)]
    assert [f["tokens"] for f in said["families"]] == [200] * 4
    assert (rows[None]["latents"], rows["clinic"]["latents"], rows["clinic"]["kept"]) == (2, 1, 1)
    assert rows["clinic"]["shares"][column["clinic"]] < rows[None]["shares"][column["clinic"]]
    assert rows["sport"]["shares"][column["sport"]] > rows[None]["shares"][column["sport"]] == 0
    assert rows["pubmed"]["gold"]["recall"] is not None and made.info["rule"] == 2


def test_two_families_of_each_side_are_needed(store, tmp_path):
    with pytest.raises(ValueError, match="one forget family out needs at least two"):
        list(transfer_corpus(store.path, SIDES | {"pubmed": "mixed"}, RuleConfig(), Screen(), [], tmp_path / "out"))
