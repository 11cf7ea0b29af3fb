"""Does the node have what the PACS has, and the PACS what the node sent? Asked of the PACS itself, by C-FIND.

An auto-route rule that was off for a night leaves no trace in the node: only the PACS knows what was never sent. And a
result that was accepted may have been deleted since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import date

from chexnode.archive.query_retrieve import Archive, ArchivedInstance
from chexnode.node import Node
from chexnode.triage.reading import BodyPart, body_part_of
from chexnode.vocabulary.filters import Filter


@dataclass(frozen=True, slots=True)
class Missed:
    """A chest radiograph that the PACS has and the node never received."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    modality: str
    fetched: bool
    """Whether it has come by now."""


@dataclass(frozen=True, slots=True)
class LostResult:
    """A result that the PACS had accepted and no longer has."""

    study_instance_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What the comparison found."""

    pacs: str
    since: date
    studies: int
    """Studies looked at."""
    radiographs: int
    """Images of the modalities that are analysed, no other body part being named; results of algorithms left out."""
    missed: list[Missed]
    results: int
    """Results the PACS had accepted since."""
    gone: list[LostResult]

    @property
    def balanced(self) -> bool:
        """Whether nothing is missing on either side."""
        return not self.gone and all(one.fetched for one in self.missed)


def reconcile(
    node: Node,
    archive: Archive,
    wanted_studies: Filter,
    fetch: bool = False,
    track: Callable[[list[str]], Iterable[str]] = iter,
) -> Reconciliation:
    """Compare the node with an ``archive`` in the studies that are wanted, from a day on.

    ``fetch``: have the PACS send what was missed. ``track`` shows progress.

    Raises DestinationDown, and Transient when the database is away.
    """
    assert wanted_studies.since is not None
    ledger, name, wanted = node.ledger, archive.settings.name, set(node.settings.gate.modalities)
    delivered = ledger.holdings.delivered(name, wanted_studies)
    studies = list(dict.fromkeys([*archive.studies(wanted_studies, sorted(wanted)), *delivered]))
    radiographs, missed, gone = 0, list[ArchivedInstance](), list[LostResult]()
    for study in track(studies):
        held = list(archive.instances(study))
        absent = delivered.get(study, set()) - {one.sop_instance_uid for one in held}
        gone += [LostResult(study, uid) for uid in sorted(absent)]
        eligible = [
            one
            for one in held
            if one.modality in wanted
            and not one.is_by_algorithm
            and body_part_of(one.body_part_examined) is not BodyPart.OTHER
        ]
        uids = [one.sop_instance_uid for one in eligible]
        ours, received = ledger.holdings.made(uids), ledger.holdings.received(uids)
        radiographs += len(set(uids) - ours)
        missed += [one for one in eligible if one.sop_instance_uid not in ours | received]
    report = [
        Missed(m.study_instance_uid, m.series_instance_uid, m.sop_instance_uid, m.modality, False) for m in missed
    ]
    if fetch and missed:
        archive.fetch(missed)
        here = ledger.holdings.received([one.sop_instance_uid for one in missed])
        report = [replace(one, fetched=one.sop_instance_uid in here) for one in report]
    since = wanted_studies.since.date()
    return Reconciliation(name, since, len(studies), radiographs, report, sum(map(len, delivered.values())), gone)
