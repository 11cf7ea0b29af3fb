"""Long answers: made ahead in threads, and sent in pieces that a slow reader still gets through."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest
from starlette.types import Message, Receive, Scope, Send

from chexnode.dicomweb.multipart import PIECE, gathered
from chexnode.settings.web import WebSettings
from chexnode.web.dicomweb.responses import ahead
from chexnode.web.middleware import Limits

_SCOPE: Scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": ("127.0.0.1", 1)}


def test_each_piece_is_made_while_the_one_before_goes_out() -> None:
    made: list[int] = []

    def pieces() -> Iterator[bytes]:
        for number in range(3):
            made.append(number)
            yield bytes([number])

    async def run() -> list[bytes]:
        taken = []
        async for piece in ahead(pieces()):
            for _ in range(1000):  # until the next is there, which nobody has asked for
                if len(made) > min(len(taken) + 1, 2):
                    break
                await asyncio.sleep(0.01)
            assert len(made) == min(len(taken) + 2, 3)
            taken.append(piece)
        return taken

    assert asyncio.run(run()) == [b"\0", b"\1", b"\2"]


def test_what_is_made_ahead_is_closed_where_nobody_takes_it(caplog: pytest.LogCaptureFixture) -> None:
    made: list[object] = []

    def pieces(fails: bool) -> Iterator[bytes]:
        try:
            yield b"first"
            made.append("second")
            if fails:
                raise OSError("the disk is gone")
            yield b"second"
            yield b"third"
        finally:
            made.append("closed")

    async def leave(fails: bool) -> None:
        answer = ahead(pieces(fails))
        assert await anext(answer) == b"first"
        await answer.aclose()  # type: ignore[attr-defined]
        gc.collect()

    asyncio.run(leave(False))
    assert made == ["second", "closed"]
    asyncio.run(leave(True))
    assert made == ["second", "closed"] * 2
    assert not caplog.records

    async def read() -> None:
        async for _ in ahead(pieces(True)):
            pass

    with pytest.raises(OSError, match="the disk is gone"):
        asyncio.run(read())


def test_pieces_grow_and_nothing_is_lost() -> None:
    content = [bytes([number % 251]) * 40_000 for number in range(200)]
    pieces = [*gathered(content)]
    assert b"".join(pieces) == b"".join(content)
    assert len(pieces[0]) < PIECE // 2
    assert PIECE <= len(pieces[-2]) < PIECE + 40_000


def _sent(body: bytes, seconds: float) -> list[int]:
    """The sizes of the pieces that a caller gets of ``body``, who needs ``seconds`` for each."""
    sizes: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        await asyncio.sleep(seconds)
        if message["type"] == "http.response.body":
            sizes.append(len(message["body"]))

    asyncio.run(Limits(app, WebSettings())(_SCOPE, receive, send))
    assert sum(sizes) == len(body)
    return sizes


def test_who_reads_at_once_gets_more_with_the_next_piece() -> None:
    assert max(_sent(bytes(8_000_000), 0)) > max(_sent(bytes(2_000_000), 0.15))


def test_who_reads_slowly_gets_small_pieces() -> None:
    assert max(_sent(bytes(2_000_000), 0.15)) <= 1 << 19


@pytest.mark.parametrize(("stalls", "gets_all"), [(False, True), (True, False)])
def test_a_large_piece_has_the_time_of_the_small_ones_it_stands_for(stalls: bool, gets_all: bool) -> None:
    """Who was quick at first and slow later is not hung up for having been given more; who stops reading is."""
    taken = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(8_000_000)})

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        nonlocal taken
        size = len(message.get("body", b""))
        if taken > 4_000_000:
            await asyncio.sleep(60 if stalls else 0.15 * size / (1 << 18))  # a large piece: longer than a pause may be
        taken += size

    answer = Limits(app, WebSettings(idle_seconds=0.3))(_SCOPE, receive, send)
    if gets_all:
        asyncio.run(answer)
        assert taken == 8_000_000
    else:
        with pytest.raises(TimeoutError):
            asyncio.run(answer)
