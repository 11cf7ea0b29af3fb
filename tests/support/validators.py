"""Outside judges of DICOM objects, and what "valid" means: no complaint beyond those that the source brings along."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pydicom.datadict import tag_for_keyword

from chexnode.encode.attributes import OPTIONAL, TYPE_2
from support.servers import find_tool

#: Tags whose values results copy from the source as they are.
_COPIED = {f"(0x{tag >> 16:04x},0x{tag & 0xFFFF:04x})" for tag in map(tag_for_keyword, (*TYPE_2, *OPTIONAL)) if tag}
#: A private coding scheme's designator begins with 99 (PS3.16 section 8.2); dciodvfy knows but a few.
_PRIVATE_SCHEME = re.compile(r"Unrecognized defined term <99\w+> for value 1 of attribute <Coding Scheme Designator>")
_SUMMARY = re.compile(r"Dicom dataset contains (invalid data values|retired attributes|attributes not present)")


#: Java 17 refuses style sheets as large as its templates' otherwise (JAXP0801003); the others halve its time.
_JAVA_OPTIONS = (
    "-Djdk.xml.xpathTotalOpLimit=0",
    "-Djdk.xml.xpathExprOpLimit=0",
    "-Djdk.xml.xpathExprGrpLimit=0",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
)


@cache
def dciodvfy(data: bytes) -> list[str]:
    """Return the errors and warnings of dicom3tools' dciodvfy about a DICOM file."""
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        file.write(data)
        file.flush()
        return _complaints("dciodvfy", [Path(file.name)])


@cache
def dicom_sr_validator(data: bytes) -> list[str]:
    """Return the errors of Pixelmed's DicomSRValidator about a report: of its IOD and of the template that it follows.

    Its warnings are not returned: what template tables of 2022 did not have yet, such as an algorithm in a group.
    Raises RuntimeError if it did not come to its end.
    """
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        file.write(data)
        file.flush()
        done = subprocess.run(
            [find_tool("DicomSRValidator", "pixelmed-apps"), file.name],
            capture_output=True,
            timeout=300,
            check=False,
            env=os.environ | {"JAVA_TOOL_OPTIONS": " ".join(_JAVA_OPTIONS)},
        )
    said = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
    if "Root Template Validation Complete" not in said or "IOD validation complete" not in said:
        raise RuntimeError("\n".join(said))
    return [line for line in said if line.startswith("Error")]


def dcentvfy(files: Sequence[Path]) -> list[str]:
    """Return what dicom3tools' dcentvfy finds inconsistent between the files of one patient, study or series.

    That it counts Accession Number to the study of a report and to the series of an image is about its own tables.
    """
    return [line for line in _complaints("dcentvfy", files) if "Different information entities" not in line]


def unexplained(result: bytes, source: bytes) -> list[str]:
    """Return dciodvfy's complaints about ``result`` that neither ``source`` nor a copied identity value explains."""
    known = set(dciodvfy(source))
    return [
        line
        for line in dciodvfy(result)
        if line not in known and not any(tag in line for tag in _COPIED) and not _SUMMARY.search(line)
        and not _names_an_absence(line, known) and not _PRIVATE_SCHEME.search(line)
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
