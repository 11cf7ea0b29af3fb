"""Value representations and awkward values: what stands in the DICOM JSON model (PS3.18 F.2) and in the Native DICOM
Model (PS3.19 A.1)."""

from __future__ import annotations

import json
import struct
from xml.etree import ElementTree

import pytest
from pydicom.datadict import dictionary_VR

from chexmodels.dicom.elements import LONG_VRS, dataset_of, scan
from chexmodels.dicom.transfer_syntaxes import encoding_of
from chexnode.dicomweb.json_model import INLINE_BYTES, Json, model_of
from chexnode.dicomweb.xml_model import NAMESPACE, from_xml, to_xml

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
#: A public element of each VR, so that it can be implicit too.
TAGS = {
    "AE": 0x00080054, "AS": 0x0072005F, "AT": 0x00280009, "CS": 0x00080008, "DA": 0x0014407E, "DS": 0x00281050,
    "DT": 0x0040A13A, "FD": 0x00081163, "FL": 0x00182043, "IS": 0x00081160, "LO": 0x00081080, "LT": 0x00080108,
    "OB": 0x00420011, "OD": 0x003A032E, "OF": 0x00181638, "OL": 0x00660040, "OV": 0x00720081, "OW": 0x00281201,
    "PN": 0x0008009C, "SH": 0x00080094, "SL": 0x0040A162, "SS": 0x00189440, "ST": 0x00080081, "SV": 0x00720082,
    "TM": 0x0014407C, "UC": 0x00160008, "UI": 0x0020000D, "UL": 0x00720078, "UN": 0x0072006D, "UR": 0x00080120,
    "US": 0x00080304, "UT": 0x0008030E, "UV": 0x00720083,
}  # fmt: skip
INFINITY = float("inf")


def of(*values: object) -> Json:
    return {"Value": list(values)}


def name(text: str) -> Json:
    return {"Alphabetic": text}


NOTHING: Json = {}
ASCII = [(b"", NOTHING), (b"  ", NOTHING), (b"\\", of(None, None))]
#: VR -> (value as it is encoded, what stands beside "vr")
TABLE: dict[str, list[tuple[bytes, Json]]] = {
    "AE": [*ASCII, (b" AB \\C ", of("AB", "C")), (b"A\\\\B ", of("A", None, "B"))],
    "AS": [*ASCII, (b"034Y", of("034Y")), (b"34Y ", of("34Y")), (b"034Y\\ ", of("034Y", None))],
    "AT": [
        (b"", NOTHING),
        (b"\x08\0\x60\0", of("00080060")),
        (b"\x08\0\x60\0\x10\0\x20\0", of("00080060", "00100020")),
    ],
    "CS": [
        *ASCII,
        (b"a b ", of("a b")),
        (b"\\A", of(None, "A")),
        (b"A\\ ", of("A", None)),
        (b"A\\\\B ", of("A", None, "B")),
    ],
    "DA": [
        *ASCII,
        (b"20260101", of("20260101")),
        (b"2026.01.01", of("2026.01.01")),
        (b"20260101\\ ", of("20260101", None)),
    ],
    "DS": [
        *ASCII,
        (b"1.50", of(1.5)),
        (b" 5", of(5)),
        (b"2048\\ ", of(2048, None)),
        (b"\\0.1 ", of(None, 0.1)),
        (b"0,14\\0,14 ", of("0,14", "0,14")),
        (b"1\\x\\3 ", of(1, "x", 3)),
        (b"1e400 ", of("1e400")),
        (b"nan ", of("nan")),
        (b"1_0 ", of("1_0")),
        (b".5", of(0.5)),
        (b"5.", of(5.0)),
        (b"+1.5E-3 ", of(0.0015)),
    ],
    "DT": [*ASCII, (b"20260101101010.5+0100 ", of("20260101101010.5+0100")), (b"2026\\ ", of("2026", None))],
    "FD": [
        (b"", NOTHING),
        (struct.pack("<d", 1.5), of(1.5)),
        (struct.pack("<2d", 1, -2), of(1.0, -2.0)),
        (struct.pack("<3d", INFINITY, -INFINITY, float("nan")), of("Infinity", "-Infinity", "NaN")),
        (b"\1\2", NOTHING),
    ],
    "FL": [
        (b"", NOTHING),
        (struct.pack("<f", 1.5), of(1.5)),
        (struct.pack("<2f", INFINITY, 2), of("Infinity", 2.0)),
        (b"\1\2", NOTHING),
    ],
    "IS": [
        *ASCII,
        (b"12", of(12)),
        (b" +7 ", of(7)),
        (b"1.5 ", of("1.5")),
        (b"1.0 ", of("1.0")),
        (b"\\1", of(None, 1)),
        (b"1\\", of(1, None)),
        (b"x ", of("x")),
        (b"99999999999999999999", of("99999999999999999999")),
    ],
    "LO": [
        *ASCII,
        (b"abc ", of("abc")),
        (b"a\\\\b", of("a", None, "b")),
        (b"M\xfcller", of("Müller")),
        (b"a\nb ", of("a b")),
    ],
    "LT": [(b"", NOTHING), (b"   ", NOTHING), (b"a\\b ", of("a\\b")), (b"  a\nb ", of("  a\nb")), (b"\xfc ", of("ü"))],
    "OB": [(b"", NOTHING), (b"\1\2", {"InlineBinary": "AQI="})],
    "OD": [(b"", NOTHING), (bytes(8), {"InlineBinary": "AAAAAAAAAAA="})],
    "OF": [(b"", NOTHING), (bytes(4), {"InlineBinary": "AAAAAA=="}), (b"\1\2", {"InlineBinary": "AQI="})],
    "OL": [(b"", NOTHING), (bytes(4), {"InlineBinary": "AAAAAA=="})],
    "OV": [(b"", NOTHING), (bytes(8), {"InlineBinary": "AAAAAAAAAAA="})],
    "OW": [
        (b"", NOTHING),
        (b"\1\2", {"InlineBinary": "AQI="}),
        (bytes(INLINE_BYTES + 2), {"BulkDataURI": "bulk/{tag}"}),
    ],
    "PN": [
        (b"", NOTHING),
        (b"==", NOTHING),
        (b"A^B ", of(name("A^B"))),
        (b"A^B\\ ", of(name("A^B"), None)),
        (b"\\A^B", of(None, name("A^B"))),
        (b"A=B=C ", of({"Alphabetic": "A", "Ideographic": "B", "Phonetic": "C"})),
        (b"=\xfc=x", of({"Ideographic": "ü", "Phonetic": "x"})),
    ],
    "SH": [*ASCII, (b"a\\b ", of("a", "b"))],
    "SL": [(b"", NOTHING), (struct.pack("<2l", -5, 6), of(-5, 6)), (b"\1\2", NOTHING)],
    "SS": [(b"", NOTHING), (struct.pack("<h", -5), of(-5))],
    "ST": [(b"", NOTHING), (b"a\\b ", of("a\\b"))],
    "SV": [(b"", NOTHING), (struct.pack("<q", -(2**60)), of(-(2**60))), (b"\1\2", NOTHING)],
    "TM": [*ASCII, (b"101010.123", of("101010.123")), (b"1010\\ ", of("1010", None)), (b"10:10:10", of("10:10:10"))],
    "UC": [*ASCII, (b"a\\b ", of("a", "b"))],
    "UI": [
        (b"", NOTHING),
        (b"1.2.3\0", of("1.2.3")),
        (b"1.2\\1.3\0", of("1.2", "1.3")),
        (b"1.2\\\0\0", of("1.2", None)),
        (b"1.x\0", of("1.x")),
    ],
    "UL": [(b"", NOTHING), (struct.pack("<L", 2**32 - 1), of(2**32 - 1)), (b"\1\2", NOTHING)],
    "UN": [(b"", NOTHING), (b"\1\2\3\4", {"InlineBinary": "AQIDBA=="})],
    "UR": [(b"", NOTHING), (b"http://a/b ", of("http://a/b")), (b"a\\b ", of("a\\b"))],
    "US": [(b"", NOTHING), (struct.pack("<2H", 7, 8), of(7, 8))],
    "UT": [(b"", NOTHING), (b"a\\b ", of("a\\b")), (b"x" * (INLINE_BYTES + 2), {"BulkDataURI": "bulk/{tag}"})],
    "UV": [(b"", NOTHING), (struct.pack("<Q", 2**64 - 1), of(2**64 - 1))],
}
ROWS = [(vr, value, expected) for vr, rows in TABLE.items() for value, expected in rows]


def element(tag: int, vr: str, value: bytes, syntax: str) -> bytes:
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return head + struct.pack("<L", len(value)) + value
    if vr.encode() in LONG_VRS or vr == "SQ":
        return head + vr.encode() + struct.pack("<HL", 0, len(value)) + value
    return head + vr.encode() + struct.pack("<H", len(value)) + value


def model(data: bytes, syntax: str) -> Json:
    found = scan(data, encoding_of(syntax), 1000, 10)
    assert found.broken == ""
    return model_of(dataset_of(data, found.elements.values(), encoding_of(syntax)), lambda path: f"bulk/{path}")


def test_the_table_has_every_vr() -> None:
    assert {vr.decode() for vr in LONG_VRS} < {*TABLE, "SQ"}
    assert len(TABLE) == 33  # PS3.5 table 6.2-1 without SQ
    assert {vr: dictionary_VR(tag) for vr, tag in TAGS.items()} == {vr: vr for vr in TABLE}


@pytest.mark.parametrize("kind", ["public", "private", "implicit", "in an item"])
@pytest.mark.parametrize(("vr", "value", "expected"), ROWS)
def test_a_value_is_what_the_standard_has(kind: str, vr: str, value: bytes, expected: Json) -> None:
    tag = 0x00091010 if kind == "private" else TAGS[vr]
    creator = element(0x00090010, "LO", b"ME", EXPLICIT) if kind == "private" else b""
    syntax = IMPLICIT if kind == "implicit" else EXPLICIT
    data, path = creator + element(tag, vr, value, syntax), f"{tag:08X}"
    if kind == "in an item":
        data = element(0x00081140, "SQ", struct.pack("<HHL", 0xFFFE, 0xE000, len(data)) + data, syntax)
        path = f"00081140/0/{path}"
    whole = model(data, syntax)
    inner = whole["00081140"]["Value"][0] if kind == "in an item" else whole
    json.dumps(whole, allow_nan=False)
    wanted = {key: one.format(tag=path) if key == "BulkDataURI" else one for key, one in expected.items()}
    assert inner[f"{tag:08X}"] == {"vr": vr, **wanted}
    document = to_xml(whole)
    *_, attribute = ElementTree.fromstring(document).iter(f"{{{NAMESPACE}}}DicomAttribute")
    assert attribute.get("vr") == vr
    shown = [(child.tag.rpartition("}")[2], child.get("number"), child.get("uri") or child.text) for child in attribute]
    assert [one for one in shown if one[0] != "PersonName"] == _in_xml(vr, wanted)
    assert len(shown) == len(wanted.get("Value", wanted))
    again = from_xml(document)
    if vr not in ("PN", "FD", "FL") and not {"1e400", "nan", "1_0", "9" * 20}.intersection(
        map(str, wanted.get("Value", ""))
    ):
        assert again == whole


def _in_xml(vr: str, expected: Json) -> list[tuple[str, str | None, str | None]]:
    if vr == "PN":
        return []
    if "Value" in expected:
        texts = (None if one is None else str(one) for one in expected["Value"])
        return [("Value", str(number), text) for number, text in enumerate(texts, 1)]
    return [("BulkData" if key == "BulkDataURI" else key, None, one) for key, one in expected.items()]


@pytest.mark.parametrize("length", ["defined", "undefined"])
def test_sequences(length: str) -> None:
    items = {
        "none": b"",
        "an empty one": struct.pack("<HHL", 0xFFFE, 0xE000, 0),
        "two": 2 * struct.pack("<HHL", 0xFFFE, 0xE000, 0),
    }
    for what, expected in (("none", NOTHING), ("an empty one", of({})), ("two", of({}, {}))):
        data = element(0x00081140, "SQ", items[what], EXPLICIT)
        if length == "undefined":
            head = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
            data = head + items[what] + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        found = model(data, EXPLICIT)
        assert found == {"00081140": {"vr": "SQ", **expected}}
        assert from_xml(to_xml(found)) == found
