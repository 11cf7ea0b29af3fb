"""Webhooks: what happens is posted once, signed and in order, also by a receiver that was away meanwhile."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from chexnode.alarms.hooks import Hook, Hooks
from chexnode.ledger.ledger import Ledger
from chexnode.node import Node
from chexnode.settings.tree import Settings
from chexnode.vocabulary.errors import Transient
from chexnode.vocabulary.records import Analysis, DeliveryOutcome
from chexnode.vocabulary.states import DeliveryState
from support.ledgers import NOT_ANALYSED, OTHER_SPEC, Clock, arrival, claim, complete, node_on, opened, record
from support.servers import LOOPBACK, wait_for

SECRET = "a key that both know"


class Receiver:
    """Keeps what is posted, and answers ``status``."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.signatures: list[bool] = []
        self.status = 204
        self.url = ""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if kept.status < 300:
                kept.posts.append(json.loads(body))
                ours = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
                kept.signatures.append(self.headers["X-ChexNode-Signature"] == ours)
            self.send_response(kept.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    kept.url = f"http://{LOOPBACK}:{server.server_port}/hook"
    yield kept
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def posting(folder: Path, receiver: Receiver, clock: Clock | None = None, **more: Any) -> Iterator[tuple[Node, Ledger]]:
    url = f"sqlite:///{folder / 'chexnode.db'}"
    hook = {"name": "ris", "url": receiver.url, "secret": SECRET, **more}
    settings = Settings(node={"data_dir": folder / "var"}, database={"url": url}, webhook=[hook])
    with opened(url, clock) as ledger:
        yield node_on(ledger, settings), ledger


def drain(node: Node) -> None:
    hook = Hook(node, node.settings.webhook[0])
    while hook.tick():
        pass


def work(ledger: Ledger) -> str:
    """An abnormal image whose delivery is given up, and one that is not analysed; the job's id."""
    record(ledger, arrival())
    job = claim(ledger)
    complete(ledger, job, "pacs", score=0.9)
    claims = ledger.deliveries.claim("pacs", 2)
    ledger.deliveries.settle([DeliveryOutcome(one, DeliveryState.DEAD, "no room") for one in claims])
    record(ledger, arrival(verdict=NOT_ANALYSED))
    return job.id


def test_what_happens_from_now_on_is_posted_once_in_order_and_signed(tmp_path: Path, receiver: Receiver) -> None:
    with posting(tmp_path, receiver) as (node, ledger):
        record(ledger, arrival(verdict=NOT_ANALYSED))  # before: history is not told
        drain(node)
        job = work(ledger)
        drain(node)
        drain(node)  # as after a restart
    assert [post["event"] for post in receiver.posts] == ["finding", "dead", "dead", "done", "not-analysed"]
    assert receiver.signatures == [True] * 5
    finding, given_up, *_, left = receiver.posts
    assert (finding["job"]["id"], finding["job"]["score"], finding["job"]["abnormal"]) == (job, 0.9, True)
    assert finding["url"].endswith(f"/console/images/{job}")
    assert (given_up["delivery"]["destination"], given_up["delivery"]["error"]) == ("pacs", "no room")
    assert left["job"]["reason"] == "lateral-view"
    assert "patient" not in json.dumps(receiver.posts)


def test_only_what_is_wanted_is_posted(tmp_path: Path, receiver: Receiver) -> None:
    with posting(tmp_path, receiver, events=["analysed"]) as (node, ledger):
        drain(node)
        work(ledger)
        drain(node)
    assert [post["event"] for post in receiver.posts] == ["analysed"]


def test_a_receiver_that_was_away_gets_it_later_and_after_a_day_no_more(tmp_path: Path, receiver: Receiver) -> None:
    clock = Clock()
    with posting(tmp_path, receiver, clock, events=["done"]) as (node, ledger):
        drain(node)
        receiver.status = 503
        work(ledger)
        for _ in range(2):
            with pytest.raises(Transient, match="status 503"):
                drain(node)
        clock.forward(25 * 3600)
        work(ledger)
        with pytest.raises(Transient):  # the first is left out, the second waits
            drain(node)
        receiver.status = 204
        drain(node)
    assert len(receiver.posts) == 1
    assert receiver.posts[0]["at"].startswith("2030-01-03")


def test_the_thread_posts_and_ends(tmp_path: Path, receiver: Receiver) -> None:
    with posting(tmp_path, receiver, events=["done"]) as (node, ledger):
        drain(node)
        with Hooks(node):
            work(ledger)
            wait_for(lambda: receiver.posts, "the post")
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("webhook-")]


def test_what_a_model_on_trial_says_is_posted_to_nobody(tmp_path: Path, receiver: Receiver) -> None:
    with posting(tmp_path, receiver) as (node, ledger):
        drain(node)
        record(ledger)
        ledger.jobs.complete(claim(ledger), Analysis(0.1, False, 0), [], [], {}, [OTHER_SPEC])
        ledger.jobs.complete(claim(ledger, spec=OTHER_SPEC), Analysis(0.9, True, 1), [], [])
        drain(node)
    assert {post["job"]["model"] for post in receiver.posts} == {"model 1"}
    assert "finding" not in {post["event"] for post in receiver.posts}
