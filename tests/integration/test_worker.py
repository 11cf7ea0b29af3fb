"""The worker on a real ledger and spool, with a pipeline that misbehaves where told to."""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from chexmodels.finding import Findings
from chexmodels.model import RawItem
from chexnode.encode import objects
from chexnode.encode.objects import Encoded
from chexnode.encode.source import sanitise
from chexnode.ledger.ledger import Ledger
from chexnode.node import Node
from chexnode.sandbox.pool import NoChild
from chexnode.settings.tree import Settings
from chexnode.spool.spool import DiskRefused, Spool
from chexnode.vocabulary.backoff import Backoff
from chexnode.vocabulary.errors import BadEnvironment, Refused, Transient
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import Digests, Figures, JobClaim
from chexnode.vocabulary.variants import FORMS, ResultKind, Variant
from chexnode.work import worker
from chexnode.work.store import store
from chexnode.work.worker import Worker
from support.disks import SmallDisk
from support.ledgers import SPEC, CountingBell, arrival, opened
from support.radiographs import PROVENANCE, lesion, parsed, picture, radiograph
from support.servers import wait_for

CLEAN = Findings(None, None, (), 0.1, False, "model 1")


@dataclass(frozen=True)
class Read:
    """An image that was read: where it lies, and what was noticed."""

    path: Path
    notes: tuple[str, ...] = ()
    header: Any = None


class Pipeline:
    """Says "no finding" of every image, unless a fault is planted for a stage; faults are taken one by one."""

    def __init__(self) -> None:
        self.faults: dict[str, list[BaseException]] = {}
        self.batches: list[int] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def _stage(self, name: str) -> None:
        if planted := self.faults.get(name):
            raise planted.pop(0)

    def prepare(self, path: Path) -> Any:
        self._stage("prepare")
        return Read(path)

    def digests(self, prepared: Any) -> Digests:
        return Digests("content", str(prepared.path))

    def figures(self, prepared: Any, findings: Findings) -> Figures:
        return Figures(0.0, 0.5, 0.2)

    def infer(self, prepared: Sequence[Any]) -> list[RawItem]:
        self.batches.append(len(prepared))
        self._stage("infer")
        self.meanwhile()
        return [RawItem(None, 0.1) for _ in prepared]

    def interpret(self, prepared: Any, raw: RawItem) -> Findings:
        return CLEAN

    def encode(self, prepared: Any, findings: Findings, key: str, *others: Any) -> list[Encoded]:
        self._stage("encode")
        return [
            Encoded(
                Variant.parse(ResultKind.SC, "rgb"), f"2.25.{int(key[:24], 16)}", "1.2.840.10008.5.1.4.1.1.7", b"sc"
            )
        ]


class Bench:
    """A worker with what it stands on."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self.ledger, self.pipeline, self.bell = ledger, Pipeline(), CountingBell()
        self.spool = Spool(folder)
        self.spool.prepare()
        self.stopping = threading.Event()
        pacs = {"name": "pacs", "kind": "folder", "path": folder / "out", "results": ["sc"]}
        self.settings = Settings.model_validate({"destination": [pacs], "worker": {"batch_size": 4, "max_attempts": 2}})
        self.worker = self.make_worker("worker")

    def make_worker(self, owner: str) -> Worker:
        node = Node(self.settings, self.ledger, self.spool, self.bell, SPEC, owner=owner, stopping=self.stopping)
        return Worker(node, self.pipeline)  # type: ignore[arg-type]

    def receive(self, count: int) -> list[str]:
        """Store ``count`` images as the receiver does; return their job ids."""
        jobs = []
        for _ in range(count):
            incoming = self.spool.incoming(b"\0" * 128 + b"DICM" + b"\x02\0\0\0UL\4\0" + b"\0\0\0\0")
            fresh = arrival()
            incoming.write(fresh.sop_instance_uid.encode())
            stored = incoming.complete()
            incoming.keep()
            image = replace(fresh, digest=stored.digest, path=stored.path)
            [receipt] = self.ledger.instances.record([image], SPEC)
            assert receipt.job is not None
            jobs.append(receipt.job)
        return jobs

    def states(self) -> list[str]:
        return [str(view.state) for view in self.ledger.views.jobs()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened(f"sqlite:///{tmp_path / 'chexnode.db'}") as ledger:
        bench = Bench(ledger, tmp_path)
        yield bench
        bench.worker.close()


def result_files(bench: Bench) -> list[Path]:
    return list((bench.spool.data_dir / "spool" / "results").rglob("*.dcm"))


def source_files(bench: Bench) -> list[Path]:
    return list((bench.spool.data_dir / "spool" / "sources").rglob("*.dcm"))


def test_images_are_claimed_in_batches_and_their_results_delivered(bench: Bench) -> None:
    bench.receive(6)
    bench.worker.look()
    assert bench.states() == ["DELIVERING"] * 6
    assert bench.pipeline.batches == [4, 2]
    assert len(result_files(bench)) == 6
    assert bench.ledger.deliveries.due() == {"pacs": 6}
    assert set(bench.bell.rung) == {("deliver", "pacs")}


def test_a_refused_image_is_coded_and_the_others_go_on(bench: Bench) -> None:
    bench.pipeline.faults["prepare"] = [Refused(Reason.NOISE)]
    bench.receive(3)
    bench.worker.look()
    assert sorted(bench.states()) == ["DELIVERING", "DELIVERING", "REFUSED"]
    assert bench.ledger.accounts.account().refused == {"noise-pixels": 1}


def test_a_transient_fault_is_tried_again_and_then_given_up(bench: Bench) -> None:
    [job] = bench.receive(1)
    bench.pipeline.faults["encode"] = [Transient("out of GPU memory")]
    bench.worker.look()
    view = bench.ledger.views.job(job)
    assert (view.state, view.attempts) == ("QUEUED", 1)
    assert "GPU" in (view.error or "")
    bench.pipeline.faults["encode"] = [Transient("out of GPU memory")]
    while bench.states() == ["QUEUED"]:
        bench.worker.look()
    assert bench.states() == ["FAILED"]
    assert "gave up after 2 attempts" in (bench.ledger.views.job(job).error or "")


@pytest.mark.parametrize(
    ("stage", "refusal"),
    [
        ("encode", DiskRefused("the disk refused: ENOSPC")),
        ("prepare", NoChild("a decoding child cannot be started: Resource temporarily unavailable")),
    ],
)
def test_what_the_machine_refuses_is_waited_for_and_counts_against_no_image(
    bench: Bench, stage: str, refusal: Exception
) -> None:
    bench.receive(1)
    for number in range(1, 5):  # more than max_attempts
        bench.pipeline.faults[stage] = [refusal]
        wait_for(lambda: bench.worker.look() or not bench.pipeline.faults[stage], "another try")
        [view] = bench.ledger.views.jobs()
        assert (view.state, view.attempts, view.error) == ("QUEUED", 0, str(refusal)), number
    wait_for(lambda: bench.worker.look() or bench.states() == ["DELIVERING"], "the machine to be fit again")


def test_a_disk_that_takes_one_result_and_not_the_next_keeps_neither(tmp_path: Path) -> None:
    with SmallDisk.real(tmp_path / "var", 1) as disk:
        spool = Spool(disk.folder)
        spool.prepare()
        encoded = [Encoded(Variant(form), f"2.25.{form}", "1.2", bytes(600_000)) for form in FORMS[:2]]
        with pytest.raises(DiskRefused):
            store(spool, encoded)
        assert list(spool.older_than(-1)) == []


def test_a_disk_that_becomes_read_only_between_two_results_is_no_bug(tmp_path: Path) -> None:
    class Failing(list[Encoded]):
        def __iter__(self) -> Iterator[Encoded]:
            yield self[0]
            disk.protect()
            yield self[1]

    with SmallDisk.real(tmp_path / "var", 1) as disk:
        spool = Spool(disk.folder)
        spool.prepare()
        with pytest.raises(DiskRefused, match="EROFS"):
            store(
                spool,
                Failing(Encoded(Variant(form), f"2.25.{form}", "1.2", b"sc") for form in FORMS[:2]),
            )


def test_nothing_is_analysed_in_vain_while_the_disk_refuses(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "delay", lambda self, failures: 60.0)
    bench.pipeline.faults["encode"] = [DiskRefused("the disk refused: ENOSPC")]
    bench.receive(1)
    bench.worker.look()
    bench.receive(2)
    bench.worker.look()
    assert bench.pipeline.batches == [1]
    assert bench.states() == ["QUEUED"] * 3


def unreadable(monkeypatch: pytest.MonkeyPatch, sources: set[Path]) -> None:
    """Have the disk fail where ``sources`` are, and no back-off wait."""
    read = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path in sources:
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    monkeypatch.setattr(Backoff, "delay", lambda self, failures: 0.0)


def test_a_source_that_cannot_be_read_now_is_not_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    [job] = bench.receive(1)
    with monkeypatch.context() as broken:
        unreadable(broken, set(source_files(bench)))
        broken.setattr(Backoff, "delay", lambda self, failures: self.ceiling(failures))
        bench.worker.look()
    view = bench.ledger.views.job(job)
    assert (view.state, view.attempts) == ("QUEUED", 1)
    assert "EIO" in (view.error or "")
    bench.ledger.jobs.cancel(job)  # rather than wait for minutes
    bench.ledger.jobs.retry(job)
    bench.worker.look()
    assert bench.states() == ["DELIVERING"]


def test_sources_that_can_never_be_read_hold_up_nobody_and_are_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = bench.receive(6)  # more than a batch
    unreadable(monkeypatch, set(source_files(bench)))
    bench.receive(2)
    wait_for(lambda: bench.worker.look() or "QUEUED" not in bench.states(), "an end of all")
    account = bench.ledger.accounts.account()
    assert (account.analysed, account.failed, account.difference) == (2, 6, 0)
    assert {bench.ledger.views.job(job).error for job in lost} == {"gave up after 2 attempts: the disk refused: EIO"}


def test_a_disk_that_is_not_mounted_is_waited_for(bench: Bench) -> None:
    [job] = bench.receive(1)
    spool = bench.spool.data_dir / "spool"
    elsewhere = spool.rename(spool.with_name("elsewhere"))

    def tries() -> int:
        bench.worker.look()
        return [event.event for event in bench.ledger.views.job(job).events].count("claimed")

    wait_for(lambda: tries() > 2, "more tries than max_attempts")
    view = bench.ledger.views.job(job)
    assert (view.state, view.attempts, view.error) == ("QUEUED", 0, "the spool is not there")
    elsewhere.rename(spool)
    wait_for(lambda: bench.worker.look() or bench.states() == ["DELIVERING"], "the image to be analysed")


def test_a_disk_that_goes_away_before_an_image_is_decoded_is_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job] = bench.receive(1)
    spool = bench.spool.data_dir / "spool"
    elsewhere = spool.with_name("elsewhere")

    def gone(path: Path) -> None:
        spool.rename(elsewhere)
        raise Refused(Reason.SOURCE_MISSING)

    with monkeypatch.context() as patched:
        patched.setattr(bench.pipeline, "prepare", gone)
        bench.worker.look()
    view = bench.ledger.views.job(job)
    assert (view.state, view.attempts, view.error) == ("QUEUED", 0, "the spool is not there")
    elsewhere.rename(spool)
    wait_for(lambda: bench.worker.look() or bench.states() == ["DELIVERING"], "the image to be analysed")


def test_a_bug_fails_its_job_with_the_traceback_and_no_other(bench: Bench) -> None:
    bench.receive(3)
    bench.pipeline.faults["encode"] = [ZeroDivisionError("Doe^Jane divided by zero")]
    bench.worker.look()
    assert sorted(bench.states()) == ["DELIVERING", "DELIVERING", "FAILED"]
    [failed] = bench.ledger.views.jobs(["FAILED"])
    assert "ZeroDivisionError" in (failed.error or "")
    assert "Traceback" in (failed.error or "")
    assert "Doe" not in (failed.error or ""), "an exception may quote whose image it was"


def test_a_batch_that_fails_as_a_whole_is_run_one_by_one(bench: Bench) -> None:
    bench.receive(3)
    bench.pipeline.faults["infer"] = [RuntimeError("the batch"), RuntimeError("the first image")]
    bench.worker.look()
    assert bench.pipeline.batches == [3, 1, 1, 1]
    assert sorted(bench.states()) == ["DELIVERING", "DELIVERING", "FAILED"]


def test_a_source_that_is_gone_or_damaged_is_refused(bench: Bench) -> None:
    bench.receive(2)
    [gone, damaged] = source_files(bench)
    gone.unlink()
    damaged.write_bytes(damaged.read_bytes() + b"!")
    bench.worker.look()
    assert bench.ledger.accounts.account().refused == {"source-missing": 2}


def test_a_result_under_a_lost_lease_is_thrown_away(bench: Bench) -> None:
    [job] = bench.receive(1)
    bench.pipeline.meanwhile = lambda: bench.ledger.jobs.expire(9, everything=True) and None
    bench.worker.look()
    assert bench.ledger.views.job(job).state == "QUEUED"
    assert result_files(bench) == [], "its file belongs to nobody"
    assert bench.ledger.deliveries.due() == {}
    bench.pipeline.meanwhile = lambda: None
    bench.worker.look()
    assert bench.ledger.views.job(job).state == "DELIVERING"
    assert len(result_files(bench)) == 1


def test_a_heart_that_misses_a_beat_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "HEARTBEAT_SECONDS", 0.05)
    renew, hearts = bench.ledger.jobs.renew, set[int]()
    renewed = threading.Event()

    def failing(claims: Sequence[JobClaim]) -> set[str]:
        if (heart := threading.get_ident()) not in hearts:
            hearts.add(heart)
            raise BadEnvironment("database: database disk image is malformed")
        renewed.set()
        return renew(claims)

    monkeypatch.setattr(bench.ledger.jobs, "renew", failing)
    bench.make_worker("other")
    assert renewed.wait(30)


def test_told_to_stop_it_gives_back_what_it_has_not_begun(bench: Bench) -> None:
    bench.receive(6)
    bench.pipeline.meanwhile = bench.stopping.set
    bench.worker.look()
    assert sorted(bench.states()) == ["DELIVERING"] * 4 + ["QUEUED"] * 2
    assert all(view.attempts == 0 for view in bench.ledger.views.jobs(["QUEUED"]))


def test_a_ring_during_work_makes_it_look_again(bench: Bench) -> None:
    bench.receive(1)

    def arrive_late() -> None:
        bench.pipeline.meanwhile = lambda: None
        bench.receive(1)
        bench.worker.look()  # the second ring returns at once

    bench.pipeline.meanwhile = arrive_late
    bench.worker.look()
    assert bench.states() == ["DELIVERING"] * 2


@pytest.mark.parametrize("kind", [kind for kind in ResultKind if kind is not ResultKind.KO])
def test_an_object_that_lacks_what_the_standard_requires_fails_the_job_and_is_not_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: ResultKind
) -> None:
    """One object of four is wrong: none is stored, none delivered, and the job says which attribute of which object."""
    source = sanitise(parsed(radiograph()))
    build = objects._build

    def forget(of: Variant, *args: Any) -> Dataset | None:
        ds = build(of, *args)
        if of.kind is kind and ds is not None:
            del ds.InstanceNumber
        return ds

    def encode(prepared: Any, findings: Findings, key: str, created_at: Any, wanted: Any, _: Any) -> list[Encoded]:
        shape = (source.rows, source.columns)
        made_by = replace(PROVENANCE, job_key=key)
        return objects.encode(source, picture(shape), lesion(shape), made_by, wanted)

    everything = bench.settings.destination[0].model_copy(update={"results": ("seg", "sc", "sr", "gsps")})
    bench.worker._settings = bench.settings.model_copy(update={"destination": (everything,)})
    monkeypatch.setattr(bench.pipeline, "encode", encode)
    bench.receive(1)
    with monkeypatch.context() as patch:
        patch.setattr(objects, "_build", forget)
        bench.worker.look()
    [job] = bench.ledger.views.jobs()
    assert job.state == "FAILED"
    assert job.error is not None
    assert re.search(rf"InvalidResult: {kind} \S+: InstanceNumber \(Type [12]\) is absent$", job.error.strip())
    assert bench.ledger.views.deliveries() == []
    assert result_files(bench) == []
    bench.ledger.jobs.retry(job.id)
    bench.worker.look()
    assert len(result_files(bench)) == len(bench.ledger.views.deliveries()) == 4
