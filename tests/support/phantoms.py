"""Phantom radiographs as files, each with UIDs of its own."""

from __future__ import annotations

from pathlib import Path

from chextrain.data.phantom_dicom import write_files


def phantom_files(folder: Path, count: int, first_seed: int = 0, shape: tuple[int, int] = (512, 432)) -> list[Path]:
    """Write ``count`` phantoms; the same seeds give the same images and UIDs."""
    return write_files(folder, count, first_seed, *shape)
