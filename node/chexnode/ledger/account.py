"""The account: every acknowledged instance version is somewhere, and the columns add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select, text

from chexnode.ledger.database import Database
from chexnode.ledger.schema import events, instances, jobs
from chexnode.vocabulary.purposes import Purpose
from chexnode.vocabulary.records import Outcome
from chexnode.vocabulary.states import InstanceState, JobState


@dataclass(frozen=True, slots=True)
class Account:
    """Counts over distinct (SOP Instance UID, digest); ``duplicates`` and ``own_results`` stand outside the sum."""

    received: int
    """Everything that was acknowledged."""
    analysed: int
    """With results, delivered or being delivered."""
    not_analysed: Mapping[str, int]
    """By reason, from the header."""
    quarantined: int
    """Stored, but not sound."""
    refused: Mapping[str, int]
    """By reason, from the pixels."""
    failed: int
    cancelled: int
    skipped: int
    """Another version of the image has the results."""
    pending: int
    """Waiting or being analysed."""
    difference: int
    """received minus all the others: not zero is a bug."""
    duplicates: int
    """How often the very bytes came again."""
    own_results: int
    """How often one of our own results came back."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What the account is made of: rows counted by what an index holds of them."""

    instances: Counter[tuple[str, str | None]]
    """(state, reason) -> instance versions."""
    jobs: Counter[tuple[str, str | None]]
    """(state, reason) -> jobs, those superseded by another analysis included, and without those of shadow models."""
    newest: Counter[tuple[str, str | None]]
    """(state, reason) -> jobs that count, one for each version: neither superseded ones nor those of shadow models."""
    notes: Counter[str]
    """Note -> instance versions and jobs that carry it."""
    duplicates: int
    own_results: int

    def account(self) -> Account:
        """Add up."""
        not_analysed = {str(r): n for (s, r), n in self.instances.items() if s == InstanceState.NOT_ANALYSED}
        quarantined = sum(n for (s, _), n in self.instances.items() if s == InstanceState.QUARANTINED)
        refused = {str(r): n for (s, r), n in self.newest.items() if s == JobState.REFUSED}

        def count(*states: JobState) -> int:
            return sum(n for (s, _), n in self.newest.items() if s in states)

        received = self.instances.total()
        return Account(
            received=received,
            analysed=count(JobState.DELIVERING, JobState.DONE),
            not_analysed=not_analysed,
            quarantined=quarantined,
            refused=refused,
            failed=count(JobState.FAILED),
            cancelled=count(JobState.CANCELLED),
            skipped=count(JobState.SKIPPED),
            pending=count(JobState.QUEUED, JobState.RUNNING),
            difference=received - sum(not_analysed.values()) - quarantined - self.newest.total(),
            duplicates=self.duplicates,
            own_results=self.own_results,
        )


class Accounts:
    """Counting."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def account(self) -> Account:
        """Count everything in one snapshot."""
        return self.tally().account()

    def tally(self) -> Tally:
        """Count everything in one snapshot, by indexes alone: a million rows take a moment, not a scan."""
        received, worked, newest = (Counter[tuple[str, str | None]]() for _ in range(3))
        notes = Counter[str]()
        with self._db.read() as conn:
            of = (instances.c.state, instances.c.reason, instances.c.notes)
            for state, reason, noted, count in conn.execute(select(*of, func.count()).group_by(*of)):
                received[state, reason] += count
                notes.update(dict.fromkeys(noted, count))
            by = (jobs.c.superseded, jobs.c.purpose, jobs.c.state, jobs.c.reason, jobs.c.notes)
            rows = conn.execute(select(*by, func.count()).group_by(*by))
            for superseded, purpose, state, reason, noted, count in rows:
                if purpose is Purpose.SHADOW:
                    continue
                worked[state, reason] += count
                if not superseded:
                    newest[state, reason] += count
                notes.update(dict.fromkeys(noted, count))
            again = select(func.coalesce(func.sum(instances.c.duplicates), 0)).where(text("duplicates > 0"))
            own = select(func.count()).select_from(events).where(events.c.event == Outcome.OWN_RESULT)
            duplicates, own_results = conn.execute(again).scalar_one(), conn.execute(own).scalar_one()
        return Tally(received, worked, newest, notes, int(duplicates), own_results)
