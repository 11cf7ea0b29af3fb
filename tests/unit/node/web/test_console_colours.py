"""The console's colours in both themes: contrast by WCAG 2.1 (1.4.3 text, 1.4.11 what is not text)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chexnode.web.console import pages

SHEET = (Path(pages.__file__).parent / "static" / "tokens.css").read_text("utf-8")


def theme(selector: str) -> dict[str, str]:
    block = SHEET[SHEET.index(selector + " {") :].partition("}")[0]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})\b", block))


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    r, g, b = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


THEMES = {"light": theme(":root"), "dark": theme(':root[data-theme="dark"]')}
TEXT = [
    *((text, ground) for text in ("text", "muted", "accent") for ground in ("page", "surface", "raised")),
    *((level, ground) for level in ("good", "warn", "bad") for ground in ("surface", f"{level}-soft")),
    *(("text", f"{level}-soft") for level in ("good", "warn", "bad", "accent")),
    ("accent", "accent-soft"),
    ("accent-text", "accent"),
    ("page", "text"),
]
SHAPES = [("control", "surface"), *((f"fill-{name}", "surface") for name in ("done", "busy", "wait", "skip", "fail"))]


@pytest.mark.parametrize("name", THEMES)
def test_text_can_be_read_and_shapes_seen(name: str) -> None:
    colours = THEMES[name]
    found = {(one, other): contrast(colours[one], colours[other]) for one, other in (*TEXT, *SHAPES)}
    assert {pair: round(found[pair], 2) for pair in TEXT if found[pair] < 4.5} == {}
    assert {pair: round(found[pair], 2) for pair in SHAPES if found[pair] < 3} == {}


def test_the_browsers_choice_is_the_same_dark_theme() -> None:
    assert theme(":root:not([data-theme])") == THEMES["dark"]
    assert THEMES["light"].keys() == THEMES["dark"].keys()


def test_the_measure_is_wcags() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
