"""Data sets in the default transfer syntax: other headers, the very same values."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from chexnode.deliver.implicit import to_implicit
from support.deliveries import result


def encoded(ds: Dataset, *, implicit: bool) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, ds)
    return buffer.getvalue()


def nested(depth: int, *, undefined: bool) -> Dataset:
    ds = Dataset()
    ds.PatientName, ds.SliceThickness = "M\u00fcller", "1.50"
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.add_new(0x00420011, "OB", b"\x01\x02")
    ds.add_new(0x0040A160, "UT", "a long text " * 9000)
    if depth:
        item = nested(depth - 1, undefined=undefined)
        item.is_undefined_length_sequence_item = undefined
        ds.ReferencedImageSequence = Sequence([item, Dataset()])
        ds["ReferencedImageSequence"].is_undefined_length = undefined
    return ds


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_it_is_what_pydicom_would_have_written(depth: int, undefined: bool) -> None:
    ds = nested(depth, undefined=undefined)
    assert to_implicit(encoded(ds, implicit=False)) == encoded(ds, implicit=True)


def test_every_value_of_a_result_is_kept() -> None:
    for _ in range(2):  # every second has sequences of undefined length
        ds = result()
        data = encoded(ds, implicit=False)
        again = read_dataset(BytesIO(to_implicit(data)), True, True)
        before = read_dataset(BytesIO(data), False, True)
        assert again.PixelData == before.PixelData
        assert {elem.tag: elem.value for elem in again if elem.VR != "UN"} == {
            elem.tag: elem.value for elem in before if again[elem.tag].VR != "UN"
        }
        assert again[0x00111001].value.strip() == b"kept as it is"


@pytest.mark.parametrize("cut", [1, 7, 9])
def test_what_ends_early_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match=r"data set|element"):
        to_implicit(encoded(nested(1, undefined=False), implicit=False)[:-cut])


def test_what_is_implicit_already_is_refused() -> None:
    with pytest.raises(ValueError, match="Explicit VR"):
        to_implicit(encoded(nested(1, undefined=False), implicit=True))
