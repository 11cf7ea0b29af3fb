"""The heat map as a second Secondary Capture: where on the radiograph the model looked how hard, and no more.

The radiograph stays visible under a colour that runs from nothing over orange-red to yellow. On each grey that may lie
under it the colour gets ever farther from that grey as heat rises, in steps of nearly equal CIELAB distance, which no
rainbow does (Rogowitz and Treinish, Computers in Physics 10(3), 1996, 268-273). What is no probability is not called
one: an anomaly heat is the share of normal radiographs' pixels that have less, and half of any normal image is above
one half. Its colour therefore follows the share that has more, in powers of ten: what every tenth normal pixel has is
faint, and only what one in a thousand has is full.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

from chexmodels.finding import Findings
from chexnode.encode.caption import WHITE, Caption, Line, caption, image_score, noted
from chexnode.encode.picture import MARGIN, Layout, fitted, lay_out, write_captions
from chexnode.encode.provenance import HeatKind, Provenance
from chexnode.encode.sc import capture
from chexnode.encode.source import Source
from chexnode.vocabulary.variants import ScEncoding, ScForm

#: Colour of no heat and of full heat, and the opacity of the latter; between them opacity follows a power of heat.
_COOL, _HOT = (255, 51, 0), (255, 255, 0)
_OPACITY, _POWER = 0.6, 0.7

#: Anomaly heat that is shown in full: one in ten to the power of this many normal pixels has more.
_DECADES = 3
#: Heat and the number that the legend has there.
_TICKS: dict[HeatKind, dict[float, str]] = {
    "probability": {tick: f"{tick:.0%}" for tick in (0.0, 0.25, 0.5, 0.75, 1.0)},
    "anomaly": {0.0: "0%", 0.9: "90%", 0.99: "99%", 0.999: "99.9%"},
}
_LEGEND_LINES = 3
_NARROWEST_LEGEND = 320

_MEANING = {
    "probability": "Heat: calibrated probability of an abnormality at each pixel",
    "anomaly": "Heat: share of normal radiographs' pixels with a lower anomaly score; not a probability",
}


def has_heat(findings: Findings) -> bool:
    """Whether there is a map to show: the model makes one, and the image was evaluated."""
    return findings.heat is not None and findings.abnormal is not None


def encode_heat(
    source: Source, display: NDArray[np.uint8], findings: Findings, provenance: Provenance, encoding: ScEncoding
) -> Dataset:
    """Return the heat map of ``findings`` laid over ``display``, (h, w) uint8, MONOCHROME2 sense.

    ``rgb`` is native Explicit VR Little Endian, ``jpeg`` JPEG Baseline. Raises ValueError if there is no map, or
    it is not of the source's size.
    """
    if findings.heat is None or not has_heat(findings):
        raise ValueError("there is no heat map of nothing evaluated")
    if findings.heat.shape != (source.rows, source.columns):
        raise ValueError(f"heat is {findings.heat.shape}, the source image {(source.rows, source.columns)}")
    texts = heat_caption(findings, provenance, source.described)
    layout = lay_out(display.shape, texts, source.pixel_aspect_ratio, _LEGEND_LINES)
    return capture(
        source,
        render_heat(display, findings.heat, layout, provenance.heat_kind),
        layout,
        provenance,
        form=ScForm(encoding, is_heat_map=True),
        series=provenance.series.heat,
        derivation=f"Radiograph with a heat map made by an algorithm. {_MEANING[provenance.heat_kind]}",
    )


def heat_caption(findings: Findings, provenance: Provenance, described: str = "") -> Caption:
    """Say what the colours mean, beside who made them and what the image scored."""
    lines = (_MEANING[provenance.heat_kind], image_score(findings, provenance))
    below = (*(Line(text) for text in lines if text), *noted(findings))
    return Caption(caption(findings, provenance, described).above, below)


def render_heat(
    display: NDArray[np.uint8], heat: NDArray[np.float32], layout: Layout, kind: HeatKind
) -> NDArray[np.uint8]:
    """Lay ``heat`` (H, W) float32 in [0, 1] over ``display`` (h, w) uint8; both show the whole image at any size.

    Returns (rows, columns, 3) uint8 RGB as ``layout`` has it.
    """
    size = (layout.width, layout.height)
    small = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
    level = (shown(small, kind) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    picture = Image.new("RGB", (layout.columns, layout.rows))
    picture.paste(Image.fromarray(coloured(level, np.asarray(fitted(display, layout)))), (layout.x, layout.y))
    _draw_legend(picture, layout, kind)
    write_captions(picture, layout)
    return np.asarray(picture)


def shown(heat: NDArray[np.float32], kind: HeatKind) -> NDArray[np.float32]:
    """How far along the colours ``heat`` (...) float32 in [0, 1] is, in [0, 1]: as it is, or by powers of ten."""
    if kind == "probability":
        return np.clip(heat, 0, 1)
    rarity = np.maximum(1 - heat, np.float32(10.0**-_DECADES))
    return np.asarray(np.clip(np.log10(rarity) / -_DECADES, 0, 1), np.float32)


def coloured(level: NDArray[np.uint8], grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the RGB colours (..., 3) uint8 of heat ``level`` (0: none, 255: full) over ``grey``, both (...) uint8."""
    return np.asarray(_mixtures().take(level.astype(np.uint16) << 8 | grey, axis=0), np.uint8)


@cache
def _mixtures() -> NDArray[np.uint8]:
    """All colours there are, (65536, 3) uint8, at 256 times the heat's level plus the grey."""
    share = np.arange(256)[:, np.newaxis, np.newaxis] / 255
    grey = np.arange(256)[np.newaxis, :, np.newaxis]
    colour = np.array(_COOL) + share * (np.array(_HOT) - np.array(_COOL))
    opacity = _OPACITY * share**_POWER
    mixed = np.rint((1 - opacity) * grey + opacity * colour)
    return np.asarray(mixed.reshape(-1, 3), np.uint8)


def _draw_legend(picture: Image.Image, layout: Layout, kind: HeatKind) -> None:
    """Draw all colours below the radiograph: heat rises to the right, the grey under it from black above to white."""
    width = min(layout.columns - 2 * MARGIN, max(_NARROWEST_LEGEND, layout.columns // 2))
    left, top = (layout.columns - width) // 2, layout.y + layout.height + MARGIN
    height = layout.line_height
    level = np.linspace(0, 255, width).astype(np.uint8)
    grey = np.linspace(0, 255, height).astype(np.uint8)
    bar = coloured(*np.broadcast_arrays(level, grey[:, np.newaxis]))
    picture.paste(Image.fromarray(bar), (left, top))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(layout.font_size)
    ticks = _TICKS["probability" if kind == "probability" else "anomaly"]
    for text, place in zip(ticks.values(), shown(np.array(list(ticks), np.float32), kind), strict=True):
        x = left + round(float(place) * (width - 1))
        draw.line((x, top + height, x, top + height + 4), fill=WHITE)
        draw.text((x, top + height + 5), text, fill=WHITE, font=font, anchor="mt")
