"""Reading the settings from their file and the environment: nothing else of ChexNode reads either.

Unknown keys and variables are refused with the nearest known name. Relative paths are taken from the settings file's
folder.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from chexnode.settings.keys import flat, known_keys
from chexnode.settings.model import ModelSettings, delivering_and_shadows
from chexnode.settings.tree import Settings
from chexnode.vocabulary.errors import Usage

FILE_NAME = "chexnode.toml"

_M = TypeVar("_M", bound=BaseModel)


def load(path: Path | None = None) -> tuple[Settings, Path | None]:
    """Read the settings; return them with the file they came from.

    ``path``: the settings file; None looks at ``CHEXNODE_CONFIG`` and then for ``chexnode.toml`` in the working folder.
    Raises :class:`~chexnode.vocabulary.errors.Usage` with one line per fault.
    """
    if path is None and os.environ.get("CHEXNODE_CONFIG"):
        path = Path(os.environ["CHEXNODE_CONFIG"])
    if path is None and Path(FILE_NAME).is_file():
        path = Path(FILE_NAME)
    content: dict[str, Any] = {}
    if path is not None:
        try:
            content = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise Usage(f"{path}: {error}") from error
    faults = list(_unknown_variables(os.environ))
    if faults:
        raise Usage("\n".join(faults))
    try:
        settings = Settings(**delivering_and_shadows(content))
    except ValidationError as error:
        raise Usage("\n".join(_sentences(error, path))) from error
    except ValueError as error:  # a variable that should hold JSON does not, or models of which none delivers
        raise Usage(str(error)) from error
    base = path.parent if path is not None else Path(".")
    resolved = _resolved(settings, base.absolute())
    written = delivering_and_shadows(content)
    resolved.note_sources({key: _source(key, written, path) for key, _ in flat(resolved)})
    return resolved, path


def _resolved(settings: Settings, base: Path) -> Settings:
    """``settings`` with every path absolute, relative ones taken from ``base``."""
    settings = _with_absolute_paths(settings, base)
    url = settings.database.url
    if url.startswith("sqlite:///") and not url.startswith("sqlite:////") and url != "sqlite:///:memory:":
        url = "sqlite:///" + str(base / url.removeprefix("sqlite:///"))
    url = url or f"sqlite:///{settings.node.data_dir / 'chexnode.db'}"
    return settings.model_copy(
        update={
            "database": settings.database.model_copy(update={"url": url}),
            "model": _with_bundle(settings.model, base),
            "shadow": tuple(_with_bundle(one, base) for one in settings.shadow),
        }
    )


def _with_bundle(model: ModelSettings, base: Path) -> ModelSettings:
    bundle = model.bundle
    if "/" in bundle or bundle.startswith("."):
        bundle = str((base / Path(bundle).expanduser()).resolve())
    return model.model_copy(update={"bundle": bundle})


def _with_absolute_paths(model: _M, base: Path) -> _M:
    return model.model_copy(update={name: _absolute(value, base) for name, value in model})


def _absolute(value: Any, base: Path) -> Any:
    if isinstance(value, Path):
        return base / value.expanduser()
    if isinstance(value, BaseModel):
        return _with_absolute_paths(value, base)
    if isinstance(value, tuple):
        return tuple(_absolute(each, base) for each in value)
    return value


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """pydantic-settings passes over variables it does not know; we do not."""
    known = {"CHEXNODE_CONFIG", "CHEXNODE_SHARED"}
    known |= {"CHEXNODE_" + key.replace(".", "__").upper() for key in known_keys(Settings)}
    known |= {"CHEXNODE_" + name.upper() for name in Settings.model_fields}
    for name in sorted(environ):
        if name.upper().startswith("CHEXNODE_") and name.upper() not in known:
            yield f"unknown variable {name}{_nearest(name.upper(), known)}"


def _nearest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _sentences(error: ValidationError, path: Path | None) -> Iterator[str]:
    """One line a fault, with the nearest known key for an unknown one."""
    known = set(known_keys(Settings)) | set(Settings.model_fields)
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"] if not isinstance(part, int)) or "settings"
        source = f"{path}: " if path else ""
        if fault["type"] == "extra_forbidden":
            yield f"{source}unknown key {where}{_nearest(where, known)}"
        else:
            own = fault.get("ctx", {}).get("error")  # what our own check raised, without pydantic's words before it
            yield f"{source}{where}: {own or fault['msg']}"


def _source(key: str, content: Mapping[str, Any], path: Path | None) -> str:
    """Where the value of dotted ``key`` came from: ``default``, the file with ``content``, or the variable."""
    environ = {name.upper() for name in os.environ}
    head = key.split("[")[0].split(".")
    for depth in range(len(head), 0, -1):
        variable = "CHEXNODE_" + "__".join(head[:depth]).upper()
        if variable in environ:
            return variable
    node: Any = content
    for part in key.replace("[", ".").replace("]", "").split("."):
        try:
            node = node[int(part)] if isinstance(node, list) else node[part]
        except (KeyError, IndexError, TypeError):
            return "default"
    return str(path)
