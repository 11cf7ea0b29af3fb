"""Delivery to real destinations: Orthanc, DCMTK's storescp well and badly behaved, a scripted SCP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, evt
from pynetdicom.dsutils import split_dataset

from chexnode.deliver.courier import BATCH, DOUBTFUL_TRIES, STEP_BACK_SECONDS
from chexnode.deliver.dicom import Probe, probe
from chexnode.settings.destination import DestinationSettings
from chexnode.vocabulary.errors import DestinationDown, Usage
from chexnode.vocabulary.states import DeliveryState, JobState
from support import servers
from support.deliveries import PRIVATE_SOP_CLASS, Node, canned, data_set_bytes, result, scripted, slow_line


def test_orthanc_has_everything_once(make_node: Callable[..., Node], orthanc: servers.Orthanc) -> None:
    node = make_node(ae_title="ORTHANC", port=orthanc.port)
    objects = [result(), result(SegmentationStorage), result(), result(SegmentationStorage)]
    node.add(*objects[:2])
    node.add(*objects[2:])
    assert node.deliver() == 4
    assert node.states() == ["SENT"] * 4
    assert node.job_states() == {"DONE"}
    assert {orthanc.tags(i)["SOPInstanceUID"] for i in orthanc.instances()} == {ds.SOPInstanceUID for ds in objects}
    assert node.deliver() == 0

    assert node.ledger.deliveries.replay() == 4
    assert node.job_states() == {"DELIVERING"}
    assert node.deliver() == 4
    assert len(orthanc.instances()) == 4
    assert len(orthanc.studies()) == 1
    assert node.job_states() == {"DONE"}


def test_the_bytes_that_arrive_are_the_files_bytes(make_node: Callable[..., Node], tmp_path: Path) -> None:
    with servers.StoreSCP(tmp_path / "scp") as scp:
        node = make_node(port=scp.port)
        objects = [
            result(),
            result(syntax=ImplicitVRLittleEndian),
            result(syntax=JPEGBaseline8Bit),
            result(SegmentationStorage, size=400_000),
            result(SegmentationStorage, ImplicitVRLittleEndian, size=16_376),
            result(size=3_000_000),
        ]
        node.add(*objects)
        assert node.deliver() == len(objects)
        arrived = {split_dataset(p)[0].MediaStorageSOPInstanceUID: p for p in scp.files()}
        for ds in objects:
            sent = node.file(ds)
            assert data_set_bytes(arrived[ds.SOPInstanceUID]) == data_set_bytes(sent)
            assert split_dataset(arrived[ds.SOPInstanceUID])[0].TransferSyntaxUID == ds.file_meta.TransferSyntaxUID
    assert node.states() == ["SENT"] * len(objects)


def test_each_instance_has_its_own_answer(make_node: Callable[..., Node]) -> None:
    answers = [0x0000, 0xB000, 0x0111, 0xA700, 0x0110, 0xA900, 0xC001, 0x0122, 0x0000]
    objects = [result() for _ in answers]
    by_uid = {ds.SOPInstanceUID: status for ds, status in zip(objects, answers, strict=True)}
    with scripted(lambda event: by_uid[event.request.AffectedSOPInstanceUID]) as (port, seen):
        node = make_node(port=port)
        ids = node.add(*objects)
        assert node.deliver() == len(answers)
        assert seen.count("association") == 1
        deliveries = node.view()
        states = [deliveries[i].state.value for i in ids]
        assert states == ["SENT", "SENT", "SENT", "WAITING", "WAITING", "DEAD", "WAITING", "DEAD", "SENT"]
        assert deliveries[ids[1]].error == "0xB000 warning: data elements coerced"
        assert deliveries[ids[3]].error == "0xA700 the destination is out of resources"
        assert deliveries[ids[5]].error == "0xA900 data set does not match SOP class"
        assert node.ledger.deliveries.breaker("pacs").failures == 0
        assert node.job_states() == {"DELIVERING"}

        by_uid.update(dict.fromkeys(by_uid, 0x0000))
        node.clock.skip(61)
        assert node.deliver() == 3
        assert node.job_states() == {"DONE"}
        assert node.ledger.deliveries.replay(dead_only=True) == 2
        assert node.deliver() == 2
    assert node.states() == ["SENT"] * len(answers)


def test_a_refused_sop_class_is_dead_and_the_rest_goes_out(
    make_node: Callable[..., Node], orthanc: servers.Orthanc
) -> None:
    node = make_node(ae_title="ORTHANC", port=orthanc.port)
    good, bad = result(), result(PRIVATE_SOP_CLASS)
    ids = node.add(bad, good)
    assert node.deliver() == 2
    assert node.states() == ["DEAD", "SENT"]
    assert node.view()[ids[0]].error == f"SOP class not accepted by destination: {PRIVATE_SOP_CLASS}"
    assert [orthanc.tags(i)["SOPInstanceUID"] for i in orthanc.instances()] == [good.SOPInstanceUID]
    assert node.job_states() == {"DONE"}


def test_a_destination_that_accepts_no_context_is_not_down(make_node: Callable[..., Node]) -> None:
    with scripted(lambda _: 0x0000) as (port, seen):
        node = make_node(port=port)
        ids = node.add(result(PRIVATE_SOP_CLASS), result(syntax=JPEGBaseline8Bit))
        assert node.deliver() == 2
        assert node.states() == ["DEAD", "DEAD"]
        assert node.view()[ids[1]].error.startswith("transfer syntax not accepted by destination: JPEG Baseline")
        assert node.ledger.deliveries.breaker("pacs").failures == 0
        assert set(seen) == {"association"}


def test_a_destination_that_refuses_some_gets_the_rest(make_node: Callable[..., Node], tmp_path: Path) -> None:
    with servers.OnlySecondaryCapture(tmp_path / "scp") as scp:
        node = make_node(port=scp.port)
        ids = node.add(
            result(SegmentationStorage), result(), result(Comprehensive3DSRStorage), result(syntax=JPEGBaseline8Bit)
        )
        assert node.deliver() == 4
        assert [ds.split(".", 1)[0] for ds in (path.name for path in scp.files())] == ["SC"]
    refused = node.view()
    assert [refused[i].state.value for i in ids] == ["DEAD", "SENT", "DEAD", "DEAD"]
    assert [refused[i].error for i in ids] == [
        "SOP class not accepted by destination: Segmentation Storage",
        None,
        "SOP class not accepted by destination: Comprehensive 3D SR Storage",
        "transfer syntax not accepted by destination: JPEG Baseline (Process 1) for Secondary Capture Image Storage",
    ]
    counts = node.ledger.views.backlog().deliveries
    assert counts == {("pacs", "seg", "DEAD"): 1, ("pacs", "sc", "SENT"): 1, ("pacs", "sc", "DEAD"): 2}
    assert node.job_states() == {"DONE"}


def test_orthanc_is_never_sent_a_transfer_syntax_it_refuses(make_node: Callable[..., Node], tmp_path: Path) -> None:
    native = {"AcceptedTransferSyntaxes": ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"]}
    with servers.Orthanc(tmp_path / "orthanc", options=native) as orthanc:
        node = make_node(ae_title="ORTHANC", port=orthanc.port)
        jpeg, plain, seg = node.add(result(syntax=JPEGBaseline8Bit), result(), result(SegmentationStorage))
        node.deliver()
        assert len(orthanc.instances()) == 2
    assert node.view()[plain].state is node.view()[seg].state is DeliveryState.SENT
    assert node.view()[jpeg].state is DeliveryState.DEAD
    assert "not accepted by destination: JPEG Baseline" in str(node.view()[jpeg].error)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--abort-during",), ", during a store"),
        (("--abort-after",), ", during a store"),
        (("--sleep-during", "30"), "for 0.5 s"),
        (("--sleep-after", "30"), "for 0.5 s"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_destination_that_fails_during_a_store_is_tried_again(
    make_node: Callable[..., Node], tmp_path: Path, options: Sequence[str], error: str
) -> None:
    with servers.StoreSCP(tmp_path / "bad", *options) as scp:
        node = make_node(port=scp.port, timeout_seconds=0.5)
        ids = node.add(result(size=12_000_000), result(size=12_000_000), result(size=12_000_000))
        node.deliver()
        after = node.view()
        tried = next(i for i in ids if after[i].state is DeliveryState.WAITING)
        assert error in after[tried].error
        assert after[tried].attempts == 1
        # What was not under way keeps its turn, and nothing goes out while the breaker is open.
        assert all(after[i].state in (DeliveryState.PENDING, DeliveryState.SENT) for i in ids if i != tried)
        breaker = node.ledger.deliveries.breaker("pacs")
        assert breaker.failures == 1
        assert breaker.open_until is not None
        assert after[tried].next_attempt == breaker.open_until + timedelta(seconds=STEP_BACK_SECONDS)
    with servers.StoreSCP(tmp_path / "good") as scp:
        node.settings = node.settings.model_copy(
            update={"destination": (node.destination.model_copy(update={"port": scp.port}),)}
        )
        node.clock.skip(60 + STEP_BACK_SECONDS)
        node.deliver()
        assert node.states() == ["SENT"] * 3
        assert node.ledger.deliveries.breaker("pacs").failures == 0


def test_a_slow_line_is_not_a_dead_destination(make_node: Callable[..., Node]) -> None:
    with scripted(lambda _: 0x0000) as (port, _), slow_line(port, 8e6) as slow:
        node = make_node(port=slow, timeout_seconds=2)
        node.add(result(size=24_000_000))  # 3 s in all, but never 2 s without progress
        assert node.deliver() == 1
    assert node.states() == ["SENT"]


def test_an_object_that_takes_the_destination_down_does_not_hold_up_the_rest(make_node: Callable[..., Node]) -> None:
    poison, *others = (result() for _ in range(6))

    def abort_on_poison(event: evt.Event) -> int:
        if event.request.AffectedSOPInstanceUID == poison.SOPInstanceUID:
            event.assoc.abort(block=False)
        return 0x0000

    with scripted(abort_on_poison) as (port, _):
        node = make_node(port=port)
        first, *rest = node.add(poison, *others)
        node.deliver()
        assert node.view()[first].state is DeliveryState.WAITING
        node.clock.skip(STEP_BACK_SECONDS - 1)  # the breaker is half-open, the poison not due yet
        assert node.deliver() == 5
        assert {node.view()[i].state for i in rest} == {DeliveryState.SENT}
        assert node.ledger.deliveries.breaker("pacs").failures == 0


def test_down_and_back(make_node: Callable[..., Node], database_url: str, orthanc: servers.Orthanc) -> None:
    node = make_node(database_url, ae_title="ORTHANC", port=orthanc.port)
    orthanc.kill()
    for _ in range(3):
        node.add(result(), result(SegmentationStorage))
    for failures in range(1, 9):
        assert node.deliver() == (6 if failures == 1 else 1)
        breaker = node.ledger.deliveries.breaker("pacs")
        assert breaker.failures == failures
        assert breaker.last_error == f"no connection to {servers.LOOPBACK}:{orthanc.port}: Connection refused"
        assert breaker.open_until is not None
        assert breaker.open_until <= node.clock() + timedelta(seconds=60)
        assert node.ledger.deliveries.due() == {}
        assert node.deliver() == 0
        node.clock.skip(61)
        assert node.ledger.deliveries.due() == {"pacs": 6}
    orthanc.start()
    assert node.deliver() == 6
    assert node.states() == ["SENT"] * 6
    assert node.job_states() == {JobState.DONE.value}
    assert node.ledger.deliveries.breaker("pacs").open_until is None
    assert len(orthanc.instances()) == 6


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n", "broke the protocol"),
        (b"\x02\0\xff\xff\xff\xff", "broke the protocol"),
        (b"\x02\0\0\0\0\x04none", "broke the protocol"),
        (b"\x05\0\0\0\0\x04\0\0\0\0", "released the association"),
        (b"\x07\0\0\0\0\x04\0\0\0\0", "aborted the association"),
        (b"\x03\0\0\0\0\x04\0\x01\x09\x09", "association rejected"),
        (b"\x03\0\0\0\0\x04\0\x02\x03\x02", "association rejected (Rejected Transient): Local limit exceeded"),
    ],
    ids=["nothing", "http", "4-GB", "nonsense", "release", "abort", "unknown-rejection", "busy"],
)
def test_what_is_no_pacs_is_tried_again_later(make_node: Callable[..., Node], answer: bytes, error: str) -> None:
    with canned(answer) as port:
        node = make_node(port=port)
        node.add(result())
        node.deliver()
    assert node.states() == ["WAITING"]
    assert error in str(node.ledger.deliveries.breaker("pacs").last_error)


def test_an_unknown_ae_title_waits_and_says_so(make_node: Callable[..., Node], tmp_path: Path) -> None:
    with servers.Orthanc(tmp_path / "orthanc", options={"DicomCheckCalledAet": True}) as orthanc:
        node = make_node(ae_title="WRONG", port=orthanc.port)
        (delivery,) = node.add(result())
        node.deliver()
        assert node.states() == ["WAITING"]
        expected = "association rejected (Rejected Permanent): Called AE title not recognised"
        assert node.view()[delivery].error == expected
        assert node.ledger.deliveries.breaker("pacs").last_error == expected


def test_an_unknown_host_waits_and_says_so(make_node: Callable[..., Node]) -> None:
    node = make_node(host="pacs.invalid", port=104)
    node.add(result())
    node.deliver()
    assert node.states() == ["WAITING"]
    assert str(node.ledger.deliveries.breaker("pacs").last_error).startswith("no connection to pacs.invalid:104: ")


def test_stopping_hangs_up_and_blames_nobody(make_node: Callable[..., Node]) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold(_: evt.Event) -> int:
        inside.set()
        leave.wait(20)
        return 0x0000

    with scripted(hold) as (port, _):
        node = make_node(port=port, timeout_seconds=120)
        node.add(result(), result())
        at_work = threading.Thread(target=node.deliver)
        at_work.start()
        assert inside.wait(20)
        node.stopping.set()
        at_work.join(10)
        assert not at_work.is_alive()
        leave.set()
    assert node.states() == ["PENDING", "PENDING"]
    assert node.ledger.deliveries.breaker("pacs").failures == 0
    assert node.ledger.deliveries.due() == {"pacs": 2}


def test_it_gives_up_at_the_maximum_age(make_node: Callable[..., Node]) -> None:
    node = make_node(port=servers.free_port(), max_age_hours=72)
    for _ in range(BATCH + 2):
        node.add(result())
    node.deliver()
    node.clock.skip(72 * 3600 + 1)
    node.deliver()
    states = node.states()
    assert states == ["DEAD"] * (BATCH + 2), "during an outage also what was never tried"
    assert node.view()[1].error == (
        f"gave up after 72 h: no connection to {servers.LOOPBACK}:{node.destination.port}: Connection refused"
    )
    assert node.job_states() == {"DONE"}


def test_after_a_long_stop_of_the_node_each_delivery_has_its_try(make_node: Callable[..., Node]) -> None:
    with scripted(lambda _: 0x0000) as (port, _):
        node = make_node(port=port, max_age_hours=72)
        node.add(result())
        node.clock.skip(100 * 3600)
        node.deliver()
        assert node.states() == ["SENT"]


def test_a_pacs_that_takes_only_implicit_vr_gets_everything(make_node: Callable[..., Node]) -> None:
    arrived: dict[str, Dataset] = {}

    def keep(event: evt.Event) -> int:
        ds = event.dataset
        arrived[ds.SOPInstanceUID] = ds
        return 0x0000

    ae = AE("STORESCP")
    for sop_class in (SecondaryCaptureImageStorage, SegmentationStorage):
        ae.add_supported_context(sop_class, ImplicitVRLittleEndian)
    port = servers.free_port()
    server = ae.start_server((servers.LOOPBACK, port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    try:
        node = make_node(port=port)
        objects = [result(), result(SegmentationStorage, size=300_000), result(syntax=JPEGBaseline8Bit)]
        ids = node.add(*objects)
        assert node.deliver() == 3
        found = probe(node.destination, "CHEXNODE", [(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)])
        assert found.refused == ()
    finally:
        server.shutdown()
    view = node.view()
    assert [view[i].state.value for i in ids] == ["SENT", "SENT", "DEAD"]
    assert [view[i].error for i in ids[:2]] == ["sent as Implicit VR Little Endian, values unchanged"] * 2
    assert "transfer syntax not accepted" in (view[ids[2]].error or "")
    for ds in objects[:2]:
        assert arrived[ds.SOPInstanceUID].PixelData == ds.PixelData
        assert arrived[ds.SOPInstanceUID].PatientName == ds.PatientName


def test_a_failure_that_heals_is_tried_a_few_times(make_node: Callable[..., Node]) -> None:
    answers = {"heals": [0xC001, 0xC001, 0x0000], "stays": [0xC001] * DOUBTFUL_TRIES}
    heals, stays = result(), result()
    left = {heals.SOPInstanceUID: answers["heals"], stays.SOPInstanceUID: answers["stays"]}
    with scripted(lambda event: left[event.request.AffectedSOPInstanceUID].pop(0)) as (port, _):
        node = make_node(port=port)
        one, other = node.add(heals, stays)
        for _ in range(DOUBTFUL_TRIES):
            assert node.view()[other].state in ("PENDING", "WAITING")
            node.deliver()
            node.clock.skip(3600)
        assert node.view()[one].state == "SENT"
        assert node.view()[other].state == "DEAD"
        assert "0xC001" in (node.view()[other].error or "")


def test_one_association_serves_many_batches(make_node: Callable[..., Node]) -> None:
    with scripted(lambda _: 0x0000) as (port, seen):
        node = make_node(port=port)
        for _ in range(BATCH + 5):
            node.add(result(), result(SegmentationStorage))
        assert node.deliver() == 2 * (BATCH + 5)
    assert seen.count("association") == 1
    assert set(node.states()) == {"SENT"}


def test_no_more_associations_than_allowed(make_node: Callable[..., Node]) -> None:
    inside, leave = threading.Semaphore(0), threading.Event()

    def hold(_: evt.Event) -> int:
        inside.release()
        leave.wait(20)
        return 0x0000

    with scripted(hold) as (port, seen):
        node = make_node(port=port, max_associations=2)
        for _ in range(2):
            node.add(*(result() for _ in range(BATCH)))
        couriers = [threading.Thread(target=node.deliver) for _ in range(2)]
        for courier in couriers:
            courier.start()
        assert inside.acquire(timeout=20)
        assert inside.acquire(timeout=20)
        assert node.deliver() == 0  # both slots are taken
        leave.set()
        for courier in couriers:
            courier.join(20)
        assert seen.count("association") == 2
        assert len(seen) == 2 + 2 * BATCH
    assert set(node.states()) == {"SENT"}


def test_an_unknown_destination_is_a_usage_error(make_node: Callable[..., Node]) -> None:
    with pytest.raises(Usage, match="nowhere"):
        make_node(port=104).courier().deliver("nowhere")


def test_the_probe_tells_what_is_refused(orthanc: servers.Orthanc) -> None:
    settings = DestinationSettings(name="pacs", ae_title="ORTHANC", host=servers.LOOPBACK, port=orthanc.port)
    wanted = (SegmentationStorage, ExplicitVRLittleEndian)
    unknown = (PRIVATE_SOP_CLASS, ExplicitVRLittleEndian)
    assert probe(settings, "CHEXNODE", [wanted, unknown]) == Probe(echo=True, refused=(unknown,))
    orthanc.kill()
    with pytest.raises(DestinationDown, match="no connection"):
        probe(settings, "CHEXNODE", [wanted])
