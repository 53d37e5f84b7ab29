"""The largest of each group, against sorting each group."""

from itertools import pairwise

import numpy as np
import pytest

from labeling.leading import PARTS, leading


@pytest.mark.parametrize("different", [2, 50, 10**6])
@pytest.mark.parametrize("most", [1, 8])
def test_the_leading_ones_are_those_that_sorting_finds(different: int, most: int) -> None:
    rng = np.random.default_rng(different)
    sizes = [0, 1, most, PARTS - 1, 0, PARTS, PARTS + 1, 1000, 3, 0]
    values = rng.integers(0, different, sum(sizes))
    values[: sum(sizes) // 2] *= 1000
    start = np.append(0, np.cumsum(sizes))
    expected = []
    for group, (begin, end) in enumerate(pairwise(start)):
        order = np.argsort(-values[begin:end], kind="stable")[:most]
        expected += [(group, rank, int(begin + i)) for rank, i in enumerate(order)]
    assert list(zip(*(column.tolist() for column in leading(values, start, most)), strict=True)) == expected


def test_a_large_value_anywhere_leads() -> None:
    values = np.zeros(10 * PARTS)
    for place in (0, 5, len(values) - 1):
        values[:] = 0.5
        values[place] = 2
        assert leading(values, np.array([0, len(values)]), 2)[2].tolist() == [place, 0 if place else 1]
