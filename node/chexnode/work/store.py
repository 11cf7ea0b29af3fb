"""Encoded results on their way into the ledger: durable files first, rows afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from chexnode.encode.objects import Encoded
from chexnode.ledger.ledger import Ledger
from chexnode.spool.spool import DiskRefused, Spool
from chexnode.vocabulary.errors import Transient
from chexnode.vocabulary.records import NewResult


def store(spool: Spool, encoded: Sequence[Encoded]) -> list[NewResult]:
    """Make the files of ``encoded`` durable and return the rows that are to name them.

    Raises :class:`~chexnode.spool.spool.DiskRefused`, after which nothing is left of any of them.
    """
    rows: list[NewResult] = []
    try:
        for one in encoded:
            rows.append(_stored(spool, one))
    except DiskRefused:
        for row in rows:
            spool.unlink(row.path)
        raise
    return rows


def _stored(spool: Spool, one: Encoded) -> NewResult:
    stored = spool.write_result(one.data)
    return NewResult(
        one.uid,
        one.variant,
        one.sop_class_uid,
        stored.digest,
        stored.path,
        stored.size,
        one.series_instance_uid,
        one.series,
        one.instance,
        one.study_instance_uid,
    )


def discard(spool: Spool, ledger: Ledger, paths: Sequence[str]) -> None:
    """Delete those files at ``paths`` that no committed row names."""
    try:
        known = ledger.files.known(paths)
    except Transient:
        return  # the sweep for orphans will ask again
    for path in paths:
        if path not in known:
            spool.unlink(path)
