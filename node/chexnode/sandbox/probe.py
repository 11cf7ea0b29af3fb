"""A child that does nothing but say how it is confined; started as ``python -m chexnode.sandbox.probe CONFIG``."""

from __future__ import annotations

import sys
from typing import Any

from chexnode.sandbox.confined import Handler, serve


def load(config: dict[str, Any]) -> Handler:
    """Nothing is needed."""
    return lambda request: ({}, [])


if __name__ == "__main__":
    serve(sys.argv[1], load)
