"""What is worth an alarm, when, and what its sentence tells an administrator to do."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta

import pytest
import typer

from chexnode.alarms.channels import Notice
from chexnode.alarms.rules import Facts, conditions, has_jumped
from chexnode.cli.commands import app
from chexnode.ledger.alarms import CRITICAL, WARNING, AlarmView
from chexnode.ledger.overview import DestinationView, RefusalCounts, SourceView
from chexnode.node import Duty
from chexnode.settings.alarms import AlarmSettings
from chexnode.settings.keys import flat
from chexnode.settings.tree import Settings
from chexnode.vocabulary.reports import Drift

NOW = datetime(2030, 1, 2, 12, tzinfo=UTC)
WELL = Facts(NOW, dict.fromkeys(Duty, True), (DestinationView("pacs"),), None, 0, False, None, timedelta())
SETTINGS = AlarmSettings()
SHIFTED = Drift("model 1", "ROOM 1", "CT", "brightness", 0.4, 0.01, 200, 1000, True)

#: Rule -> (what is just not wrong, what just is, how severe).
RULES = {
    "no-receiver": ({}, {"duties": {Duty.RECEIVE: False}}, CRITICAL),
    "no-workers": ({}, {"duties": {Duty.INFER: False}}, CRITICAL),
    "no-deliverers": ({}, {"duties": {Duty.DELIVER: False}}, CRITICAL),
    "disk": ({}, {"disk_refuses": True}, CRITICAL),
    "account": ({}, {"difference": -1}, CRITICAL),
    "queue": (
        {"oldest_queued_at": NOW - timedelta(minutes=15)},
        {"oldest_queued_at": NOW - timedelta(minutes=15, seconds=1)},
        WARNING,
    ),
    "certificate": (
        {"certificate_ends_at": NOW + timedelta(days=30)},
        {"certificate_ends_at": NOW + timedelta(days=30, seconds=-1)},
        WARNING,
    ),
    "rejection-notes": ({}, {"failing_notes": 1}, WARNING),
    "clock": ({"skew": timedelta(seconds=-5)}, {"skew": timedelta(seconds=-5.1)}, WARNING),
    "refusals": ({"refusals": RefusalCounts(40, 9, 1000, 20)}, {"refusals": RefusalCounts(40, 10, 1000, 20)}, WARNING),
    "destination": (
        {"destinations": [DestinationView("pacs", failures=3, paused_at=NOW)]},
        {"destinations": [DestinationView("pacs", failures=1, last_error="no route")]},
        CRITICAL,
    ),
    "dead-letters": ({}, {"destinations": [DestinationView("pacs", dead=1)]}, WARNING),
    "commitment": ({}, {"uncommitted": {"pacs": 2}}, WARNING),
    "drift": ({"drift": [replace(SHIFTED, is_shifted=False)]}, {"drift": [SHIFTED, SHIFTED]}, WARNING),
    "station": ({}, {"silent": [SourceView("MODALITY", "ROOM 1", NOW)]}, WARNING),
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_speaks_when_it_should_and_says_what_to_do(rule: str) -> None:
    well, wrong, severity = RULES[rule]
    assert conditions(replace(WELL, **well), SETTINGS) == []
    (one,) = conditions(replace(WELL, **wrong), SETTINGS)
    assert (one.rule, one.severity) == (rule, severity)
    assert len(one.detail) > 80, "what is wrong, and what to do"
    commands = {f"chexnode {name}" for name in typer.main.get_command(app).commands}  # type: ignore[attr-defined]
    assert set(re.findall(r"chexnode [a-z]+", one.detail)) <= commands
    settings = {key for key, _ in flat(Settings())} | {key.partition(".")[0] + ".*" for key, _ in flat(Settings())}
    assert set(re.findall(r"\b(?:tls|node|retention)\.(?:\w+|\*)", one.detail)) <= settings


def test_an_alarm_waits_as_long_as_the_settings_say() -> None:
    wrong = replace(WELL, duties={Duty.INFER: False}, destinations=[DestinationView("a", 3, failures=1)])
    settings = AlarmSettings(destination_minutes=10, duty_minutes=2)
    assert [one.grace for one in conditions(wrong, settings)] == [timedelta(minutes=2), timedelta(minutes=10)]


def test_two_destinations_at_once_are_two_conditions() -> None:
    away = [DestinationView("a", failures=1, dead=2), DestinationView("b", failures=1)]
    found = [(one.rule, one.subject) for one in conditions(replace(WELL, destinations=away), SETTINGS)]
    assert found == [("destination", "a"), ("dead-letters", "a"), ("destination", "b")]


def test_a_certificate_that_has_ended_is_critical() -> None:
    (ended,) = conditions(replace(WELL, certificate_ends_at=NOW - timedelta(seconds=1)), SETTINGS)
    assert ended.severity == CRITICAL
    assert "ended at 2030-01-02 11:59 UTC" in ended.detail


@pytest.mark.parametrize(
    ("refusals", "least", "jumps"),
    [
        (RefusalCounts(), 10, False),
        (RefusalCounts(20, 20, 49, 0), 10, False),  # nothing is usual yet
        (RefusalCounts(20, 20, 50, 0), 10, True),
        (RefusalCounts(20, 20, 50, 0), 0, False),  # not wanted
        (RefusalCounts(200, 40, 2000, 400), 10, False),  # a fifth, as ever
        (RefusalCounts(200, 80, 2000, 400), 10, False),  # twice as many is not more than twice
        (RefusalCounts(200, 81, 2000, 400), 10, True),
        (RefusalCounts(20, 11, 2000, 400), 10, True),
        (RefusalCounts(20, 10, 2000, 400), 10, False),  # by chance, perhaps
    ],
)
def test_a_jump_of_refusals_is_more_than_chance(refusals: RefusalCounts, least: int, jumps: bool) -> None:
    assert has_jumped(refusals, least) is jumps


def test_warnings_wait_in_quiet_hours_and_critical_alarms_do_not() -> None:
    settings = AlarmSettings(quiet="22:00-06:30")
    silent = (SourceView("MODALITY", "ROOM1", NOW), SourceView("MODALITY", None, NOW))
    facts = replace(WELL, duties={Duty.RECEIVE: False}, silent=silent)
    by_day = conditions(facts, settings)
    assert [(one.rule, one.subject) for one in by_day] == [
        ("no-receiver", ""), ("station", "ROOM1 (MODALITY)"), ("station", "no station (MODALITY)"),
    ]  # fmt: skip
    by_night = conditions(replace(facts, is_quiet=True), settings)
    assert [one.grace for one in by_night] == [by_day[0].grace, timedelta.max, timedelta.max]
    times = [time(21, 59), time(22), time(0), time(6, 29), time(6, 30), time(12)]
    assert [settings.is_quiet(at) for at in times] == [False, True, True, True, False, False]
    assert [AlarmSettings(quiet="12:00-13:00").is_quiet(at) for at in times] == [False] * 5 + [True]
    assert not AlarmSettings().is_quiet(time(0))


def test_hostile_names_are_inert_in_titles_and_texts() -> None:
    evil = "\u202eX\r\nBcc: all@hospital.example"
    hostile = replace(
        WELL,
        destinations=[DestinationView("pacs", failures=1, last_error=evil)],
        silent=[SourceView(evil, evil, NOW)],
        drift=[replace(SHIFTED, model=evil, station=evil)],
    )
    for one in conditions(hostile, SETTINGS):
        alarm = AlarmView(one.rule, one.subject, one.severity, one.detail, NOW, NOW)
        raw = AlarmView(one.rule, evil, one.severity, evil, NOW, NOW)
        for notice in (Notice("NODE", "alarm", which, "http://x/console", NOW) for which in (alarm, raw)):
            assert not re.search(r"[\r\n\u202e]", notice.title)
            assert "\u202e" not in notice.text
            assert not re.search(r"^Bcc", notice.text, re.MULTILINE)
