"""Bundles for tests, made from the one that knows phantoms."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from chexmodels.bundle import find


def second_version(folder: Path, threshold: float) -> Path:
    """Write a second version of the model for phantoms into ``folder``, which marks what scores ``threshold``."""
    shutil.copytree(find("phantom64"), folder)
    path = folder / "model.json"
    manifest: dict[str, Any] = json.loads(path.read_text())
    manifest["version"] = "2"
    for point in manifest["operating_points"].values():
        point["threshold"] = threshold
    path.write_text(json.dumps(manifest))
    return folder
