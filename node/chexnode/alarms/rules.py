"""What is worth an alarm. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from chexnode.ledger.alarms import Condition
from chexnode.ledger.overview import DestinationView, SourceView
from chexnode.node import Duty
from chexnode.settings.alarms import AlarmSettings
from chexnode.vocabulary.reports import Drift

CRITICAL, WARNING = "critical", "warning"

_GONE = {
    Duty.RECEIVE: "No receiver is alive: modalities cannot send.",
    Duty.INFER: "No worker is alive: images wait.",
    Duty.DELIVER: "Nobody delivers: results wait.",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules look at."""

    at: datetime
    duties: Mapping[Duty, bool]
    destinations: Sequence[DestinationView]
    oldest_queued_at: datetime | None
    difference: int
    """Of the account."""
    disk_refuses: bool
    certificate_ends_at: datetime | None
    """Of our own certificate; None where there is none."""
    skew: timedelta
    """How far the database's clock is ahead."""
    drift: Sequence[Drift] = ()
    """Recent images against the baseline."""
    silent: Sequence[SourceView] = ()
    """Who sends nothing at a time when it usually does."""
    failing_notes: int = 0
    """Rejection notes that could not be carried out, again and again."""
    is_quiet: bool = False
    """Whether warnings wait."""


def conditions(facts: Facts, settings: AlarmSettings) -> list[Condition]:
    """Everything that is wrong. In quiet hours the grace of a warning has no end: it begins afterwards, if then."""
    found = [
        *_of_node(facts, settings),
        *_of_destinations(facts, settings),
        *_of_drift(facts),
        *_of_stations(facts),
    ]
    if facts.is_quiet:
        return [one if one.severity == CRITICAL else replace(one, grace=timedelta.max) for one in found]
    return found


def _of_node(facts: Facts, settings: AlarmSettings) -> Iterator[Condition]:
    for duty, alive in facts.duties.items():
        if not alive:
            yield Condition(f"no-{duty}", "", CRITICAL, _GONE[duty], timedelta(minutes=settings.duty_minutes))
    if facts.disk_refuses:
        yield Condition("disk", "", CRITICAL, "The disk is full: new images are refused.")
    if facts.difference:
        text = f"{abs(facts.difference)} received image(s) cannot be accounted for. This is a bug."
        yield Condition("account", "", CRITICAL, text)
    waited = facts.at - facts.oldest_queued_at if facts.oldest_queued_at else timedelta()
    if waited > timedelta(minutes=settings.queue_minutes):
        yield Condition("queue", "", WARNING, f"The oldest image has waited {waited.total_seconds() / 60:.0f} minutes.")
    if facts.certificate_ends_at is not None:
        left = facts.certificate_ends_at - facts.at
        if left < timedelta(days=settings.certificate_days):
            severity = CRITICAL if left < timedelta() else WARNING
            yield Condition(
                "certificate", "", severity, f"Our certificate ends at {facts.certificate_ends_at:%Y-%m-%d}."
            )
    if facts.failing_notes:
        text = f"{facts.failing_notes} rejection note(s) could not be carried out: see the events of the images."
        yield Condition("rejection-notes", "", WARNING, text)
    if abs(facts.skew.total_seconds()) > settings.clock_seconds:
        text = f"The clock of this host and the database's differ by {abs(facts.skew.total_seconds()):.0f} seconds."
        yield Condition("clock", "", WARNING, text)


def _of_destinations(facts: Facts, settings: AlarmSettings) -> Iterator[Condition]:
    for one in facts.destinations:
        if one.failures and one.paused_at is None:
            text = f"{one.name} does not take results: {one.last_error or 'no answer'}. {one.waiting} wait(s)."
            grace = timedelta(minutes=settings.destination_minutes)
            yield Condition("destination", one.name, CRITICAL, text, grace)
        if one.dead:
            yield Condition("dead-letters", one.name, WARNING, f"{one.dead} result(s) to {one.name} were given up.")


def _of_drift(facts: Facts) -> Iterator[Condition]:
    """One for each model, station and caller, whatever of it has shifted."""
    shifted: dict[str, list[Drift]] = {}
    for one in facts.drift:
        if one.is_shifted:
            where = (
                "" if one.calling_ae_title is None else f" from {one.station or 'no station'} ({one.calling_ae_title})"
            )
            shifted.setdefault(f"{one.model}{where}", []).append(one)
    for subject, some in shifted.items():
        figures = ", ".join(f"{one.statistic} (PSI {one.psi:.2f})" for one in some)
        yield Condition("drift", subject, WARNING, f"Recent images of {subject} differ from the baseline: {figures}.")


def _of_stations(facts: Facts) -> Iterator[Condition]:
    for one in facts.silent:
        subject = f"{one.station_name or 'no station'} ({one.calling_ae_title})"
        text = f"No image from {subject} since {one.last_at:%Y-%m-%d %H:%M} UTC, at a time when it usually sends."
        yield Condition("station", subject, WARNING, text)
