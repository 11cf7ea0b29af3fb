"""The gate's table: one line a rule, as vendors write it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from chexmodels.dicom.errors import DecodeError
from chexmodels.dicom.part10 import ReadLimits, read
from chexmodels.pixels import from_picture
from chexmodels.stats import PixelStats, measure
from chexnode.settings.gate import GateSettings
from chexnode.triage import gate
from chexnode.triage.gate import triage_header, triage_pixels
from chexnode.vocabulary.notes import Note
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import Priority, Verdict
from chexnode.vocabulary.states import InstanceState
from support.radiographs import Kind, lesion, parsed, radiograph

ANALYSABLE, NOT_ANALYSED, QUARANTINED = (
    InstanceState.ANALYSABLE,
    InstanceState.NOT_ANALYSED,
    InstanceState.QUARANTINED,
)


def code(value: str, meaning: str = "", scheme: str = "SCT") -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return [item]


def judged(ds: Dataset, settings: GateSettings | None = None, **options: Any) -> Verdict:
    """The verdict; the same whether the elements were converted before or not."""
    options = {"has_pixel_data": True, "max_pixels": 64_000_000, **options}
    verdict = triage_header(parsed(ds), settings or GateSettings(), **options)
    assert triage_header(ds, settings or GateSettings(), **options) == verdict
    return verdict


@pytest.mark.parametrize("kind", ["CR", "DX", "SC"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_chest_radiographs_are_analysed(kind: Kind, photometric: str) -> None:
    verdict = judged(radiograph(kind, photometric_interpretation=photometric))
    assert (verdict.state, verdict.reason, verdict.priority) == (ANALYSABLE, None, Priority.ROUTINE)


@pytest.mark.parametrize(
    "attributes",
    [
        {"Modality": "cr "},
        {"Modality": "RG"},
        {"BodyPartExamined": " chest "},
        {"BodyPartExamined": "CHEST PA"},
        {"BodyPartExamined": "THORAX"},
        {"BodyPartExamined": "TORAX"},
        {"BodyPartExamined": "THX"},
        {"BodyPartExamined": "LUNG"},
        {"BodyPartExamined": None, "AnatomicRegionSequence": code("T-D3000", "Chest", "SRT")},
        {"BodyPartExamined": None, "StudyDescription": "CHEST AND ABDOMEN"},
        {"ViewPosition": "pa"},
        {"ViewPosition": "AP "},
        {"ViewPosition": "LLD"},
        {"ViewPosition": None, "PatientOrientation": ["L", "F"]},
        {"ViewPosition": "PA", "PatientOrientation": ["A", "F"]},
        {"ImageType": ["DERIVED", "PRIMARY"]},
        {"NumberOfFrames": "1"},
        {"PatientSpeciesDescription": "Homo sapiens"},
        {"PatientSpeciesCodeSequence": code("337915000", "homo sapiens")},
        {"PatientBreedDescription": "N/A"},
        {"ResponsiblePersonRole": "PARENT"},
        {"InstitutionName": "VETERANS HOSPITAL"},
        {"StudyDescription": "CAT SCAN FOLLOW UP CHEST"},
        {"SOPInstanceUID": "1.2.840.001.5"},
    ],
)
def test_what_is_tolerated(attributes: dict[str, Any]) -> None:
    assert judged(radiograph("CR", **attributes)).state is ANALYSABLE


@pytest.mark.parametrize(
    ("attributes", "state", "reason"),
    [
        ({"Modality": "CT"}, NOT_ANALYSED, Reason.MODALITY),
        ({"Modality": "MG"}, NOT_ANALYSED, Reason.MODALITY),
        ({"Modality": None}, QUARANTINED, Reason.MODALITY),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, NOT_ANALYSED, Reason.SOP_CLASS),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"}, NOT_ANALYSED, Reason.SOP_CLASS),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"}, NOT_ANALYSED, Reason.FOR_PROCESSING),
        ({"PresentationIntentType": "FOR PROCESSING"}, NOT_ANALYSED, Reason.FOR_PROCESSING),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, NOT_ANALYSED, Reason.COLOUR),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL_422"}, NOT_ANALYSED, Reason.COLOUR),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, NOT_ANALYSED, Reason.COLOUR),
        ({"NumberOfFrames": "2"}, NOT_ANALYSED, Reason.MULTI_FRAME),
        ({"NumberOfFrames": "1000000"}, NOT_ANALYSED, Reason.MULTI_FRAME),
        ({"ViewPosition": "LL"}, NOT_ANALYSED, Reason.LATERAL_VIEW),
        ({"ViewPosition": "lat"}, NOT_ANALYSED, Reason.LATERAL_VIEW),
        ({"ViewCodeSequence": code("399067008", "lateral")}, NOT_ANALYSED, Reason.LATERAL_VIEW),
        ({"ViewCodeSequence": code("R-10236", "left lateral", "SRT")}, NOT_ANALYSED, Reason.LATERAL_VIEW),
        ({"ViewCodeSequence": code("X", "Left Lateral", "99LOCAL")}, NOT_ANALYSED, Reason.LATERAL_VIEW),
        ({"ViewPosition": None, "PatientOrientation": ["A", "F"]}, NOT_ANALYSED, Reason.LATERAL_VIEW),
        ({"ViewPosition": "RAO"}, NOT_ANALYSED, Reason.OBLIQUE_VIEW),
        ({"ViewCodeSequence": code("399182000", "oblique")}, NOT_ANALYSED, Reason.OBLIQUE_VIEW),
        ({"BodyPartExamined": "HIP"}, NOT_ANALYSED, Reason.BODY_PART),
        ({"BodyPartExamined": "THORACIC SPINE"}, NOT_ANALYSED, Reason.BODY_PART),
        ({"BodyPartExamined": "CHESTABDOMEN"}, NOT_ANALYSED, Reason.BODY_PART),
        ({"BodyPartExamined": "RIBS"}, NOT_ANALYSED, Reason.BODY_PART),
        ({"BodyPartExamined": None, "AnatomicRegionSequence": code("29836001", "Hip")}, NOT_ANALYSED, Reason.BODY_PART),
        ({"BodyPartExamined": None, "StudyDescription": "LEFT KNEE"}, NOT_ANALYSED, Reason.BODY_PART),
        ({"PatientSpeciesDescription": "Canine"}, NOT_ANALYSED, Reason.NON_HUMAN),
        ({"PatientSpeciesCodeSequence": code("448771007", "Canis lupus familiaris")}, NOT_ANALYSED, Reason.NON_HUMAN),
        ({"PatientBreedDescription": "Beagle"}, NOT_ANALYSED, Reason.NON_HUMAN),
        ({"ResponsiblePersonRole": "OWNER"}, NOT_ANALYSED, Reason.NON_HUMAN),
        ({"ProtocolName": "FELINE THORAX VD"}, NOT_ANALYSED, Reason.NON_HUMAN),
        ({"Manufacturer": "ChexNode"}, NOT_ANALYSED, Reason.AI_RESULT),
        ({"ConversionType": "SYN"}, NOT_ANALYSED, Reason.AI_RESULT),
        ({"ImageType": ["DERIVED", "SECONDARY", "AI"]}, NOT_ANALYSED, Reason.AI_RESULT),
        ({"SOPInstanceUID": None}, QUARANTINED, Reason.INVALID_UID),
        ({"SOPInstanceUID": "../../etc/passwd"}, QUARANTINED, Reason.INVALID_UID),
        ({"StudyInstanceUID": "1..2"}, QUARANTINED, Reason.INVALID_UID),
        ({"StudyInstanceUID": None}, QUARANTINED, Reason.INVALID_UID),
        ({"SeriesInstanceUID": "1." * 32 + "1"}, QUARANTINED, Reason.INVALID_UID),
        ({"Rows": None}, QUARANTINED, Reason.IMAGE_ATTRIBUTES),
        ({"Columns": 0}, QUARANTINED, Reason.IMAGE_ATTRIBUTES),
        ({"Rows": 65535, "Columns": 65535}, QUARANTINED, Reason.IMAGE_ATTRIBUTES),
        ({"BitsAllocated": None, "PixelData": None}, QUARANTINED, Reason.IMAGE_ATTRIBUTES),
        ({"BitsAllocated": 12}, QUARANTINED, Reason.IMAGE_ATTRIBUTES),
        ({"BitsStored": 9}, QUARANTINED, Reason.IMAGE_ATTRIBUTES),
        ({"HighBit": 8}, QUARANTINED, Reason.IMAGE_ATTRIBUTES),
        ({"SamplesPerPixel": 3}, QUARANTINED, Reason.IMAGE_ATTRIBUTES),
        ({"PixelRepresentation": None}, QUARANTINED, Reason.IMAGE_ATTRIBUTES),
        ({"PhotometricInterpretation": None}, QUARANTINED, Reason.IMAGE_ATTRIBUTES),
        ({"PhotometricInterpretation": "GREY"}, QUARANTINED, Reason.IMAGE_ATTRIBUTES),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_what_is_not_analysed(attributes: dict[str, Any], state: InstanceState, reason: Reason) -> None:
    verdict = judged(radiograph("CR", **{"ViewCodeSequence": None, **attributes}))
    assert (verdict.state, verdict.reason) == (state, reason)
    assert verdict.detail


def test_an_object_without_pixel_data_is_not_analysed() -> None:
    assert judged(radiograph(PixelData=None), has_pixel_data=False).reason is Reason.NO_PIXEL_DATA


def test_the_sop_class_must_be_the_one_it_was_sent_under() -> None:
    ds = radiograph("CR")
    assert judged(ds, sop_class_uid=ds.SOPClassUID + " ").state is ANALYSABLE
    mismatch = judged(ds, sop_class_uid="1.2.840.10008.5.1.4.1.1.2")
    assert (mismatch.state, mismatch.reason) == (QUARANTINED, Reason.SOP_CLASS_MISMATCH)


def test_settings_decide_what_is_asked_for() -> None:
    without = radiograph("SC", BodyPartExamined=None, StudyDescription="")
    assert {Note.VIEW_UNKNOWN, Note.BODY_PART_UNKNOWN} <= set(judged(without).notes)
    assert judged(without, GateSettings(require_view=True)).reason is Reason.VIEW_UNKNOWN
    assert judged(without, GateSettings(require_body_part=True)).reason is Reason.BODY_PART_UNKNOWN
    assert judged(without, GateSettings(secondary_capture=False)).reason is Reason.SOP_CLASS
    assert judged(radiograph("CR"), GateSettings(modalities=("DX",))).reason is Reason.MODALITY
    assert judged(radiograph("CR", Modality="PX"), GateSettings(modalities=("px",))).state is ANALYSABLE


@pytest.mark.parametrize(
    ("attributes", "adult"),
    [
        ({"PatientAge": "018Y"}, True),
        ({"PatientAge": "17"}, False),
        ({"PatientAge": " 5y "}, False),
        ({"PatientAge": "200M"}, False),
        ({"PatientAge": "240M"}, True),
        ({"PatientAge": "090D"}, False),
        ({"PatientAge": "000Y", "PatientBirthDate": "19500102"}, True),
        ({"PatientAge": "000Y", "PatientBirthDate": ""}, False),
        ({"PatientAge": "999Y"}, None),
        ({"PatientAge": "old", "PatientBirthDate": "20100101"}, False),
        ({"PatientBirthDate": "20080228", "StudyDate": "20260301"}, True),
        ({"PatientBirthDate": "2008.03.02", "StudyDate": "20260301"}, False),
        ({"PatientBirthDate": "20100101", "StudyDate": ""}, False),
        ({"PatientBirthDate": "20999999"}, None),
        ({"PatientBirthDate": "20300101", "StudyDate": "20260301"}, None),
        ({"PatientBirthDate": None}, None),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_age_is_read_tolerantly(attributes: dict[str, Any], adult: bool | None) -> None:
    verdict = judged(radiograph("CR", **attributes), GateSettings(min_age_years=18))
    assert (verdict.reason is Reason.UNDER_AGE) == (adult is False)
    assert (Note.AGE_UNKNOWN in verdict.notes) == (adult is None)


@pytest.mark.parametrize(
    ("attributes", "note"),
    [
        ({"ViewPosition": None, "ViewCodeSequence": None}, Note.VIEW_UNKNOWN),
        ({"ViewPosition": "PA AND LATERAL", "ViewCodeSequence": None}, Note.VIEW_UNKNOWN),
        (
            {"BodyPartExamined": "UNKNOWN", "AnatomicRegionSequence": None, "StudyDescription": ""},
            Note.BODY_PART_UNKNOWN,
        ),
        ({"ViewPosition": "RLD", "ViewCodeSequence": None}, Note.ORIENTATION_DOUBTFUL),
        ({"BurnedInAnnotation": "YES"}, Note.BURNED_IN),
        ({"LossyImageCompression": "01"}, Note.LOSSY),
        ({"ImagerPixelSpacing": [0, 0]}, Note.SPACING_UNKNOWN),
        ({"ImagerPixelSpacing": None}, Note.SPACING_UNKNOWN),
        ({"NumberOfFrames": 0}, Note.NOT_CONFORMANT),
    ],
)
def test_what_is_only_noted(attributes: dict[str, Any], note: Note) -> None:
    assert judged(radiograph("DX")).notes == ()
    verdict = judged(radiograph("DX", **attributes))
    assert (verdict.state, verdict.notes) == (ANALYSABLE, (note,))


def test_what_was_read_past_is_noted_and_named() -> None:
    ds = radiograph("DX")
    verdict = triage_header(ds, GateSettings(), has_pixel_data=True, max_pixels=10**8, flaws=("bytes behind",))
    assert (verdict.state, verdict.notes) == (ANALYSABLE, (Note.NOT_CONFORMANT,))
    assert "read past: bytes behind" in verdict.detail


def test_a_lossy_transfer_syntax_is_noted() -> None:
    assert judged(radiograph("DX"), transfer_syntax_uid="1.2.840.10008.1.2.4.50").notes == (Note.LOSSY,)


@pytest.mark.parametrize("priority", ["STAT", "high "])
def test_urgent_requests_are_urgent(priority: str) -> None:
    assert judged(radiograph("CR", RequestedProcedurePriority=priority)).priority is Priority.URGENT


_touched = [
    0x00080005, 0x00080008, 0x00080016, 0x00080018, 0x00080020, 0x00080060, 0x00080064, 0x00080068, 0x00080070,
    0x0008103E, 0x00082218, 0x00100030, 0x00101010, 0x00102201, 0x00102202, 0x00102293, 0x00180015, 0x00181164,
    0x00185101, 0x0020000D, 0x0020000E, 0x00200020, 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011,
    0x00280030, 0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00400260, 0x00540220,
]  # fmt: skip
_vrs = st.sampled_from(["CS", "UI", "US", "DS", "IS", "SQ", "AS", "DA", "UN", "OW", "LO", "ZZ"])


@given(st.dictionaries(st.sampled_from(_touched), st.tuples(_vrs, st.none() | st.binary(max_size=40)), max_size=12))
@settings(deadline=None, max_examples=300)
def test_never_raises_whatever_the_header_holds(hostile: dict[int, tuple[str, bytes | None]]) -> None:
    ds = parsed(radiograph("DX"))
    for number, (vr, value) in hostile.items():
        tag = BaseTag(number)
        ds._dict[tag] = RawDataElement(tag, vr, len(value or b""), value, 0, False, True)
    assert isinstance(triage_header(ds, GateSettings(min_age_years=18), has_pixel_data=True, max_pixels=10**8), Verdict)


def test_details_quote_no_patient_data() -> None:
    secret = "DOE^JANE 1.2.3"
    for keyword in ("PatientName", "PatientID", "PatientSpeciesDescription", "PatientBreedDescription"):
        assert "DOE" not in judged(radiograph("CR", **{keyword: secret})).detail
    strange = judged(radiograph("CR", BodyPartExamined="A\x1b[31m\nB" * 20)).detail
    assert strange.isprintable()
    assert len(strange) < 80


def test_every_code_of_the_gate_has_its_row() -> None:
    from_header = {rule.reason for rule in gate.REASONS}
    from_pixels = {reason for reason, _test in gate.PIXEL_REASONS}
    elsewhere = {
        Reason.MALFORMED, Reason.TOO_DEEP, Reason.UNDECODABLE, Reason.PIXEL_SIZE, Reason.DECODE_LIMIT,
        Reason.SOURCE_MISSING, Reason.SAME_IMAGE, Reason.LATER_VERSION,
    }  # fmt: skip
    assert from_header | from_pixels | elsewhere == set(Reason)
    assert not (from_header | from_pixels) & elsewhere


CHEST = PixelStats(1000, 1000, 200, 0.98, 0.8, -0.1, (0.2, 0.1))


@pytest.mark.parametrize(
    ("change", "reason", "notes"),
    [
        ({}, None, ()),
        ({"rows": 63}, Reason.TOO_SMALL, ()),
        ({"levels": 1}, Reason.CONSTANT, ()),
        ({"autocorrelation": 0.1}, Reason.NOISE, ()),
        ({"upright": -0.8, "flipped": 0.1, "turned": (-0.2, -0.1)}, None, (Note.POLARITY_DOUBTFUL,)),
        ({"upright": -0.1, "flipped": 0.8}, None, (Note.ORIENTATION_DOUBTFUL,)),
        ({"upright": 0.1, "turned": (0.7, 0.2)}, None, (Note.ORIENTATION_DOUBTFUL,)),
        ({"upright": 0.1, "flipped": -0.8}, None, (Note.POLARITY_DOUBTFUL, Note.ORIENTATION_DOUBTFUL)),
    ],
)
def test_pixels_are_judged(change: dict[str, Any], reason: Reason | None, notes: tuple[Note, ...]) -> None:
    assert triage_pixels(replace(CHEST, **change)) == (reason, notes)


@pytest.mark.shared
def test_the_collected_files_get_the_verdicts_they_should(shared: Path) -> None:
    wanted = {
        "not_chest/dog_thorax_dx_mono1.dcm": Reason.NON_HUMAN,
        "not_chest/dental_pano_cr_modality_lut.dcm": Reason.BODY_PART,
        "malformed/generated/04_missing_Modality.dcm": Reason.MODALITY,
        "malformed/generated/083_samples_3_mono.dcm": Reason.IMAGE_ATTRIBUTES,
        "malformed/generated/085_frames_million.dcm": Reason.MULTI_FRAME,
        "malformed/generated/142_sopclass_meta_mismatch.dcm": Reason.SOP_CLASS_MISMATCH,
    }
    root = shared / "data" / "dicom"
    unreadable = {}
    for path in sorted(root.rglob("*.dcm")):
        name = path.relative_to(root).as_posix()
        try:
            file = read(path.read_bytes(), ReadLimits())
            header = file.header
        except DecodeError as error:
            unreadable[name] = error.failure
            continue
        verdict = triage_header(
            header,
            GateSettings(),
            has_pixel_data=file.pixel_data is not None,
            max_pixels=64_000_000,
            sop_class_uid=file.file_meta.get("MediaStorageSOPClassUID", ""),
        )
        if name in wanted:
            assert verdict.reason is wanted[name], name
        elif name.startswith("chest/"):
            assert verdict.state is ANALYSABLE, name
        elif name.startswith(("not_chest/", "other_modalities/")):
            assert verdict.state is NOT_ANALYSED, name
    assert all(name.startswith("malformed/") for name in unreadable)
    assert set(unreadable.values()) == {"malformed", "too-deep"}


@pytest.mark.shared
def test_real_radiographs_are_never_refused_and_seldom_noted(shared: Path) -> None:
    root = shared / "data" / "cxr"
    with (root / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["qc"] == "ok"][::24]
    notes = {"as is": 0, "inverted": 0, "upside down": 0}
    for row in rows:
        image = from_picture(root / row["file"])
        for name, pixels, note in (
            ("as is", image.pixels, None),
            ("inverted", 1 - image.pixels, Note.POLARITY_DOUBTFUL),
            ("upside down", np.flipud(image.pixels), Note.ORIENTATION_DOUBTFUL),
        ):
            reason, noted = triage_pixels(measure(replace(image, pixels=np.ascontiguousarray(pixels))))
            assert reason is None, row["image_id"]
            notes[name] += bool(noted) if note is None else note in noted
    assert notes["as is"] <= 0.05 * len(rows)
    assert min(notes["inverted"], notes["upside down"]) >= 0.95 * len(rows)


@pytest.mark.parametrize(
    ("notes", "abnormal", "settled"),
    [
        ((), False, False),
        ((Note.LOSSY, Note.VIEW_UNKNOWN), False, False),
        ((Note.ORIENTATION_DOUBTFUL,), False, None),
        ((Note.ORIENTATION_DOUBTFUL,), True, True),
        ((Note.VIEW_CONTRADICTORY,), False, None),
        ((Note.BODY_PART_CONTRADICTORY,), False, None),
        ((Note.POLARITY_DOUBTFUL,), False, None),
        ((Note.POLARITY_DOUBTFUL,), True, None),
        ((Note.SCOPE_DOUBTFUL,), True, None),
    ],
)
def test_what_is_doubtful_is_never_negative(notes: tuple[Note, ...], abnormal: bool, settled: bool | None) -> None:
    found = gate.settle(replace(lesion((96, 80), abnormal), notes=notes))
    assert found.abnormal is settled
    assert bool(found.regions) is (settled is True)
    assert found.mask is not None
    assert found.mask.any() == (settled is True)


def _page(ink: int, paper: int, font_size: int = 26) -> NDArray[np.uint8]:
    """A request form: lines of words, and a frame."""
    picture = Picture.new("L", (1240, 1754), paper)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(font_size)
    for line in range(46):
        draw.text((90, 80 + 34 * line), "Request: chest PA, cough for three weeks, none before", fill=ink, font=font)
    draw.rectangle((90, 1500, 500, 1680), outline=ink, width=4)
    return np.asarray(picture)


@pytest.mark.parametrize(("ink", "paper"), [(30, 245), (230, 8), (90, 200)])
@pytest.mark.parametrize("noise", [0, 3])
def test_a_page_of_writing_is_out_of_scope(ink: int, paper: int, noise: int, tmp_path: Path) -> None:
    page = _page(ink, paper) + np.random.default_rng(1).normal(0, noise, (1754, 1240))
    Picture.fromarray(np.clip(page, 0, 255).astype(np.uint8)).save(tmp_path / "page.png")
    stats = measure(from_picture(tmp_path / "page.png"))
    assert triage_pixels(stats) == (Reason.OUT_OF_SCOPE, ())
    reason, notes = triage_pixels(stats, GateSettings(out_of_scope="note"))
    assert (reason, Note.SCOPE_DOUBTFUL in notes) == (None, True)


@pytest.mark.shared
def test_no_chest_is_out_of_scope(shared: Path) -> None:
    """All decodable chest files, every 24th of the collected radiographs, and phantoms of the training side."""
    root = shared / "data" / "cxr"
    with (root / "manifest.csv").open(newline="") as file:
        pictures = [root / row["file"] for row in csv.DictReader(file) if row["qc"] == "ok"][7::24]
    for path in pictures:
        stats = measure(from_picture(path))
        reason, notes = triage_pixels(stats)
        assert reason is None, path
        assert Note.SCOPE_DOUBTFUL not in notes, path
