"""From stored values to a picture for a screen (PS3.4 N.2, PS3.3 C.7.6.3.1 and C.11.2). Pure but for the codecs.

The queries are read in the web process, the pictures drawn in its decoding children.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageCms, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from chexmodels.dicom.greyscale import Window
from chexmodels.dicom.values import codecs, text, upper
from chexmodels.pixels import to_screen as monochrome

_FUNCTIONS = ("linear", "linear-exact", "sigmoid")
_FARTHEST = 65_535  # Rows and Columns are US: no image reaches further
_NUMBER = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?"


@dataclass(frozen=True, slots=True)
class Viewport:
    """The size to fit into, and the part of the image to show (PS3.18 8.3.5.1.3); the whole where it is None."""

    width: int
    height: int
    region: tuple[float, float, float, float] | None = None
    """x, y, width, height in pixels; a negative width or height mirrors."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """How to render (PS3.18 section 8.3.5.1)."""

    media_type: str
    window: Window | None = None
    viewport: Viewport | None = None
    quality: int = 90
    annotations: tuple[str, ...] = ()
    """Any of ``patient`` and ``technique``."""
    with_icc_profile: bool = False
    """Whether a colour picture says that it is sRGB."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """What :meth:`to_json` gave."""
        window, viewport = values["window"], values["viewport"]
        if viewport is not None and viewport["region"] is not None:
            viewport = {**viewport, "region": tuple(viewport["region"])}
        return cls(
            **{
                **values,
                "window": None if window is None else Window(**window),
                "viewport": None if viewport is None else Viewport(**viewport),
                "annotations": tuple(values["annotations"]),
            }
        )


def parse_window(text: str) -> Window:
    """``center,width,function`` (PS3.18 8.3.5.1.4). Raises ValueError."""
    match = re.fullmatch(rf"({_NUMBER}),({_NUMBER})(?:,([A-Za-z-]+))?", text)
    function = (match[3] or "linear").lower() if match else ""
    if match is None or function not in _FUNCTIONS:
        raise ValueError(f"window is center,width,function; functions are {', '.join(_FUNCTIONS)}")
    window = Window(float(match[1]), float(match[2]), function.upper().replace("-", "_"))
    if not window.is_valid:
        raise ValueError("the window's width is too small")
    return window


def parse_viewport(text: str, largest: int = 8192) -> Viewport:
    """``vw,vh`` or ``vw,vh,sx,sy,sw,sh``; of the region, what is left empty is the image's. Raises ValueError."""
    parts = text.split(",")
    if len(parts) not in (2, 6) or not all(re.fullmatch(r"\d{1,5}", one) for one in parts[:2]):
        raise ValueError("viewport is width,height or width,height,x,y,width,height")
    width, height = int(parts[0]), int(parts[1])
    if not (1 <= width <= largest and 1 <= height <= largest):
        raise ValueError(f"a viewport's sides are 1 to {largest}")
    if len(parts) == 2:
        return Viewport(width, height)
    if not all(one == "" or re.fullmatch(_NUMBER, one) for one in parts[2:]):
        raise ValueError("the region of a viewport is four numbers")
    x, y, w, h = (float(np.clip(float(one), -_FARTHEST, _FARTHEST)) if one else math.nan for one in parts[2:])
    return Viewport(width, height, (x, y, w, h))


def to_screen(values: NDArray[Any], ds: Dataset, window: Window | None) -> NDArray[np.uint8]:
    """Render stored values, ``(H, W)`` or ``(H, W, 3)`` RGB, to 8 bits: modality LUT, VOI, polarity."""
    if values.ndim == 3:
        return _eight_bits(values)
    if upper(ds, "PhotometricInterpretation") == "PALETTE COLOR":
        return _eight_bits(apply_color_lut(values, ds))
    return monochrome(ds, values, window)


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return np.asarray(values, np.uint8)
    return np.asarray(values.astype(np.float64) / np.iinfo(values.dtype).max * 255, np.uint8)


def to_picture(screens: Sequence[NDArray[np.uint8]], ds: Dataset, rendering: Rendering) -> bytes:
    """Encode frames as GIF, or the first as PNG or JPEG, each cut out and fitted into the viewport in proportion.

    Raises ValueError where the viewport shows nothing of the image.
    """
    pictures = [_finished(Picture.fromarray(screen), ds, rendering) for screen in screens]
    first, *others = pictures
    extra: dict[str, Any] = {}
    if rendering.with_icc_profile and first.mode == "RGB":
        extra["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    buffer = BytesIO()
    if rendering.media_type == "image/png":
        first.save(buffer, "PNG", compress_level=1, **extra)
    elif rendering.media_type == "image/gif":
        moving = {"save_all": True, "append_images": others, "duration": _frame_time(ds), "loop": 0} if others else {}
        first.save(buffer, "GIF", **moving)
    else:
        first.save(buffer, "JPEG", quality=rendering.quality, **extra)
    return buffer.getvalue()


def _finished(picture: Picture.Image, ds: Dataset, rendering: Rendering) -> Picture.Image:
    if rendering.viewport is not None:
        picture = _fitted(picture, rendering.viewport)
    lines = annotation(ds, rendering.annotations)
    if lines:
        font = ImageFont.load_default(max(10.0, picture.height / 40))
        ImageDraw.Draw(picture).multiline_text(
            (4, 4), "\n".join(lines), fill="white", font=font, stroke_width=1, stroke_fill="black"
        )
    return picture


_ANNOTATIONS = {
    "patient": ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    "technique": ("Modality", "BodyPartExamined", "ViewPosition", "StudyDate", "KVP", "Exposure", "DetectorID"),
}


def annotation(ds: Dataset, kinds: Sequence[str]) -> list[str]:
    """The lines burned into a picture: of the patient, and of how the image was made (PS3.18 section 8.3.5.1.1)."""
    declared = codecs(ds)
    found = (text(ds, keyword, declared, 64) for kind in kinds for keyword in _ANNOTATIONS[kind])
    return [line for line in found if line]


def _frame_time(ds: Dataset) -> int:
    """Milliseconds."""
    try:
        return int(min(max(float(ds.get("FrameTime") or 100), 20), 10_000))
    except (TypeError, ValueError):
        return 100


def _fitted(picture: Picture.Image, viewport: Viewport) -> Picture.Image:
    if viewport.region is not None:
        whole = (0.0, 0.0, float(picture.width), float(picture.height))
        x, y, w, h = (own if math.isnan(one) else one for one, own in zip(viewport.region, whole, strict=True))
        box = [round(x), round(y), round(x + abs(w)), round(y + abs(h))]
        box = [max(0, box[0]), max(0, box[1]), min(picture.width, box[2]), min(picture.height, box[3])]
        if box[0] >= box[2] or box[1] >= box[3]:
            raise ValueError("the viewport shows nothing of the image")
        picture = picture.crop((box[0], box[1], box[2], box[3]))
        if w < 0:
            picture = picture.transpose(Picture.Transpose.FLIP_LEFT_RIGHT)
        if h < 0:
            picture = picture.transpose(Picture.Transpose.FLIP_TOP_BOTTOM)
    scale = min(viewport.width / picture.width, viewport.height / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Picture.Resampling.LANCZOS if scale < 1 else Picture.Resampling.BILINEAR)
