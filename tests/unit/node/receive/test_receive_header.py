"""Walking and reading headers: every value where pydicom finds it, every limit kept, no byte sequence does harm."""

from __future__ import annotations

import struct
import tracemalloc
import warnings
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings, strategies
from pydicom import Dataset, Sequence
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from chexmodels.dicom.elements import scan
from chexmodels.dicom.transfer_syntaxes import encoding_of
from chexnode.receive.header import MAX_TEXT, NotUnderstood, is_safe_uid, read_header
from chexnode.settings.limits import LimitSettings
from support.senders import EXPLICIT_VR, IMPLICIT_VR, take_apart

BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG = "1.2.840.10008.1.2.4.50"
LIMITS = LimitSettings()


def encoded(ds: Dataset, transfer_syntax_uid: str = EXPLICIT_VR) -> bytes:
    out = DicomBytesIO()
    out.is_implicit_VR = transfer_syntax_uid == IMPLICIT_VR
    out.is_little_endian = transfer_syntax_uid != BIG_ENDIAN
    write_dataset(out, ds)
    return out.getvalue()


def image() -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.3", "1.2.4"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.5", "1.2.6"
    ds.Manufacturer, ds.Modality, ds.AccessionNumber = "Maker", "DX", "A1"
    ds.PatientName, ds.PatientID = "Möller^Jörg", "P1"
    ds.SeriesNumber, ds.InstanceNumber, ds.ViewPosition = 3, 7, "PA"
    ds.Rows, ds.Columns, ds.PhotometricInterpretation = 20, 30, "MONOCHROME2"
    item = Dataset()
    item.CodeValue = "R-10206"
    ds.ViewCodeSequence = Sequence([item])
    ds.add_new(0x7FE00010, "OW", bytes(1200))
    return ds


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


@pytest.mark.parametrize("syntax", [EXPLICIT_VR, IMPLICIT_VR, BIG_ENDIAN])
def test_everything_indexed_is_read(syntax: str) -> None:
    header = read_header(encoded(image(), syntax), syntax, LIMITS)
    assert header.scan.broken == ""
    assert (header.sop_class_uid, header.sop_instance_uid) == ("1.2.3", "1.2.4")
    assert (header.study_instance_uid, header.series_instance_uid) == ("1.2.5", "1.2.6")
    assert header.manufacturer == "Maker"
    assert header.study["patient_name"] == "Möller^Jörg"
    assert header.study["patient_id"] == "P1"
    assert header.study["accession_number"] == "A1"
    assert header.study["study_date"] is None
    assert header.series == {
        "modality": "DX",
        "series_number": 3,
        "series_description": None,
        "body_part_examined": None,
        "performed_procedure_step_start_date": None,
        "performed_procedure_step_start_time": None,
    }
    assert header.instance == {
        "instance_number": 7,
        "rows": 20,
        "columns": 30,
        "view_position": "PA",
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": None,
        "number_of_frames": None,
        "station_name": None,
    }


@pytest.mark.parametrize("syntax", [EXPLICIT_VR, IMPLICIT_VR, BIG_ENDIAN])
def test_the_data_set_handed_on_is_the_one_sent_without_pixels(syntax: str) -> None:
    sent = image()
    header = read_header(encoded(sent, syntax), syntax, LIMITS)
    del sent.PixelData
    assert header.ds == sent
    assert header.ds.ViewCodeSequence[0].CodeValue == "R-10206"


@pytest.mark.shared
def test_real_files_read_as_pydicom_reads_them(shared: Path) -> None:
    count = 0
    for path in sorted((shared / "data" / "dicom").glob("*/*.dcm")):
        part = take_apart(path.read_bytes())
        if part.transfer_syntax_uid.endswith(".1.99"):
            continue
        header = read_header(part.data, part.transfer_syntax_uid, LIMITS)
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        assert header.scan.broken == "", path
        assert header.sop_instance_uid == ds.get("SOPInstanceUID", "")
        assert header.series["modality"] == ds.get("Modality")
        assert header.instance["rows"] == ds.get("Rows")
        name = str(ds.get("PatientName", "")).strip() or None
        assert (header.study["patient_name"] or "").rstrip("=") == (name or ""), path
        assert (header.scan.pixels is not None) == ("PixelData" in pydicom.dcmread(path)), path
        count += 1
    assert count > 40


def test_text_is_cleaned_and_cut() -> None:
    ds = image()
    ds.PatientID = "A\r\nB\x1bC" + "x" * 3000
    header = read_header(encoded(ds), EXPLICIT_VR, LIMITS)
    assert header.study["patient_id"] == ("A B C" + "x" * 3000)[:MAX_TEXT]  # as the results say it


def test_an_unknown_character_set_gives_text_and_no_warning() -> None:
    data = element(0x00080005, b"CS", b"ISO_IR 999") + element(0x00100010, b"PN", b"M\xf6ller^J")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        header = read_header(data, EXPLICIT_VR, LIMITS)
    assert header.study["patient_name"] == "Möller^J"


@pytest.mark.parametrize("value", [b"x ", b"99999999999 ", b"", b"1\\2 ", b"-3"])
def test_a_number_is_one_that_fits_or_none(value: bytes) -> None:
    number = read_header(element(0x00200013, b"IS", value), EXPLICIT_VR, LIMITS).instance["instance_number"]
    assert number == {b"1\\2 ": 1, b"-3": -3}.get(value)


def test_a_huge_value_is_not_copied() -> None:
    ds = image()
    ds.add_new(0x00091001, "UN", bytes(2_000_000))
    header = read_header(encoded(ds), EXPLICIT_VR, LIMITS)
    assert 0x00091001 not in header.ds
    assert header.scan.elements[0x00091001].length == 2_000_000


def nested(depth: int, *, undefined: bool) -> bytes:
    """Sequences of one item each, in Explicit VR Little Endian."""
    body = b""
    for _ in range(depth):
        if undefined:
            body = (
                struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
                + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
                + body
                + struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
            )
        else:
            item = struct.pack("<HHL", 0xFFFE, 0xE000, len(body)) + body
            body = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, len(item)) + item
    return body


@pytest.mark.parametrize("undefined", [True, False])
def test_nesting_is_limited_without_recursion(undefined: bool) -> None:
    encoding = encoding_of(EXPLICIT_VR)
    assert scan(nested(64, undefined=undefined), encoding, 20_000, 64).broken == ""
    for depth in (65, 5_000):
        assert scan(nested(depth, undefined=undefined), encoding, 20_000, 64).too_deep
    with pytest.raises(NotUnderstood, match="deep"):
        read_header(nested(100, undefined=undefined), EXPLICIT_VR, LIMITS)


def test_nested_elements_count_as_pydicom_sees_them() -> None:
    ds = pydicom.dcmread(BytesIO(nested(20, undefined=True)), force=True)
    depth = 0
    while ds:
        ds = ds[0x0040A730].value[0]
        depth += 1
    assert depth == 20
    assert len(scan(nested(20, undefined=True), encoding_of(EXPLICIT_VR), 20, 64).elements) == 1
    assert scan(nested(20, undefined=True), encoding_of(EXPLICIT_VR), 19, 64).over_limit


def test_the_number_of_elements_is_limited() -> None:
    data = b"".join(element(0x00091000 + n, b"SH", b"ab") for n in range(200))
    found = scan(data, encoding_of(EXPLICIT_VR), 100, 64)
    assert found.over_limit
    assert len(found.elements) == 100


PIXELS = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 4) + b"abcd"
END = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


@pytest.mark.parametrize(
    ("data", "syntax", "broken"),
    [
        (PIXELS + ITEM + ITEM + END, JPEG, ""),
        (PIXELS + ITEM + END + element(0xFFFCFFFC, b"SH", b"pad "), JPEG, ""),
        (PIXELS + ITEM + ITEM, JPEG, ""),
        (PIXELS + ITEM + ITEM[:10], JPEG, "a fragment goes past the end"),
        (PIXELS + element(0x00080005, b"CS", b"abcd"), JPEG, "something other than fragments"),
        (PIXELS + ITEM + END, EXPLICIT_VR, "encapsulated pixel data in a native"),
        (struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, 4) + b"abcd", JPEG, "native pixel data in an encapsulated"),
        (struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, 0xFFFFFFFE) + b"abcd", EXPLICIT_VR, "past the end"),
        (element(0x00080060, b"ZZ", b"CR")[:-1], EXPLICIT_VR, "unknown value representation"),
        (element(0x00080060, b"CS", b"CR")[:9], EXPLICIT_VR, "a value goes past the end"),
        (element(0x00080060, b"CS", b"CR") + b"\x08\x00", EXPLICIT_VR, "an element is cut short"),
        (element(0x00080060, b"CS", b"CR") + bytes(100), EXPLICIT_VR, ""),
        (element(0x00080060, b"CS", b"CR") + bytes(100) + b"x", EXPLICIT_VR, "zeros where an element should start"),
        (element(0x00020010, b"UI", b"1.2.840.10008.1.2\0"), EXPLICIT_VR, ""),
        (END, EXPLICIT_VR, "an item outside a sequence"),
        (b"", EXPLICIT_VR, ""),
    ],
)
def test_where_a_data_set_ends(data: bytes, syntax: str, broken: str) -> None:
    found = scan(data, encoding_of(syntax), 20_000, 64)
    assert broken in found.broken
    assert bool(broken) == bool(found.broken)


def test_items_are_limited_however_empty() -> None:
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 101
    sequence = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, len(items)) + items
    found = scan(sequence, encoding_of(EXPLICIT_VR), 100, 64)
    assert found.over_limit
    assert found.broken == "too many items"
    assert scan(sequence, encoding_of(EXPLICIT_VR), 101, 64).broken == ""


def test_fragments_of_many_icons_are_limited_together() -> None:
    empty = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    icon = PIXELS + empty * 100_000 + END
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(icon)) + icon
    icons = struct.pack("<HH2sHL", 0x0088, 0x0200, b"SQ", 0, 3 * len(item)) + item * 3
    assert scan(icons, encoding_of(JPEG), 20_000, 64).broken == "too many fragments"


def test_fragments_are_limited() -> None:
    empty = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    assert scan(PIXELS + empty * 1_000_000 + END, encoding_of(JPEG), 20_000, 64).broken == "too many fragments"


@given(strategies.binary(max_size=400), strategies.sampled_from([EXPLICIT_VR, IMPLICIT_VR, BIG_ENDIAN, JPEG]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_walked_without_harm(data: bytes, syntax: str) -> None:
    header = read_header(data, syntax, LIMITS)
    assert all(e.start + e.length <= len(data) for e in header.scan.elements.values())


@given(strategies.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_data_set_is_walked_without_harm(data: strategies.DataObject) -> None:
    content = bytearray(encoded(image()) + nested(3, undefined=True))
    for _ in range(data.draw(strategies.integers(1, 5))):
        content[data.draw(strategies.integers(0, 250))] = data.draw(strategies.integers(0, 255))
    end = data.draw(strategies.integers(0, len(content)))
    try:
        header = read_header(bytes(content[:end]), EXPLICIT_VR, LIMITS)
    except NotUnderstood:
        return
    assert all(e.start + e.length <= end for e in header.scan.elements.values())


@pytest.mark.parametrize(
    ("uid", "safe"),
    [("1.2.3", True), ("1." * 64, True), ("", False), ("../1", False), ("1." * 64 + "1", False), ("1.2\n", False)],
)
def test_what_may_go_into_files_and_rows(uid: str, safe: bool) -> None:
    assert is_safe_uid(uid) == safe


def test_a_header_of_large_values_is_not_copied_and_what_is_looked_at_is() -> None:
    """240 values of almost 1 MB, eight stores at once: 1.6 GB when each was copied."""
    ds = image()
    for number in range(240):
        ds.add_new(0x00091000 + number, "OB", bytes(1_000_000))
    data = encoded(ds)
    tracemalloc.start()
    header = read_header(data, EXPLICIT_VR, LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000
    assert header.scan.broken == ""
    assert (header.ds.ViewPosition, header.study["patient_id"]) == ("PA", "P1")
    assert header.ds.ViewCodeSequence[0].CodeValue == "R-10206"
