"""Storage commitment with real peers: Orthanc both ways, and a sender that waits on its own association."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from support.nodes import Node, loopback_destination
from support.phantoms import phantom_files
from support.receivers import a_settings, receiving
from support.senders import an_image, read_part10, store_file
from support.servers import LOOPBACK, Orthanc, free_port, wait_for

PUSH = (StorageCommitmentPushModel, StorageCommitmentPushModelInstance)


def information(transaction_uid: str, *pairs: tuple[str, str]) -> Dataset:
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    ds.ReferencedSOPSequence = []
    for sop_class, uid in pairs:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        ds.ReferencedSOPSequence.append(item)
    return ds


@dataclass
class Forgetful:
    """A destination that accepts, and says of what it got what a test has it say, on an association of its own."""

    port: int = field(default_factory=free_port)
    stored: list[str] = field(default_factory=list)
    requests: list[Dataset] = field(default_factory=list)

    def __enter__(self) -> Forgetful:
        ae = AE("FORGETFUL")
        ae.add_supported_context("1.2.840.10008.5.1.4.1.1.7")
        ae.add_supported_context(StorageCommitmentPushModel)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._ask)]
        self._server = ae.start_server((LOOPBACK, self.port), block=False, evt_handlers=handlers)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def _store(self, event: evt.Event) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    def _ask(self, event: evt.Event) -> tuple[int, None]:
        self.requests.append(event.action_information)
        return 0x0000, None

    def report(self, node: Node, request: Dataset, committed: bool) -> None:
        ds = information(request.TransactionUID)
        items = list(request.ReferencedSOPSequence)
        if committed:
            ds.ReferencedSOPSequence = items
        else:
            del ds.ReferencedSOPSequence
            for item in items:
                item.FailureReason = 0x0112
            ds.FailedSOPSequence = items
        client = AE("FORGETFUL")
        client.add_requested_context(StorageCommitmentPushModel)
        roles = [build_role(StorageCommitmentPushModel, scp_role=True)]
        assoc = client.associate(LOOPBACK, node.port, ae_title="CHEXNODE", ext_neg=roles)
        status, _ = assoc.send_n_event_report(ds, 1 if committed else 2, *PUSH)
        assert status.Status == 0x0000
        assoc.release()


@dataclass
class Site:
    """A node that delivers to each sender what is of its images."""

    node: Node
    pacs: Orthanc
    forgetful: Forgetful

    def deliveries(self, destination: str) -> set[str]:
        """The states of all to one destination."""
        return {one["state"] for one in self.node.json("deliveries", "--destination", destination)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("commitment")
    node = Node(folder / "node", study={"quiet_seconds": 3600})
    with Orthanc(folder / "pacs", modalities={"node": ("CHEXNODE", node.port)}) as pacs, Forgetful() as forgetful:
        node.tables["peer"] = [
            {"ae_title": "ORTHANC", "host": LOOPBACK, "port": pacs.port},
            {"ae_title": "FORGETFUL", "host": LOOPBACK},
        ]
        node.tables["destination"] = [
            loopback_destination(
                "pacs", "ORTHANC", pacs.port, storage_commitment=True, results=["sc", "sr"], peers=["ORTHANC"]
            ),
            loopback_destination(
                "forgetful", "FORGETFUL", forgetful.port, storage_commitment=True, results=["sc"], peers=["FORGETFUL"]
            ),
        ]
        node.write_settings()
        with node.up:
            yield Site(node, pacs, forgetful)


def test_a_sender_is_answered_on_its_own_association(tmp_path: Path) -> None:
    part = an_image()
    settings = a_settings(tmp_path)
    reports: list[tuple[int, Dataset]] = []

    def report(event: evt.Event) -> tuple[int, None]:
        reports.append((event.request.EventTypeID, event.event_information))
        return 0x0000, None

    with receiving(settings) as (receiver, _, _):
        assert store_file(receiver.port, part).status == 0
        ae = AE("MODALITY")
        ae.add_requested_context(StorageCommitmentPushModel, ImplicitVRLittleEndian)
        assoc = ae.associate(
            LOOPBACK, receiver.port, ae_title="CHEXNODE", evt_handlers=[(evt.EVT_N_EVENT_REPORT, report)]
        )
        wanted = information("1.2.3", (part.sop_class_uid, part.sop_instance_uid), (part.sop_class_uid, "9.9"))
        status, _ = assoc.send_n_action(wanted, 1, *PUSH)
        assert status.Status == 0x0000
        wait_for(lambda: reports, "the report")
        ((event_type, found),) = reports
        assert event_type == 2, "not all of it"
        assert found.TransactionUID == "1.2.3"
        assert [item.ReferencedSOPInstanceUID for item in found.ReferencedSOPSequence] == [part.sop_instance_uid]
        assert [(i.ReferencedSOPInstanceUID, i.FailureReason) for i in found.FailedSOPSequence] == [("9.9", 0x0112)]

        status, _ = assoc.send_n_action(wanted, 2, *PUSH)
        assert status.Status == 0x0123, "no other action"
        empty = Dataset()
        empty.ReferencedSOPSequence = []
        status, _ = assoc.send_n_action(empty, 1, *PUSH)
        assert status.Status == 0x0120, "no Transaction UID"
        empty.TransactionUID = "1.2.4"
        status, _ = assoc.send_n_action(empty, 1, *PUSH)
        assert status.Status == 0x0115, "nothing is not all committed"
        assoc.release()


def test_a_report_of_nothing_we_asked_for_is_refused(tmp_path: Path) -> None:
    with receiving(a_settings(tmp_path)) as (receiver, _, _):
        ae = AE("PACS")
        ae.add_requested_context(StorageCommitmentPushModel, ImplicitVRLittleEndian)
        roles = [build_role(StorageCommitmentPushModel, scp_role=True)]
        assoc = ae.associate(LOOPBACK, receiver.port, ae_title="CHEXNODE", ext_neg=roles)
        status, _ = assoc.send_n_event_report(information("1.2.3", ("1.2", "3.4")), 1, *PUSH)
        assert status.Status == 0x0110
        assoc.release()


def test_orthanc_asks_and_is_told(site: Site, tmp_path: Path) -> None:
    pacs = site.pacs
    held, lost = (pacs.post(file) for file in phantom_files(tmp_path / "files", 2))
    pacs.store("node", held)

    def ask(instance: str) -> str:
        answer = pacs.http.post("/modalities/node/storage-commitment", json={"Resources": [instance]})
        answer.raise_for_status()
        return str(answer.json()["Path"])

    def verdict(path: str) -> str:
        status = str(pacs.get(path)["Status"])
        return "" if status == "Pending" else status

    assert wait_for(partial(verdict, ask(held)), "the report") == "Success"
    assert wait_for(partial(verdict, ask(lost)), "the report") == "Failure", "never sent to us"


def test_results_are_delivered_when_orthanc_has_committed_to_them(site: Site, tmp_path: Path) -> None:
    (file,) = phantom_files(tmp_path / "files", 1, first_seed=100)
    received = site.node.account()["received"]
    site.pacs.store("node", site.pacs.post(file))
    jobs = site.node.wait_until_settled(received + 1)
    assert {job["state"] for [job] in jobs.values()} == {"DONE"}
    assert site.deliveries("pacs") == {"COMMITTED"}


def test_what_a_destination_lost_is_sent_again_and_committed(site: Site, tmp_path: Path) -> None:
    """A destination that accepts, forgets the first of what it got, and says so on an association of its own."""
    (file,) = phantom_files(tmp_path / "files", 1, first_seed=200)
    node, stored, requests = site.node, site.forgetful.stored, site.forgetful.requests
    received = node.account()["received"]
    part = read_part10(file)
    assert store_file(node.port, part, calling="FORGETFUL").status == 0
    wait_for(lambda: requests, "the request")
    assert len(stored) == 1
    assert site.deliveries("forgetful") == {"SENT"}
    assert [job["state"] for job in node.jobs() if job["sop_instance_uid"] == part.sop_instance_uid] == ["DELIVERING"]
    site.forgetful.report(node, requests[0], committed=False)
    wait_for(lambda: len(stored) == 2 and len(requests) == 2, "the second sending")
    assert stored[0] == stored[1]
    site.forgetful.report(node, requests[1], committed=True)
    node.wait_until_settled(received + 1)
    assert site.deliveries("forgetful") == {"COMMITTED"}
