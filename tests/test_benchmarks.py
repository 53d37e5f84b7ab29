"""Benchmarks take minutes and are run by hand; that they still fit the code is seen here."""

import importlib
from pathlib import Path

import pytest

NAMES = sorted(path.stem for path in (Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_imports_only_what_there_is(name: str) -> None:
    assert importlib.import_module(f"benchmarks.{name}").__doc__
