"""The sanitised header: identity survives in meaning, dirt does not, nothing raises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import SecondaryCaptureImageStorage

from chexnode.encode.attributes import EQUIPMENT, IMAGE, OPTIONAL, TYPE_2
from chexnode.encode.objects import encode
from chexnode.encode.source import Source, sanitise
from chexnode.vocabulary.notes import Note
from chexnode.vocabulary.variants import GspsForm, ResultKind, Variant
from support.radiographs import GEOMETRY, PROVENANCE, Kind, lesion, parsed, picture, radiograph

SEG, SC, SR, GSPS = ResultKind.SEG, ResultKind.SC, ResultKind.SR, ResultKind.GSPS
EVERY_KIND = (
    Variant.parse(SEG, "planar"),
    Variant.parse(SC, "rgb"),
    Variant.parse(SR, "comprehensive3d-box-planar"),
    Variant(GspsForm()),
)


def results(source: Source, wanted: Sequence[Variant] = EVERY_KIND) -> list[Dataset]:
    """Encode what is wanted, which checks it as before it is stored, and read it back."""
    shape = (source.rows, source.columns)
    encoded = encode(source, picture(shape), lesion(shape), PROVENANCE, wanted)
    assert [each.variant for each in encoded] == list(wanted)
    return [dcmread(BytesIO(each.data)) for each in encoded]


def raw(header: Dataset, keyword: str, value: bytes, vr: str | None = None) -> None:
    """Put undecoded bytes into a parsed header, as a reader of a dirty file would."""
    tag = Tag(tag_for_keyword(keyword) or 0)
    header._dict[tag] = RawDataElement(tag, vr or dictionary_VR(tag), len(value), value, 0, False, True)


NAMES = {
    "chrArab": "قباني^لنزار",
    "chrFren": "Buc^Jérôme",
    "chrFrenMulti": "Buc^Jérôme",
    "chrGerm": "Äneas^Rüdiger",
    "chrGreek": "Διονυσιος",
    "chrH31": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "chrH32": "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    "chrHbrw": "שרון^דבורה",
    "chrI2": "Hong^Gildong=洪^吉洞=홍^길동",
    "chrJapMulti": "やまだ^たろう",
    "chrJapMultiExplicitIR6": "やまだ^たろう",
    "chrKoreanMulti": "김희중",
    "chrRuss": "Люкceмбypг",
    "chrX1": "Wang^XiaoDong=王^小東",
    "chrX2": "Wang^XiaoDong=王^小东",
}


@pytest.mark.parametrize("stem", NAMES)
def test_a_name_survives_its_character_set(stem: str, shared: Path) -> None:
    header = dcmread(shared / "data" / "dicom" / "charset" / f"{stem}.dcm", stop_before_pixels=True)
    header.Rows, header.Columns = 16, 24
    for ds in results(sanitise(header)):
        assert ds.SpecificCharacterSet == "ISO_IR 192"
        assert str(ds.PatientName) == NAMES[stem]


@pytest.mark.parametrize("stem", ["chrSQEncoding", "chrSQEncoding1"])
def test_a_name_in_a_sequence_survives_the_character_set_of_its_item(stem: str, shared: Path) -> None:
    """Declared by the item in the one file, inherited by it in the other."""
    header = dcmread(shared / "data" / "dicom" / "charset" / f"{stem}.dcm", stop_before_pixels=True)
    header.Rows, header.Columns = 16, 24
    header.OtherPatientIDsSequence = header.RequestedProcedureCodeSequence
    for ds in results(sanitise(header)):
        assert str(ds.OtherPatientIDsSequence[0].PatientName) == "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"


def test_no_character_set_file_is_left_out(shared: Path) -> None:
    stems = {path.stem for path in (shared / "data" / "dicom" / "charset").glob("*.dcm")}
    assert stems == {*NAMES, "chrSQEncoding", "chrSQEncoding1"}


#: What real headers do that highdicom raises at, or writes down wrong: bytes of an element, or None for its absence;
#: then what every result says instead.
Elements = Mapping[str, bytes | None]
_GEOMETRY: Elements = {
    "FrameOfReferenceUID": b"1.2.826.0.1.3680043.8.498.4",
    "ImagePositionPatient": b"-150\\-200\\-180",
    "ImageOrientationPatient": b"1\\0\\0\\0\\0\\-1",
    "PixelSpacing": b"0.2\\0.2",
    "SliceThickness": b"1",
}
DIRT: Mapping[str, tuple[Elements, Mapping[str, Any]]] = {
    **{f"no {keyword}": ({keyword: None}, {keyword: ""}) for keyword in TYPE_2},
    **{f"empty {keyword}": ({keyword: b""}, {keyword: ""}) for keyword in TYPE_2},
    "no Type 2 attribute at all": (dict.fromkeys(TYPE_2), dict.fromkeys(TYPE_2, "")),
    "no Modality": ({"Modality": None}, {}),
    "PatientSex U": ({"PatientSex": b"U"}, {"PatientSex": ""}),
    "PatientSex X": ({"PatientSex": b"X"}, {"PatientSex": ""}),
    "StudyDate with dashes": ({"StudyDate": b"2026-01-02"}, {"StudyDate": "20260102"}),
    "StudyTime with colons": ({"StudyTime": b"10:15:00"}, {"StudyTime": "101500"}),
    "empty first character set": (
        {"SpecificCharacterSet": b"\\ISO 2022 IR 87", "PatientName": "Yamada^Tarou=山田^太郎".encode("iso2022_jp")},
        {"PatientName": "Yamada^Tarou=山田^太郎"},
    ),
    "misspelt character set": (
        {"SpecificCharacterSet": b"ISO-IR 100", "PatientName": "Müller^Jörg".encode("latin-1")},
        {"PatientName": "Müller^Jörg"},
    ),
    "GB18030": (
        {"SpecificCharacterSet": b"GB18030", "PatientName": "Wang^XiaoDong=王^小东".encode("gb18030")},
        {"PatientName": "Wang^XiaoDong=王^小东"},
    ),
    "private SOP class": ({"SOPClassUID": b"1.3.46.670589.11.0.0.12.1"}, {}),
    **{
        f"patient geometry without {keyword}": (_GEOMETRY | {keyword: None}, {})
        for keyword in ("PixelSpacing", "SliceThickness", "ImageOrientationPatient", "ImagePositionPatient")
    },
    "patient geometry": (_GEOMETRY, {}),
    "patient geometry with PixelSpacing 0": (_GEOMETRY | {"PixelSpacing": b"0\\0"}, {}),
    "empty Frame of Reference": ({"FrameOfReferenceUID": b""}, {}),
    "Frame of Reference without position": ({"FrameOfReferenceUID": b"1.2.826.0.1.3680043.8.498.4"}, {}),
    "ImagerPixelSpacing 0": ({"ImagerPixelSpacing": b"0\\0"}, {}),
    "ImagerPixelSpacing 0, PixelSpacing sound": ({"ImagerPixelSpacing": b"0\\0", "PixelSpacing": b"0.2\\0.2"}, {}),
    "no spacing": ({"ImagerPixelSpacing": None}, {}),
    "lossy": ({"LossyImageCompression": b"01"}, {}),
    "DX For Processing": ({"SOPClassUID": b"1.2.840.10008.5.1.4.1.1.1.1.1"}, {}),
}


@pytest.mark.parametrize("name", DIRT)
@pytest.mark.parametrize("kind", ["CR", "DX", "SC"])
def test_dirt_stops_no_kind_of_result(kind: Kind, name: str) -> None:
    elements, expected = DIRT[name]
    header = parsed(radiograph(kind))
    for keyword, value in elements.items():
        if value is None:
            header.pop(keyword, None)
        else:
            raw(header, keyword, value)
    for ds in results(sanitise(header)):
        assert {keyword: str(ds[keyword].value or "") for keyword in expected} == expected
        assert ds.SpecificCharacterSet == "ISO_IR 192"
        assert ds.get("FrameOfReferenceUID") != ""


def test_a_data_set_without_file_meta_information_has_results() -> None:
    header = parsed(radiograph())
    del header.file_meta
    assert len(results(sanitise(header))) == len(EVERY_KIND)


@pytest.mark.parametrize(
    ("declared", "encoded", "name"),
    [
        (b"ISO_IR 100", "Jörg".encode("latin-1"), "Jörg"),
        (b"ISO-IR 100", "Jörg".encode("latin-1"), "Jörg"),
        (b"ISO_IR_192", "Jörg".encode(), "Jörg"),
        (b"UTF-8", "Jörg".encode(), "Jörg"),
        (b"iso_ir 101", "Łódź".encode("iso8859_2"), "Łódź"),
        (b"", "Jörg".encode(), "Jörg"),
        (b"", "Jörg".encode("latin-1"), "Jörg"),
        (b"KLINGON", "Jörg".encode("latin-1"), "Jörg"),
        (b"zlib", "Jörg".encode("latin-1"), "Jörg"),
        (b"ISO_IR 192", "Jörg".encode("latin-1"), "Jörg"),
        (b"\\ISO 2022 IR 87", "山田".encode("iso2022_jp"), "山田"),
        (b"ISO_IR 100", "山田".encode("iso2022_jp"), "山田"),
        (b"", "山田".encode("iso2022_jp"), "山田"),
        (b"GB18030", "小东".encode("gb18030"), "小东"),
    ],
)
def test_a_wrong_character_set_still_gives_the_name(declared: bytes, encoded: bytes, name: str) -> None:
    header = parsed(radiograph())
    raw(header, "SpecificCharacterSet", declared)
    raw(header, "PatientName", encoded + b"^X")
    assert str(sanitise(header).ds.PatientName) == f"{name}^X"


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("PatientSex", b"U", ""),
        ("PatientSex", b"X", ""),
        ("PatientSex", b"m ", "M"),
        ("StudyDate", b"2026-01-02", "20260102"),
        ("StudyDate", b"2026.01.02", "20260102"),
        ("StudyDate", b"20260230", ""),
        ("StudyDate", b"02/01/2026", ""),
        ("PatientBirthDate", b"1950", ""),
        ("PatientBirthDate", b"00000000", ""),
        ("StudyTime", b"10:15:00", "101500"),
        ("StudyTime", b"1015", "1015"),
        ("StudyTime", b"101500.123456", "101500.123456"),
        ("StudyTime", b"251500", ""),
        ("StudyTime", b"10h15", ""),
        ("PatientID", b"PID 1\r\n", "PID 1"),
        ("PatientID", b"PID\r\n\t1", "PID 1"),
        ("PatientID", b" 007", " 007"),
        ("PatientID", b"P" * 100, "P" * 100),
        ("PatientID", b"A\\B", ["A", "B"]),
        ("PatientID", b"P" * 20_000, ""),
        ("AccessionNumber", b"2026-03-01/0000001234567890", "2026-03-01/0000001234567890"),
        ("PatientName", b"Doe\\John", "Doe^John"),
        ("PatientName", b"Doe^John\n", "Doe^John"),
        ("PatientName", b"Doe\x07^John", "Doe ^John"),
        ("StudyID", b"\0\0", ""),
    ],
)
def test_identity_changes_no_more_than_it_must(keyword: str, value: bytes, expected: Any) -> None:
    header = parsed(radiograph())
    raw(header, keyword, value)
    for ds in results(sanitise(header)):
        assert (ds[keyword].value or "") == expected


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("PatientAge", b"81", None),
        ("PatientAge", b"081Y", "081Y"),
        ("PatientWeight", b"heavy", None),
        ("PatientWeight", b"NaN", None),
        ("PatientWeight", b"70.00000000000000000001", "70.0"),
        ("SmokingStatus", b"NOW AND THEN, WELL", None),
        ("TimezoneOffsetFromUTC", b"CET", None),
        ("TimezoneOffsetFromUTC", b"+0100", "+0100"),
        ("StudyDescription", b"Thorax p.a.\r\nliegend", "Thorax p.a. liegend"),
        ("PatientComments", b"line 1\r\nline 2", "line 1\r\nline 2"),
        ("LastMenstrualDate", b"unknown", None),
    ],
)
def test_a_type_3_attribute_is_legal_or_gone(keyword: str, value: bytes, expected: str | None) -> None:
    header = parsed(radiograph())
    raw(header, keyword, value)
    for ds in results(sanitise(header)):
        assert (str(ds[keyword].value) if keyword in ds else None) == expected


def test_sequences_keep_what_is_legal_in_them() -> None:
    header = radiograph()
    other, code = Dataset(), Dataset()
    other.PatientID, other.TypeOfPatientID = "Önder", "TEXT"
    other.add_new(0x00091001, "LO", "private")
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "XTHX", "99LOCAL", "Thorax\r\np.a."
    header.OtherPatientIDsSequence = [other]
    header.ProcedureCodeSequence = [code, Dataset()]
    for ds in results(sanitise(parsed(header))):
        (item,) = ds.OtherPatientIDsSequence
        assert (item.PatientID, item.TypeOfPatientID, len(item)) == ("Önder", "TEXT", 2)
        assert [each.CodeMeaning for each in ds.ProcedureCodeSequence] == ["Thorax p.a."]


def test_private_elements_and_bulk_do_not_get_in() -> None:
    header = radiograph(PatientComments="fine")
    header.add_new(0x00091001, "LO", "private")
    source = sanitise(header)
    assert not [element for element in source.ds if element.tag.is_private or element.VR in ("OB", "OW")]


@pytest.mark.parametrize(
    ("imager", "pixel", "expected", "kind"),
    [
        (b"0.15\\0.14", b"0.2\\0.2", (0.15, 0.14), "imager"),
        (b"0\\0", b"0.2\\0.21", (0.2, 0.21), "pixel"),
        (None, b"0.168\\0.168", (0.168, 0.168), "pixel"),
        (None, b"0.000\\0.000", None, None),
        (b"0.1", None, None, None),
        (b"NaN\\NaN", b"inf\\1", None, None),
        (b"-0.1\\-0.1", b"x\\y", None, None),
        (b"", None, None, None),
        (None, None, None, None),
    ],
)
def test_spacing_is_the_first_positive_one(
    imager: bytes | None, pixel: bytes | None, expected: tuple[float, float] | None, kind: str | None
) -> None:
    header = parsed(radiograph("CR", ImagerPixelSpacing=None))
    for keyword, value in (("ImagerPixelSpacing", imager), ("PixelSpacing", pixel)):
        if value is not None:
            raw(header, keyword, value)
    source = sanitise(header)
    assert (source.spacing, source.spacing_kind) == (expected, kind)
    assert source.notes == (() if expected else (Note.SPACING_UNKNOWN,))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"L\\F", ["L", "F"]),
        (b"R\\FA", ["R", "FA"]),
        (b"", ""),
        (b"L", ""),
        (b"LR\\F", ""),
        (b"LL\\F", ""),
        (b"left\\foot", ""),
        (b"L\\F\\A", ""),
    ],
)
def test_patient_orientation_is_copied_where_valid(value: bytes, expected: Any) -> None:
    header = parsed(radiograph())
    raw(header, "PatientOrientation", value)
    for ds in results(sanitise(header), EVERY_KIND[:2]):
        assert (ds.PatientOrientation or "") == expected


@pytest.mark.parametrize("missing", [*GEOMETRY, None])
def test_a_geometry_is_whole_or_none(missing: str | None) -> None:
    header = parsed(radiograph(**{**GEOMETRY, **({missing: None} if missing else {})}))
    source = sanitise(header)
    optional = (None, "SliceThickness", "PositionReferenceIndicator")
    assert source.has_geometry == (missing in optional)
    assert ("FrameOfReferenceUID" in source.ds) == (missing != "FrameOfReferenceUID")
    assert results(source)


@pytest.mark.parametrize("value", [b"", b"\0", b"not a uid", b"1.2." * 40])
def test_an_invalid_frame_of_reference_is_dropped(value: bytes) -> None:
    header = parsed(radiograph())
    raw(header, "FrameOfReferenceUID", value)
    assert "FrameOfReferenceUID" not in sanitise(header).ds


def test_a_private_sop_class_is_named_in_the_references() -> None:
    private = "1.3.46.670589.11.0.0.12.1"
    source = sanitise(parsed(radiograph(SOPClassUID=private)))
    assert source.ds.SOPClassUID == SecondaryCaptureImageStorage
    for ds in results(source):
        named = {
            item.ReferencedSOPClassUID
            for element in ds.iterall()
            if element.VR == "SQ"
            for item in element.value
            if item.get("ReferencedSOPInstanceUID") == source.ds.SOPInstanceUID
        }
        assert named == {private}


def test_an_over_long_manufacturer_is_cut() -> None:
    header = radiograph(Manufacturer="M" * 80, StationName="S" * 40, InstitutionName=["A", "B"])
    for ds in results(
        sanitise(parsed(header)), [Variant.parse(SEG, "planar"), Variant.parse(SC, "rgb"), Variant(GspsForm())]
    ):
        item = ds.ContributingEquipmentSequence[0]
        assert (item.Manufacturer, item.StationName, item.InstitutionName) == ("M" * 64, "S" * 16, "A")


def test_an_empty_header_still_gives_a_source() -> None:
    source = sanitise(Dataset())
    assert (source.rows, source.columns) == (0, 0)
    assert source.ds.StudyInstanceUID.startswith("2.25.")
    assert source.ds.StudyInstanceUID != source.ds.SOPInstanceUID


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("value", ["Do\udc00e^J", 7, 1.5, ["A^B", "C^D"], None, b"bytes", "\ud83d"])
def test_values_that_are_decoded_already_are_taken_too(value: Any) -> None:
    header = radiograph()
    header["PatientName"] = DataElement("PatientName", "PN", value, already_converted=True)
    header["PatientID"] = DataElement("PatientID", "LO", value, already_converted=True)
    assert results(sanitise(header))


KEYWORDS = sorted({*TYPE_2, *OPTIONAL, *EQUIPMENT, *IMAGE, *GEOMETRY, "PatientOrientation", "ImagerPixelSpacing"})
KEYWORDS += ["SpecificCharacterSet", "LossyImageCompression", "StudyInstanceUID", "SOPInstanceUID", "SOPClassUID"]
KEYWORDS += ["WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "RescaleSlope", "RescaleIntercept"]
KEYWORDS += [
    "RescaleType",
    "ModalityLUTSequence",
    "PixelAspectRatio",
    "PhotometricInterpretation",
    "PresentationLUTShape",
]
VRS = ["PN", "LO", "SH", "CS", "DA", "TM", "DS", "IS", "UI", "SQ", "OB", "UN", "US", "FD", "AT", "LT", "ZZ"]
VALUES = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from(
        [b"\x1b$B", b"\\\\\\", b"^^^^^^", b"====", b"nan\\inf", b"1e999\\-0", b"ISO 2022 IR 87\\ISO_IR 192"]
    ),
    st.sampled_from([b"unicode_escape", b"utf-16", b"idna", b"\\ISO 2022 IR 149\\GBK", b"0" * 70, b"X" * 70_000]),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([("Manufacturer", b"\\", None)])
@given(st.lists(st.tuples(st.sampled_from(KEYWORDS), VALUES, st.sampled_from([None, None, *VRS])), max_size=12))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_header_is_too_hostile(elements: list[tuple[str, bytes, str | None]]) -> None:
    header = parsed(radiograph(shape=(9, 7)))
    for keyword, value, vr in elements:
        raw(header, keyword, value, vr)
    assert results(sanitise(header))
