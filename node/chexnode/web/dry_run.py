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
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from chexnode.deliver.routing import routes as routing
from chexnode.node import Node
from chexnode.settings.tree import Settings
from chexnode.vocabulary.states import JobState

_SECONDS = 180.0
_SECTIONS = ("model", "gate", "limits", "series")


@dataclass(frozen=True, slots=True)
class Recipient:
    """A destination and what it would get."""

    name: str
    kinds: tuple[str, ...]
    """``SC``, ``SEG``, ``SR`` or ``GSPS``."""


class NotTried(Exception):
    """There is no answer; ``cause`` is ``busy``, ``large``, ``slow`` or ``no_analysis``, ``status`` that of HTTP."""

    def __init__(self, status: int, cause: str, why: str) -> None:
        super().__init__(why)
        self.status, self.cause = status, cause


class DryRuns:
    """One at a time: an analysis takes all that the machine has."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._most = node.settings.limits.max_object_mb * 1_000_000
        self._turns = asyncio.Semaphore(1)

    async def run(self, body: AsyncIterator[bytes], user: str, address: str) -> tuple[dict[str, Any], list[Recipient]]:
        """The report of ``chexnode analyze`` and who would get results. Raises NotTried."""
        if self._turns.locked():
            raise NotTried(503, "busy", "another file is being tried")
        async with self._turns:
            with tempfile.TemporaryDirectory(prefix="chexnode-try-") as folder:
                file = Path(folder) / "file.dcm"
                await _save(body, file, self._most)
                report = await _analysed(self._node.settings, file)
        await run_in_threadpool(self._node.trail.acted, user, address, "dry run of a file")
        return report, await run_in_threadpool(recipients, self._node, report)


def recipients(node: Node, report: Mapping[str, Any]) -> list[Recipient]:
    """Who would get results of an image from any caller; nobody of one without results."""
    if report["state"] != JobState.DONE:
        return []
    chosen = routing(node.settings.destination, "", report["abnormal"])
    names = dict.fromkeys(route.destination for route in chosen)
    return [Recipient(name, tuple(r.variant.kind.upper() for r in chosen if r.destination == name)) for name in names]


async def _save(body: AsyncIterator[bytes], file: Path, most: int) -> None:
    size = 0
    with file.open("wb") as opened:
        async for piece in body:
            size += len(piece)
            if size > most:
                raise NotTried(413, "large", "the file is too large")
            await run_in_threadpool(opened.write, piece)


async def _analysed(settings: Settings, file: Path) -> dict[str, Any]:
    """The report of ``chexnode analyze``. Raises NotTried where it cannot be had."""
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
        raise NotTried(504, "slow", "the analysis took too long") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode not in (0, 1):
        raise NotTried(503, "no_analysis", err.decode("utf-8", "replace").strip()[-300:])
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
