"""Nothing of an erased patient is left to be read, and destinations were asked to withdraw the results before."""

from __future__ import annotations

import os
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage, SecondaryCaptureImageStorage

from chexmodels.dicom.key_objects import read_key_objects
from chexnode.audit.elements import (
    AuditSource,
    MovedInstances,
    Participant,
    add_participant,
    begin,
    finish,
    study_and_patient,
)
from chexnode.audit.spool import AuditSpool
from chexnode.ledger.ledger import Ledger
from chexnode.node import Node
from chexnode.operate.erase import count, erase
from chexnode.settings.destination import DestinationSettings
from chexnode.settings.tree import Settings
from chexnode.vocabulary.errors import StaleMove, Usage
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.records import Analysis, DeliveryOutcome, NewResult
from chexnode.vocabulary.scopes import TokenScope
from chexnode.vocabulary.states import DeliveryState
from chexnode.vocabulary.variants import ResultKind, Variant
from support.dicomweb import part10_of
from support.ledgers import Clock, arrival, claim, complete, node_on, opened, record
from support.radiographs import radiograph
from support.webs import serving

STUDY, SERIES, IMAGE = "1.2.826.0.1.77.1", "1.2.826.0.1.77.2", "1.2.826.0.1.77.3"
RESULT, RESULT_SERIES = "2.25.771001", "2.25.771002"
WORDS = ("PID-ERASED-77", "Erased^Erika", "ACC-ERASED-77", STUDY, SERIES, IMAGE, RESULT, RESULT_SERIES)
BY = ("administrator", "127.0.0.1")
PATIENT = Filter(patient="PID-ERASED-77")


@pytest.fixture
def ledger(database_url: str, clock: Clock) -> Iterator[Ledger]:
    with opened(database_url, clock) as ledger:
        yield ledger


@pytest.fixture
def clock() -> Clock:
    return Clock()


def a_node(folder: Path, ledger: Ledger, **destination: Any) -> Node:
    out = folder / "out"
    out.mkdir()
    pacs = DestinationSettings(name="pacs", kind="folder", path=out, **destination)
    return node_on(ledger, Settings(node={"data_dir": folder / "var"}, destination=(pacs,)))


def an_image(**elements: str) -> Dataset:
    ds = radiograph(SOPInstanceUID=IMAGE, StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES, **elements)
    ds.PatientID, ds.PatientName, ds.AccessionNumber = WORDS[:3]
    return ds


def receive(node: Node, uid: str = IMAGE, study: str = STUDY, patient: str = "PID-ERASED-77") -> None:
    """One image as the receiver records it, with its file."""
    name = "Erased^Erika" if patient == "PID-ERASED-77" else "Other^One"
    facts = {"patient_id": patient, "patient_name": name, "accession_number": f"ACC-{patient[4:]}"}
    image = arrival(uid, study_instance_uid=study, series_instance_uid=SERIES + study[-2:], study=facts)
    path = node.spool.path(image.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(part10_of(an_image()) if study == STUDY else b"another")
    record(node.ledger, image)


def analyse(node: Node) -> None:
    """One result, in the spool, that the folder has taken."""
    ds = an_image()
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.SOPClassUID = RESULT, RESULT_SERIES, SecondaryCaptureImageStorage
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, RESULT
    stored = node.spool.write_result(part10_of(ds))
    answer = node.spool.write_result(b"answer", ".npz").path
    row = NewResult(
        RESULT,
        Variant.parse(ResultKind.SC, "rgb"),
        ds.SOPClassUID,
        stored.digest,
        stored.path,
        stored.size,
        RESULT_SERIES,
        {"modality": "DX"},
        {"transfer_syntax_uid": str(ds.file_meta.TransferSyntaxUID)},
        STUDY,
    )
    job = claim(node.ledger)
    node.ledger.jobs.complete(job, Analysis(0.9, True, 1, (), None, answer), [row], [(RESULT, "pacs")])


def deliver(node: Node) -> None:
    from chexnode.deliver.courier import Courier

    Courier(node).deliver("pacs")


def everything(folder: Path) -> bytes:
    """All bytes below ``folder``."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def dump(ledger: Ledger) -> str:
    """All rows of the ledger."""
    from chexnode.ledger.schema import metadata

    with ledger.database.read() as conn:
        return repr([conn.execute(table.select()).all() for table in metadata.sorted_tables])


def test_nothing_is_left_of_an_erased_patient(tmp_path: Path, ledger: Ledger) -> None:
    node = a_node(tmp_path, ledger)
    receive(node)
    analyse(node)
    deliver(node)
    receive(node, "1.2.826.0.1.77.9", "1.2.826.0.1.88.1", "PID-KEPT-1")
    audit = AuditSpool(node.settings.node.data_dir)
    audit.put(b'<X ParticipantObjectID="PID-ERASED-77"/>')
    query = b64encode(b"PatientName=Erased%5EErika&limit=10")
    audit.put(b"<ParticipantObjectQuery>" + query + b"</ParticipantObjectQuery>")
    audit.put(b'<X ParticipantObjectID="PID-KEPT-1" y="' + STUDY.encode() + b'5"/>')
    before = everything(tmp_path).decode("latin-1") + dump(ledger)
    assert [word for word in WORDS if word not in before] == []

    erasure = erase(node, PATIENT, 10, BY)
    assert (erasure.erased.studies, erasure.erased.images, erasure.erased.unfinished) == (1, 1, 0)
    assert erasure.erased.results == 2, "the picture, and the note that withdraws it"
    assert (erasure.withdrawn, erasure.not_withdrawn, erasure.scrubbed) == ({"pacs": 1}, {}, True)
    assert erasure.audit_messages == 2
    notes = [pydicom.dcmread(path) for path in (tmp_path / "out").iterdir() if path.stem != RESULT]
    [note] = [ds for ds in notes if ds.SOPClassUID == KeyObjectSelectionDocumentStorage]
    assert read_key_objects(note).title == ("113039", "DCM")
    assert [one.sop_instance_uid for one in read_key_objects(note).objects] == [RESULT]

    # `var` holds spool and audit spool; the database's file and its log lie beside it.
    left = dump(ledger) + everything(tmp_path / "var").decode("latin-1")
    left += b"".join(path.read_bytes() for path in tmp_path.glob("*.db*")).decode("latin-1")
    kept = left.replace(f"{STUDY}5", "")
    assert [word for word in (*WORDS[:4], IMAGE, RESULT, RESULT_SERIES, str(note.SOPInstanceUID)) if word in kept] == []
    assert "PID-KEPT-1" in left
    assert ledger.accounts.account().difference == 0
    assert ledger.accounts.account().received == 1
    assert "1 studies, 1 images, 2 results" in left, "what remains is a count"
    assert erase(node, PATIENT, 0, BY).erased.images == 0


def test_an_image_that_is_being_analysed_never_comes_back(tmp_path: Path, ledger: Ledger) -> None:
    node = a_node(tmp_path, ledger)
    receive(node)
    job = claim(ledger)
    assert ledger.erasures.extent(PATIENT).unfinished == 1
    assert erase(node, PATIENT, 0, BY).erased.images == 1
    with pytest.raises(StaleMove):
        complete(ledger, job, "pacs")
    assert ledger.accounts.account().received == 0
    assert IMAGE not in dump(ledger)


def test_what_cannot_be_withdrawn_is_reported(tmp_path: Path, ledger: Ledger) -> None:
    node = a_node(tmp_path, ledger, withdraw="none")
    receive(node)
    analyse(node)
    deliver(node)
    erasure = erase(node, Filter(study=STUDY), 0, BY)
    assert erasure.withdrawn == {}
    assert list(erasure.not_withdrawn) == ["pacs"]
    assert "nothing is withdrawn" in erasure.not_withdrawn["pacs"]
    assert ledger.views.deliveries() == []


class RefusingCourier:
    """A courier whose destinations refuse every note, and name the patient."""

    def __init__(self, node: Node) -> None:
        self._deliveries = node.ledger.deliveries

    def deliver(self, name: str) -> None:
        refused = (DeliveryState.DEAD, "0x0110 processing failure")
        claims = self._deliveries.claim(name, 10)
        self._deliveries.settle([DeliveryOutcome(c, *refused, comment="Erased^Erika is locked") for c in claims])


def test_what_a_destination_says_to_a_note_is_answered_and_not_logged(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node = a_node(tmp_path, ledger)
    receive(node)
    analyse(node)
    deliver(node)
    monkeypatch.setattr("chexnode.operate.erase.Courier", RefusingCourier)
    erasure = erase(node, PATIENT, 0, BY)
    assert erasure.not_withdrawn == {"pacs": "0x0110 processing failure (Erased^Erika is locked)"}
    [logged] = [line for line in caplog.messages if "may still have results" in line]
    assert logged.endswith("0x0110 processing failure")


def test_a_file_that_came_meanwhile_is_not_left_behind(tmp_path: Path, ledger: Ledger) -> None:
    node = a_node(tmp_path, ledger)
    receive(node)
    assert ledger.erasures.delete(PATIENT, set()) is None, "its file is still there: it would be recorded again"
    assert ledger.accounts.account().received == 1


def test_an_id_of_two_issuers_erases_neither_patient_by_chance(tmp_path: Path, ledger: Ledger) -> None:
    node = a_node(tmp_path, ledger)
    for number, issuer in enumerate(("A", "B", None)):
        facts = {"patient_id": "PID-ERASED-77", "issuer_of_patient_id": issuer}
        record(ledger, arrival(f"1.2.826.0.1.7{number}", study=facts))
    for act in (lambda: erase(node, PATIENT, 0, BY), lambda: count(node, PATIENT)):
        with pytest.raises(Usage, match="'A', 'B'"):
            act()
    with pytest.raises(Usage, match="give the ID"):
        erase(node, Filter(study=STUDY, issuer="A"), 0, BY)
    of_a = Filter(patient="PID-ERASED-77", issuer="A")
    assert erase(node, of_a, 0, BY).erased.images == 1
    assert erase(node, of_a, 0, BY).erased.images == 0
    assert erase(node, Filter(patient="PID-ERASED-77", issuer=""), 0, BY).erased.images == 1
    assert erase(node, PATIENT, 0, BY).erased.images == 1, "one issuer is left"


def test_what_a_killed_process_has_left_in_the_spool_goes_too(tmp_path: Path, ledger: Ledger) -> None:
    node = a_node(tmp_path, ledger)
    receive(node)
    whole, other = (
        part10_of(an_image()),
        part10_of(radiograph(StudyInstanceUID="1.2.826.0.1.99", PatientID="PID-KEPT-1")),
    )
    results = [node.spool.write_result(data).path for data in (whole, whole[:3000], other)]
    fresh = node.spool.write_result(whole).path
    for path in results:
        os.utime(node.spool.path(path), (time.time() - 60,) * 2)
    assert erase(node, PATIENT, 0, BY).files == 3, "the image and two that no row names"
    assert [node.spool.exists(path) for path in (*results, fresh)] == [False, False, True, True]


def test_results_that_were_never_sent_are_simply_gone(tmp_path: Path, ledger: Ledger) -> None:
    node = a_node(tmp_path, ledger)
    receive(node)
    analyse(node)
    assert [one.state for one in ledger.views.deliveries()] == [DeliveryState.PENDING]
    erasure = erase(node, PATIENT, 0, BY)
    assert (erasure.withdrawn, erasure.not_withdrawn) == ({}, {})
    assert list((tmp_path / "out").iterdir()) == []


def test_an_erasure_asked_for_over_http(tmp_path: Path, ledger: Ledger) -> None:
    node = a_node(tmp_path, ledger)
    _, admin = ledger.tokens.add("remover", [TokenScope.ADMIN])
    _, reader = ledger.tokens.add("reader", [TokenScope.READ, TokenScope.STORE])
    with serving(node.settings, ledger) as client:
        receive(node)
        analyse(node)
        deliver(node)

        def ask(body: dict[str, Any], token: str = admin, **headers: str) -> httpx.Response:
            return client.post("/api/erasure", json=body, headers={"Authorization": f"Bearer {token}", **headers})

        whose = {"patient": "PID-ERASED-77"}
        assert ask(whose, reader).status_code == 403
        assert ask(whose, Origin="https://evil.example").status_code == 403
        assert [ask(body).status_code for body in ({}, {**whose, "study": STUDY}, {"patient": ""})] == [400] * 3
        assert ask({"patients": "PID-ERASED-77"}).status_code == 422
        counted = ask({**whose, "dry_run": True}).json()
        assert (counted["erased"]["images"], counted["is_dry_run"]) == (1, True)
        assert IMAGE in dump(ledger)
        erasure = ask(whose).json()
        assert (erasure["erased"]["images"], erasure["withdrawn"], erasure["scrubbed"]) == (1, {"pacs": 1}, True)
        again = ask(whose).json()
        assert (again["erased"]["images"], again["files"], again["is_dry_run"]) == (0, 0, False)
    assert IMAGE not in dump(ledger)


@pytest.mark.parametrize("short", ["1", "0", "2", "110"])
def test_a_short_identity_erases_no_other_patients_messages(tmp_path: Path, short: str) -> None:
    at, us = datetime(2030, 1, 1, tzinfo=UTC), Participant("us", "US")
    study, patient = study_and_patient(MovedInstances("1.2.3", "PID-KEPT-1", "Kept^K", "A-9", {"1.2.840.1": 1}))
    root = begin(("110104", "DCM", "DICOM Instances Transferred"), "C", at)
    add_participant(root, us)
    spool = AuditSpool(tmp_path)
    spool.put(finish(root, AuditSource("node"), at, study, patient).xml.encode())
    assert spool.erase({short}) == 0
    assert spool.erase({short, "Kept^K"}) == 1
