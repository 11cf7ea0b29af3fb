"""The receiver on a real socket with a real ledger: real senders, every test image, the same image again."""

from __future__ import annotations

import hashlib
import logging
import struct
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.filereader import read_dataset
from sqlalchemy import select

from chexnode.dimse.datasets import encode
from chexnode.ledger.schema import jobs, studies
from chexnode.vocabulary.notes import Note
from support.receivers import Node, a_settings, dcmtk, receiving, rows, spooled, stored_data
from support.senders import (
    CR_IMAGE,
    EXPLICIT_VR,
    IMPLICIT_VR,
    VERIFICATION,
    Sender,
    an_image,
    element,
    read_part10,
    store_file,
    us,
)

JPEG = "1.2.840.10008.1.2.4.50"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    settings = a_settings(tmp_path)
    with receiving(settings) as (receiver, ledger, bell):
        yield Node(settings, receiver.port, ledger, bell)


# What real senders do


def test_echo(node: Node) -> None:
    assert dcmtk("echoscu", "-aec", "CHEXNODE", "127.0.0.1", node.port).returncode == 0
    with Sender(node.port) as sender:
        assert sender.echo().status == 0


def test_an_image_is_stored_recorded_and_rung_for(node: Node) -> None:
    part = an_image()
    assert store_file(node.port, part, calling="MODALITY").status == 0
    (row,) = rows(node.ledger)
    assert row.state == "ANALYSABLE"
    assert row.digest == hashlib.sha256(part.data).hexdigest()
    assert row.calling_ae_title == "MODALITY"
    assert row.address == "127.0.0.1"
    assert (row.rows, row.columns, row.view_position) == (128, 128, "PA")
    assert stored_data(node.settings, row.path) == part.data
    assert len(spooled(node.settings)) == 1
    assert node.bell.rings == ["infer"]
    with node.ledger.database.read() as conn:
        assert len(conn.execute(select(jobs)).all()) == 1


def test_a_stored_file_is_a_part_10_file(node: Node) -> None:
    assert store_file(node.port, an_image("1.2.9")).status == 0
    ds = pydicom.dcmread(node.settings.node.data_dir / rows(node.ledger)[0].path)
    assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID == "1.2.9"
    assert ds.file_meta.TransferSyntaxUID == EXPLICIT_VR
    assert ds.preamble == bytes(128)


@pytest.mark.shared
@pytest.mark.parametrize("tool", ["storescu", "dcmsend"])
def test_dcmtk_sends_every_chest_radiograph(node: Node, shared: Path, tool: str) -> None:
    files = sorted((shared / "data" / "dicom" / "chest").glob("*.dcm"))
    if tool == "storescu":
        # one presentation context per file: each file in its own transfer syntax
        for file in files:
            syntax = {"4.50": "-xy", "4.81": "-xu", "4.91": "-xw"}
            tail = read_part10(file).transfer_syntax_uid.removeprefix("1.2.840.10008.1.2.")
            option = [syntax[tail]] if tail in syntax else []
            answer = dcmtk(tool, *option, "-aec", "CHEXNODE", "127.0.0.1", node.port, file)
            assert answer.returncode == 0, answer.stderr
    else:
        answer = dcmtk(tool, "-aec", "CHEXNODE", "127.0.0.1", node.port, *files)
        assert answer.returncode == 0, answer.stderr
    found = rows(node.ledger)
    assert {row.sop_instance_uid for row in found} == {read_part10(file).sop_instance_uid for file in files}
    for row in found:
        assert hashlib.sha256(stored_data(node.settings, row.path)).hexdigest() == row.digest


def test_four_senders_at_once(node: Node) -> None:
    sent: dict[str, bytes] = {}
    failures: list[str] = []

    def send(sender_number: int) -> None:
        parts = [an_image(f"1.2.{sender_number}.{n}", pixels=(64 if n % 5 else 1200) ** 2) for n in range(1, 16)]
        with Sender(node.port, [(CR_IMAGE, (EXPLICIT_VR,))], pdu_length=65536) as sender:
            for part in parts:
                response = sender.store(part)
                if response.status:
                    failures.append(response.comment)
                sent[part.sop_instance_uid] = part.data

    threads = [threading.Thread(target=send, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    found = rows(node.ledger)
    assert len(found) == len(sent) == 60
    for row in found:
        assert stored_data(node.settings, row.path) == sent[row.sop_instance_uid]
    assert len(spooled(node.settings)) == 60


def test_a_slow_sender_is_waited_for(node: Node) -> None:
    part = an_image()
    with Sender(node.port, [(CR_IMAGE, (EXPLICIT_VR,))]) as sender:
        sender.send_command(1, sender.store_elements(part), has_data_set=True)
        step = len(part.data) // 7 + 1
        for start in range(0, len(part.data), step):
            time.sleep(0.05)
            sender.send_data(1, part.data[start : start + step], last=start + step >= len(part.data))
        assert sender.read_response().status == 0
    assert len(rows(node.ledger)) == 1


@pytest.mark.parametrize("pdu_length", [128, 4096, 1 << 20])
def test_fragments_of_any_length(node: Node, pdu_length: int) -> None:
    part = an_image(pixels=64 * 64)
    assert store_file(node.port, part, pdu_length=pdu_length).status == 0
    assert stored_data(node.settings, rows(node.ledger)[0].path) == part.data


def test_answers_fit_the_requestors_maximum_length(node: Node) -> None:
    assert store_file(node.port, an_image(), max_length=64).status == 0


def test_many_images_on_one_association_and_other_requests_between(node: Node) -> None:
    contexts = [(CR_IMAGE, (EXPLICIT_VR,)), (VERIFICATION, (IMPLICIT_VR,))]
    with Sender(node.port, contexts) as sender:
        assert sender.store(an_image("1.2.1")).status == 0
        assert sender.echo(3).status == 0
        find = {0x0002: VERIFICATION.encode(), 0x0100: us(0x0020)}
        assert sender.request(3, find, b"an identifier").status == 0x0211
        assert sender.store(an_image("1.2.2")).status == 0
    assert len(rows(node.ledger)) == 2


# Again, and again differently


def test_the_same_image_again_is_acknowledged_and_leaves_one_file(node: Node) -> None:
    part = an_image()
    for _ in range(3):
        assert store_file(node.port, part).status == 0
    (row,) = rows(node.ledger)
    assert row.duplicates == 2
    assert spooled(node.settings) == [node.settings.node.data_dir / row.path]


def test_other_bytes_under_the_same_uid_are_kept_too(node: Node) -> None:
    first, second = an_image("1.2.3"), an_image("1.2.3")
    for part in (first, second):
        assert store_file(node.port, part).status == 0
    found = rows(node.ledger)
    assert sorted(row.conflict for row in found) == [False, True]
    assert {stored_data(node.settings, row.path) for row in found} == {first.data, second.data}


@pytest.mark.parametrize(("syntax", "tag"), [(EXPLICIT_VR, 0x00020010), (IMPLICIT_VR, 0x00020010), (EXPLICIT_VR, 2)])
def test_a_group_that_no_data_set_may_have_is_left_out(node: Node, syntax: str, tag: int) -> None:
    part = replace(an_image(), transfer_syntax_uid=syntax)
    uid = JPEG.encode()  # which would be taken for the file's own
    misplaced = element(tag, b"UI", uid)
    if syntax == IMPLICIT_VR:
        ds = read_dataset(BytesIO(part.data), is_implicit_VR=False, is_little_endian=True)
        part = replace(part, data=encode(ds, IMPLICIT_VR))
        misplaced = struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(uid)) + uid
    for _ in range(2):
        assert store_file(node.port, replace(part, data=misplaced + part.data)).status == 0
    (row,) = rows(node.ledger)
    assert (row.state, row.duplicates, row.notes[-1]) == ("ANALYSABLE", 1, Note.NOT_CONFORMANT)
    assert row.digest == hashlib.sha256(part.data).hexdigest()
    ds = pydicom.dcmread(node.settings.node.data_dir / row.path)
    assert ds.file_meta.TransferSyntaxUID == syntax
    assert len(ds.PixelData) == 2 * 128 * 128
    assert len(spooled(node.settings)) == 1


def test_what_is_refused_is_told_the_cause(node: Node) -> None:
    part = an_image()
    broken = replace(part, data=struct.pack("<HH2sH", 0x0008, 0x0005, b"ZZ", 9) + part.data)
    answer = store_file(node.port, broken)
    assert (answer.status, answer.comment) == (0xC000, "an unknown value representation")


@pytest.mark.parametrize("first", [IMPLICIT_VR, JPEG])
def test_what_was_announced_in_a_wrong_syntax_is_analysed_when_it_comes_in_its_own(node: Node, first: str) -> None:
    part = an_image()
    wrong = replace(part, transfer_syntax_uid=first)
    if first == IMPLICIT_VR:  # in which this data set has not even a UID, and so is refused
        assert store_file(node.port, wrong).status == 0xC000
        return
    assert store_file(node.port, wrong).status == 0
    (row,) = rows(node.ledger)
    assert (row.state, row.reason) == ("QUARANTINED", "malformed")
    for _ in range(2):
        assert store_file(node.port, part).status == 0
    (row,) = rows(node.ledger)
    assert (row.state, row.reason, row.transfer_syntax_uid) == ("ANALYSABLE", None, EXPLICIT_VR)
    assert read_part10(node.settings.node.data_dir / row.path).transfer_syntax_uid == EXPLICIT_VR
    with node.ledger.database.read() as conn:
        assert len(conn.execute(select(jobs)).all()) == 1
    assert store_file(node.port, wrong).status == 0
    (row,) = rows(node.ledger)
    assert (row.state, row.transfer_syntax_uid, row.duplicates) == ("ANALYSABLE", EXPLICIT_VR, 3)


def test_a_lost_source_is_healed_by_sending_it_again(node: Node) -> None:
    part = an_image()
    assert store_file(node.port, part).status == 0
    path = node.settings.node.data_dir / rows(node.ledger)[0].path
    path.unlink()
    assert store_file(node.port, part).status == 0
    assert spooled(node.settings) == [path]
    assert read_part10(path).data == part.data


def test_the_same_image_from_two_senders_at_once(node: Node) -> None:
    part = an_image()
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(store_file(node.port, part).status)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 6
    (row,) = rows(node.ledger)
    assert spooled(node.settings) == [node.settings.node.data_dir / row.path]


# All test images, malformed ones too

REFUSED_HERE = {
    "generated/001_empty.dcm": 0xC000,
    "generated/004_random.dcm": 0xC000,
    "generated/005_html.dcm": 0xC000,
    "generated/050_sopinstance_zeroed.dcm": 0xC000,
    "generated/051_uid_path_traversal.dcm": 0xC000,
    "generated/052_study_uid_traversal.dcm": 0xC000,
    "generated/120_nested_1500.dcm": 0xC000,
    "generated/142_sopclass_meta_mismatch.dcm": 0xA900,
}
QUARANTINED_HERE = {
    "01_truncated_0050": "malformed",
    "01_truncated_0300": "malformed",
    "01_truncated_0999": "malformed",
    "053_uid_too_long": "invalid-uid",
    "080_bits_stored_gt_allocated": "image-attributes",
    "085_frames_million": None,
    "111_vr_zz": "malformed",
    "112_pn_odd_length": "malformed",
    "113_pixeldata_len_4g": "malformed",
    "114_pixeldata_undefined_native": "malformed",
    "121_sq_no_delimiter": "malformed",
}


@pytest.mark.shared
def test_every_test_image_ends_in_a_coded_state_or_a_refusal(
    node: Node, shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    folder = shared / "data" / "dicom"
    acknowledged: dict[str, bytes] = {}
    statuses: dict[str, int] = {}
    names: set[str] = set()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for path in sorted(folder.rglob("*.dcm")):
            part = read_part10(path)
            if not part.sop_class_uid:
                part = replace(part, sop_class_uid=CR_IMAGE)
            name = str(path.relative_to(folder)).removeprefix("malformed/")
            statuses[name] = store_file(node.port, part).status
            if not statuses[name]:
                acknowledged[hashlib.sha256(part.data).hexdigest()] = part.data
    assert set(statuses.values()) == {0, 0xA900, 0xC000}
    assert statuses | REFUSED_HERE == statuses
    found = {row.digest: row for row in rows(node.ledger)}
    assert set(found) == set(acknowledged)
    for digest, row in found.items():
        assert stored_data(node.settings, row.path) == acknowledged[digest]
        assert row.state in ("ANALYSABLE", "NOT_ANALYSED", "QUARANTINED")
        assert (row.reason is None) == (row.state == "ANALYSABLE")
    for name, reason in QUARANTINED_HERE.items():
        data = read_part10(folder / "malformed" / "generated" / f"{name}.dcm").data
        row = found[hashlib.sha256(data).hexdigest()]
        assert reason is None or (row.state, row.reason) == ("QUARANTINED", reason), name
        assert row.state != "ANALYSABLE"
    assert len(spooled(node.settings)) == len(found)
    # Patients' names and numbers are in no log line and in no warning.
    with node.ledger.database.read() as conn:
        for row in conn.execute(select(studies.c.patient_name, studies.c.patient_id)):
            names |= {value for value in row if value and len(value) > 4}
    assert names
    told = [str(vars(record)) for record in caplog.records] + [str(warning.message) for warning in warned]
    assert not [line for line in told for name in names if name in line]
