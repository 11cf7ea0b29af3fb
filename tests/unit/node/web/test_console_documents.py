"""The console's documents and plots: complete, and without a way for markup that is not ours."""

from __future__ import annotations

import re

import pytest

from chexmodels.bundle import find, read_card, shipped
from chexnode.web.console import plots
from chexnode.web.console.documents import sections, statement
from chexnode.web.console.markdown import html


def test_the_conformance_statement_is_shown_whole() -> None:
    parts = sections(statement())
    assert "".join(part.text for part in parts) == statement()[statement().index("## 1 ") :]
    assert len({part.number for part in parts}) == len(parts) > 20
    assert max(len(part.html) for part in parts) < 60_000


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "[x](javascript:alert(1))",
        "![x](https://elsewhere.example/x.png)",
        '<img src=x onerror="alert(1)">',
        "| a |\n|---|\n| <svg onload=alert(1)> |",
    ],
)
def test_markup_in_a_card_is_inert(text: str) -> None:
    made = html(text)
    assert set(re.findall(r"<(\w+)", made)) <= {"p", "a", "table", "thead", "tbody", "tr", "th", "td", "div"}
    assert not re.search(r"<[^>]*(\bon\w+=|javascript:|\bsrc=)", made)


def test_links_lead_out_or_nowhere() -> None:
    assert '<a href="https://a.example/x" rel="noreferrer noopener">' in html("[x](https://a.example/x)")
    assert html("[x](settings.md)") == "<p><a>x</a></p>\n"
    assert html("# Title") == "<h2>Title</h2>\n"
    assert "\\u202e" in html("a\u202eb")


@pytest.mark.parametrize("name", shipped())
def test_the_calibration_of_every_model_is_a_rising_curve(name: str) -> None:
    drawn = plots.calibration(read_card(find(name)).calibration).split()
    points = [tuple(map(float, point.split(","))) for point in drawn]
    assert len(points) > 1
    assert all(0 <= x <= plots.WIDTH and 0 <= y <= plots.HEIGHT for x, y in points)
    assert points == sorted(points, key=lambda point: (point[0], -point[1])), "to the right and never down"


def test_a_line_is_broken_where_nothing_is_known() -> None:
    line = plots.over_time([0.0, None, 1.0, 0.5], 0.0, 1.0)
    assert (line.parts, line.low, line.high) == (("37.5,120", "187.5,0 262.5,60"), 0.0, 1.0)
    assert plots.over_time([None]).parts == ()


def test_the_highest_bar_fills_the_plot() -> None:
    low, high = plots.columns([1, 4])
    assert (low.height, low.y, high.height, high.y) == (30.0, 90.0, 120.0, 0.0)
    assert plots.columns([0, 0])[0].height == 0
