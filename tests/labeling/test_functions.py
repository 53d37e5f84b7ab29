"""Each kind's votes on texts short enough to check by eye."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling.functions import FUNCTIONS, Classifier, Family, Function, Latent, Pattern, Terms, _fold, parse
from labeling.tokens import words


def votes(function, text, family=None):
    """The words that are voted on, with the votes."""
    spans = words(text)
    starts, ends = (np.array(side, dtype=np.int32) for side in zip(*spans, strict=True))
    found = function.vote(text, starts, ends, family)
    assert found.dtype == np.int8
    assert found.shape == starts.shape
    return {text[s:e]: int(v) for (s, e), v in zip(spans, found, strict=True) if v}


def test_pattern_votes_on_every_token_a_match_overlaps():
    assert votes(Pattern(pattern=r"\d+ mg"), "give 40 mg daily") == {"40": 1, "mg": 1}
    assert votes(Pattern(pattern=r"(?i)ART", votes="retain"), "the heart") == {"heart": -1}


def test_pattern_offsets_are_code_points():
    assert votes(Pattern(pattern="dose"), "🙂é⭢ dose 🙂 end") == {"dose": 1}


def test_empty_matches_are_no_votes():
    assert votes(Pattern(pattern="x*"), "a b c") == {}


@pytest.mark.parametrize("pattern", ["(?=a)", r"(a)\1", "(a", "", "((a{1000}){1000}){1000}", "\ud800"])
def test_a_pattern_re2_cannot_run_is_refused(pattern):
    with pytest.raises(ValueError, match="pattern"):
        parse({"kind": "pattern", "pattern": pattern})


def test_a_catastrophic_pattern_is_linear():
    assert votes(Pattern(pattern="(a+)+$"), "a" * 100_000 + " b") == {}


def test_terms_match_whole_words_whatever_their_case():
    terms = Terms(terms=["art", "heart attack"])
    assert votes(terms, "Art of the HEART ATTACK, a start") == {"Art": 1, "HEART": 1, "ATTACK": 1}
    assert votes(Terms(terms=["art"], whole_words=False), "a start") == {"start": 1}
    assert votes(Terms(terms=["MRI"], ignore_case=False), "mri MRI") == {"MRI": 1}


def test_terms_that_begin_or_end_with_a_sign_need_no_word_boundary_there():
    assert votes(Terms(terms=["CD4+"]), "CD4+T cells and CD4") == {"CD4": 1}
    assert votes(Terms(terms=["vitamin b"]), "vitamin b12") == {}


def test_terms_keep_offsets_where_lower_case_is_longer():
    assert votes(Terms(terms=["dose"]), "İİİ DOSE end") == {"DOSE": 1}
    assert votes(Terms(terms=["ΟΔΟΣ"]), "οδος ΟΔΟΣ οδοσ") == {"οδος": 1, "ΟΔΟΣ": 1, "οδοσ": 1}


@given(st.text(max_size=30))
def test_folding_never_moves_a_character(text):
    assert len(_fold(text)) == len(text)


@pytest.mark.parametrize("terms", [[], [""], ["a", "  "]])
def test_blank_terms_are_refused(terms):
    with pytest.raises(ValueError, match="terms"):
        parse({"kind": "terms", "terms": terms})


def test_family_votes_on_whole_documents_of_that_family():
    sport = Family(family="sport", votes="retain")
    assert votes(sport, "two words", "sport") == {"two": -1, "words": -1}
    assert votes(sport, "two words", "news") == {}
    assert votes(sport, "two words", None) == {}


def test_only_retain_votes_can_veto():
    assert Family(family="sport", votes="retain", veto=True).veto
    with pytest.raises(ValueError, match="vote retain"):
        Family(family="sport", votes="forget", veto=True)


@pytest.mark.parametrize(
    "function",
    [
        Latent(latent=7, weight=2),
        Pattern(pattern="a|b"),
        Terms(terms=["x", "y"], votes="retain", veto=True),
        Family(family="f"),
        Classifier(classifier="folder", above=0.3),
    ],
)
def test_stored_json_comes_back_as_the_same_function(function):
    assert parse(function.model_dump(mode="json")) == function
    assert hash(function) == hash(parse(function.model_dump(mode="json")))
    assert function.name


def test_every_field_carries_help_for_its_form():
    for kind, function in FUNCTIONS.items():
        for name, field in function.model_fields.items():
            assert name == "kind" or field.description, (kind, name)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"kind": "magic"},
        {"kind": ["latent"]},
        {"kind": "latent", "latent": -1},
        {"kind": "family", "family": "x", "more": 1},
    ],
)
def test_what_no_function_understands_is_refused(config):
    with pytest.raises(ValueError):
        parse(config)


def test_a_subclass_registers_itself():
    class Capitals(Function):
        kind: Literal["capitals"] = "capitals"

        def vote(self, text, starts, ends, family):
            return np.array([text[s].isupper() for s in starts], dtype=np.int8)

    try:
        assert votes(parse({"kind": "capitals"}), "Ada met bob") == {"Ada": 1}
    finally:
        del FUNCTIONS["capitals"]


def test_a_latent_has_no_vote_on_text():
    with pytest.raises(NotImplementedError):
        votes(Latent(latent=1), "text")


def test_a_classifier_votes_where_its_probability_is_high(monkeypatch):
    starts, ends = np.array([0, 2, 4], dtype=np.int32), np.array([1, 3, 8], dtype=np.int32)
    found = SimpleNamespace(starts=starts, ends=ends, p=np.array([0.1, 0.7, 0.9], dtype=np.float32))
    fake = SimpleNamespace(load_classifier=lambda path: path, predict=lambda classifier, documents: iter([found]))
    monkeypatch.setitem(sys.modules, "labeling.predict", fake)
    assert votes(Classifier(classifier="fake", above=0.6), "a b cats") == {"b": 1, "cats": 1}
    assert votes(Classifier(classifier="fake", above=0.8, votes="retain"), "a b cats") == {"cats": -1}


def test_what_pages_import_does_not_load_torch():
    modules = ["functions", "rule", "analysis", "evaluate", "documents", "tokens"]
    code = "import sys\n" + "".join(f"import labeling.{m}\n" for m in modules) + "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
