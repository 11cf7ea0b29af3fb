"""What of a file is copied into memory to give a frame of it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from chexmodels.dicom.part10 import ReadLimits, read
from chexnode.web.dicomweb.pixels import Image
from support.radiographs import part10, radiograph

FRAMES, SIDE = 12, 1024
MEGABYTE = 1 << 20


@contextmanager
def copying(most: int) -> Iterator[None]:
    """Fail where what runs inside has more than ``most`` bytes at once."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most


def image(pixels: bytes, syntax: str = "") -> Image:
    ds = radiograph(shape=(SIDE, SIDE), NumberOfFrames=FRAMES, PixelData=pixels)
    if syntax:
        ds.file_meta.TransferSyntaxUID = syntax
    return Image(read(part10(ds), ReadLimits()), SIDE * SIDE)


def test_native_frames_are_read_piece_by_piece() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, FRAMES * SIDE * SIDE, np.uint8).tobytes()
    one = image(pixels)
    with copying(4 * MEGABYTE):
        for number, piece in enumerate(one.all_native()):
            assert piece == pixels[number * MEGABYTE : (number + 1) * MEGABYTE]
    with copying(MEGABYTE // 4):
        (piece,) = one.native_part(9, 100_000, 200_000)
    assert piece == pixels[8 * MEGABYTE :][100_000:200_000]


def test_of_encapsulated_frames_only_the_one_is_copied() -> None:
    frames = [bytes([number]) * MEGABYTE for number in range(FRAMES)]
    for has_offsets in (True, False):
        one = image(encapsulate(frames, has_bot=has_offsets), RLELossless)
        with copying(4 * MEGABYTE):
            (frame,) = one.stored([9])
        assert frame == frames[8]


@pytest.mark.parametrize("excess", [b"\0", bytes(7 * 5), b"\xff" * 7 * 9, bytes(range(64))])
@pytest.mark.parametrize("frames", [1, 3])
def test_padding_behind_the_last_frame_is_no_part_of_any(frames: int, excess: bytes) -> None:
    pixels = np.arange(frames * 9 * 7, dtype=np.uint8)
    ds = radiograph(shape=(9, 7), NumberOfFrames=frames, PixelData=pixels.tobytes() + excess)
    one = Image(read(part10(ds), ReadLimits()), 63)
    assert b"".join(one.native(number + 1) for number in range(frames)) == pixels.tobytes()
    assert b"".join(one.all_native()) == pixels.tobytes()
    np.testing.assert_array_equal([*one.values([*range(1, frames + 1)])], pixels.reshape(frames, 9, 7))
