"""A dry run of one file: what the gate says, what the model finds, who would get what. Nothing is stored or sent.

The file is analysed as ``chexnode analyze`` does, by that very command in a process of its own: the web role loads no
torch, and whatever the file does to the analysis it does not do to us.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from chexnode.deliver.routing import routes as routing
from chexnode.node import Node
from chexnode.settings.tree import Settings
from chexnode.vocabulary.roles import Role
from chexnode.vocabulary.states import JobState
from chexnode.web.console.pages import HEADERS, Pages
from chexnode.web.console.visitor import Turned, Visitor, check_origin, visiting

_SECONDS = 180.0
_AT_ONCE = 1
_SECTIONS = ("model", "gate", "limits", "series")


@dataclass(frozen=True, slots=True)
class Recipient:
    """A destination and what it would get."""

    name: str
    kinds: tuple[str, ...]


def router(node: Node, pages: Pages) -> APIRouter:
    """The page, and where its file goes."""
    routes = APIRouter()
    operating = Depends(visiting(node.trail, Role.OPERATOR))
    most = node.settings.limits.max_object_mb * 1_000_000
    turns = asyncio.Semaphore(_AT_ONCE)

    @routes.get("/try")
    def page(request: Request, visitor: Visitor = operating) -> Response:
        return pages.page(request, visitor, "try", model=node.spec.model)

    @routes.post("/try")
    async def try_file(request: Request, visitor: Visitor = operating) -> Response:
        await run_in_threadpool(check_origin, request, {})
        if turns.locked():
            raise Turned(503, "turned.busy")
        async with turns:
            with tempfile.TemporaryDirectory(prefix="chexnode-try-") as folder:
                file = Path(folder) / "file.dcm"
                await _save(request, file, most)
                report = await _analysed(node.settings, file)
            who = await run_in_threadpool(recipients, node, report)
            html = await run_in_threadpool(pages.html, request, visitor, "_try.html", report=report, recipients=who)
        address = request.client.host if request.client else ""
        await run_in_threadpool(node.trail.acted, visitor.name, address, "dry run of a file")
        return Response(html, 200, HEADERS, "text/html; charset=utf-8")

    return routes


def recipients(node: Node, report: Mapping[str, Any]) -> list[Recipient]:
    """Who would get results of an image from any caller; nobody of one without results."""
    if report["state"] != JobState.DONE:
        return []
    chosen = routing(node.settings.destination, "", report["abnormal"])
    names = dict.fromkeys(route.destination for route in chosen)
    return [Recipient(name, tuple(r.variant.kind.upper() for r in chosen if r.destination == name)) for name in names]


async def _save(request: Request, file: Path, most: int) -> None:
    size = 0
    with file.open("wb") as opened:
        async for piece in request.stream():
            size += len(piece)
            if size > most:
                raise Turned(413, "turned.large")
            await run_in_threadpool(opened.write, piece)


async def _analysed(settings: Settings, file: Path) -> dict[str, Any]:
    """The report of ``chexnode analyze``. Raises Turned where it cannot be had."""
    config = file.with_name("chexnode.toml")
    config.write_text(toml(settings), "utf-8")
    command = [sys.executable, "-m", "chexnode.cli", "--config", str(config), "--log-level", "error", "analyze"]
    process = await asyncio.create_subprocess_exec(
        *command, str(file), "--out", str(file.parent / "out"), "--json",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        cwd=file.parent, env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), _SECONDS)
    except TimeoutError:
        raise Turned(504, "turned.slow") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode not in (0, 1):
        raise Turned(503, "turned.no_analysis", why=err.decode("utf-8", "replace").strip()[-300:])
    report: dict[str, Any] = json.loads(out)[0]
    return report


def toml(settings: Settings) -> str:
    """The settings that an analysis depends on, as a file."""
    lines = []
    for name in _SECTIONS:
        lines.append(f"[{name}]")
        values = getattr(settings, name).model_dump(mode="json", exclude_none=True)
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"
