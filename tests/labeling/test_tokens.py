"""Offsets are code points, no token goes missing, labels survive a change of tokenizer."""

import ctypes
import resource
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from labeling.tokens import gaps, merge, overlapping, to_spans, tokenize, windows, words

HARD = ["⭢ naïve Ångström", "e\u0301 👩‍👩‍👧 שלום", "a\r\nb\u2028c", "   ", "İstanbul ﬁt", "x" * 200, "ﷺ ½ Ⅷ"]


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["the patient took a dose"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def lower_casing():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]"])
    tokenizer.train_from_iterator(["the patient took a dose naive"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


BYTE_LEVEL, LOWER_CASING = byte_level(), lower_casing()
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(HARD)


def covered(tokens, text):
    return {i for s, e in zip(tokens.starts, tokens.ends, strict=True) for i in range(s, e)}


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, LOWER_CASING], ids=["byte level", "lower casing"])
@settings(max_examples=150, deadline=None)
@given(text=texts)
def test_every_word_has_a_token_within_the_text(tokenizer, text):
    (tokens,) = tokenize(tokenizer, [text])
    assert len(tokens.ids) == len(tokens.starts) == len(tokens.ends)
    assert (tokens.starts <= tokens.ends).all()
    assert (tokens.starts >= 0).all() and (tokens.ends <= len(text)).all()
    if tokenizer is BYTE_LEVEL:
        missing = {text[i] for i in set(range(len(text))) - covered(tokens, text)}
        assert all(c.isspace() for c in missing), missing


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library has no malloc_trim"
)
def test_memory_that_a_long_text_took_is_given_back():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = resident()
    (tokens,) = tokenize(BYTE_LEVEL, ["the patient took a dose of naive things\n" * 50_000])  # takes 400 MB meanwhile
    assert len(tokens) > 1_000_000
    assert resident() - before < 150_000_000


def test_spans_begin_at_the_word_not_at_the_blank_before_it():
    (tokens,) = tokenize(BYTE_LEVEL, ["the patient took  a dose"])
    starts = tokens.starts.tolist()
    assert {0, 4, 12, 18, 20} <= set(starts)
    text = "the patient took  a dose"
    assert all(not text[s].isspace() or text[s:e].isspace() for s, e in zip(tokens.starts, tokens.ends, strict=True))


def test_nothing_is_truncated_or_padded():
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.enable_truncation(4)
    long, short = tokenize(tokenizer, ["dose " * 500, "a"])
    assert covered(long, "dose " * 500) >= {0, 2498}
    assert len(short) == 1


def test_an_empty_text_has_no_tokens():
    (tokens,) = tokenize(BYTE_LEVEL, [""])
    assert (len(tokens), tokens.starts.dtype) == (0, np.int32)


@given(
    st.text(st.sampled_from("ab c⭢é🙂"), max_size=30),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=4),
)
def test_labels_survive_a_change_of_tokenizer(text, ranges):
    """A word forget under one tokenizer is forget under another (METHOD step 1.5)."""
    spans = [(s, min(e, len(text))) for s, e in ranges if s < min(e, len(text))]
    (tokens,) = tokenize(BYTE_LEVEL, [text])
    carried = to_spans(overlapping(tokens.starts, tokens.ends, spans), tokens.starts, tokens.ends)
    for start, end in spans:
        for i in range(start, end):
            assert text[i].isspace() or any(s <= i < e for s, e in carried)


def test_windows_by_hand():
    assert windows(0, 4, 1) == []
    assert windows(4, 4, 1) == [(0, 4, 0)]
    assert windows(9, 4, 1) == [(0, 4, 0), (3, 7, 4), (6, 9, 7)]
    with pytest.raises(ValueError, match="overlap 4"):
        windows(9, 4, 4)


@given(st.integers(0, 300), st.integers(1, 40), st.integers(0, 39))
def test_windows_score_every_token_once(length, size, overlap):
    overlap = min(overlap, size - 1)
    cut = windows(length, size, overlap)
    scored = [i for _, end, scored_from in cut for i in range(scored_from, end)]
    assert scored == list(range(length))
    assert all(end - start <= size for start, end, _ in cut)
    assert all(scored_from - start == overlap for start, _, scored_from in cut[1:])


spans_ = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), max_size=6)


@given(spans_, spans_)
def test_overlap_is_sharing_a_character(tokens, spans):
    starts, ends = (np.array([t[n] for t in tokens], dtype=np.int32) for n in range(2))
    shared = [any(s <= i < e for s, e in spans for i in range(a, b)) for a, b in tokens]
    assert overlapping(starts, ends, spans).tolist() == shared


@given(spans_)
def test_merge_and_gaps_cut_the_text_in_two(spans):
    inside = {i for s, e in spans for i in range(s, e)}
    merged = merge(spans)
    assert {i for s, e in merged for i in range(s, e)} == inside
    assert all(a[1] < b[0] for a, b in pairwise(merged))
    assert {i for s, e in gaps(spans, 25) for i in range(s, e)} == set(range(25)) - inside


def test_spans_of_flagged_tokens_by_hand():
    starts, ends = np.array([0, 2, 5, 9], dtype=np.int32), np.array([1, 4, 8, 12], dtype=np.int32)
    assert to_spans(np.array([True, True, False, True]), starts, ends) == [(0, 4), (9, 12)]
    assert to_spans(np.array([False] * 4), starts, ends) == []


def test_words_are_runs_of_word_characters():
    assert words("don't 5-mg été_2") == [(0, 3), (4, 5), (6, 7), (8, 10), (11, 16)]
