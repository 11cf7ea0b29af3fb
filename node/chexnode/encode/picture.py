"""The picture for human eyes: the radiograph, an outline around each region, and words above and below.

Nothing of the radiograph is covered by words: they stand in strips added above and below it, on black. Inside the
picture are only the outline, drawn just outside of the region so that the lesion itself stays free, and a small number
at each region that the words below refer to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from chexmodels.finding import Findings
from chexmodels.postprocess import label
from chexnode.encode.caption import AMBER, COLOUR, Caption, Line, has_finding, numbered
from chexnode.encode.contours import topmost

#: Longest side of the whole picture, strips included.
LONGEST = 2048
#: Ask for a display picture of at most this size and it will, nearly always, fit without being resampled.
DISPLAY_LONGEST = 1792
#: The picture is at least this wide, so that the words have room beside a narrow or tiny radiograph.
NARROWEST = 512

#: Between words, or a legend, and the edge.
MARGIN = 8
#: Pixels as nearly square as this are left as they are.
_SQUARE_ENOUGH = 0.01
_MOST_LABELS = 20
#: The picture's longer side in radii of the smoothing of outlines: about a pixel of the model.
_SMOOTHING = 400
#: Radius in pixels by which the edges of lines are blurred.
_SOFTNESS = 0.6


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are on the whole picture, in its pixels; ``x, y, width, height`` is the radiograph."""

    columns: int
    rows: int
    x: int
    y: int
    width: int
    height: int
    font_size: int
    above: tuple[Line, ...]
    below: tuple[Line, ...]
    legend: int
    """Height of the empty band between the radiograph and the words below it."""

    @property
    def line_height(self) -> int:
        """Distance from one line of words to the next."""
        return round(self.font_size * 1.3)


def render(display: NDArray[np.uint8], findings: Findings, layout: Layout) -> NDArray[np.uint8]:
    """Draw ``findings`` on ``display``, (h, w) uint8, the whole source image at any size.

    Returns (rows, columns, 3) uint8 RGB as ``layout`` has it.
    """
    picture = Image.new("RGB", (layout.columns, layout.rows))
    picture.paste(fitted(display, layout), (layout.x, layout.y))
    if has_finding(findings):
        assert findings.mask is not None
        _draw_outline(picture, findings.mask, layout)
        _draw_labels(picture, findings, layout)
    write_captions(picture, layout)
    return np.asarray(picture)


def lay_out(
    shape: tuple[int, ...], texts: Caption, pixel_aspect_ratio: tuple[int, int] = (1, 1), legend_lines: int = 0
) -> Layout:
    """Fit a radiograph of ``shape`` (h, w) and the strips of words into the longest side; only ever shrinks it.

    Pixels that are not square (height to width, as ``pixel_aspect_ratio`` says) are made so: a viewer has no reason to
    believe that a Secondary Capture's are not, and a heart that is wider on it than it was would be a finding.
    """
    tallness = pixel_aspect_ratio[0] / pixel_aspect_ratio[1]
    if abs(tallness - 1) < _SQUARE_ENOUGH:
        tallness = 1.0
    h, w = shape[0] * min(1.0, tallness), shape[1] / max(1.0, tallness)
    room = LONGEST
    while True:
        scale = min(1.0, room / h, LONGEST / w)
        height, width = max(1, round(h * scale)), max(1, round(w * scale))
        columns = max(NARROWEST, width)
        font_size = max(14, columns // 56)
        above, below = (_wrap(lines, columns - 2 * MARGIN, font_size) for lines in (texts.above, texts.below))
        strip_above, strip_below = (round(font_size * 1.3) * len(lines) + 2 * MARGIN for lines in (above, below))
        legend = round(font_size * 1.3) * legend_lines
        rows = strip_above + height + legend + strip_below
        if rows <= LONGEST:
            x = (columns - width) // 2
            return Layout(columns, rows, x, strip_above, width, height, font_size, above, below, legend)
        room = min(room - 1, LONGEST - strip_above - legend - strip_below)


def fitted(display: NDArray[np.uint8], layout: Layout) -> Image.Image:
    """Return ``display`` (h, w) uint8 in the size that it has on the picture."""
    grey, size = Image.fromarray(display), (layout.width, layout.height)
    return grey if grey.size == size else grey.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def write_captions(picture: Image.Image, layout: Layout) -> None:
    """Write the words above and below the radiograph."""
    _write(picture, layout.above, 0, layout)
    _write(picture, layout.below, layout.y + layout.height + layout.legend, layout)


def _draw_outline(picture: Image.Image, mask: NDArray[np.bool_], layout: Layout) -> None:
    """Colour a band just outside of the mask. A region of a single source pixel still gets its ring."""
    band = max(3, max(layout.rows, layout.columns) // 512)  # two pixels would lose their colour in a 4:2:2 JPEG
    scale_y, scale_x = layout.height / mask.shape[0], layout.width / mask.shape[1]
    y0, y1 = _span(np.logical_or.reduce(mask, axis=1), scale_y, band + 2, layout.height)
    x0, x1 = _span(np.logical_or.reduce(mask, axis=0), scale_x, band + 2, layout.width)
    small = Image.fromarray(mask.view(np.uint8) * np.uint8(255)).resize(
        (x1 - x0, y1 - y0),
        Image.Resampling.BOX,
        box=(x0 / scale_x, y0 / scale_y, min(x1 / scale_x, mask.shape[1]), min(y1 / scale_y, mask.shape[0])),
    )
    inside = _smoothed(np.asarray(small) > 0, max(layout.width, layout.height) / _SMOOTHING)
    ring = _grow(_grow(inside, band).T, band).T & ~inside
    soft = Image.fromarray(ring.view(np.uint8) * np.uint8(255)).filter(ImageFilter.GaussianBlur(_SOFTNESS))
    picture.paste(COLOUR, (layout.x + x0, layout.y + y0), ImageChops.lighter(soft, soft.point(_opaque)))


def _opaque(level: int) -> int:
    """What is half covered by the line is full of it, so that a thin line keeps its colour."""
    return min(255, 2 * level)


def _smoothed(inside: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Smooth the steps of the model's own pixels; regions that are too small for it stay as they are."""
    if radius < 1:
        return inside
    blurred = Image.fromarray(inside.view(np.uint8) * np.uint8(255)).filter(ImageFilter.GaussianBlur(radius))
    smooth = np.asarray(blurred) > 127
    labels, count = label(inside)
    kept = np.zeros(count + 1, np.bool_)
    kept[np.unique(labels[smooth & inside])] = True
    kept[0] = True  # no region
    return np.asarray(smooth | ~kept[labels], np.bool_)


def _span(occupied: NDArray[np.bool_], scale: float, band: int, end: int) -> tuple[int, int]:
    """Return the half-open range of picture pixels that hold the mask and a band around it."""
    at = np.flatnonzero(occupied)
    return max(0, int(at[0] * scale) - band), min(end, int(np.ceil((at[-1] + 1) * scale)) + band)


def _grow(inside: NDArray[np.bool_], band: int) -> NDArray[np.bool_]:
    """Widen by ``band`` pixels up and down."""
    grown = inside.copy()
    for step in range(1, band + 1):
        grown[step:] |= inside[:-step]
        grown[:-step] |= inside[step:]
    return grown


def _draw_labels(picture: Image.Image, findings: Findings, layout: Layout) -> None:
    """Number the regions above their highest point, or below where there is no room, on no ground but a thin rim."""
    assert findings.mask is not None
    scale_y, scale_x = layout.height / findings.mask.shape[0], layout.width / findings.mask.shape[1]
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(layout.font_size)
    gap = 4 + layout.font_size
    for number, region in enumerate(findings.regions[:_MOST_LABELS], 1):
        text = numbered(number, region)
        middle = topmost(findings.mask, region) * scale_x - font.getlength(text) / 2
        x = min(middle, layout.width - font.getlength(text) - 2)
        y = region.box.y0 * scale_y - gap - 4
        if y < 0:
            y = min(region.box.y1 * scale_y + 4, layout.height - gap)
        draw.text(
            (layout.x + max(0, x), layout.y + max(0, y)),
            text,
            fill=AMBER,
            font=font,
            stroke_width=2,
            stroke_fill=(0, 0, 0),
        )


def _write(picture: Image.Image, lines: tuple[Line, ...], top: int, layout: Layout) -> None:
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(layout.font_size)
    for number, line in enumerate(lines):
        draw.text((MARGIN, top + MARGIN + number * layout.line_height), line.text, fill=line.colour, font=font)


def _wrap(lines: tuple[Line, ...], width: int, font_size: int) -> tuple[Line, ...]:
    """Break lines between words so that each is at most ``width`` pixels long."""
    font = ImageFont.load_default(font_size)
    wrapped = []
    for line in lines:
        row = ""
        for word in line.text.split():
            longer = f"{row} {word}" if row else word
            if row and font.getlength(longer) > width:
                wrapped.append(Line(row, line.colour))
                longer = word
            row = longer
        wrapped.append(Line(row, line.colour))
    return tuple(wrapped)
