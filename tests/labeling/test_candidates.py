"""The order in which candidates are judged."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling.candidates import Standing, accept_probability
from labeling.postings import gather
from labeling.rule import RuleConfig, is_forget, label, latent_weights
from labeling.whatif import tally
from tests.labeling.planted import MemoryStore


class Splits(MemoryStore):
    def token_split_mask(self, split):
        return np.repeat([s == split for s in self.doc_split], self.lengths)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 3), st.sampled_from(["grow_positive", "grow_above", "seeds"]), st.sampled_from([0, 2])
)  # fmt: skip
def test_the_effect_of_a_candidate_is_what_labeling_with_it_changes(
    seed: int, k: int, boundary: str, window: int
) -> None:
    random = np.random.default_rng(seed)
    acts = (random.random((40, 5)) < 0.35) * random.random((40, 5))
    store = Splits(acts.astype(np.float16).astype(np.float32), [15, 0, 14, 11])
    store.doc_split[2] = "test"
    config = RuleConfig(k=k, z=0.8, boundary=boundary, grow_above=0.2, window=window)
    weights = latent_weights(store, [0, 1, 2], [])
    standing = Standing.of(store, tally(store, gather(store, [0, 1, 2]), config, weights), config)
    train = store.token_split_mask("train")
    before = is_forget(label(store, [0, 1, 2], config).flags)
    for candidate in (3, 4):
        after = is_forget(label(store, [0, 1, 2, candidate], config).flags)
        assert standing.effect(candidate) == int((after & ~before & train).sum())


def test_without_verdicts_the_ratio_screen_is_believed() -> None:
    p = accept_probability(table(ratio=[1, 10, 100]), {})
    assert p[0] < 0.3 and abs(p[1] - 0.5) < 0.01 and p[2] > 0.7


def test_verdicts_move_the_even_point() -> None:
    ratios = np.geomspace(1, 1000, 40)
    verdicts = {i: bool(ratio > 100) for i, ratio in enumerate(ratios)}
    p = accept_probability(table(ratio=ratios), verdicts)
    even = ratios[np.argmin(np.abs(p - 0.5))]
    assert 50 < even < 200


def table(ratio):
    n = len(ratio)
    return {
        "ratio": np.array(ratio, float),
        "ratio_nearest": np.full(n, np.nan),
        "auroc": np.full(n, 0.5),
        "density": np.full(n, 1e-3),
    }
