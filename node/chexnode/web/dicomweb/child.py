"""The web role's decoding child: frames decoded and pictures drawn, away from everybody else's requests.

Started by :mod:`chexnode.web.dicomweb.decoder` as ``python -m chexnode.web.dicomweb.child CONFIG``;
:mod:`chexnode.sandbox.confined` says what it may do.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from chexnode.sandbox.confined import Handler, Reply, serve


def load(config: dict[str, Any]) -> Handler:
    """Import what decoding and drawing need."""
    from chexmodels.dicom.errors import DecodeError, DecodeFailure
    from chexmodels.dicom.part10 import ReadLimits
    from chexnode.web.dicomweb.render import Rendering, to_picture, to_screen
    from chexnode.web.dicomweb.stored import Stored

    with contextlib.suppress(ImportError):
        import openjpeg  # noqa: F401  (loaded by the first JPEG 2000 image otherwise)

    limits = ReadLimits(**config["limits"])

    def handle(request: dict[str, Any]) -> Reply:
        image = Stored.open(Path(request["path"]), limits).image
        if "rendering" not in request:
            return {}, [b"".join(image.encoded_values(request["numbers"]))]
        rendering = Rendering.from_json(request["rendering"])
        screens = []
        for values in image.values(request["numbers"]):
            try:
                screens.append(to_screen(values, image.ds, rendering.window))
            except MemoryError:
                raise
            except Exception as error:  # tables that contradict each other, of any data set that a stranger sent
                raise DecodeError(
                    DecodeFailure.UNDECODABLE, f"its tables cannot be applied ({type(error).__name__})"
                ) from error
        try:
            return {}, [to_picture(screens, image.ds, rendering)]
        except ValueError as error:
            return {"bad": str(error)}, []
        except MemoryError:
            raise
        except Exception as error:  # what a format has no room for: four samples, or a side of 65,536 pixels
            raise DecodeError(DecodeFailure.UNDECODABLE, f"it cannot be drawn ({type(error).__name__})") from error

    return handle


if __name__ == "__main__":
    serve(sys.argv[1], load)
