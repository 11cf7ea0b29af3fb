"""What is worth an alarm. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from chexnode.ledger.alarms import CRITICAL, WARNING, Condition
from chexnode.ledger.overview import DestinationView, RefusalCounts, SourceView
from chexnode.node import Duty
from chexnode.settings.alarms import AlarmSettings
from chexnode.vocabulary.plain import plain
from chexnode.vocabulary.reports import Drift

_GONE = {
    Duty.RECEIVE: "No receiver is alive: modalities cannot send. Start chexnode receive; its log says why it ended.",
    Duty.INFER: "No worker is alive: images are kept, and wait. Start chexnode worker; its log says why it ended.",
    Duty.DELIVER: "Nobody delivers: results are kept, and wait. Start chexnode worker; its log says why it ended.",
}
_KNOWN = 50
"""Images of a week, from which on it is known what is usual."""


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
    refusals: RefusalCounts = field(default_factory=RefusalCounts)
    """Images that were not analysed, lately and before."""
    uncommitted: Mapping[str, int] = field(default_factory=dict)
    """Destination -> results that it accepted and does not commit to."""
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
        text = (
            "The disk is full, or cannot be read: new images are refused, and modalities keep them. Make room on the "
            "file system of node.data_dir, or let retention.* keep images for a shorter time."
        )
        yield Condition("disk", "", CRITICAL, text)
    if facts.difference:
        text = (
            f"{abs(facts.difference)} received image(s) cannot be accounted for. This is a bug: keep the data "
            "directory and the logs, and report what chexnode account says."
        )
        yield Condition("account", "", CRITICAL, text)
    waited = facts.at - facts.oldest_queued_at if facts.oldest_queued_at else timedelta()
    if waited > timedelta(minutes=settings.queue_minutes):
        text = (
            f"The oldest image has waited {waited.total_seconds() / 60:.0f} minutes to be analysed. See on the console "
            "whether the workers keep up; chexnode jobs and the workers' log say what they are at."
        )
        yield Condition("queue", "", WARNING, text)
    if facts.certificate_ends_at is not None:
        left = facts.certificate_ends_at - facts.at
        if left < timedelta(days=settings.certificate_days):
            has_ended = left < timedelta()
            text = (
                f"Our certificate {'ended' if has_ended else 'ends'} at {facts.certificate_ends_at:%Y-%m-%d %H:%M} "
                "UTC: others then refuse to talk to us. Put a new one where tls.certificate points, and restart."
            )
            yield Condition("certificate", "", CRITICAL if has_ended else WARNING, text)
    if facts.failing_notes:
        text = (
            f"{facts.failing_notes} rejection note(s) of a PACS could not be carried out. The events of their images "
            "(chexnode jobs show) say why; have the notes sent again once that is mended."
        )
        yield Condition("rejection-notes", "", WARNING, text)
    if abs(facts.skew.total_seconds()) > settings.clock_seconds:
        text = (
            f"The clock of this host and the database's differ by {abs(facts.skew.total_seconds()):.0f} seconds: "
            "leases and times become wrong. Have both set by NTP."
        )
        yield Condition("clock", "", WARNING, text)
    refusals = facts.refusals
    if has_jumped(refusals, settings.refusals):
        text = (
            f"{refusals.refused} of {refusals.received} image(s) of the last hour were not analysed; usually it is "
            f"{100 * refusals.usually_refused / refusals.usually_received:.0f} %. The overview names the reasons: a "
            "modality may send other images, or describe them otherwise, than it did."
        )
        yield Condition("refusals", "", WARNING, text)


def has_jumped(refusals: RefusalCounts, least: int) -> bool:
    """Whether far more images are not analysed than usual: twice as many, and more than chance (Poisson) explains.

    ``least``: of so many images at least; 0: never. Where hardly anything came in the week before, nothing is usual.
    """
    if not least or refusals.refused < least or refusals.usually_received < _KNOWN:
        return False
    expected = refusals.received * refusals.usually_refused / refusals.usually_received
    return refusals.refused > 2 * expected and refusals.refused - expected > 3 * math.sqrt(max(expected, 1.0))


def _of_destinations(facts: Facts, settings: AlarmSettings) -> Iterator[Condition]:
    for one in facts.destinations:
        name = plain(one.name)
        if one.failures and one.paused_at is None:
            why = plain(one.last_error or "no answer")
            text = (
                f"{name} does not take results: {why}. {one.waiting} wait(s), and are sent by themselves once it "
                "answers. chexnode check tries it now."
            )
            grace = timedelta(minutes=settings.destination_minutes)
            yield Condition("destination", name, CRITICAL, text, grace)
        if one.dead:
            text = (
                f"{one.dead} result(s) to {name} were given up. The console's Deliveries say why; once that is mended, "
                "Send again there, or chexnode deliveries replay, sends them."
            )
            yield Condition("dead-letters", name, WARNING, text)
    for destination, count in facts.uncommitted.items():
        text = (
            f"{plain(destination)} accepted {count} result(s) and refuses storage commitment, or does not answer when "
            "asked for it. They count as not delivered: see the PACS's log, and whether it knows us as whom to answer."
        )
        yield Condition("commitment", plain(destination), WARNING, text)


def _of_drift(facts: Facts) -> Iterator[Condition]:
    """One for each model, station and caller, whatever of it has shifted."""
    shifted: dict[str, list[Drift]] = {}
    for one in facts.drift:
        if one.is_shifted:
            where = (
                "" if one.calling_ae_title is None else f" from {one.station or 'no station'} ({one.calling_ae_title})"
            )
            shifted.setdefault(plain(f"{one.model}{where}"), []).append(one)
    for subject, some in shifted.items():
        figures = ", ".join(f"{one.statistic} (PSI {one.psi:.2f})" for one in some)
        text = (
            f"Recent images of {subject} differ from the baseline: {figures}. See Drift on the console, and look at "
            "such images: a detector, its processing or who is examined has changed, and the model may answer worse."
        )
        yield Condition("drift", subject, WARNING, text)


def _of_stations(facts: Facts) -> Iterator[Condition]:
    for one in facts.silent:
        subject = plain(f"{one.station_name or 'no station'} ({one.calling_ae_title})")
        text = (
            f"No image from {subject} since {one.last_at:%Y-%m-%d %H:%M} UTC, at a time when it usually sends. See "
            "whether it is in use, and whether its own list shows images that could not be sent."
        )
        yield Condition("station", subject, WARNING, text)
