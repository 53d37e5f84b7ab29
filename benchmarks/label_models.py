"""Dawid-Skene on sparse votes against crowd-kit's, which is given a row per token and function.

    python -m benchmarks.label_models [--tokens 2000] [--functions 100]

Both start from the same shares and run the same number of rounds; their probabilities are asserted
equal. crowd-kit is in the dev extra.
"""

import argparse
import time

import numpy as np
import pandas as pd
from crowdkit.aggregation import DawidSkene
from scipy.sparse import csr_array

from labeling.events import value_of
from labeling.label_models import fit


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--functions", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    rng = np.random.default_rng(0)
    truth = rng.random(a.tokens) < 0.2
    speaks = rng.uniform(0.05, 0.5, a.functions), rng.uniform(0.001, 0.05, a.functions)
    fires = rng.random((a.tokens, a.functions)) < np.where(truth[:, None], *speaks)
    fires[:, 0] |= ~fires.any(1)
    token, function = np.nonzero(np.ones_like(fires))
    answers = pd.DataFrame({"task": token, "worker": function, "label": fires[token, function].astype(int)})
    votes = csr_array(np.hstack([fires, np.zeros_like(fires)]).astype(float))

    begun = time.perf_counter()
    model = value_of(fit(votes, fires.mean(1), iterations=a.rounds, tolerance=0))
    ours = time.perf_counter() - begun
    begun = time.perf_counter()
    theirs = DawidSkene(n_iter=a.rounds, tol=-np.inf).fit(answers)
    crowdkit = time.perf_counter() - begun
    learned = np.array([theirs.errors_.loc[(n, 1), 1] for n in range(a.functions)])
    difference = float(np.abs(learned - model.on_forget[: a.functions]).max())
    assert difference < 1e-8, difference
    print(
        f"{a.tokens:,} tokens, {a.functions} functions, {int(fires.sum()):,} votes, {a.rounds} rounds: {ours:.3f} s,"
        f" crowd-kit {crowdkit:.1f} s, {crowdkit / ours:.0f}×; largest difference {difference:.0e}"
    )


if __name__ == "__main__":
    main()
