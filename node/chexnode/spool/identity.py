"""The proof that every role looks at the same ``data_dir``: a random name in a file, and the same in the database.

File columns hold paths relative to ``data_dir``. A role that starts on another folder (a share that is not mounted, a
copied configuration) would acknowledge images that no worker can ever read.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from chexnode.vocabulary.errors import BadEnvironment

FILE_NAME = ".chexnode-id"
_MARKER = "data_dir"


def prove(data_dir: Path, record: Callable[[str, str], str]) -> str:
    """Return the name of ``data_dir``, giving it one at the very first start.

    ``record``: keeps a value under a name in the database, unless it has one; returns the value that is kept.
    Raises BadEnvironment if the database belongs to another folder, or the folder cannot be written.
    """
    path = data_dir / FILE_NAME
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        made = _write_new(path)
        name = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadEnvironment(f"cannot use data_dir {data_dir}: {error}") from error
    # The file comes first: a stop between the two leaves a name that the next start records.
    recorded = record(_MARKER, name)
    if recorded == name:
        return name
    if made:
        path.unlink(missing_ok=True)
        raise BadEnvironment(f"data_dir {data_dir} is not the folder this database knows: is the share mounted?")
    raise BadEnvironment(f"data_dir {data_dir} belongs to another database ({FILE_NAME} is {name}, not {recorded})")


def name_of(data_dir: Path) -> str:
    """What the file says; empty where there is none."""
    try:
        return (data_dir / FILE_NAME).read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _write_new(path: Path) -> bool:
    """Write a fresh name under ``path``, whole or not at all, unless there is one; whether it was written."""
    if path.exists():
        return False
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with part.open("x", encoding="ascii") as file:
        file.write(secrets.token_hex(16) + "\n")
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
