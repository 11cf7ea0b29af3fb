"""Outside judges of DICOM objects, and what "valid" means: no complaint beyond those that the source brings along."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pydicom.datadict import tag_for_keyword

from chexnode.encode.attributes import OPTIONAL, TYPE_2
from servers import find_tool

#: Tags whose values results copy from the source as they are.
_COPIED = {f"(0x{tag >> 16:04x},0x{tag & 0xFFFF:04x})" for tag in map(tag_for_keyword, (*TYPE_2, *OPTIONAL)) if tag}
_SUMMARY = re.compile(r"Dicom dataset contains (invalid data values|retired attributes|attributes not present)")


@cache
def dciodvfy(data: bytes) -> list[str]:
    """Return the errors and warnings of dicom3tools' dciodvfy about a DICOM file."""
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        file.write(data)
        file.flush()
        return _complaints("dciodvfy", [Path(file.name)])


def dcentvfy(files: Sequence[Path]) -> list[str]:
    """Return what dicom3tools' dcentvfy finds inconsistent between the files of one patient, study or series."""
    return _complaints("dcentvfy", files)


def unexplained(result: bytes, source: bytes) -> list[str]:
    """Return dciodvfy's complaints about ``result`` that neither ``source`` nor a copied identity value explains."""
    known = set(dciodvfy(source))
    return [
        line
        for line in dciodvfy(result)
        if line not in known and not any(tag in line for tag in _COPIED) and not _SUMMARY.search(line)
        and not _names_an_absence(line, known)
    ]  # fmt: skip


def _names_an_absence(line: str, known: set[str]) -> bool:
    """Whether ``line`` says that an identity attribute is empty, which the source has neither."""
    found = re.search(r"needed to build DICOMDIR - (.*)", line)
    return found is not None and any(found[1].replace(" ", "").replace("'s", "") in other for other in known)


def _complaints(tool: str, files: Sequence[Path]) -> list[str]:
    done = subprocess.run(
        [find_tool(tool, "dicom3tools"), *map(str, files)], capture_output=True, timeout=60, check=False
    )
    text = (done.stdout + done.stderr).decode("utf-8", "replace")
    return [line for line in text.splitlines() if line.startswith(("Error", "Warning"))]
