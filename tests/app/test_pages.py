"""Templates, filters and chart geometry."""

import re
from datetime import timedelta

import pytest

from app import charts, pages
from app.models import now

FOLDER = pages.ROOT / "templates"
TEMPLATES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.html"))
UNSAFE = r"\|\s*safe\b|autoescape false|\sstyle=|\son\w+=|<style|javascript:|hx-on|hx-vals=.js:"


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_compiles_and_every_page_has_a_title(name: str):
    template = pages.templates.env.get_template(name)
    source = (FOLDER / name).read_text()
    if '{% extends "base.html" %}' in source:
        assert "title" in template.blocks


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_template_defeats_the_escaping_or_the_csp(name: str):
    source = re.sub(r"\{#.*?#\}", "", (FOLDER / name).read_text(), flags=re.S)
    assert not re.search(UNSAFE, source)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", source))


@pytest.mark.parametrize(
    ("filter_", "values", "shown"),
    [
        (pages.number, (None, 1234567, 12.0, 0.01234, 1234.5), "– 1,234,567 12 0.0123 1,234"),
        (pages.percent, (0, 0.5, 0.0123, 0.00042, 1.0), "0% 50.0% 1.2% 0.042% 100%"),
        (pages.sig, (0.0012345, 1.5294, 12399, 0, float("nan"), float("inf")), "0.00123 1.53 12,400 0 – ∞"),
        (pages.tick, (0.5, 250, 12000), "0.5 250 12,000"),
    ],
)
def test_numbers_as_people_read_them(filter_, values, shown: str):
    assert " ".join(filter_(value) for value in values) == shown


def test_times_as_people_read_them():
    lengths = {0.4: "0 s", 59: "59 s", 90: "1 min 30 s", 600: "10 min", 5400: "1 h 30 min", 200000: "2 d 7 h"}
    assert {seconds: pages.duration(seconds) for seconds in lengths} == lengths
    past = {1: "just now", 120: "2 min ago", 7300: "2 h ago", 90000: "1 d ago"}
    assert {seconds: pages.ago(now() - timedelta(seconds=seconds)) for seconds in past} == past


def test_a_curve_fills_its_box():
    chart = charts.line({"loss": [(0, 2.0), (10, 1.0), (20, float("nan"))]}, 100, 50)
    assert [(line.name, line.path, line.value) for line in chart.lines] == [("loss", "M0 0L100 50", 1.0)]
    assert [value for _, value in chart.x_ticks] == [0, 2, 4, 6, 8, 10]
    assert charts.line({"loss": []}, 100, 50).lines == []
    assert charts.line({"flat": [(1, 3.0)]}, 100, 50).lines[0].path == "M50 25"


def test_long_curves_are_thinned_but_keep_their_end():
    line = charts.line({"loss": [(i, i) for i in range(10_000)]}, 100, 50).lines[0]
    assert line.path.count("L") <= 101 and line.last == (100, 0)


def test_histogram_bars_share_the_width_and_small_counts_stay_visible():
    bars = charts.bars([0, 1, 1000], 90, 40)
    assert [x for x, _, _, _ in bars] == [0, 30, 60]
    assert bars[0][3] == 0 and bars[1][3] > 3 and bars[2][3] == 40
