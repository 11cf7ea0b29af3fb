"""What is served under ``/viewer``: the names are listed once, and only what is listed is ever opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request
from fastapi.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse

from chexnode.web.conditions import is_known, takes_gzip

#: Not what the machine's own tables say: some have no idea of wasm.
TYPES: Mapping[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".jsonc": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True, slots=True)
class File:
    """One file, and its compressed form where there is one."""

    path: Path
    media_type: str
    compressed: Path | None


def listed(folder: Path) -> dict[str, File]:
    """Path below ``folder`` -> file, of all files there that have a known type; symbolic links are left out."""
    found = {}
    for path in folder.rglob("*"):
        if path.suffix in TYPES and path.is_file() and not path.is_symlink():
            compressed = path.with_name(path.name + ".gz")
            found[path.relative_to(folder).as_posix()] = File(
                path, TYPES[path.suffix], compressed if compressed.is_file() else None
            )
    return found


def answer(request: Request, file: File, version: str, headers: Mapping[str, str]) -> Response:
    """The file, compressed where that is accepted; a range of it, or 304, where that is asked for.

    ``version`` goes into the entity tag: all files of an npm package have one and the same date. Raises
    FileNotFoundError if the file is gone.
    """
    path = file.path
    own = {"Cache-Control": "no-cache", **headers}  # kept, but asked about: an update keeps most names
    if file.compressed is not None:
        own["Vary"] = "Accept-Encoding"
        if "range" not in request.headers and takes_gzip(request.headers):
            path = file.compressed
            own["Content-Encoding"] = "gzip"
    stat = path.stat()
    own["ETag"] = tag = f'"{version}-{stat.st_mtime_ns:x}-{stat.st_size:x}"'
    response = FileResponse(path, headers=own, media_type=file.media_type, stat_result=stat)
    return NotModifiedResponse(response.headers) if is_known(request.headers, tag) else response
