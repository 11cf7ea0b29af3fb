"""The proof that every role looks at the same ``data_dir``: a random name in a file, and the same in the database.

File columns hold paths relative to ``data_dir``. A role that starts on another folder (a share that is not mounted, a
copied configuration) would acknowledge images that no worker can ever read.
"""

from __future__ import annotations

import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from chexnode.vocabulary.errors import BadEnvironment

log = logging.getLogger(__name__)

FILE_NAME = ".chexnode-id"
_MARKER = "data_dir"


class Markers(Protocol):
    """Names and values that the database keeps."""

    def marker(self, name: str) -> str | None:
        """The value under ``name``; None where there is none."""

    def mark(self, name: str, value: str) -> str:
        """Keep ``value`` under ``name`` unless there is one; return what is kept."""


def prove(data_dir: Path, markers: Markers, *, recovering: bool = False) -> str:
    """Return the name of ``data_dir``, giving it one at the very first start.

    Raises BadEnvironment if the database belongs to another folder, the folder cannot be written, or the database is
    new and the folder holds what it does not know, unless ``recovering``: then it is about to be recorded.
    """
    path = data_dir / FILE_NAME
    try:
        keep_private(data_dir)
        made = write(data_dir, secrets.token_hex(16))
        name = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadEnvironment(f"cannot use data_dir {data_dir}: {error}") from error
    if not recovering and markers.marker(_MARKER) is None and _holds_objects(data_dir):
        if made:
            path.unlink(missing_ok=True)
        raise BadEnvironment(
            f"the database is new, and data_dir {data_dir} holds images that it does not know: set database.url to "
            "the database they belong to, restore a backup with `chexnode restore`, or record them again with "
            "`chexnode recover`"
        )
    # The file comes first: a stop between the two leaves a name that the next start records.
    recorded = markers.mark(_MARKER, name)
    if recorded == name:
        return name
    if made:
        path.unlink(missing_ok=True)
        raise BadEnvironment(f"data_dir {data_dir} is not the folder this database knows: is the share mounted?")
    raise BadEnvironment(
        f"data_dir {data_dir} belongs to another database ({FILE_NAME} is {name}, not {recorded}): set database.url to "
        "that one, or name an empty data_dir"
    )


def keep_private(data_dir: Path) -> None:
    """Make ``data_dir``, or close it to other users if it is ours. Raises OSError."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = data_dir.stat()
    if state.st_uid == os.geteuid() and state.st_mode & 0o077:
        data_dir.chmod(0o700)
        log.warning("%s was open to other users of this machine: it is closed to them now", data_dir)


def _holds_objects(data_dir: Path) -> bool:
    folders = os.walk(data_dir / "spool" / "sources")
    return any(name.endswith(".dcm") for _, _, names in folders for name in names)


def name_of(data_dir: Path) -> str:
    """What the file says; empty where there is none."""
    try:
        return (data_dir / FILE_NAME).read_text("ascii", "replace").strip()
    except OSError:
        return ""


def write(data_dir: Path, name: str) -> bool:
    """Name ``data_dir``, whole or not at all, unless it has a name; whether it was named."""
    path = data_dir / FILE_NAME
    if path.exists():
        return False
    part = path.with_name(f"{FILE_NAME}.{secrets.token_hex(8)}")
    with part.open("x", encoding="ascii") as file:
        file.write(name + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(part, path)  # unlike a rename, never replaces what another role has just written
        return True
    except FileExistsError:
        return False
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
