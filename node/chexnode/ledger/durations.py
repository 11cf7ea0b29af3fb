"""How long each step of recent work took, from the history: what histograms are made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select

from chexnode.ledger.database import Database, in_chunks
from chexnode.ledger.feed import FeedEvent
from chexnode.ledger.schema import deliveries, events, jobs
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.purposes import AWAITED
from chexnode.vocabulary.records import Stages
from chexnode.vocabulary.states import DeliveryState, JobState


@dataclass(frozen=True, slots=True)
class AnalysisTimes:
    """A job of a received image that was analysed."""

    model: str
    score: float | None
    abnormal: bool | None
    waited: float
    """Seconds from when it was queued until a worker took it, for the last time."""
    took: float
    """Seconds from then until its results were committed."""
    stages: Stages | None
    """What of that went into decoding, inference and encoding; None where no worker has said it."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something else that ended."""

    of: str
    """The model of a whole turnaround, the destination of a delivery."""
    took: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Durations:
    """Of one page of the feed."""

    analyses: Sequence[AnalysisTimes]
    turnarounds: Sequence[Step]
    """From arrival to the last delivery, of jobs that nobody had analysed or sent again."""
    deliveries: Sequence[Step]
    """From when a result was to be sent until the destination accepted it."""


class Stopwatch:
    """Reads from the history how long finished steps took."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def durations(self, page: Sequence[FeedEvent]) -> Durations:
        """What ended with the events of ``page``."""
        analysed = [e for e in page if (e.subject, e.event) == ("job", Event.ANALYSED)]
        done = [e for e in page if (e.subject, e.to_state) == ("job", JobState.DONE)]
        sent = {int(e.subject_id): e.at for e in page if (e.subject, e.to_state) == ("delivery", DeliveryState.SENT)}
        names = sorted({e.subject_id for e in (*analysed, *done)})
        rows: dict[str, Row[Any]] = {}
        past: dict[str, list[Any]] = defaultdict(list)
        steps = []
        with self._db.read() as conn:
            for some in in_chunks(names):
                columns = (jobs.c.id, jobs.c.model, jobs.c.score, jobs.c.abnormal, jobs.c.created_at, *_STAGES)
                awaited = (jobs.c.id.in_(some), jobs.c.urgency <= AWAITED)
                rows |= {row.id: row for row in conn.execute(select(*columns).where(*awaited))}
                history = select(events.c.id, events.c.at, events.c.subject_id, events.c.event)
                history = history.where(events.c.subject == "job", events.c.subject_id.in_(some))
                for moment in conn.execute(history.order_by(events.c.id)):
                    past[moment.subject_id].append(moment)
            for ids in in_chunks(sorted(sent)):
                made = select(deliveries.c.id, deliveries.c.destination, deliveries.c.created_at)
                for one in conn.execute(made.where(deliveries.c.id.in_(ids))):
                    steps.append(Step(one.destination, _seconds(one.created_at, sent[one.id])))
        analyses = []
        for e in analysed:
            job = rows.get(e.subject_id)
            before = [past_event for past_event in reversed(past[e.subject_id]) if past_event.id < e.id]
            claimed = next((p.at for p in before if p.event == Event.CLAIMED), None)
            if job is None or claimed is None:
                continue
            queued = next((p.at for p in before if p.event in _QUEUED), job.created_at)
            times = (_seconds(queued, claimed), _seconds(claimed, e.at))
            stages = Stages(*(job._mapping[column.name] for column in _STAGES))
            known = stages if stages.decode_seconds is not None else None
            analyses.append(AnalysisTimes(job.model, job.score, job.abnormal, *times, known))
        turnarounds = [
            Step(rows[e.subject_id].model, _seconds(rows[e.subject_id].created_at, e.at))
            for e in done
            if e.subject_id in rows and not any(p.event in _AGAIN and p.id < e.id for p in past[e.subject_id])
        ]
        return Durations(analyses, turnarounds, steps)


_STAGES = (jobs.c.decode_seconds, jobs.c.inference_seconds, jobs.c.encode_seconds)
_AGAIN = frozenset({Event.RETRIED, Event.REPLAYED})
_QUEUED = frozenset({Event.CREATED, Event.RETRIED})


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())
