"""Alarms: a real mail server and a real web server get one alarm and one recovery of a PACS that goes and comes."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from typer.testing import CliRunner

from chexnode.alarms.watch import Watch
from chexnode.cli.commands import app
from chexnode.ledger.alarms import CRITICAL, WARNING, Condition
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.overview import RefusalCounts
from chexnode.node import Duty
from chexnode.settings.loading import load
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import CommitmentVerdict, DeliveryOutcome
from chexnode.vocabulary.states import DeliveryState
from support.ledgers import (
    NOT_ANALYSED,
    QUARANTINED,
    SPEC,
    Clock,
    arrival,
    claim,
    complete,
    node_on,
    opened,
    record,
)
from support.servers import LOOPBACK, free_port

SECRET = "a key that both know"


class Mailbox:
    """An SMTP server's handler that keeps what comes."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802  (aiosmtpd's name)
        self.messages.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    handler, port = Mailbox(), free_port()
    controller = Controller(handler, LOOPBACK, port)
    controller.start()
    yield handler, port
    controller.stop()


@pytest.fixture
def hook() -> Iterator[tuple[list[tuple[dict[str, str], bytes]], str]]:
    posts: list[tuple[dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield posts, f"http://{LOOPBACK}:{server.server_port}/hook"
    server.shutdown()
    thread.join()
    server.server_close()


def config(folder: Path, smtp_port: int, url: str, alarms: str = "") -> Path:
    path = folder / "chexnode.toml"
    path.write_text(
        f'[node]\ndata_dir = "{folder}/var"\n[disk]\nwatermark = 1.0\nreserve_gb = 0\n'
        f'[alarms]\nemail_to = ["admin@hospital.example"]\nsmtp_host = "{LOOPBACK}"\nsmtp_port = {smtp_port}\n'
        f'webhook = "{url}"\nwebhook_secret = "{SECRET}"\n{alarms}\n'
        '[[destination]]\nname = "pacs"\nkind = "dicom"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 104\n'
    )
    return path


def all_alive(ledger: Ledger) -> None:
    for duty in Duty:
        ledger.leases.take(f"live/{duty}", "somebody", 10_000_000)


def test_a_pacs_that_goes_and_comes_is_told_once_each(
    tmp_path: Path, mailbox: tuple[Mailbox, int], hook: tuple[list[tuple[dict[str, str], bytes]], str]
) -> None:
    (box, port), (posts, url), clock = mailbox, hook, Clock()
    settings = load(config(tmp_path, port, url))[0]
    with opened(settings.database.url, clock) as ledger:
        all_alive(ledger)
        ledger.database.skew = timedelta  # type: ignore[method-assign,assignment]  # the test's clock is years ahead
        node = node_on(ledger, settings)
        watch = Watch(node)
        watch.tick()
        for _ in range(4):
            ledger.deliveries.destination_failed("pacs", "connection refused", clock.now + timedelta(minutes=5))
            watch.tick()
            assert box.messages == []
            clock.forward(190)
        ledger.deliveries.destination_failed("pacs", "connection refused", clock.now + timedelta(minutes=5))
        for _ in range(3):
            watch.tick()
        again = Watch(node)  # a restart
        again.tick()
        assert [alarm.rule for alarm in ledger.alarms.list()] == ["destination"]
        ledger.deliveries.destination_succeeded("pacs")
        again.tick()
        again.tick()
        assert ledger.alarms.list() == []
    assert [message["Subject"] for message in box.messages] == [
        "[CHEXNODE] CRITICAL: destination (pacs)",
        "[CHEXNODE] OK: destination (pacs)",
    ]
    assert "connection refused" in box.messages[0].get_content()
    assert box.messages[0]["To"] == "admin@hospital.example"
    assert [json.loads(body)["event"] for _, body in posts] == ["alarm", "recovery"]
    for headers, body in posts:
        signature = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        assert headers["X-ChexNode-Signature"] == signature


def test_what_could_not_be_sent_before_a_restart_is_sent_after_it(
    tmp_path: Path, hook: tuple[list[tuple[dict[str, str], bytes]], str]
) -> None:
    posts, url = hook
    port = free_port()
    settings = load(config(tmp_path, port, url, "destination_minutes = 0"))[0]
    with opened(settings.database.url) as ledger:
        all_alive(ledger)
        node = node_on(ledger, settings)
        ledger.deliveries.destination_failed("pacs", "no route", ledger.clock() + timedelta(minutes=5))
        Watch(node).tick()
        ledger.deliveries.destination_succeeded("pacs")
        Watch(node).tick()
        assert len(posts) == 2
        box = Mailbox()
        controller = Controller(box, LOOPBACK, port)
        controller.start()
        try:
            for _ in range(2):
                Watch(node).tick()
        finally:
            controller.stop()
    assert [message["Subject"] for message in box.messages] == [
        "[CHEXNODE] CRITICAL: destination (pacs)",
        "[CHEXNODE] OK: destination (pacs)",
    ]
    assert len(posts) == 2


def test_two_destinations_are_two_alarms(ledger: Ledger) -> None:
    def of(*names: str) -> list[Condition]:
        return [Condition("destination", name, CRITICAL, f"{name} is away") for name in names]

    assert [one.subject for one in ledger.alarms.observe(of("a", "b")).begun] == ["a", "b"]
    changes = ledger.alarms.observe(of("b"))
    assert ([one.subject for one in changes.over], changes.begun) == (["a"], ())
    assert [one.subject for one in ledger.alarms.observe(of("a", "b")).begun] == ["a"], "away again is an alarm again"


def test_a_subject_that_is_longer_than_its_column_is_one_alarm(ledger: Ledger) -> None:
    long = [Condition("drift", "model " * 40, WARNING, "it drifts")]
    assert len(ledger.alarms.observe(long).begun) == 1
    assert ledger.alarms.observe(long).begun == ()
    assert len(ledger.alarms.observe([]).over) == 1


def test_a_warning_that_becomes_critical_is_an_alarm_once_more(ledger: Ledger) -> None:
    severities = []
    for severity in (WARNING, WARNING, CRITICAL, CRITICAL, WARNING):
        begun = ledger.alarms.observe([Condition("certificate", "", severity, f"{severity} now")]).begun
        severities.append([(one.severity, one.detail) for one in begun])
    assert severities == [[(WARNING, "warning now")], [], [(CRITICAL, "critical now")], [], []]
    assert [one.severity for one in ledger.alarms.observe([]).over] == [CRITICAL]


def test_a_night_of_quiet(ledger: Ledger, clock: Clock) -> None:
    """What is over at night is reported in the morning; what comes and goes at night is not."""
    queue, dead, pacs = (Condition(rule, "", severity, rule) for rule, severity in (
        ("queue", WARNING), ("dead-letters", WARNING), ("destination", CRITICAL),
    ))  # fmt: skip
    without_end = replace(dead, grace=timedelta.max)
    ledger.alarms.observe([queue, pacs])
    for present in ([without_end], [without_end], []):
        clock.forward(3600)
        changes = ledger.alarms.observe(present, is_quiet=True)
        assert changes.begun == ()
        assert [one.rule for one in changes.over] == (["destination"] if clock.now.hour == 4 else [])
    clock.forward(3600)
    morning = ledger.alarms.observe([])
    assert (morning.begun, [one.rule for one in morning.over]) == ((), ["queue"])


def test_a_jump_of_what_is_not_analysed(ledger: Ledger, clock: Clock) -> None:
    for n in range(60):
        record(ledger, *([arrival(verdict=NOT_ANALYSED)] if n % 10 == 0 else [arrival()]))
    clock.forward(2 * 3600)
    assert ledger.overviews.refusals() == RefusalCounts(0, 0, 60, 6)
    for _ in range(9):
        record(ledger, arrival(verdict=QUARANTINED))
    record(ledger)
    ledger.jobs.refuse(ledger.jobs.claim("worker", 100, SPEC)[-1], Reason.MALFORMED, "no pixels")
    assert ledger.overviews.refusals() == RefusalCounts(10, 10, 60, 6)
    clock.forward(7 * 86_400)
    assert ledger.overviews.refusals() == RefusalCounts(0, 0, 10, 10)


def test_commitment_that_is_refused_or_does_not_come(ledger: Ledger, clock: Clock) -> None:
    hour = timedelta(hours=1)
    record(ledger)
    complete(ledger, claim(ledger), "pacs")
    assert ledger.overviews.uncommitted(hour) == {}
    sent = ledger.deliveries.claim("pacs", 10)
    ledger.deliveries.settle([DeliveryOutcome(one, DeliveryState.SENT, to_be_committed=True) for one in sent])
    clock.forward(3599)
    assert ledger.overviews.uncommitted(hour) == {}
    clock.forward(2)
    assert ledger.overviews.uncommitted(hour) == {"pacs": 2}
    request = ledger.commitments.ask("pacs", timedelta(days=3))
    assert request is not None
    (class_uid, refused), (other_class, committed) = request.instances
    verdict = CommitmentVerdict(((other_class, committed),), ((class_uid, refused, 0x0112),))
    ledger.commitments.answered(request.transaction_uid, verdict)
    assert ledger.overviews.uncommitted(hour) == {"pacs": 1}


def test_a_channel_that_is_away_gets_its_alarm_later_and_holds_up_no_other(
    tmp_path: Path, hook: tuple[list[tuple[dict[str, str], bytes]], str]
) -> None:
    posts, url = hook
    port = free_port()
    settings = load(config(tmp_path, port, url, "destination_minutes = 0"))[0]
    with opened(settings.database.url) as ledger:
        all_alive(ledger)
        watch = Watch(node_on(ledger, settings))
        ledger.deliveries.destination_failed("pacs", "no route", ledger.clock() + timedelta(minutes=5))
        watch.tick()
        watch.tick()
        assert [json.loads(body)["alarm"]["rule"] for _, body in posts] == ["destination"]
        box = Mailbox()
        controller = Controller(box, LOOPBACK, port)
        controller.start()
        try:
            watch.tick()
        finally:
            controller.stop()
    assert len(box.messages) == 1
    assert len(posts) == 1


def test_the_test_command_reaches_every_channel(
    tmp_path: Path, mailbox: tuple[Mailbox, int], hook: tuple[list[tuple[dict[str, str], bytes]], str]
) -> None:
    (box, port), (posts, url) = mailbox, hook
    run = CliRunner().invoke(app, ["--config", str(config(tmp_path, port, url)), "alarms", "test"])
    assert run.exit_code == 0, run.output
    assert run.output == "e-mail: sent\nwebhook: sent\n"
    assert box.messages[0]["Subject"] == "[CHEXNODE] TEST: test"
    assert json.loads(posts[0][1])["event"] == "test"
    run = CliRunner().invoke(app, ["--config", str(config(tmp_path, free_port(), url)), "alarms", "test"])
    assert run.exit_code == 1
    assert run.output.startswith("e-mail: mail server 127.0.0.1:")


def test_a_station_that_is_silent_at_its_usual_time_is_named(ledger: Ledger, clock: Clock) -> None:
    def week(**images: int) -> None:
        """Images of an hour, by station; then three hours and the rest of the week."""
        for station, count in images.items():
            for _ in range(count):
                record(ledger, arrival(instance={"station_name": station}))
        clock.forward(3600)

    rest = 7 * 86_400 - 3600
    for images in ({"ROOM1": 3, "ROOM2": 3}, {"ROOM1": 5, "ROOM2": 2}, {"ROOM1": 3, "ROOM2": 9}):
        week(**images)
        assert ledger.overviews.silent(3) == []
        clock.forward(rest)
    week(ROOM2=1)
    assert [one.station_name for one in ledger.overviews.silent(3)] == ["ROOM1"]
    assert ledger.overviews.silent(0) == []
    week(ROOM1=1)
    assert ledger.overviews.silent(3) == [], "it has sent"
