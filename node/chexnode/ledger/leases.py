"""Named leases with fencing tokens: who may keep house, who holds an association slot of a destination."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, delete, or_, select, update

from chexnode.ledger.database import Database, add_missing
from chexnode.ledger.schema import leases


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that was ours when it was taken; ``fence`` grows with every new owner."""

    name: str
    owner: str
    fence: int


class Leases:
    """Take, renew and release."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def take(self, name: str, owner: str, seconds: float) -> Lease | None:
        """Take ``name`` if it is free, run out, or already ours; None if another holds it."""
        now = self._db.clock()
        with self._db.write() as conn:
            add_missing(conn, leases, [{"name": name, "owner": "", "fence": 0, "until": now - timedelta(seconds=1)}])
            fence = conn.execute(
                update(leases)
                .where(leases.c.name == name, or_(leases.c.until < now, leases.c.owner == owner))
                .values(owner=owner, fence=leases.c.fence + 1, until=now + timedelta(seconds=seconds))
                .returning(leases.c.fence)
            ).scalar_one_or_none()
        return None if fence is None else Lease(name, owner, fence)

    def renew(self, lease: Lease, seconds: float) -> bool:
        """Extend; False if it is ours no longer."""
        now = self._db.clock()
        with self._db.write() as conn:
            kept = conn.execute(update(leases).where(_ours(lease)).values(until=now + timedelta(seconds=seconds)))
            return kept.rowcount == 1

    def release(self, lease: Lease) -> None:
        """Give it back, if it is still ours."""
        now = self._db.clock()
        with self._db.write() as conn:
            conn.execute(update(leases).where(_ours(lease)).values(until=now - timedelta(seconds=1)))

    def live(self, prefix: str) -> set[str]:
        """What follows ``prefix`` in the names of those that somebody holds."""
        now = self._db.clock()
        with self._db.read() as conn:
            held = conn.execute(
                select(leases.c.name).where(leases.c.name.startswith(prefix, autoescape=True), leases.c.until >= now)
            )
            return {name.removeprefix(prefix) for name in held.scalars()}

    def drop_ended(self, prefix: str) -> None:
        """Forget those that begin with ``prefix`` and that nobody has any more."""
        ended = and_(leases.c.name.startswith(prefix, autoescape=True), leases.c.until < self._db.clock())
        with self._db.write() as conn:
            conn.execute(delete(leases).where(ended))

    def clear(self) -> None:
        """Drop all leases, for a start when nobody can hold one."""
        with self._db.write() as conn:
            conn.execute(delete(leases))


def _ours(lease: Lease) -> ColumnElement[bool]:
    return and_(leases.c.name == lease.name, leases.c.owner == lease.owner, leases.c.fence == lease.fence)
