"""Image files: what their headers say, and their pixels by the very functions that the node uses."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydicom.dataset import Dataset

from chexmodels.dicom.decode import decode
from chexmodels.dicom.errors import DecodeError
from chexmodels.dicom.part10 import ReadLimits, read
from chexmodels.pixels import Geometry, from_picture, to_image
from chextrain.data.cases import Case

SUFFIXES = (".dicom", ".dcm", ".png", ".jpg", ".jpeg")
"""What is taken for an image, in the order of preference where a folder holds several of one name."""
STRATA = {"ViewPosition": "view", "Manufacturer": "manufacturer"}
"""Data element -> what its value is called in ``Case.strata``."""


class BadImage(ValueError):
    """A file that is no readable radiograph; the message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What is known of an image without its pixels."""

    rows: int
    columns: int
    strata: Mapping[str, str] = field(default_factory=dict)
    """``view``, ``manufacturer`` and ``spacing`` (mm between rows, three decimals), as far as the header says."""


def images_in(folder: Path) -> dict[str, Path]:
    """File name without suffix -> path, of the images directly in ``folder``; empty where there is no folder."""
    found: dict[str, Path] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        suffix = path.suffix.lower()
        if suffix in SUFFIXES:
            other = found.get(path.stem)
            if other is None or SUFFIXES.index(suffix) < SUFFIXES.index(other.suffix.lower()):
                found[path.stem] = path
    return found


def header(path: Path) -> ImageHeader:
    """Size and strata of a DICOM, PNG or JPEG file; raises ``BadImage``."""
    try:
        if not _is_dicom(path):
            with Pillow.open(path, formats=("PNG", "JPEG")) as picture:
                return ImageHeader(picture.height, picture.width)
        with path.open("rb") as stream:
            ds = read(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), ReadLimits()).header
        rows, columns = int(ds.Rows), int(ds.Columns)
    except (DecodeError, OSError, ValueError, TypeError, AttributeError, SyntaxError) as error:
        raise BadImage(f"{path.name}: {_reason(error)}") from error
    if rows < 1 or columns < 1:
        raise BadImage(f"{path.name}: {rows} x {columns} pixels")
    return ImageHeader(rows, columns, _strata(ds))


def pixels(path: Path) -> NDArray[np.float32]:
    """The image ``(H, W)`` float32 in [0, 1], MONOCHROME2; raises ``BadImage``."""
    try:
        if not _is_dicom(path):
            return from_picture(path).pixels
        ds = read(path.read_bytes(), ReadLimits()).dataset()
        return to_image(ds, decode(ds)).pixels
    except (DecodeError, OSError, ValueError) as error:
        raise BadImage(f"{path.name}: {_reason(error)}") from error


def load_case(case: Case, size: int) -> NDArray[np.float32]:
    """The file of ``case`` on the letterboxed ``(S, S)`` grid; raises ``BadImage``, also where its size has changed."""
    if case.path is None:
        raise BadImage(f"{case.image_id}: no file")
    image = pixels(case.path)
    if image.shape != (case.rows, case.columns):
        rows, columns = image.shape
        raise BadImage(f"{case.path.name}: {rows} x {columns} pixels instead of {case.rows} x {case.columns}")
    return Geometry(case.rows, case.columns, size).forward(image)


def rendered(load: Callable[[Case, int], NDArray[np.float32]], case: Case, size: int) -> NDArray[np.uint8]:
    """One image as it is kept: ``(S, S)`` uint8. Here, because a process that only decodes should not load torch."""
    return eight_bit(load(case, size))


def eight_bit(array: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[0, 1] -> 0 to 255, rounded."""
    return np.round(array * 255).astype(np.uint8)


def stamp(paths: Iterable[Path | None]) -> Iterable[str]:
    """What changes when a file changes: its length and the time it was written."""
    for path in paths:
        if path is None:
            yield "-"
        else:
            status = path.stat()
            yield f"{status.st_size}:{status.st_mtime_ns}"


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _strata(ds: Dataset) -> dict[str, str]:
    found = {name: str(ds.get(keyword) or "").strip() for keyword, name in STRATA.items()}
    for keyword in ("ImagerPixelSpacing", "PixelSpacing"):
        try:
            found["spacing"] = f"{float(ds[keyword].value[0]):.3f}"
            break
        except (KeyError, TypeError, ValueError, IndexError):
            continue
    return {name: value for name, value in found.items() if value}


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return error.detail if isinstance(error, DecodeError) else str(error)
