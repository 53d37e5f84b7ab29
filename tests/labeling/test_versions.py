"""The difference of two versions by hand; a version file that holds no text and betrays an edit."""

import json

import numpy as np
import pytest

from labeling.functions import Family, Terms
from labeling.rule import RuleConfig, rule_hash
from labeling.versions import (
    FORMAT,
    FamilyDiff,
    corpus_hash,
    diff_rules,
    diff_tokens,
    document_notes,
    read_version,
    said_hash,
)
from tests.labeling.planted import disk_store


@pytest.fixture
def store(tmp_path):
    return disk_store(
        tmp_path / "store", np.ones((7, 1), np.float32), [3, 2, 2], ["clinic", "sport", "clinic"],
        ["train", "train", "test"],
    )  # fmt: skip


def test_rules_differ_by_settings_latents_and_functions():
    a, b = (f.model_dump(mode="json") for f in (Terms(terms=["x"]), Family(family="y", votes="retain")))
    found = diff_rules(({"k": 2}, [1, 2, 3], [a]), ({"k": 3, "z": 2.0}, [2, 3, 9], [b]))
    assert found.settings == [("k", 2, 3)]  # z was never named and 2 is its default
    assert (found.latents_added, found.latents_removed, found.latents_kept) == ([9], [1], 2)
    assert [f.name for f in found.functions_added + found.functions_removed] == ["family y", "terms x"]
    assert not found.same
    assert diff_rules(({"k": 2}, [1], [a]), ({"k": 2}, [1], [a])).same


def test_a_window_that_is_not_saved_is_one_of_no_tokens():
    without, within = ({"k": 2}, [1], []), ({"k": 2, "window": 15}, [1], [])
    assert diff_rules(without, within).settings == [("window", 0, 15)]
    assert diff_rules(within, without).settings == [("window", 15, 0)]


def test_tokens_differ_by_family_and_document_over_train_documents(store):
    old, new = np.array([2, 1, 0, 0, 2, 2, 2], np.uint8), np.array([2, 0, 3, 1, 1, 0, 0], np.uint8)
    found = diff_tokens(store, old, new)
    assert found.families == [FamilyDiff("clinic", 3, 1, 1, 0), FamilyDiff("sport", 2, 1, 0, 1)]
    assert found.changed == [(0, 1, 0), (1, 0, 1)]
    assert (found.both, found.only_old, found.only_new) == (2, 1, 1)
    assert diff_tokens(store, old, old).changed == []


def test_the_corpus_hash_is_of_the_texts_whatever_their_order(store):
    first = corpus_hash(store)
    store.keys, store.doc_sha256 = store.keys[::-1], store.doc_sha256[::-1]
    assert corpus_hash(store) == first
    store.doc_sha256 = ["1" * 64, *store.doc_sha256[1:]]
    assert corpus_hash(store) != first


def test_documents_are_noted_by_id_hash_and_ranges(store):
    notes = list(document_notes(store, np.array([2, 1, 0, 0, 0, 0, 1], np.uint8)))
    assert [(n.id, n.spans) for n in notes] == [("d0", [(0, 3)]), ("d2", [(2, 3)])]


def file_of(**changes):
    rule = {"config": {"k": 3}, "latents": [4, 5], "functions": [Terms(terms=["x"]).model_dump(mode="json")]}
    rule |= {"sha256": said_hash(**rule)} | changes.pop("rule", {})
    source = {"model": "m", "sae": "s", "layer": 2}
    return json.dumps(
        {"format": FORMAT, "project": "p", "version": 1, "source": source, "rule": rule} | changes
    ).encode()


def test_the_hash_is_the_rules_own():
    functions = [Terms(terms=["x"]), Family(family="y")]
    config, said = RuleConfig(k=3), [f.model_dump(mode="json") for f in functions]
    assert said_hash(config.model_dump(mode="json"), [5, 4], said) == rule_hash([4, 5], config, functions)


def test_a_file_reads_back_and_an_edited_one_is_refused():
    assert read_version(file_of()).rule.latents == [4, 5]
    for content, message in [
        (b"{", "not a version file"),
        (b"[]", "not a version file"),
        (file_of(format="other/1"), "format"),
        (file_of(text="a secret"), "text"),
        (file_of(rule={"latents": [4]}), "edited"),
        (file_of(rule={"config": {"k": 0}}), "rule"),
        (file_of(rule={"functions": [{"kind": "nonsense"}]}), "nonsense"),
        (file_of(rule={"functions": [{"kind": "classifier", "classifier": "artifacts/classifier-1"}]}), "classifier"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_version(content)
