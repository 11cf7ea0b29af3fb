"""What people and programs may have done to jobs and deliveries, by the console and by ``/api`` alike.

Each is idempotent: what is as asked for already is left so, and the answer says that nothing was changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Body, Depends, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

from chexnode.node import Node
from chexnode.operate import reanalyse
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.reports import Erasure, Reanalysis
from chexnode.vocabulary.scopes import TokenScope
from chexnode.vocabulary.states import DeliveryState, JobState
from chexnode.vocabulary.variants import ResultKind
from chexnode.web.api import known
from chexnode.web.auth import require
from chexnode.web.dry_run import DryRuns, NotTried

REPLAYABLE = (DeliveryState.DEAD, DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.WAITING)
"""What can be sent again."""

T = TypeVar("T")

_SAME = frozenset({"same-origin", "none"})


class Unknown(Usage):
    """There is no such job."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What became of a job."""

    job: str
    state: str
    """Its state now."""
    changed: bool
    """False where it was as asked for already."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What is sent again."""

    replayed: int
    """Deliveries."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What became of a job's results."""

    job: str
    changed: bool
    """False where they were valid no longer already."""
    destinations: tuple[str, ...]
    """Those that may have them and are asked to withdraw them."""


@dataclass(frozen=True, slots=True)
class Who:
    """Who asks, for the history and the audit trail."""

    name: str
    """Of a user or a token; empty where nobody needs to say who they are."""
    address: str


class Acts:
    """Carries out. Each raises Unknown where there is no such job, and Usage where it cannot be done now."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def retry(self, job: str, who: Who) -> Changed:
        """Analyse a job that was refused, failed or cancelled again."""
        return self._move(job, who, "retry", self._node.ledger.jobs.retry, (JobState.QUEUED, JobState.RUNNING))

    def cancel(self, job: str, who: Who) -> Changed:
        """Leave a job that waits or is being analysed undone."""
        return self._move(job, who, "cancel", self._node.ledger.jobs.cancel, (JobState.CANCELLED,))

    def replay_job(self, job: str, who: Who, *, dead_only: bool = False) -> Replayed:
        """Send the results of a job again: the very same bytes."""
        self._state(job)
        states = (DeliveryState.DEAD,) if dead_only else REPLAYABLE
        ids = [one.id for one in self._node.ledger.views.deliveries([*states], job=job, limit=None)]
        return self._replayed(ids, f"results of {job}", who)

    def replay_group(self, destination: str, error: str, who: Who) -> Replayed:
        """Send again what was given up to one destination for one reason."""
        ids = self._node.ledger.work.dead_ids(destination, error)
        return self._replayed(ids, f"what was given up to {destination}", who)

    def replay_dead(self, destination: str | None, who: Who) -> Replayed:
        """Send again everything that was given up, to one destination or to all."""
        count = self._node.ledger.deliveries.replay(destination=destination, dead_only=True, by=who.name or None)
        return self._rung(count, f"what was given up to {destination or 'all destinations'}", who)

    def replay(self, ids: list[int], who: Who) -> Replayed:
        """Send deliveries again."""
        return self._replayed(ids, "deliveries", who)

    def withdraw(self, job: str, who: Who) -> Withdrawn:
        """Let the results of a job be valid no longer, and have destinations withdraw them."""
        from chexnode.operate.withdraw import withdraw  # it loads what encodes notes, which nothing else here needs

        self._state(job)
        results = self._node.ledger.views.job(job).results
        if results and all(one.superseded for one in results if one.kind != ResultKind.KO):
            return Withdrawn(job, False, ())
        destinations = withdraw(self._node, job, who.name or None)
        self._node.trail.acted(who.name, who.address, f"withdrawal of the results of {job}")
        return Withdrawn(job, True, destinations)

    def reanalyse(
        self, wanted: Filter, model: str | None, who: Who, *, only_done: bool = False, is_dry_run: bool = False
    ) -> Reanalysis:
        """Have images analysed by ``model``, a name of the settings; None: the one that delivers."""
        done = reanalyse.reanalyse(self._node, wanted, model, only_done=only_done, is_dry_run=is_dry_run)
        return self._recorded(done, "analysed again", who)

    def rollback(self, wanted: Filter, who: Who, *, is_dry_run: bool = False) -> Reanalysis:
        """Put the results before a reanalysis back."""
        done = reanalyse.rollback(self._node, wanted, is_dry_run=is_dry_run)
        return self._recorded(done, "given the results of before", who)

    def extent(self, whose: Filter) -> Erasure:
        """What :meth:`erase` would erase."""
        from chexnode.operate.erase import count

        return count(self._node, whose)

    def erase(self, whose: Filter, wait_seconds: float, who: Who) -> Erasure:
        """Erase a patient or a study for good, once destinations had ``wait_seconds`` to withdraw the results."""
        from chexnode.operate.erase import erase

        return erase(self._node, whose, wait_seconds, (who.name, who.address))

    def _recorded(self, done: Reanalysis, what: str, who: Who) -> Reanalysis:
        if done.queued and not done.is_dry_run:
            self._node.trail.acted(who.name, who.address, f"{done.queued} image(s) to be {what} by {done.model}")
        return done

    def _move(
        self, job: str, who: Who, act: str, move: Callable[[str, str | None], None], there: tuple[JobState, ...]
    ) -> Changed:
        self._state(job)
        try:
            move(job, who.name or None)
        except Usage:
            if (state := self._state(job)) in there:
                return Changed(job, state, False)
            raise
        self._node.bell.ring("infer")
        self._node.trail.acted(who.name, who.address, f"{act} of {job}")
        return Changed(job, self._state(job), True)

    def _state(self, job: str) -> str:
        try:
            return str(self._node.ledger.views.job(job).state)
        except Usage as error:
            raise Unknown(str(error)) from error

    def _replayed(self, ids: list[int], what: str, who: Who) -> Replayed:
        count = self._node.ledger.deliveries.replay(ids=ids, by=who.name or None) if ids else 0
        return self._rung(count, what, who)

    def _rung(self, count: int, what: str, who: Who) -> Replayed:
        if count:
            self._node.bell.ring("deliver")
            self._node.trail.acted(who.name, who.address, f"replay of {count} deliveries: {what}")
        return Replayed(count)


class Replay(BaseModel):
    """Which deliveries are sent again: those of ``ids``; or what was given up, of one destination or of all."""

    model_config = ConfigDict(extra="forbid")

    ids: list[int] = Field([], max_length=10_000, description="Delivery ids, whatever became of them.")
    destination: str | None = Field(None, description="What was given up to this destination.")
    error: str | None = Field(None, description="With a destination: only what was given up for exactly this.")
    all_dead: bool = Field(False, description="What was given up to any destination.")


def ours(request: Request) -> None:
    """Refuse what a page of another site has a browser send: where no token is needed, nothing else would."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    foreign = origin is not None and origin.partition("://")[2] != host
    if foreign or request.headers.get("sec-fetch-site", "none") not in _SAME:
        raise HTTPException(403, "a page of another site may not ask for this")


def who_asks(request: Request) -> Who:
    """The token that the request brings, and from where."""
    return Who(getattr(request.state, "caller", ""), request.client.host if request.client else "")


def _example(value: object) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"application/json": {"example": value}}}}


_JOB: dict[int | str, dict[str, Any]] = {
    404: {"description": "There is no such job."},
    409: {"description": "Its state does not allow it."},
}
_QUEUED = _example(asdict(Changed("0123456789abcdef", JobState.QUEUED, True)))
_CANCELLED = _example(asdict(Changed("0123456789abcdef", JobState.CANCELLED, True)))
_WITHDRAWN = _example(asdict(Withdrawn("0123456789abcdef", True, ("pacs",))))
_REPLAYED = _example(asdict(Replayed(2)))
_UNCLEAR: dict[int | str, dict[str, Any]] = {
    400: {"description": "Not exactly one of the three, or no such destination."}
}
_WHICH: dict[str, Any] = {
    "given up to one": {"value": {"destination": "pacs"}},
    "given up to one for one reason": {"value": {"destination": "pacs", "error": "0xA900 does not match"}},
    "given up": {"value": {"all_dead": True}},
    "some": {"value": {"ids": [17, 18]}},
}


def router(node: Node, acts: Acts, dry_runs: DryRuns) -> APIRouter:
    """The routes."""
    needs = [Depends(require(TokenScope.ADMIN)), Depends(ours), Depends(known)]
    routes = APIRouter(prefix="/api", tags=["acts"], dependencies=needs)
    names = {destination.name for destination in node.settings.destination}

    @routes.post("/jobs/{job}/retry", responses=_JOB | _QUEUED)
    def retry(request: Request, job: str) -> Changed:
        """Put a REFUSED, FAILED or CANCELLED job back into the queue; one that is there already is left alone."""
        return _answered(lambda: acts.retry(job, who_asks(request)))

    @routes.post("/jobs/{job}/cancel", responses=_JOB | _CANCELLED)
    def cancel(request: Request, job: str) -> Changed:
        """Leave a QUEUED or RUNNING job undone; one that is CANCELLED already is left alone."""
        return _answered(lambda: acts.cancel(job, who_asks(request)))

    @routes.post("/jobs/{job}/replay", responses=_JOB | _REPLAYED)
    def replay_job(request: Request, job: str, dead_only: bool = False) -> Replayed:
        """Send a job's results again, the very same bytes; what is on its way already is left alone."""
        return _answered(lambda: acts.replay_job(job, who_asks(request), dead_only=dead_only))

    @routes.post("/jobs/{job}/withdraw", responses=_JOB | _WITHDRAWN)
    def withdraw(request: Request, job: str) -> Withdrawn:
        """Let a job's results be valid no longer: hidden here, and withdrawn from destinations by their settings."""
        return _answered(lambda: acts.withdraw(job, who_asks(request)))

    @routes.post("/deliveries/replay", responses=_REPLAYED | _UNCLEAR)
    def replay(request: Request, which: Annotated[Replay, Body(openapi_examples=_WHICH)]) -> Replayed:
        """Send results again, as `chexnode deliveries replay`; what is on its way already is left alone."""
        if bool(which.ids) + (which.destination is not None) + which.all_dead != 1:
            raise HTTPException(400, "give ids, or a destination, or all_dead")
        if which.destination is not None and which.destination not in names:
            raise HTTPException(400, f"no destination is called {which.destination!r}")
        if which.error is not None and which.destination is None:
            raise HTTPException(400, "an error is of a destination")
        who = who_asks(request)
        if which.destination is not None and which.error is not None:
            return _answered(partial(acts.replay_group, which.destination, which.error, who))
        if which.ids:
            return _answered(lambda: acts.replay(which.ids, who))
        return _answered(lambda: acts.replay_dead(which.destination, who))

    binary = {"schema": {"type": "string", "format": "binary"}}
    body = {"requestBody": {"required": True, "content": {"application/dicom": binary}}}

    @routes.post(
        "/analyze",
        openapi_extra=body,
        responses={
            413: {"description": "The file is larger than limits.max_object_mb."},
            503: {"description": "Another file is being tried, or nothing can be analysed here."},
            504: {"description": "It took too long."},
        },
    )
    async def analyze(request: Request) -> dict[str, Any]:
        """Try a DICOM file: what the gate says and the model finds, and who would get it; nothing is kept or sent."""
        who = who_asks(request)
        try:
            report, recipients = await dry_runs.run(request.stream(), who.name, who.address)
        except NotTried as error:
            raise HTTPException(error.status, str(error)) from error
        return {"report": report, "recipients": [asdict(one) for one in recipients]}

    return routes


def _answered(act: Callable[[], T]) -> T:
    try:
        return act()
    except Unknown as error:
        raise HTTPException(404, str(error)) from error
    except Usage as error:
        raise HTTPException(409, str(error)) from error
