"""Segmentation and Secondary Capture: what they hold, where the lesion is, that the same job gives the same bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from highdicom.seg import Segmentation
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from chexmodels.finding import Box, Findings, Region
from chexnode.encode.caption import AMBER, COLOUR, DOUBTS, Caption, caption
from chexnode.encode.contours import outline
from chexnode.encode.objects import Encoded, encode
from chexnode.encode.picture import DISPLAY_LONGEST, LONGEST, lay_out, render
from chexnode.encode.provenance import MANUFACTURER, Provenance, result_uid, tracking_uid
from chexnode.encode.seg import encode_seg
from chexnode.encode.source import sanitise
from chexnode.vocabulary.notes import Note
from chexnode.vocabulary.variants import ResultKind, ScEncoding, ScForm, SegForm, SegProfile, Variant
from support.radiographs import GEOMETRY, PROVENANCE, Kind, lesion, parsed, picture, radiograph

SEG, SC = ResultKind.SEG, ResultKind.SC
PROFILES, ENCODINGS = get_args(SegProfile), get_args(ScEncoding)
EVERYTHING = [Variant(form) for form in (*map(SegForm, PROFILES), *map(ScForm, ENCODINGS))]
IDENTITY = (
    "StudyInstanceUID", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "AccessionNumber", "StudyID", "ReferringPhysicianName", "StudyDescription",
)  # fmt: skip


def encoded(
    header: Dataset,
    wanted: list[Variant] = EVERYTHING,
    findings: Findings | None = None,
    provenance: Provenance = PROVENANCE,
) -> list[Encoded]:
    source = sanitise(parsed(header))
    shape = (source.rows, source.columns)
    return encode(source, picture(shape), findings or lesion(shape), provenance, wanted)


def one(header: Dataset, kind: ResultKind, form: str, findings: Findings | None = None) -> Dataset:
    (result,) = encoded(header, [Variant.parse(kind, form)], findings)
    return dcmread(BytesIO(result.data))


@pytest.mark.parametrize("kind", ["CR", "DX", "SC"])
def test_results_belong_to_the_study_and_to_a_series_of_their_own(kind: Kind) -> None:
    header = radiograph(kind)
    results = encoded(header)
    assert [each.variant for each in results] == EVERYTHING
    series = set()
    for each in results:
        ds = dcmread(BytesIO(each.data))
        assert {keyword: ds[keyword].value for keyword in IDENTITY} == {k: header[k].value for k in IDENTITY}
        assert (ds.SOPInstanceUID, ds.SOPClassUID) == (each.uid, each.sop_class_uid)
        assert ds.Manufacturer == MANUFACTURER
        assert ds.SeriesNumber == {SEG: 9001, SC: 9201}[each.variant.kind]
        assert ds.Modality == ("SEG" if each.variant.kind is SEG else header.Modality)
        assert "not for diag" in ds.SeriesDescription.lower()
        node = [item for item in ds.ContributingEquipmentSequence if item.Manufacturer == MANUFACTURER]
        assert [item.PurposeOfReferenceCodeSequence[0].CodeValue for item in node] == ["109102"]
        assert PROVENANCE.model_digest in node[0].ContributionDescription
        assert node[0].SoftwareVersions == ["ChexNode 0.1.0", "CheX-Nomaly 1.2.3"]
        series.add(ds.SeriesInstanceUID)
    assert len(series) == len(EVERYTHING)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("shape", [(512, 512), (97, 83), (64, 65), (33, 1001)])
@pytest.mark.parametrize("photometric_interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_highdicom_reads_the_mask_back(profile: str, shape: tuple[int, int], photometric_interpretation: str) -> None:
    findings = lesion(shape)
    ds = one(radiograph("DX", shape, photometric_interpretation), SEG, profile, findings)
    assert len(ds.PixelData) == (shape[0] * shape[1] + 15) // 16 * 2
    pixels = Segmentation.from_dataset(ds).get_pixels_by_source_instance(
        ["1.2.826.0.1.3680043.8.498.3"], ignore_spatial_locations=True
    )
    assert np.array_equal(pixels[0, :, :, 0], findings.mask)


def groups(ds: Dataset) -> tuple[set[str], set[str]]:
    """Return the keywords of the shared and of the frame's functional groups."""
    shared, frame = ds.SharedFunctionalGroupsSequence[0], ds.PerFrameFunctionalGroupsSequence[0]
    return {element.keyword for element in shared}, {element.keyword for element in frame}


@pytest.mark.parametrize(
    ("profile", "planes", "position"), [("planar", True, False), ("full", True, True), ("none", False, False)]
)
@pytest.mark.parametrize("frame_of_reference", [None, "1.2.840.99.1"])
def test_a_profile_has_the_planes_it_says(
    profile: str, planes: bool, position: bool, frame_of_reference: str | None
) -> None:
    ds = one(radiograph("CR", FrameOfReferenceUID=frame_of_reference), SEG, profile)
    shared, frame = groups(ds)
    assert shared == ({"PixelMeasuresSequence", "PlaneOrientationSequence"} if planes else set())
    assert frame == {"FrameContentSequence", "DerivationImageSequence", "SegmentIdentificationSequence"} | (
        {"PlanePositionSequence"} if position else set()
    )
    if frame_of_reference:
        assert ds.FrameOfReferenceUID == frame_of_reference
    else:
        assert ("FrameOfReferenceUID" in ds) == planes
    if planes:
        assert ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing == [0.15, 0.14]
    assert ds.NumberOfFrames == 1
    assert len(ds.SegmentSequence) == 1
    assert ds.SegmentationType == "BINARY"
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


@pytest.mark.parametrize("profile", PROFILES)
def test_a_geometry_of_the_source_is_followed(profile: str) -> None:
    ds = one(radiograph("DX", **GEOMETRY), SEG, profile)
    shared, frame = groups(ds)
    placed = profile != "none"
    assert ds.FrameOfReferenceUID == GEOMETRY["FrameOfReferenceUID"]
    assert ({"PixelMeasuresSequence", "PlaneOrientationSequence"} <= shared) == placed
    assert ("PlanePositionSequence" in frame) == placed
    if placed:
        assert frame >= {"SegmentIdentificationSequence"}
        position = ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
        assert position.ImagePositionPatient == GEOMETRY["ImagePositionPatient"]


def test_without_spacing_a_pixel_is_one_and_the_description_says_so() -> None:
    ds = one(radiograph("CR", ImagerPixelSpacing=None), SEG, "planar")
    assert ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing == [1, 1]
    assert ds.SeriesDescription.endswith(" - unscaled")
    assert "PixelSpacing" not in one(radiograph("CR"), SC, "rgb")


def test_the_segment_names_the_algorithm_and_its_tracking_uid() -> None:
    (segment,) = one(radiograph(), SEG, "planar").SegmentSequence
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("CheX-Nomaly", "1.2.3")
    assert segment.TrackingUID == tracking_uid(PROVENANCE.job_key, 1)
    assert len({tracking_uid(PROVENANCE.job_key, region) for region in (None, 1, 2)}) == 3


@pytest.mark.parametrize("mask", [None, np.zeros((96, 80), bool)])
def test_there_is_no_segmentation_of_nothing(mask: NDArray[np.bool_] | None) -> None:
    source = sanitise(radiograph())
    findings = Findings(None, mask, (), 0.9, True, "m")
    with pytest.raises(ValueError, match="empty mask"):
        encode_seg(source, findings, PROVENANCE, "planar")
    assert [each.variant.kind for each in encode(source, picture((96, 80)), findings, PROVENANCE, EVERYTHING)] == [
        SC,
        SC,
    ]


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="source image"):
        encode_seg(sanitise(radiograph()), lesion((80, 96)), PROVENANCE, "planar")


@pytest.mark.parametrize("abnormal", [False, None])
def test_no_finding_and_not_evaluated_have_a_capture_but_no_segmentation(abnormal: bool | None) -> None:
    marked = dataclasses.replace(lesion((96, 80)), abnormal=abnormal)
    assert [each.variant.kind for each in encoded(radiograph(), findings=marked)] == [SC, SC]
    assert not red(drawn(picture((96, 80)), marked, Caption((), ()))).any()


def words(findings: Findings) -> str:
    texts = caption(findings, PROVENANCE)
    return " | ".join(line.text for line in (*texts.above, *texts.below))


def test_the_words_say_what_it_is() -> None:
    assert words(lesion((96, 80))) == (
        "Research use only - not for diagnosis"
        " | AI: looks for any abnormality, does not name it. CheX-Nomaly 1.2.3"
        " | 1 ABNORMAL REGION MARKED | Image score 87% (threshold 50%). Peak by region - 1: 91%"
    )
    assert words(lesion((96, 80), False, 0.12)).endswith(
        " | NO ABNORMALITY MARKED | Image score 12% (threshold 50%). Small or faint abnormalities are missed."
    )
    assert words(lesion((96, 80), None)).endswith(" | NOT EVALUATED: unlike the images that the AI learnt from")
    nowhere = Findings(None, None, (), 0.9, True, "m", notes=("lossy",))
    assert words(nowhere).endswith(
        " | ABNORMAL, but nothing can be outlined | Image score 90% (threshold 50%). | Noted: lossy compression"
    )
    many = dataclasses.replace(lesion((96, 80)), regions=(Region(Box(0, 0, 1, 1), 1, 0.5, 0.5),) * 30)
    assert "30 ABNORMAL REGIONS MARKED" in words(many)
    assert words(many).endswith("8: 50%, and 22 more")


def test_a_score_never_contradicts_the_words() -> None:
    """What reached the threshold but was too small to mark shows no number; nor is a number without its threshold."""
    assert "%" not in words(lesion((96, 80), False, 0.8))
    assert "NO ABNORMALITY MARKED" in words(lesion((96, 80), False, 0.8))
    assert "49.6% (threshold 50%)" in words(lesion((96, 80), False, 0.496))
    unknown = dataclasses.replace(PROVENANCE, image_threshold=None)
    texts = caption(lesion((96, 80), False, 0.1), unknown)
    assert not any("%" in line.text for line in (*texts.above, *texts.below))


def test_the_words_are_for_people() -> None:
    """No code, digest or name of a setting stands on the picture."""
    for abnormal in (True, False, None):
        said = words(dataclasses.replace(lesion((96, 80), abnormal), notes=tuple(Note)))
        assert not any(note in said for note in Note if "-" in note), said
        for jargon in (PROVENANCE.model_digest[:12], "second_reader", "weights", "unscaled"):
            assert jargon not in said


@pytest.mark.parametrize("note", sorted(DOUBTS))
def test_a_doubt_heads_the_picture_in_amber(note: str) -> None:
    for abnormal in (True, None):
        above = caption(dataclasses.replace(lesion((96, 80), abnormal), notes=(note,)), PROVENANCE).above
        assert (above[1].colour, above[1].text) == (AMBER, f"DOUBTFUL: {DOUBTS[note]}")
    assert f"NOT EVALUATED: {DOUBTS[note]}" in words(dataclasses.replace(lesion((96, 80), None), notes=(note,)))


def red(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a picture has the outline's colour, compression tolerated."""
    return np.asarray(np.abs(rgb.astype(int) - COLOUR).max(axis=-1) < 60)


def drawn(display: NDArray[np.uint8], findings: Findings, texts: Caption) -> NDArray[np.uint8]:
    return render(display, findings, lay_out(display.shape, texts))


def radiograph_part(ds: Dataset, findings: Findings, shape: tuple[int, int]) -> tuple[NDArray[np.bool_], float, float]:
    """Cut the radiograph out of a Secondary Capture; return where it is red, and its scales down and across."""
    described = sanitise(parsed(radiograph())).described
    layout = lay_out(shape, caption(findings, PROVENANCE, described), (15, 14))
    assert (layout.rows, layout.columns) == (ds.Rows, ds.Columns)
    part = ds.pixel_array[layout.y : layout.y + layout.height, layout.x : layout.x + layout.width]
    return red(part), layout.height / shape[0], layout.width / shape[1]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("photometric_interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", [(512, 512), (601, 503), (480, 1001), (2101, 401), (333, 2500)])
def test_the_outline_is_around_the_lesion(
    encoding: str, photometric_interpretation: str, shape: tuple[int, int]
) -> None:
    findings = lesion(shape)
    ds = one(radiograph("CR", shape, photometric_interpretation), SC, encoding, findings)
    assert max(ds.Rows, ds.Columns) <= LONGEST
    marked, down, across = radiograph_part(ds, findings, shape)
    box = findings.regions[0].box
    lesion_only = marked[round(box.y0 * down) + 1 : round(box.y1 * down) - 1]
    columns = np.flatnonzero(lesion_only.any(axis=0))
    assert abs(columns[0] - box.x0 * across) < 8
    assert abs(columns[-1] - box.x1 * across) < 8
    rows = np.flatnonzero(marked[:, round((box.x0 * 0.2 + box.x1 * 0.8) * across)])
    assert abs(rows[-1] - box.y1 * down) < 8
    inner = lesion_only[3:-3, round(box.x0 * across) + 3 : round(box.x1 * across) - 3]
    assert not inner.any()
    assert not marked[round(shape[0] * 0.35 * down) :].any()
    assert not marked[:, : round(shape[1] * 0.5 * across)].any()


def test_a_region_of_one_pixel_is_marked_however_small_the_picture() -> None:
    mask = np.zeros((3000, 2500), bool)
    mask[1500, 2000] = True
    findings = Findings(None, mask, (Region(Box(2000, 1500, 2001, 1501), 1, 0.9, 0.9),), 0.9, True, "m")
    rgb = drawn(picture((300, 250)), findings, Caption((), ()))
    found = np.argwhere(red(rgb[16:-16, 131:-131]))
    assert len(found)
    assert np.abs(found.max(axis=0) - (150, 200)).max() < 4


@pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_a_region_in_the_corner_is_drawn(corner: tuple[int, int]) -> None:
    mask = np.zeros((97, 83), bool)
    mask[corner] = True
    y, x = (index % size for index, size in zip(corner, mask.shape, strict=True))
    findings = Findings(None, mask, (Region(Box(x, y, x + 1, y + 1), 1, 0.9, 0.9),), 0.9, True, "m")
    assert red(drawn(picture((97, 83)), findings, caption(findings, PROVENANCE))).any()


def test_no_word_covers_the_radiograph() -> None:
    findings = lesion((900, 700), False)
    rgb = drawn(picture((900, 700)), findings, caption(findings, PROVENANCE))
    layout = lay_out((900, 700), caption(findings, PROVENANCE))
    part = rgb[layout.y : layout.y + layout.height, layout.x : layout.x + layout.width]
    assert np.array_equal(part, np.repeat(picture((900, 700))[..., np.newaxis], 3, axis=2))
    assert (rgb[: layout.y].max(axis=-1) > 200).any()
    assert (rgb[layout.y + layout.height :].max(axis=-1) > 200).any()


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 4000), (4000, 1), (2048, 2048), (2048, 1600), (1600, 2048), (5000, 4000)]
)
@pytest.mark.parametrize("ratio", [(1, 1), (4, 1), (1, 4), (15, 14)])
def test_every_picture_fits(shape: tuple[int, int], ratio: tuple[int, int]) -> None:
    findings = dataclasses.replace(lesion(shape, False), notes=tuple(f"a-note-{n}" for n in range(40)))
    layout = lay_out(shape, caption(findings, PROVENANCE), ratio, 3)
    assert max(layout.rows, layout.columns) <= LONGEST
    assert min(layout.width, layout.height) >= 1


@pytest.mark.parametrize("shape", [(DISPLAY_LONGEST, 1500), (1500, DISPLAY_LONGEST), (DISPLAY_LONGEST,) * 2])
def test_a_display_picture_of_the_size_asked_for_is_not_resampled(shape: tuple[int, int]) -> None:
    layout = lay_out(shape, caption(lesion(shape), PROVENANCE))
    assert (layout.height, layout.width) == shape


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "lossy",
    [
        {"LossyImageCompression": "00"},
        {"LossyImageCompression": "01"},
        {
            "LossyImageCompression": "01",
            "LossyImageCompressionRatio": 12.5,
            "LossyImageCompressionMethod": "ISO_15444_1",
        },
    ],
)
def test_compression_is_told(encoding: str, lossy: dict[str, Any]) -> None:
    ds = one(radiograph("CR", (400, 300), **lossy), SC, encoding)
    before = list(ds.get("LossyImageCompressionMethod") or [])
    if encoding == "jpeg":
        assert ds.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
        assert ds.PhotometricInterpretation == "YBR_FULL_422"
        assert ds.LossyImageCompression == "01"
        steps = 2 if "LossyImageCompressionRatio" in lossy else 1
        assert ds["LossyImageCompressionMethod"].VM == ds["LossyImageCompressionRatio"].VM == steps
        assert str(ds.LossyImageCompressionMethod).endswith("ISO_10918_1" + ("']" if steps == 2 else ""))
    else:
        assert ds.LossyImageCompression == lossy["LossyImageCompression"]
        assert bool(before) == ("LossyImageCompressionMethod" in lossy)
    seg = one(radiograph("CR", **lossy), SEG, "planar")
    assert seg.LossyImageCompression == lossy["LossyImageCompression"]


def test_a_lossy_codestream_counts_where_the_header_forgets() -> None:
    header = radiograph("CR")
    header.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    assert sanitise(header).ds.LossyImageCompression == "01"


@pytest.mark.parametrize("value", ["YES", "NO", None])
def test_burned_in_annotation_is_the_sources(value: str | None) -> None:
    assert one(radiograph("CR", BurnedInAnnotation=value), SC, "rgb").get("BurnedInAnnotation") == value


def test_times_are_in_the_sources_offset() -> None:
    ds = one(radiograph(TimezoneOffsetFromUTC="-0830"), SC, "rgb")
    assert (ds.ContentDate, ds.ContentTime) == ("20260303", "203607.000089")
    assert ds.DateOfSecondaryCapture == "20260303"
    item = ds.ContributingEquipmentSequence[-1]
    assert item.ContributionDateTime == "20260304050607.000089+0000"


def digests(results: list[Encoded]) -> list[str]:
    return [hashlib.sha256(each.data).hexdigest() for each in results]


def test_the_same_job_gives_the_same_bytes_here_and_in_another_process() -> None:
    first = digests(encoded(radiograph(shape=(97, 83))))
    assert digests(encoded(radiograph(shape=(97, 83)))) == first
    script = (
        "import test_encode_results as t; from support.radiographs import radiograph;"
        "print(*t.digests(t.encoded(radiograph(shape=(97, 83)))))"
    )
    path = f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[3])]!r};"
    done = subprocess.run([sys.executable, "-c", path + script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == first


def test_the_order_of_the_variants_does_not_matter() -> None:
    source, findings = sanitise(parsed(radiograph())), lesion((96, 80))
    there, back = (
        encode(source, picture((96, 80)), findings, PROVENANCE, wanted) for wanted in (EVERYTHING, EVERYTHING[::-1])
    )
    assert digests(there) == digests(back)[::-1]


def test_another_job_gives_other_uids_and_another_time_the_same() -> None:
    later = dataclasses.replace(PROVENANCE, created_at=datetime(2027, 1, 1, tzinfo=timezone(timedelta(hours=1))))
    other = dataclasses.replace(PROVENANCE, job_key="60" * 32)
    uids = {each.uid for each in encoded(radiograph())}
    assert {each.uid for each in encoded(radiograph(), provenance=later)} == uids
    assert not {each.uid for each in encoded(radiograph(), provenance=other)} & uids
    assert uids == {result_uid(PROVENANCE.job_key, variant) for variant in EVERYTHING}
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)


def test_the_picture_says_which_image_it_is() -> None:
    source = sanitise(parsed(radiograph(SeriesNumber=2, InstanceNumber=3)))
    assert source.described == "2026-03-01, PA, series 2, image 3"
    lines = caption(lesion((96, 80)), PROVENANCE, source.described).above
    assert "Radiograph: 2026-03-01, PA, series 2, image 3" in [line.text for line in lines]
    bare = radiograph("SC", StudyDate="", SeriesNumber=None, InstanceNumber=None)
    assert sanitise(parsed(bare)).described == ""


def test_several_images_of_a_study_are_told_apart_in_the_list_of_series() -> None:
    seen = set()
    for series, instance in ((1, 1), (1, 2), (2, 1), (12, 345), (None, 2), (2_000_000_000, 1)):
        header = radiograph(SeriesNumber=series, InstanceNumber=instance, ImagerPixelSpacing=None)
        for result in encoded(header, [Variant.parse(SEG, "planar"), Variant.parse(SC, "rgb@RESEARCH")]):
            ds = dcmread(BytesIO(result.data))
            assert len(ds.SeriesDescription) <= 64
            assert 0 < ds.SeriesNumber < 2**31
            seen.add((result.variant.kind, ds.SeriesNumber))
    assert len(seen) == 2 * 5, "the series without a number counts as the first"
    ds = one(radiograph(SeriesNumber=2, InstanceNumber=3), SC, "rgb")
    assert (ds.SeriesNumber, ds.SeriesDescription) == (92010203, "AI Overlay - NOT FOR DIAGNOSTIC USE - S2 I3")


def test_outlines_are_smooth_on_a_large_picture() -> None:
    """The model's pixels are eight of the source's: no stairs, neither on the picture nor in the coordinates."""
    y, x = np.mgrid[:384, :384]
    coarse = (y - 180) ** 2 + (x - 200) ** 2 < 40**2
    mask = np.repeat(np.repeat(coarse, 8, 0), 8, 1)
    rows, columns = np.nonzero(mask)
    box = Box(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    region = Region(box, int(mask.sum()), 0.9, 0.7)
    points = outline(mask, region)
    distance = np.hypot(points[:, 0] - 1604, points[:, 1] - 1444)
    assert np.abs(distance - 320).max() < 8
    steps = np.diff(points, axis=0)
    angles = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
    assert np.abs(np.diff(angles)).max() < 0.9, "stairs turn by a right angle"
    findings = Findings(None, mask, (region,), 0.9, True, "")
    display = np.zeros((1700, 1700), np.uint8)
    layout = lay_out(display.shape, caption(findings, PROVENANCE))
    drawn = render(display, findings, layout)[layout.y : layout.y + layout.height]
    rows, columns = np.nonzero((drawn[..., 0] > 200) & (drawn[..., 1] < 100))
    scale = 1700 / 3072
    radius = np.hypot(columns + 0.5 - layout.x - 1604 * scale, rows + 0.5 - 1444 * scale)
    label_free = rows > 1444 * scale - 250 * scale
    assert np.ptp(radius[label_free]) < 3 + 8, (
        "the line is three pixels wide, half a model's pixel out of round at most"
    )
