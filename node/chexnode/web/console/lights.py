"""Three lights that say whether images come in, are analysed and go out, each with a sentence. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from chexnode.node import Duty
from chexnode.web.console.snapshot import Snapshot

LATE_SECONDS = 15 * 60
"""A queue whose oldest image waits longer than this is late."""
NEARLY_FULL = 0.85


class LightLevel(StrEnum):
    """How it is."""

    GOOD = "good"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Light:
    """One of the three."""

    name: str
    level: LightLevel
    key: str
    """Of its sentence; a value that ends in ``_at`` or ``_seconds`` is a time."""
    values: dict[str, Any] = field(default_factory=dict)


def lights(snapshot: Snapshot) -> tuple[Light, Light, Light]:
    """Receiving, working, delivering."""
    return _receiving(snapshot), _working(snapshot), _delivering(snapshot)


def _receiving(snapshot: Snapshot) -> Light:
    if not snapshot.duties[Duty.RECEIVE]:
        return Light("receiving", LightLevel.BAD, "light.no_receiver")
    if snapshot.disk is None or snapshot.disk.refusing:
        return Light("receiving", LightLevel.BAD, "light.disk_refuses")
    if not snapshot.overview.sources:
        return Light("receiving", LightLevel.GOOD, "light.listening")
    last = snapshot.overview.sources[0]
    if snapshot.disk.used > NEARLY_FULL:
        return Light("receiving", LightLevel.WARN, "light.disk_low", {"free": snapshot.disk.free})
    return Light(
        "receiving", LightLevel.GOOD, "light.received", {"last_at": last.last_at, "who": last.calling_ae_title}
    )


def _working(snapshot: Snapshot) -> Light:
    overview = snapshot.overview
    waiting = overview.queued + overview.running
    if snapshot.account.difference:
        return Light("working", LightLevel.BAD, "light.unaccounted", {"n": abs(snapshot.account.difference)})
    if not snapshot.duties[Duty.INFER]:
        return Light(
            "working", LightLevel.BAD, "light.no_worker" if waiting else "light.no_worker_idle", {"n": waiting}
        )
    if overview.oldest_queued_at is None:
        return Light("working", LightLevel.GOOD, "light.analysing" if waiting else "light.idle", {"n": waiting})
    age = (overview.at - overview.oldest_queued_at).total_seconds()
    level = LightLevel.WARN if age > LATE_SECONDS else LightLevel.GOOD
    key = "light.late" if level is LightLevel.WARN else "light.queue"
    return Light("working", level, key, {"n": overview.queued, "age_seconds": age})


def _delivering(snapshot: Snapshot) -> Light:
    overview = snapshot.overview
    waiting = sum(one.waiting for one in overview.destinations)
    if not snapshot.duties[Duty.DELIVER]:
        return Light("delivering", LightLevel.BAD, "light.no_courier", {"n": waiting})
    sent_to = [one for one in overview.destinations if one.paused_at is None]
    away = [one for one in sent_to if one.open_until is not None and one.open_until > overview.at]
    if away:
        since = min((one.last_success_at for one in away if one.last_success_at), default=None)
        facts = {"who": ", ".join(one.name for one in away), "n": sum(one.waiting for one in away)}
        key = "light.away" if since else "light.away_always"
        return Light("delivering", LightLevel.BAD, key, facts | ({"since_at": since} if since else {}))
    if dead := sum(one.dead for one in overview.destinations):
        return Light("delivering", LightLevel.WARN, "light.dead", {"n": dead})
    if not overview.destinations:
        return Light("delivering", LightLevel.WARN, "light.no_destination")
    return Light("delivering", LightLevel.GOOD, "light.sending" if waiting else "light.delivered", {"n": waiting})
