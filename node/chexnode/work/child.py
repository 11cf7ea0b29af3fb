"""The worker's decoding child: paths in, prepared images out. See :mod:`chexnode.sandbox.confined` for what it may do.

Started by :mod:`chexnode.work.sandbox` as ``python -m chexnode.work.child CONFIG``.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chexnode.sandbox.confined import Handler, Reply, serve


def load(config: dict[str, Any]) -> Handler:
    """Import what decoding needs."""
    from chexmodels.dicom.errors import DecodeError, DecodeFailure
    from chexmodels.dicom.part10 import LONGEST_HEADER, ReadLimits, read
    from chexnode.work.prepared import prepare_file

    with contextlib.suppress(ImportError):
        import openjpeg  # noqa: F401  (loaded by the first JPEG 2000 image otherwise)

    limits = ReadLimits(**config["limits"])

    def prepare(request: dict[str, Any]) -> Reply:
        part10 = read(Path(request["path"]).read_bytes(), limits)
        header = part10.encoded_header()
        if len(header) > LONGEST_HEADER:
            raise DecodeError(DecodeFailure.MALFORMED, f"a header of {len(header)} bytes")
        prepared = prepare_file(part10, config["size"], config["mode"], limits)
        facts: dict[str, Any] = {
            "rows": prepared.geometry.rows,
            "columns": prepared.geometry.columns,
            "display": prepared.display.shape,
            "stats": asdict(prepared.stats),
            "notes": prepared.notes,
            "choice": prepared.choice,
            "window": None if prepared.window is None else asdict(prepared.window),
            "overlays": prepared.overlays,
            "lengths": [len(part10.encoded_file_meta), len(header)],
        }
        pieces: list[memoryview | bytes] = [
            prepared.image.data.cast("B"),
            prepared.display.data.cast("B"),
            part10.encoded_file_meta,
            header,
        ]
        return facts, pieces

    return prepare


if __name__ == "__main__":
    serve(sys.argv[1], load)
