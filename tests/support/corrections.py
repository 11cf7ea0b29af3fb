"""Corrections and erasures amid the chaos: images are sent again, renamed or encoded otherwise, and studies erased.

Where a result may have gone to the PACS in a time that the database has forgotten, nobody can withdraw it any more: so
an image is corrected or erased only once a quiet database, of which no older copy is about to be restored, says that
its results are there; or it is sent and erased at once while no copy is restored.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pydicom
from pydicom.uid import JPEG2000Lossless, RLELossless
from sqlalchemy import select

from chexnode.ledger.database import Database
from chexnode.ledger.schema import metadata
from chexnode.ledger.views import JobDetail, ResultView
from chexnode.node import Node as OpenNode
from chexnode.operate.erase import UNRECORDED_SECONDS, erase
from chexnode.settings.loading import load
from chexnode.vocabulary.errors import BadEnvironment, Transient
from chexnode.vocabulary.filters import Filter
from support.modalities import Modality, Outgoing
from support.nodes import Node
from support.servers import wait_for

WITHDRAWAL_SECONDS = 20.0
_LOCKED_SECONDS = 2.0


class Act(StrEnum):
    """What becomes of an image after it was sent."""

    RENAMED = "renamed"
    """The same pixels under another PatientName."""
    ENCODED = "encoded otherwise"
    """The same image in another transfer syntax."""
    ERASED = "erased"
    """Its study, results and all."""
    ERASED_AT_ONCE = "erased at once"
    """As soon as it is acknowledged, perhaps amid its analysis. The corrector sends it."""


#: Of each eight images that are analysed.
SHARES = (Act.RENAMED, Act.ENCODED, Act.ERASED)
AT_ONCE = 3


@dataclass
class Plan:
    """SOP Instance UID -> what becomes of the image."""

    acts: dict[str, Act]
    files: Mapping[str, Outgoing]

    def of(self, *acts: Act) -> set[str]:
        """The images of which any of ``acts`` is true."""
        return {uid for uid, act in self.acts.items() if act in acts}

    @property
    def erased(self) -> set[str]:
        return self.of(Act.ERASED, Act.ERASED_AT_ONCE)

    @property
    def corrected(self) -> set[str]:
        return self.of(Act.RENAMED, Act.ENCODED)


def plan(analysed: Sequence[Outgoing], draw: random.Random) -> Plan:
    """Have three of each eight images corrected or erased, and a few erased at once."""
    chosen = draw.sample(analysed, len(analysed))
    acts = {one.sop_instance_uid: Act.ERASED_AT_ONCE for one in chosen[:AT_ONCE]}
    for number, one in enumerate(chosen[AT_ONCE:]):
        if number % 8 < len(SHARES):
            acts[one.sop_instance_uid] = SHARES[number % 8]
    return Plan(acts, {one.sop_instance_uid: one for one in analysed})


def name_of(number: int) -> str:
    """The corrected PatientName."""
    return f"Corrected^Number{number}"


def corrected(file: Path, to: Path, act: Act, number: int) -> Outgoing:
    """Write the other version of ``file``."""
    ds = pydicom.dcmread(file)
    if act is Act.RENAMED:
        ds.PatientName = name_of(number)
        option = "-x="
    else:
        # As an archive does: it may not know that nothing else has changed, and adds an element of its own.
        ds.compress(RLELossless if number % 2 else JPEG2000Lossless, generate_instance_uid=False)
        ds.StationName = "ARCHIVE"
        option = "-xr" if number % 2 else "-xv"
    to.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(to, enforce_file_format=True)
    return Outgoing(to, str(ds.SOPInstanceUID), option)


@dataclass
class Record:
    """What was done."""

    done: Counter[str] = field(default_factory=Counter)
    sent: list[str] = field(default_factory=list)
    """SOP Instance UIDs that the corrector sent, each as often as it did."""
    left: set[str] = field(default_factory=set)
    """Results that a destination may still have, as an erasure reported or could not report any more."""
    identities: set[str] = field(default_factory=set)
    """UIDs of erased images, their studies and results."""
    errors: list[BaseException] = field(default_factory=list)


class Corrector(threading.Thread):
    """Does what the plan says, as soon as it may, until all is done or ``stopping`` is set."""

    def __init__(
        self,
        node: Node,
        plan: Plan,
        folder: Path,
        is_acknowledged: Callable[[str], bool],
        no_restore: threading.Lock,
        seed: str,
        stopping: threading.Event,
    ) -> None:
        """``is_acknowledged``: whether all who send an image have been answered. ``no_restore``: free while no older
        copy of the database is about to be restored."""
        super().__init__(name="corrector", daemon=True)
        self.record = Record()
        self._node, self._plan, self._folder = node, plan, folder
        self._is_acknowledged, self._no_restore = is_acknowledged, no_restore
        self._seed, self._stopping = seed, stopping
        self._left = dict(plan.acts)

    def run(self) -> None:
        try:
            while self._left and not self._stopping.wait(0.5):
                self._at_once()
                for uid in self._ripe():
                    self._act(uid, self._left.pop(uid))
        except BaseException as error:
            self.record.errors.append(error)

    def erase_again(self) -> None:
        """Erase everything that was to be erased, as is to be done after an older copy of the database came back."""
        for uid in sorted(self._plan.erased):
            self._erase(uid)

    def _at_once(self) -> None:
        """Send and erase one of those, while the database keeps what it has."""
        waiting = [uid for uid, act in self._left.items() if act is Act.ERASED_AT_ONCE]
        if waiting and self._no_restore.acquire(timeout=_LOCKED_SECONDS):
            try:
                self._send(self._plan.files[waiting[0]])
                self._act(waiting[0], self._left.pop(waiting[0]))
            finally:
                self._no_restore.release()

    def _ripe(self) -> list[str]:
        """Those whose results are there for good."""
        if not self._no_restore.acquire(timeout=_LOCKED_SECONDS):
            return []
        try:
            with closing(self._node.ledger()) as ledger:
                done = {view.sop_instance_uid for view in ledger.views.jobs(["DONE"], limit=None)}
        except Transient:
            return []
        finally:
            self._no_restore.release()
        return [uid for uid in self._left if uid in done and self._is_acknowledged(uid)]

    def _act(self, uid: str, act: Act) -> None:
        if act in (Act.RENAMED, Act.ENCODED):
            number = sorted(self._plan.corrected).index(uid)
            self._send(corrected(self._plan.files[uid].file, self._folder / f"{number}.dcm", act, number))
        else:
            self._erase(uid)
        self.record.done[act] += 1

    def _send(self, outgoing: Outgoing) -> None:
        sender = Modality("CORRECTOR", self._node.port, [outgoing], (0.5, 2), self._seed, self._stopping)
        sender.run()
        self.record.sent += sender.acknowledged

    def _erase(self, uid: str) -> None:
        """Until it is done, as whoever is told that the database or the disk is away does."""
        study = str(pydicom.dcmread(self._plan.files[uid].file, specific_tags=["StudyInstanceUID"]).StudyInstanceUID)
        self.record.identities |= {uid, study}
        settings, _ = load(self._node.config)
        results: set[str] = set()
        while True:
            try:
                with OpenNode.open(settings, "erase") as node:
                    results |= node.ledger.erasures.identities(Filter(study=study))
                    self.record.identities |= results
                    erasure = erase(node, Filter(study=study), WITHDRAWAL_SECONDS, ("chaos", ""))
                if erasure.not_withdrawn:
                    self.record.left |= results
                return
            except (Transient, BadEnvironment):
                self.record.left |= results  # the answer that would have named the destination may be lost
                if self._stopping.wait(1):
                    return


def wait_until_files_are_old(since: float) -> None:
    """Wait until an erasure takes what killed processes, or an interrupted erasure, have left in the spool by then."""
    wait_for(lambda: time.monotonic() > since + UNRECORDED_SECONDS, "files without a row to be old enough", every=0.5)


def wait_until_delivered(node: Node, seconds: float) -> None:
    """Wait until nothing is to be delivered any more, notes that withdraw results included."""

    def nothing_waits() -> bool:
        try:
            with closing(node.ledger()) as ledger:
                return not ledger.views.deliveries(["PENDING", "WAITING"])
        except Transient:
            return False

    wait_for(nothing_waits, "all deliveries to be over", seconds, every=0.5)


def assert_one_valid_set(found: Sequence[JobDetail], plan: Plan, node: Node) -> None:
    """Each corrected image has two versions and one valid set, under the identity of its latest version."""
    for number, uid in enumerate(sorted(plan.corrected)):
        versions = [one for one in found if one.sop_instance_uid == uid]
        assert len({one.digest for one in versions}) == len(versions) == 2, (uid, versions)
        assert {one.state for one in versions} <= {"DONE", "SKIPPED"}, [(one.state, one.error) for one in versions]
        [counting] = [one for one in versions if valid_results([one])]
        kinds = sorted(result.kind for result in valid_results([counting]).values())
        assert kinds == (["sc", "seg", "sr"] if counting.abnormal else ["sc", "sr"]), (uid, kinds)
        for delivery in (delivery for one in versions for delivery in one.deliveries):
            assert delivery.state in ("SENT", "WITHDRAWN"), delivery
        if plan.acts[uid] is Act.RENAMED:
            for result in valid_results([counting]).values():
                assert result.path is not None
                ds = pydicom.dcmread(node.data_dir / result.path, stop_before_pixels=True)
                assert ds.PatientName == name_of(number), (uid, ds.PatientName)


def valid_results(found: Sequence[JobDetail]) -> dict[str, ResultView]:
    """SOP Instance UID -> result, of those that are to be in the PACS."""
    return {r.uid: r for one in found for r in one.results if r.superseded is None and r.kind != "ko"}


def assert_gone(node: Node, identities: set[str]) -> None:
    """Neither the database nor any file of the node says any of these."""
    database = Database(node.tables["database"]["url"])
    try:
        with database.read() as conn:
            dump = repr([conn.execute(select(table)).all() for table in metadata.sorted_tables])
    finally:
        database.close()
    # As whole words: a UID may be the beginning of another.
    assert [uid for uid in identities if f"'{uid}'" in dump or f" {uid} " in dump] == []
    for path in node.data_dir.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            # In DICOM a value ends with a NUL or with the next element's tag.
            left = [uid for uid in identities if uid.encode() in data and len(uid) > 20]
            assert left == [], f"{path} still names {left}"
