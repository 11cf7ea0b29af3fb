"""Every transfer syntax decodes to the same pixels; every lie is answered with a code before a decoder runs."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
import zlib
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openjpeg.utils import encode_array
from PIL import Image as Pillow
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from chexmodels.dicom.decode import decode
from chexmodels.dicom.errors import DecodeError, DecodeFailure
from chexmodels.dicom.part10 import ReadLimits, read, read_intact
from chexmodels.dicom.plain import as_part10
from chexmodels.pixels import to_image
from support.radiographs import part10, radiograph

LIMITS = ReadLimits()
SHAPE = (96, 80)


def compressed(syntax: UID, frame: bytes, **attributes: object) -> Dataset:
    ds = radiograph("CR", SHAPE, PixelData=encapsulate([frame]), **attributes)
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


def through_a_file(ds: Dataset) -> Dataset:
    return read(part10(ds), LIMITS).dataset()


def failure_of(ds: Dataset, **limits: int) -> DecodeFailure:
    with pytest.raises(DecodeError) as caught:
        decode(through_a_file(ds), **limits)
    assert "Müller" not in str(caught.value)
    return caught.value.failure


def failure_of_file(content: bytes, limits: ReadLimits = LIMITS) -> DecodeFailure:
    with pytest.raises(DecodeError) as caught:
        read(content, limits)
    return caught.value.failure


def jpeg(shape: tuple[int, int] = SHAPE) -> bytes:
    buffer = BytesIO()
    Pillow.fromarray((np.mgrid[: shape[0], : shape[1]].sum(0) % 256).astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def siz(rows: int, columns: int, tile: int = 1 << 16, components: int = 1, precision: int = 8) -> bytes:
    """The first two markers of a JPEG 2000 codestream."""
    sizes = struct.pack(">8IH", columns, rows, 0, 0, tile, tile, 0, 0, components)
    body = struct.pack(">HH", 38 + 3 * components, 0) + sizes + bytes([precision - 1, 1, 1]) * components
    return b"\xff\x4f\xff\x51" + body + b"\0" * 64


def sof(marker: int, rows: int, columns: int, components: int = 1, precision: int = 8) -> bytes:
    """A JPEG or JPEG-LS codestream that is a frame header only."""
    body = struct.pack(">BHHB", precision, rows, columns, components) + b"\1\x11\0" * components
    return b"\xff\xd8\xff" + bytes([marker]) + struct.pack(">H", 2 + len(body)) + body + b"\0" * 64


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEG2000])
def test_lossless_syntaxes_give_the_stored_values(syntax: UID, bits: int) -> None:
    stored = np.random.default_rng(1).integers(0, 4000 if bits == 16 else 256, SHAPE).astype(f"u{bits // 8}")
    ds = radiograph("CR", SHAPE, BitsAllocated=bits, BitsStored=min(bits, 12), HighBit=min(bits, 12) - 1)
    ds.PixelData = stored.tobytes()
    if syntax in (JPEG2000Lossless, JPEG2000):
        ds.PixelData = encapsulate([encode_array(stored)])
        ds.file_meta.TransferSyntaxUID = syntax
    else:
        ds.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(decode(through_a_file(ds)), stored)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_native_syntaxes_give_the_stored_values(syntax: UID) -> None:
    stored = np.random.default_rng(2).integers(-2000, 2000, SHAPE).astype("<i2")
    ds = radiograph("CR", SHAPE, BitsAllocated=16, BitsStored=16, HighBit=15, PixelRepresentation=1)
    big = syntax == ExplicitVRBigEndian
    ds.PixelData = stored.astype(">i2").tobytes() if big else stored.tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.save_as(buffer, enforce_file_format=True)
    np.testing.assert_array_equal(decode(read(buffer.getvalue(), LIMITS).dataset()), stored)


def test_jpeg_baseline_decodes_in_one_or_several_fragments() -> None:
    frame = jpeg()
    wanted = np.asarray(Pillow.open(BytesIO(frame)))
    whole = compressed(JPEGBaseline8Bit, frame)
    pieces = compressed(JPEGBaseline8Bit, frame)
    pieces.PixelData = encapsulate([frame], fragments_per_frame=5)
    for ds in (whole, pieces):
        np.testing.assert_allclose(decode(through_a_file(ds)).astype(int), wanted, atol=2)


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (JPEGBaseline8Bit, sof(0xC0, 65500, 65500)),
        (JPEGBaseline8Bit, sof(0xC0, 96, 81)),
        (JPEGBaseline8Bit, sof(0xC0, 0, 80)),
        (JPEGBaseline8Bit, sof(0xC0, 96, 80, components=3)),
        (JPEGLossless, sof(0xC3, 65500, 80)),
        (JPEGLSLossless, sof(0xF7, 60000, 60000)),
        (JPEG2000Lossless, siz(60000, 60000)),
        (JPEG2000Lossless, siz(96, 80, components=3)),
        (JPEG2000Lossless, siz(96, 80, precision=38)),
    ],
)
def test_a_codestream_of_another_size_never_reaches_a_decoder(syntax: UID, frame: bytes) -> None:
    tracemalloc.start()
    try:
        assert failure_of(compressed(syntax, frame)) == "pixel-size"
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (JPEGBaseline8Bit, b"\0\0"),
        (JPEGBaseline8Bit, b"garbage that is no codestream at all"),
        (JPEGBaseline8Bit, b"\xff\xd8"),
        (JPEGBaseline8Bit, b"\xff\xd8" + b"\xff" * 50),
        (JPEGBaseline8Bit, b"\xff\xd8\xff\xe0\0\0" * 9),
        (JPEGBaseline8Bit, b"\xff\xd8\xff\xda\0\4ab"),
        (JPEGBaseline8Bit, sof(0xC0, 96, 80)),
        (JPEGLSLossless, sof(0xC0, 96, 80)),
        (JPEGLSLossless, sof(0xF7, 96, 80)),
        (JPEGLosslessSV1, sof(0xC3, 96, 80)),
        (JPEG2000Lossless, siz(96, 80)[:40]),
        (JPEG2000Lossless, siz(96, 80)),
        (JPEG2000Lossless, siz(96, 80, tile=0)),
        (JPEG2000Lossless, siz(60000, 60000, tile=1)),
        (JPEG2000Lossless, b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 60),
        (RLELossless, struct.pack("<16I", 15, *range(64, 79))),
        (RLELossless, struct.pack("<16I", 1, 5000, *[0] * 14)),
        (RLELossless, b"\1\0\0\0"),
        (UID("1.2.840.10008.1.2.4.100"), b"\0\0\1\xb3"),
    ],
)
def test_what_is_no_codestream_is_undecodable(syntax: UID, frame: bytes) -> None:
    assert failure_of(compressed(syntax, frame)) == "undecodable"


def test_a_truncated_codestream_is_undecodable() -> None:
    frame = encode_array(np.random.default_rng(3).integers(0, 256, SHAPE).astype(np.uint8))
    assert failure_of(compressed(JPEG2000Lossless, frame[:60])) == "undecodable"


@pytest.mark.parametrize("unknown", [b"1.2.840.10008.1.2.4.99", b"1.2.826.0.1.3680043.12"])
def test_an_unknown_transfer_syntax_is_undecodable(unknown: bytes) -> None:
    content = part10(compressed(JPEGBaseline8Bit, jpeg())).replace(JPEGBaseline8Bit.encode(), unknown)
    with pytest.raises(DecodeError) as caught:
        decode(read(content, LIMITS).dataset())
    assert caught.value.failure == "undecodable"


def test_no_fragment_with_content_is_undecodable() -> None:
    ds = compressed(JPEGBaseline8Bit, jpeg())
    for pixel_data in (b"", b"\xfe\xff\x00\xe0\0\0\0\0", b"\xfe\xff\x00\xe0\0\0\0\0" * 2, b"raw" * 50):
        ds.PixelData = pixel_data
        with pytest.raises(DecodeError) as caught:
            decode(ds)
        assert caught.value.failure == "undecodable"


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"Rows": None}, "undecodable"),
        ({"Columns": 0}, "undecodable"),
        ({"Rows": 192}, "pixel-size"),
        ({"Rows": 48}, "pixel-size"),
        ({"BitsAllocated": 12}, "undecodable"),
        ({"BitsStored": 20}, "undecodable"),
        ({"BitsAllocated": 16, "BitsStored": 12}, "pixel-size"),
        ({"SamplesPerPixel": 3}, "undecodable"),
        ({"NumberOfFrames": 1_000_000}, "decode-limit"),
        ({"PixelRepresentation": None}, "undecodable"),
        ({"PixelData": b""}, "pixel-size"),
        ({"PixelData": None}, "pixel-size"),
        ({"Rows": 65535, "Columns": 65535}, "decode-limit"),
    ],
)
def test_contradictory_attributes_are_answered_with_a_code(attributes: dict[str, object], code: str) -> None:
    assert failure_of(radiograph("CR", SHAPE, **attributes)) == code


def test_the_number_of_pixels_is_bounded() -> None:
    assert failure_of(radiograph("CR", SHAPE), max_pixels=96 * 80 - 1) == "decode-limit"


@pytest.mark.parametrize("excess", [b"\0" * 78, b"\0" * 4096, b"\xff" * 7680, bytes(range(256)) * 31])
def test_padding_behind_the_image_is_tolerated(excess: bytes) -> None:
    ds = radiograph("CR", SHAPE)
    stored = np.frombuffer(ds.PixelData, np.uint8).reshape(SHAPE)
    ds.PixelData += excess
    np.testing.assert_array_equal(decode(through_a_file(ds)), stored)


def test_pixels_of_more_columns_than_the_header_says_are_refused() -> None:
    assert failure_of(radiograph("CR", SHAPE, Columns=76)) == "pixel-size"


def test_encapsulated_uncompressed_pixels_are_read() -> None:
    ds = radiograph("CR", SHAPE)
    stored = np.frombuffer(ds.PixelData, np.uint8).reshape(SHAPE)
    ds = compressed(UID("1.2.840.10008.1.2.1.98"), ds.PixelData)
    np.testing.assert_array_equal(decode(through_a_file(ds)), stored)


@pytest.mark.parametrize("bits_stored", [8, 12, 16])
def test_eight_bit_samples_in_a_wider_declaration_are_read(bits_stored: int) -> None:
    frame = jpeg()
    bits = {"BitsAllocated": 16, "BitsStored": bits_stored, "HighBit": bits_stored - 1}
    pixels = decode(through_a_file(compressed(JPEGBaseline8Bit, frame, **bits)))
    np.testing.assert_allclose(pixels.astype(int), np.asarray(Pillow.open(BytesIO(frame))), atol=2)


@pytest.mark.parametrize("allocated", [8, 16])
@pytest.mark.parametrize("is_signed", [False, True])
def test_depth_and_sign_of_a_codestream_count(is_signed: bool, allocated: int) -> None:
    """The header says the contrary of the sign, and fewer bits."""
    stored = np.random.default_rng(4).integers(-2048 * is_signed, 2048, SHAPE).astype(np.int16)
    frame = encode_array(stored if is_signed else stored.astype(np.uint16), bits_stored=12)
    bits = {"BitsAllocated": allocated, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": int(not is_signed)}
    ds = through_a_file(compressed(JPEG2000Lossless, frame, **bits))
    np.testing.assert_array_equal(decode(ds), stored)
    assert "codestream-differs" in to_image(ds, decode(ds)).notes


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("keeps_meta", [False, True])
def test_a_data_set_without_preamble_is_made_a_file(syntax: UID, keeps_meta: bool) -> None:
    ds = radiograph("CR", SHAPE)
    ds.file_meta.TransferSyntaxUID = syntax
    content = part10(ds)
    start = 132 if keeps_meta else len(content) - len(read(content, LIMITS).encoded)
    assert as_part10(content, LIMITS) is None
    made = as_part10(content[start:], LIMITS)
    assert made is not None
    again = read(made, LIMITS)
    assert again.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(decode(again.dataset()), decode(read(content, LIMITS).dataset()))


def test_nothing_is_made_of_what_names_no_codec() -> None:
    content = part10(compressed(JPEGBaseline8Bit, jpeg()))
    encoded = bytes(read(content, LIMITS).encoded)
    for plain in (b"", b"<html>" * 99, encoded, encoded[:100]):
        assert as_part10(plain, LIMITS) is None


def test_a_file_without_preamble_or_transfer_syntax_is_malformed() -> None:
    content = part10(radiograph("CR"))
    for broken in (b"", b"<html>" * 99, content[132:], content[:140], content[:132] + content[400:]):
        assert failure_of_file(broken) == "malformed"


def test_every_truncation_is_malformed() -> None:
    content = part10(radiograph("DX", (8, 8)))
    whole = read(content, LIMITS)
    assert whole.pixel_data is not None
    start = len(content) - len(whole.encoded)
    cuts_between_elements, codes = 0, set()
    for end in range(start + 1, len(content)):
        try:
            cut = read(content[:end], LIMITS)
        except DecodeError as error:
            codes.add(error.failure)
        else:
            assert cut.pixel_data is None
            cuts_between_elements += 1
    assert codes == {"malformed"}
    assert cuts_between_elements < 100  # as many as there are elements


def test_what_stands_before_a_fault_is_read() -> None:
    content = part10(radiograph("DX", (8, 8)))
    broken = content.replace(
        b"\x20\x00\x20\x00CS\x04", b"\x20\x00\x20\x00ZZ\x05"
    )  # Patient Orientation, behind the study's UID
    assert broken != content
    with pytest.raises(DecodeError):
        read(broken, LIMITS)
    ds = read_intact(broken, LIMITS)
    assert (str(ds.PatientName), ds.StudyID) == ("Müller^Jörg", "S1")
    assert "PatientOrientation" not in ds
    assert read_intact(content[: content.index(b"Chest PA") + 3], LIMITS).Modality == "DX"
    assert "PixelData" not in read_intact(content, LIMITS)
    for nothing in (b"", content[:140]):
        with pytest.raises(DecodeError):
            read_intact(nothing, LIMITS)


@given(st.binary(max_size=400), st.integers(0, 700), st.sampled_from([ImplicitVRLittleEndian, JPEGBaseline8Bit]))
@settings(deadline=None)
def test_any_damage_ends_in_an_image_or_a_code(damage: bytes, at: int, syntax: UID) -> None:
    content = bytearray(part10(radiograph("CR", (8, 8))))
    content[132 + at : 132 + at + len(damage)] = damage
    with contextlib.suppress(DecodeError):
        assert decode(read(bytes(content), LIMITS).dataset()).ndim == 2


def nested(depth: int) -> Dataset:
    ds = radiograph("CR", (8, 8))
    inner = Dataset()
    for _ in range(depth):
        outer = Dataset()
        outer.ConceptNameCodeSequence = [inner]
        inner = outer
    ds.ContentSequence = [inner]
    return ds


@pytest.mark.parametrize("undefined", [False, True])
def test_nesting_is_bounded_for_both_kinds_of_length(undefined: bool) -> None:
    for depth, allowed in ((20, True), (64, False)):
        ds = nested(depth)
        for element in ds.iterall():
            if element.VR == "SQ":
                element.is_undefined_length = undefined
                for item in element.value:
                    item.is_undefined_length_sequence_item = undefined
        content = part10(ds)
        if allowed:
            assert read(content, replace(LIMITS, max_nesting=depth + 1)).pixel_data is not None
            assert failure_of_file(content, replace(LIMITS, max_nesting=depth)) == "too-deep"
        else:
            assert failure_of_file(content) == "too-deep"


def test_elements_are_bounded_items_included() -> None:
    ds = radiograph("CR", (8, 8))
    items = []
    for _ in range(50):
        item = Dataset()
        item.CodeValue = "1"
        items.append(item)
    ds.ProcedureCodeSequence = items
    elements = sum(1 for _ in ds.iterall())
    assert elements > 50
    assert read(part10(ds), ReadLimits(max_elements=elements)).pixel_data is not None
    assert failure_of_file(part10(ds), ReadLimits(max_elements=elements - 1)) == "too-deep"


def test_a_deflate_bomb_is_not_inflated() -> None:
    ds = radiograph("CR", (8, 8))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    content = part10(ds)
    meta_end = len(content) - len(_deflated_part(content))
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflate.compress(b"\0" * 50_000_000) + deflate.flush()
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        assert failure_of_file(content[:meta_end] + bomb, ReadLimits(inflate_bytes=1_000_000)) == "decode-limit"
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert failure_of_file(content[:meta_end] + b"\xff" * 50) == "malformed"


def _deflated_part(content: bytes) -> bytes:
    (group_length,) = struct.unpack_from("<I", content, 140)
    return content[144 + group_length :]


def test_long_elements_are_left_out_of_the_header_and_the_rest_is_kept() -> None:
    ds = radiograph("CR", (8, 8))
    block = ds.private_block(0x0009, "TEST", create=True)
    block.add_new(1, "OB", b"\1" * 200_000)
    block.add_new(2, "LO", "short")
    part = read(part10(ds), LIMITS)
    assert len(part.encoded_header()) < 5_000
    header = read(part10(ds), LIMITS).dataset()
    assert len(header[0x00091001].value) == 200_000
    assert b"short" in part.encoded_header()


@pytest.mark.parametrize(("tables", "kept"), [(5, True), (20, False)])
def test_look_up_tables_are_kept_in_the_header_within_reason(tables: int, kept: bool) -> None:
    """A presentation state shows the image as its header does, so it needs them."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [32_768, 0, 16])
    item.add_new("LUTData", "OW", bytes(65_536))
    header = read(part10(radiograph("CR", (8, 8), VOILUTSequence=[item] * tables)), LIMITS).encoded_header()
    assert len(header) == pytest.approx(65_536 * tables * kept, abs=5_000)
