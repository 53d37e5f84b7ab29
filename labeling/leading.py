"""The few largest of each of very many groups, without sorting the groups."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

PARTS = 64  # of a group


def leading(
    values: NDArray[Any], start: NDArray[np.int64], most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where the `most` largest values of each group stand, as (group, rank, index into values) by group and rank.

    Values are at least 0 and laid end to end, group i being values[start[i] : start[i + 1]]; equal ones
    rank in order. Each of PARTS stretches of a group has a largest value, so the `most`-th largest of
    these is a bound that `most` values reach; only what reaches it is sorted.
    """
    count = np.diff(start)
    parts = start[:-1, None] + count[:, None] * np.arange(PARTS) // PARTS
    peaks = np.maximum.reduceat(np.append(values, 0), parts.ravel()).reshape(-1, PARTS)
    bound = np.where(count < PARTS, 0, np.partition(peaks, PARTS - most)[:, PARTS - most])
    high = np.flatnonzero(values >= np.repeat(bound, count))
    group = np.searchsorted(start, high, "right") - 1
    order = np.lexsort((-values[high], group))
    group, high = group[order], high[order]
    rank = np.arange(len(group)) - np.searchsorted(group, group)
    kept = rank < most
    return group[kept], rank[kept], high[kept]
