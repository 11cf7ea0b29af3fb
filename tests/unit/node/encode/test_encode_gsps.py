"""Presentation states: outlines where the regions are, words, and the radiograph as its own header shows it."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from chexmodels.dicom.greyscale import Choice
from chexmodels.finding import Box, Findings, Region
from chexmodels.pixels import to_image
from chexnode.encode.gsps import encode_gsps
from chexnode.encode.objects import to_bytes
from chexnode.encode.provenance import tracking_uid
from chexnode.encode.source import sanitise
from support.radiographs import PROVENANCE, Kind, lesion, parsed, part10, picture, radiograph
from support.servers import find_tool
from support.validators import unexplained

SHAPE = (97, 83)


def gsps(header: Dataset, findings: Findings | None = None, choice: Choice | None = None) -> Dataset:
    """Encode a presentation state and read it back."""
    source = sanitise(header, choice)
    made = encode_gsps(source, findings or lesion((source.rows, source.columns)), PROVENANCE)
    return dcmread(BytesIO(to_bytes(made)))


def layer(ds: Dataset, name: str) -> Dataset:
    """Return the annotation on the graphic layer ``name``."""
    (found,) = (item for item in ds.GraphicAnnotationSequence if item.GraphicLayer == name)
    return found


def two_regions() -> Findings:
    mask = np.zeros(SHAPE, bool)
    mask[10:20, 50:70] = True
    mask[60:90, 0:9] = True
    regions = (Region(Box(50, 10, 70, 20), 200, 0.91, 0.7), Region(Box(0, 60, 9, 90), 270, 0.52, 0.4))
    return Findings(None, mask, regions, 0.87, True, "m")


def test_each_region_has_its_outline_number_and_tracking_uid() -> None:
    ds = gsps(parsed(radiograph("CR", SHAPE)), two_regions())
    outlines = layer(ds, "AI_OUTLINES").GraphicObjectSequence
    assert [item.GraphicData for item in outlines] == [
        [50, 10, 70, 10, 70, 20, 50, 20, 50, 10],
        [0, 60, 9, 60, 9, 90, 0, 90, 0, 60],
    ]
    for number, item in enumerate(outlines, 1):
        assert (item.GraphicType, item.GraphicAnnotationUnits, item.GraphicFilled) == ("POLYLINE", "PIXEL", "N")
        assert item.NumberOfGraphicPoints * 2 == len(item.GraphicData)
        assert item.TrackingUID == tracking_uid(PROVENANCE.job_key, number)
    assert [item.UnformattedTextValue for item in layer(ds, "AI_LABELS").TextObjectSequence] == ["1: 91%", "2: 52%"]
    order = {item.GraphicLayer: item.GraphicLayerOrder for item in ds.GraphicLayerSequence}
    assert sorted(order, key=lambda name: order[name]) == ["AI_OUTLINES", "AI_LABELS", "AI_BANNER"]


def test_the_words_stand_one_to_a_line_and_inside_the_displayed_area() -> None:
    items = layer(gsps(parsed(radiograph())), "AI_BANNER").TextObjectSequence
    assert [item.UnformattedTextValue for item in items] == [
        "Research use only - not for diagnosis",
        "AI: looks for any abnormality, does not name it. CheX-Nomaly 1.2.3",
        "1 ABNORMAL REGION MARKED",
        "Image score 87% (threshold 50%). Peak by region - 1: 91%",
    ]
    boxes = [(*item.BoundingBoxTopLeftHandCorner, *item.BoundingBoxBottomRightHandCorner) for item in items]
    assert all(0 <= left < right <= 1 and 0 <= top < bottom <= 1 for left, top, right, bottom in boxes)
    assert all(above[3] <= below[1] + 1e-6 for above, below in itertools.pairwise(boxes))


@pytest.mark.parametrize("shape", [(1, 1), (9, 7), (97, 83), (33, 1001), (3000, 2500)])
@pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_a_label_is_beside_its_region_and_inside_the_image(shape: tuple[int, int], corner: tuple[int, int]) -> None:
    mask = np.zeros(shape, bool)
    mask[corner] = True
    y, x = (index % size for index, size in zip(corner, shape, strict=True))
    findings = Findings(None, mask, (Region(Box(x, y, x + 1, y + 1), 1, 0.9, 0.9),), 0.9, True, "m")
    (item,) = layer(gsps(parsed(radiograph("CR", shape)), findings), "AI_LABELS").TextObjectSequence
    left, top = item.BoundingBoxTopLeftHandCorner
    right, bottom = item.BoundingBoxBottomRightHandCorner
    assert 0 <= left < right <= shape[1]
    assert 0 <= top < bottom <= shape[0]
    assert min(abs(bottom - y), abs(top - y - 1)) < 1e-3 or bottom == shape[0]


def test_it_refers_to_the_image_and_belongs_to_its_study() -> None:
    header = parsed(radiograph("DX", SOPClassUID="1.3.46.670589.11.0.0.12.1"))
    ds = gsps(header)
    assert (ds.Modality, ds.SeriesNumber, ds.StudyInstanceUID) == ("PR", 9301, header.StudyInstanceUID)
    assert ds.SeriesInstanceUID not in (header.SeriesInstanceUID, ds.SOPInstanceUID)
    (series,) = ds.ReferencedSeriesSequence
    (image,) = series.ReferencedImageSequence
    assert series.SeriesInstanceUID == header.SeriesInstanceUID
    for item in (image, *(a.ReferencedImageSequence[0] for a in ds.GraphicAnnotationSequence)):
        assert item.ReferencedSOPClassUID == "1.3.46.670589.11.0.0.12.1"
        assert item.ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert ds.BodyPartExamined == "CHEST"
    assert (ds.PresentationCreationDate, ds.PresentationCreationTime) == ("20260304", "050607.000089")


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"ImagerPixelSpacing": [0.15, 0.14]}, [15, 14]),
        ({"ImagerPixelSpacing": [0.143, 0.143]}, [1, 1]),
        ({"ImagerPixelSpacing": None, "PixelSpacing": [0.1, 0.2]}, [1, 2]),
        ({"ImagerPixelSpacing": None, "PixelAspectRatio": [4, 3]}, [4, 3]),
        ({"ImagerPixelSpacing": None}, [1, 1]),
        ({"ImagerPixelSpacing": [0.1, 10]}, [1, 1]),
        ({"ImagerPixelSpacing": None, "PixelAspectRatio": [0, 3]}, [1, 1]),
    ],
)
def test_the_displayed_area_is_the_image_with_its_own_aspect(attributes: dict[str, Any], expected: list[int]) -> None:
    (area,) = gsps(parsed(radiograph("CR", SHAPE, **attributes))).DisplayedAreaSelectionSequence
    assert area.PresentationSizeMode == "SCALE TO FIT"
    assert list(area.PresentationPixelAspectRatio) == expected
    assert (list(area.DisplayedAreaTopLeftHandCorner), list(area.DisplayedAreaBottomRightHandCorner)) == (
        [1, 1], [83, 97],
    )  # fmt: skip


@pytest.mark.parametrize(
    "findings",
    [
        lesion(SHAPE, False),
        lesion(SHAPE, None),
        Findings(None, None, (), 0.9, True, "m"),
        dataclasses.replace(lesion(SHAPE), regions=()),
    ],
)
def test_there_is_no_presentation_state_of_nothing(findings: Findings) -> None:
    with pytest.raises(ValueError, match="no region"):
        gsps(radiograph("CR", SHAPE), findings)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="source image"):
        gsps(radiograph("CR", SHAPE), lesion((83, 97)))


def sixteen_bits(
    *,
    lowest: int = 1000,
    highest: int = 3000,
    signed: bool = False,
    photometric: str = "MONOCHROME2",
    **attributes: Any,
) -> Dataset:
    """Return a radiograph of 16 bits whose values rise along both axes from ``lowest`` to ``highest``."""
    ds = radiograph("CR", SHAPE, photometric)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    values = lowest + (highest - lowest) * (y / SHAPE[0] + x / SHAPE[1]) / 2
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, int(signed)
    ds.PixelData = values.astype("<i2" if signed else "<u2").tobytes()
    ds["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def table(values: NDArray[Any], first: int, bits: int, *, vr: str = "OW", **attributes: Any) -> list[Dataset]:
    """Return a look-up table sequence of one item."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values), first, bits])
    raw = values.astype("u1" if bits == 8 else "<u2").tobytes()
    item.add_new("LUTData", vr, raw + b"\0" * (len(raw) % 2) if vr == "OW" else [int(v) for v in values])
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return [item]


def curve(entries: int, top: int) -> NDArray[np.int64]:
    """Return an S-shaped table."""
    return np.asarray(np.round(top / (1 + np.exp(-8 * (np.linspace(0, 1, entries) - 0.5)))), np.int64)


WINDOW = {"WindowCenter": 1900, "WindowWidth": 1200}
SOURCES: dict[str, Dataset] = {
    "8 bits": radiograph("DX", SHAPE),
    # not DX: DCMTK inverts an image of its Presentation LUT Shape INVERSE and of MONOCHROME1 twice
    "8 bits MONOCHROME1": radiograph("CR", SHAPE, "MONOCHROME1"),
    "window": sixteen_bits(**WINDOW),
    "window MONOCHROME1": sixteen_bits(photometric="MONOCHROME1", **WINDOW),
    "several windows": sixteen_bits(WindowCenter=[1900, 40], WindowWidth=[1200, 400]),
    "sigmoid": sixteen_bits(VOILUTFunction="SIGMOID", **WINDOW),
    "linear exact": sixteen_bits(VOILUTFunction="LINEAR_EXACT", **WINDOW),
    "rescale": sixteen_bits(
        RescaleSlope=2, RescaleIntercept=-1000, RescaleType="US", WindowCenter=2800, WindowWidth=2400
    ),
    "signed": sixteen_bits(lowest=-900, highest=1500, signed=True, WindowCenter=200, WindowWidth=1500),
    "VOI LUT": sixteen_bits(VOILUTSequence=table(curve(2500, 4095), 800, 12)),
    "VOI LUT MONOCHROME1": sixteen_bits(photometric="MONOCHROME1", VOILUTSequence=table(curve(2500, 4095), 800, 12)),
    "VOI LUT of numbers": sixteen_bits(VOILUTSequence=table(curve(2500, 4095), 800, 12, vr="US")),
    "VOI LUT of bytes": sixteen_bits(VOILUTSequence=table(curve(2501, 255), 800, 8)),
    "VOI LUT, signed": sixteen_bits(
        lowest=-900, highest=1500, signed=True, VOILUTSequence=table(curve(2401, 65535), -900, 16)
    ),
    "VOI LUT of 65536": sixteen_bits(lowest=0, highest=65535, VOILUTSequence=table(curve(65536, 65535) , 0, 16)),
    "modality LUT": sixteen_bits(
        ModalityLUTSequence=table(curve(2500, 4000)[::-1], 800, 16, ModalityLUTType="US"),
        WindowCenter=1500, WindowWidth=2500,
    ),
}  # fmt: skip
SOURCES["VOI LUT of 65536"].VOILUTSequence[0].LUTDescriptor = [0, 0, 16]


def rendered(image: Path, state: Path | None = None) -> NDArray[np.int64]:
    """Return the grey levels, (rows, columns) in 0 to 255, that DCMTK would put on a screen."""
    out = image.with_suffix(".pgm")
    options = ["--pstate", str(state)] if state else []
    command = [find_tool("dcmp2pgm", "dcmtk"), "-q", *options, str(image), str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return np.asarray(Image.open(out), np.int64)


def files(header: Dataset, folder: Path, ds: Dataset | None = None) -> tuple[Path, Path]:
    """Write an image and its presentation state."""
    image, state = folder / "image.dcm", folder / "state.dcm"
    image.write_bytes(part10(header))
    state.write_bytes(to_bytes(ds or gsps(parsed(header))))
    return image, state


@pytest.mark.parametrize("name", SOURCES)
def test_the_image_is_shown_as_its_own_header_says(name: str, tmp_path: Path) -> None:
    image, state = files(SOURCES[name], tmp_path)
    own, ours = rendered(image), rendered(image, state)
    assert own.shape == ours.shape == SHAPE
    assert np.ptp(own) > 60, "the source's own picture shows too little to compare"
    assert np.abs(own - ours).max() <= 1


@pytest.mark.parametrize("name", SOURCES)
def test_the_image_is_shown_as_the_model_saw_it(name: str, tmp_path: Path) -> None:
    header = SOURCES[name]
    shown = rendered(*files(header, tmp_path))
    seen = to_image(header, header.pixel_array).pixels
    assert np.corrcoef(shown.ravel(), seen.ravel())[0, 1] > 0.97


def test_real_radiographs_are_shown_as_their_own_headers_say(shared: Path, tmp_path: Path) -> None:
    paths = sorted((shared / "data" / "dicom" / "chest").glob("*.dcm"))
    polarities = set()
    for path in paths:
        header = dcmread(path)
        polarities.add(header.PhotometricInterpretation)
        seen = to_image(header, header.pixel_array).pixels
        if header.file_meta.TransferSyntaxUID.is_compressed:
            header.decompress(generate_instance_uid=False)
        image, state = tmp_path / "image.dcm", tmp_path / "state.dcm"
        header.save_as(image)
        state.write_bytes(to_bytes(gsps(dcmread(path, stop_before_pixels=True))))
        own, ours = rendered(image), rendered(image, state)
        assert np.abs(own - ours).max() <= 1, path.name
        assert np.corrcoef(ours.ravel(), seen.ravel())[0, 1] > 0.99, path.name
    assert polarities == {"MONOCHROME1", "MONOCHROME2"}


@pytest.mark.parametrize("kind", ["CR", "DX", "SC"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_radiograph_is_the_right_way_up(kind: Kind, photometric: str, tmp_path: Path) -> None:
    """Grey level by grey level the picture that the pixels were made from, whatever polarity they are stored in."""
    shown = rendered(*files(radiograph(kind, SHAPE, photometric), tmp_path))
    assert np.abs(shown - picture(SHAPE)).max() <= 2


def test_the_comparison_would_notice_a_negative(tmp_path: Path) -> None:
    header = SOURCES["window MONOCHROME1"]
    ds = gsps(parsed(header))
    ds.PresentationLUTShape = "IDENTITY"
    image, state = files(header, tmp_path, ds)
    assert np.abs(rendered(image) - rendered(image, state)).max() > 100


def test_the_comparison_would_notice_a_lost_window(tmp_path: Path) -> None:
    header = SOURCES["window"]
    ds = gsps(parsed(header))
    del ds.SoftcopyVOILUTSequence
    image, state = files(header, tmp_path, ds)
    assert np.abs(rendered(image) - rendered(image, state)).max() > 50


@pytest.mark.parametrize(
    ("photometric", "shape", "expected"),
    [
        ("MONOCHROME1", None, "INVERSE"),
        ("MONOCHROME1", "INVERSE", "INVERSE"),
        ("MONOCHROME1", "IDENTITY", "INVERSE"),
        ("MONOCHROME2", None, "IDENTITY"),
        ("MONOCHROME2", "IDENTITY", "IDENTITY"),
        ("MONOCHROME2", "INVERSE", "INVERSE"),
    ],
)
def test_polarity(photometric: str, shape: str | None, expected: str) -> None:
    header = radiograph("CR", SHAPE, photometric, PresentationLUTShape=shape)
    assert gsps(parsed(header)).PresentationLUTShape == expected


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_look_up_table_survives_the_transfer_syntax(syntax: str) -> None:
    values = curve(1000, 4095)
    for first, signed in ((300, False), (-300, True)):
        header = sixteen_bits(signed=signed, VOILUTSequence=table(values, first, 12))
        if syntax == ExplicitVRBigEndian:
            item = header.VOILUTSequence[0]
            item.LUTData = np.frombuffer(item.LUTData, "<u2").astype(">u2").tobytes()
        del header.PixelData
        buffer = BytesIO()
        header.file_meta.TransferSyntaxUID = syntax
        header.save_as(
            buffer,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=syntax != ExplicitVRBigEndian,
            enforce_file_format=False,
        )
        (item,) = gsps(dcmread(BytesIO(buffer.getvalue()), force=True)).SoftcopyVOILUTSequence[0].VOILUTSequence
        assert list(item.LUTDescriptor) == [1000, first, 12]
        assert np.array_equal(np.frombuffer(item.LUTData, "<u2"), values)


def wrong_table(**changes: Any) -> list[Dataset]:
    (item,) = table(curve(1000, 4095), 300, 12)
    for keyword, value in changes.items():
        if value is None:
            delattr(item, keyword)
        else:
            item[keyword].value = value
    return [item]


@pytest.mark.parametrize(
    "attributes",
    [
        {"WindowCenter": 100},
        {"WindowWidth": 100},
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": 100, "WindowWidth": -5},
        {"WindowCenter": 100, "WindowWidth": 0.5},
        {"WindowCenter": 100, "WindowWidth": 100, "VOILUTFunction": "GUESS"},
        {"VOILUTSequence": []},
        {"VOILUTSequence": wrong_table(LUTData=None)},
        {"VOILUTSequence": wrong_table(LUTDescriptor=None)},
        {"VOILUTSequence": wrong_table(LUTData=b"\0" * 10)},
        {"VOILUTSequence": wrong_table(LUTDescriptor=[1000, 0, 24])},
        {"VOILUTSequence": wrong_table(LUTDescriptor=[1, 0, 12])},
    ],
)
def test_an_invalid_window_is_no_window(attributes: dict[str, Any]) -> None:
    assert "SoftcopyVOILUTSequence" not in gsps(parsed(sixteen_bits(**attributes)))


def test_a_window_stands_in_for_an_invalid_table() -> None:
    header = sixteen_bits(VOILUTSequence=wrong_table(LUTData=None), **WINDOW)
    (voi,) = gsps(parsed(header)).SoftcopyVOILUTSequence
    assert (voi.WindowCenter, voi.WindowWidth) == (1900, 1200)


@pytest.mark.parametrize(
    "attributes",
    [
        {"RescaleSlope": 0, "RescaleIntercept": 1},
        {"RescaleSlope": 2},
        {"RescaleIntercept": 2},
        {"ModalityLUTSequence": wrong_table(LUTData=None)},
    ],
)
def test_an_invalid_rescale_is_no_rescale(attributes: dict[str, Any]) -> None:
    ds = gsps(parsed(sixteen_bits(**attributes)))
    assert not {"RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"} & set(ds.dir())


HOSTILE = st.one_of(
    st.binary(max_size=24), st.lists(st.integers(-70_000, 70_000), max_size=5), st.just(curve(40, 255).tobytes())
)


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(HOSTILE | st.sampled_from([[40, 0, 8], [20, -5, 16], [20, 0, 12], [40, 65500, 8], [0, 0, 16]]), HOSTILE),
    st.sampled_from(["US", "SS", "OW", "LO", "DS", "UN"]),
    st.sampled_from(["VOILUTSequence", "ModalityLUTSequence"]),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_look_up_table_is_too_hostile(values: tuple[Any, Any], vr: str, sequence: str) -> None:
    """Whatever is in it, the presentation state can be made, written and read."""
    header, item = parsed(radiograph("CR", (9, 7))), Dataset()
    for keyword, value in zip(("LUTDescriptor", "LUTData"), values, strict=True):
        tag = Tag(keyword)
        if isinstance(value, bytes):
            item._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
        else:
            item[tag] = DataElement(tag, vr, value, already_converted=True)
    setattr(header, sequence, [item])
    assert gsps(header).PresentationLUTShape == "IDENTITY"


def test_what_the_pixels_proved_useless_is_left_out() -> None:
    header = parsed(sixteen_bits(RescaleSlope=2, RescaleIntercept=0, **WINDOW))
    assert {"SoftcopyVOILUTSequence", "RescaleSlope"} <= set(gsps(header).dir())
    for choice, keyword in ((Choice(0, None), "SoftcopyVOILUTSequence"), (Choice(None, 0), "RescaleSlope")):
        assert keyword not in gsps(header, choice=choice)


def test_the_phantom_is_not_symmetric() -> None:
    """Else a picture turned or flipped would pass the comparisons above."""
    grey = picture(SHAPE)
    assert not any(np.array_equal(grey, other) for other in (grey[::-1], grey[:, ::-1], grey[::-1, ::-1]))


def test_shutters_and_overlays_of_the_source_stay() -> None:
    """A presentation state replaces the image's own display: what it does not repeat would vanish."""
    header = radiograph(
        "CR", SHAPE, ShutterShape=["RECTANGULAR", "CIRCULAR"], ShutterLeftVerticalEdge=5, ShutterRightVerticalEdge=70,
        ShutterUpperHorizontalEdge=6, ShutterLowerHorizontalEdge=90, CenterOfCircularShutter=[48, 40],
        RadiusOfCircularShutter=60, ShutterPresentationValue=0,
    )  # fmt: skip
    source = sanitise(parsed(header), overlays=(0x6000, 0x6004))
    findings = dataclasses.replace(lesion(SHAPE), notes=("shutter-applied",))
    data = to_bytes(encode_gsps(source, findings, PROVENANCE))
    ds = dcmread(BytesIO(data))
    layer = ds[0x60001001].value
    assert ds[0x60041001].value == layer
    assert layer in [item.GraphicLayer for item in ds.GraphicLayerSequence]
    assert (list(ds.ShutterShape), ds.ShutterLowerHorizontalEdge) == (["RECTANGULAR", "CIRCULAR"], 90)
    assert (list(ds.CenterOfCircularShutter), ds.RadiusOfCircularShutter) == ([48, 40], 60)
    assert unexplained(data, part10(header)) == []
    plain = gsps(parsed(radiograph("CR", SHAPE, ShutterShape="RECTANGULAR")))
    assert "ShutterShape" not in plain
    assert 0x60001001 not in plain
