"""The reckoning after the chaos: what was acknowledged, what the ledger says of it, and what the PACS has."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import httpx
import pydicom
from sqlalchemy import func, select

from chexnode.ledger.database import Database
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.schema import deliveries, events, instances
from chexnode.ledger.views import JobDetail
from chexnode.spool.spool import Spool
from chexnode.vocabulary.records import Outcome
from support.corrections import Plan, Record, assert_gone, assert_one_valid_set, valid_results
from support.nodes import Node
from support.senders import take_apart
from support.servers import Orthanc, wait_for


def assert_nothing_lost(node: Node, pacs: Orthanc, expected: Mapping[str, str], after: Plan, record: Record) -> None:
    """Each SOP Instance UID of ``expected`` ended as it says (``DONE``, or a state and its reason), in one version
    whose file is sound; its results are in the PACS once, byte for byte, and nothing else is there.

    ``after``, ``record``: what is corrected has one valid set besides, and of what is erased nothing is there.
    """
    everything = details(node)
    assert after.erased.isdisjoint(one.sop_instance_uid for one in everything)
    assert_one_valid_set(everything, after, node)
    assert_gone(node, record.identities)
    expected = {uid: end for uid, end in expected.items() if uid not in after.acts}
    found = [one for one in everything if one.sop_instance_uid not in after.acts]
    assert Counter(one.sop_instance_uid for one in found) == Counter(list(expected)), "not one version of each image"
    ended = {one.sop_instance_uid: " ".join(filter(None, (one.state, one.reason))) for one in found}
    assert ended == expected, [(one.state, one.error, one.events) for one in found if one.error]
    spool = Spool(node.data_dir)
    for one in found:
        assert one.source_path is not None
        assert spool.verify(one.source_path, one.digest), f"the file of {one.id} is damaged"
        assert_complete(one)
    account = node.account()
    assert (account["received"], account["pending"], account["failed"]) == (len(everything), 0, 0)
    assert_delivered(node, pacs, everything, record.left)


def details(node: Node) -> list[JobDetail]:
    """Everything the ledger knows of each image."""
    ledger = node.ledger()
    try:
        return [ledger.views.job(view.id) for view in ledger.views.jobs(limit=None)]
    finally:
        ledger.close()


def assert_complete(one: JobDetail) -> None:
    """A finished job has all its results, made once and sent once each; another job has none."""
    kinds = [result.kind for result in one.results]
    wanted = ["sc", "seg", "sr"] if one.abnormal else ["sc", "sr"]
    assert kinds == (wanted if one.state == "DONE" else []), (one.id, kinds)
    assert sorted(d.kind for d in one.deliveries) == kinds
    assert all(delivery.state == "SENT" for delivery in one.deliveries), one.deliveries
    moves = Counter(event.to_state for event in one.events)
    assert moves["DONE"] == moves["DELIVERING"] == (one.state == "DONE"), one.events


def assert_delivered(node: Node, pacs: Orthanc, found: Sequence[JobDetail], left: Collection[str]) -> None:
    """What the PACS has is what the valid results' digests say, each once, and nothing else, but what may be ``left``.

    The digest is of the whole file. Orthanc writes a file meta information of its own, so ours goes before its data
    set: that the file in the spool has the digest says that ours is what was committed. Where the database had been
    restored to an older copy the PACS may have had a result before the ledger made it again, under the same UID: then
    the two say the same, but for when they were made.
    """
    results = valid_results(found)
    stored = wait_for(lambda: stored_by(pacs), "a PACS that can read all it has")
    stored = {identifier: uid for identifier, uid in stored.items() if uid in results or uid not in left}
    assert sorted(stored.values()) == sorted(results)
    for identifier, uid in stored.items():
        result = results[uid]
        assert result.path is not None
        ours = (node.data_dir / result.path).read_bytes()
        assert hashlib.sha256(ours).hexdigest() == result.sha256
        head = ours[: -len(take_apart(ours).data)]
        theirs = take_apart(pacs.file(identifier)).data
        if hashlib.sha256(head + theirs).hexdigest() != result.sha256:
            earlier, later = timeless(pacs.file(identifier)), timeless(ours)
            assert earlier == later, f"{result.kind} of {result.uid} differs"


def stored_by(pacs: Orthanc) -> dict[str, str]:
    """Orthanc identifier -> SOP Instance UID; empty while one cannot be read, as when it is just sent once more."""
    try:
        return {identifier: pacs.tags(identifier)["SOPInstanceUID"] for identifier in pacs.instances()}
    except httpx.HTTPStatusError:
        return {}


MADE_AT = (
    "InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime", "DateOfSecondaryCapture",
    "TimeOfSecondaryCapture", "PresentationCreationDate", "PresentationCreationTime", "ContributionDateTime",
    "ObservationDateTime",
)  # fmt: skip


def timeless(file: bytes) -> pydicom.Dataset:
    """A data set without the dates and times at which it was made."""
    ds = pydicom.dcmread(io.BytesIO(file))
    assert "InstanceCreationTime" in ds

    def leave_out(parent: pydicom.Dataset, element: pydicom.DataElement) -> None:
        if element.keyword in MADE_AT:
            del parent[element.tag]

    ds.walk(leave_out)
    return ds


def figures(node: Node) -> dict[str, int]:
    """How often things had to be done again, by the ledger's own account, and what was left lying about."""
    url = node.tables["database"]["url"]
    database = Database(url)
    try:
        with database.read() as conn:
            happened = dict(conn.execute(select(events.c.event, func.count()).group_by(events.c.event)).all())
            attempts, delivered = conn.execute(select(func.sum(deliveries.c.attempts), func.count())).one()
            duplicates, images = conn.execute(select(func.sum(instances.c.duplicates), func.count())).one()
    finally:
        database.close()
    return {
        "images received": images,
        "received again": duplicates,
        "results delivered": delivered,
        "attempts that failed": attempts - delivered,
        "jobs taken back from dead workers": happened.get("lease-expired", 0),
        "jobs put back": happened.get("requeued", 0),
        "conflicting versions": happened.get(Outcome.CONFLICT, 0),
        "files without a row": orphans(node),
    }


def orphans(node: Node) -> int:
    """Files in the spool that no row names; they are swept after a day."""
    ledger = Ledger(node.tables["database"]["url"])
    try:
        files = list(Spool(node.data_dir).older_than(0))
        return len(files) - len(ledger.files.known(files))
    finally:
        ledger.close()


def table(rows: Mapping[str, object]) -> str:
    """A column of names and a column of figures."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows.items())
