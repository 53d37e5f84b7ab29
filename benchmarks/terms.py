"""A long term list: seconds until it is ready and characters per second, against an Aho–Corasick automaton and `re`.

    python -m benchmarks.terms [--terms 100000] [--characters 2000000]

All three find the same whole words, case ignored. The automaton is pyahocorasick's, its hits
checked for word boundaries; `re` gets one alternation, on a hundredth of the terms, since with
all of them it does not finish.
"""

import argparse
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ahocorasick

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from labeling.functions import Terms, _cuts_word


def words(n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(4, 12))) for _ in range(n)]


def ours(terms: list[str], text: str) -> tuple[float, float, int]:
    begun = time.perf_counter()
    function = Terms(terms=tuple(terms))
    list(function._matches("ready"))
    ready = time.perf_counter()
    return ready - begun, (found := len(set(function._matches(text)))) and time.perf_counter() - ready, found


def automaton(terms: list[str], text: str) -> tuple[float, float, int]:
    begun = time.perf_counter()
    made = ahocorasick.Automaton()
    for term in terms:
        made.add_word(term, len(term))
    made.make_automaton()
    ready = time.perf_counter()
    low = text.lower()
    spans = {(last + 1 - n, last + 1) for last, n in made.iter(low)}
    found = sum(not (_cuts_word(low, a) or _cuts_word(low, b)) for a, b in spans)
    return ready - begun, time.perf_counter() - ready, found


def alternation(terms: list[str], text: str) -> tuple[float, float, int]:
    begun = time.perf_counter()
    made = re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(terms, key=len, reverse=True))) + r")\b", re.I)
    ready = time.perf_counter()
    found = sum(1 for _ in made.finditer(text))
    return ready - begun, time.perf_counter() - ready, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--terms", type=int, default=100_000)
    parser.add_argument("--characters", type=int, default=2_000_000)
    arguments = parser.parse_args()
    single = words(arguments.terms, 0)
    terms = list(
        dict.fromkeys(a if i % 3 else f"{a} {b}" for i, (a, b) in enumerate(zip(single, reversed(single), strict=True)))
    )
    rng = random.Random(1)
    pieces = [rng.choice(terms) if rng.random() < 0.1 else word for word in words(arguments.characters // 9, 2)]
    text = " ".join(pieces).capitalize()
    rows: list[tuple[str, Callable[[list[str], str], tuple[float, float, int]], list[str], str]] = [
        ("terms", ours, terms, text),
        ("automaton", automaton, terms, text),
        ("re, 1% of the terms, 5% of the text", alternation, terms[::100], text[: len(text) // 20]),
    ]
    rates = []
    for name, run, given, over in rows:
        ready, took, found = run(given, over)
        rates.append(len(over) / took)
        print(
            f"{name}: {len(given):,} terms ready in {ready:.2f} s, {rates[-1] / 1e6:.2f}M characters/s, {found:,} found"
        )
    print(f"against the automaton {rates[0] / rates[1]:.1f}×, against re {rates[0] / rates[2]:.0f}×")


if __name__ == "__main__":
    main()
