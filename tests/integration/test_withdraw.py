"""What carries out a rejection note where it is not sent: dcm4chee's service, deletion over DICOMweb, in a folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from chexmodels.dicom.key_objects import KeyObject
from chexnode.encode.rejection import encode_rejection
from chexnode.vocabulary.supersession import Supersession
from support import servers
from support.deliveries import Node, result

OBJECTS = [KeyObject("1.2.840.10008.5.1.4.1.1.7", f"2.25.{n}", f"2.25.1{n}", "1.2.3") for n in (1, 2)]


INSTANCES = "/rs/studies/1.2.3/series/2.25.1"


@contextmanager
def service(*statuses: int) -> Iterator[tuple[str, list[str]]]:
    """A service that answers each request with the next of ``statuses``, the last one for ever."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.send_response(statuses[min(len(asked), len(statuses)) - 1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = answer  # noqa: N815  (http.server's names)
        do_DELETE = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer((servers.LOOPBACK, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://{servers.LOOPBACK}:{server.server_port}/rs", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def with_note(folder: Path, **destination: Any) -> Node:
    """A node to whose destination a note is due."""
    node = Node(folder, f"sqlite:///{folder / 'chexnode.db'}", **destination)
    node.add(encode_rejection(result(), OBJECTS, Supersession.CORRECTED, datetime.now(UTC), "1"))
    return node


@pytest.mark.parametrize(
    ("withdraw", "requests"),
    [
        ("dcm4chee-reject", [f"POST {INSTANCES}{n}/instances/2.25.{n}/reject/113038%5EDCM" for n in (1, 2)]),
        ("delete", [f"DELETE {INSTANCES}{n}/instances/2.25.{n}" for n in (1, 2)]),
    ],
)
def test_each_object_of_a_note_is_withdrawn_by_a_request(tmp_path: Path, withdraw: str, requests: list[str]) -> None:
    with service(204, 404) as (url, asked):
        node = with_note(tmp_path, kind="stow", url=url, withdraw=withdraw)
        node.deliver()
        assert asked == requests
        assert node.states() == ["SENT"], "what is not there need not be withdrawn"
        node.ledger.close()


def test_a_service_that_fails_is_asked_again_and_one_that_cannot_is_not(tmp_path: Path) -> None:
    with service(503, 405) as (url, asked):
        node = with_note(tmp_path, kind="stow", url=url, withdraw="delete")
        node.deliver()
        assert node.states() == ["WAITING"]
        node.clock.skip(600)
        node.deliver()
        assert node.states() == ["DEAD"]
        assert "405" in (next(iter(node.view().values())).error or "")
        assert len(asked) == 2
        node.ledger.close()


def test_a_folder_loses_the_files_and_keeps_the_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("2.25.1.dcm", "2.25.3.dcm"):
        (out / name).write_bytes(b"x")
    node = with_note(tmp_path, kind="folder", path=out, withdraw="delete")
    node.deliver()
    assert node.states() == ["SENT"]
    assert [path.name for path in out.iterdir()] == ["2.25.3.dcm"]
    node.ledger.close()


def test_a_note_is_a_file_like_any_result_where_notes_are_wanted(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    node = with_note(tmp_path, kind="folder", path=out)
    node.deliver()
    assert node.states() == ["SENT"]
    assert len(list(out.iterdir())) == 1
    node.ledger.close()
