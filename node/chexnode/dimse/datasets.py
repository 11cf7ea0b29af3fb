"""Small data sets that travel with messages (identifiers, storage commitment), encoded and decoded."""

from __future__ import annotations

from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from chexmodels.dicom.elements import scan
from chexmodels.dicom.transfer_syntaxes import encoding_of

_MAX_NESTING = 8


class NotADataSet(ValueError):
    """The bytes cannot be decoded, or hold more than the limit."""


def encode(ds: Dataset, transfer_syntax_uid: str) -> bytes:
    """Encode ``ds`` in an uncompressed transfer syntax."""
    encoding = encoding_of(transfer_syntax_uid)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = encoding.implicit, encoding.little
    write_dataset(buffer, ds)
    return buffer.getvalue()


def decode(data: bytes, transfer_syntax_uid: str, max_elements: int) -> Dataset:
    """Decode a data set of at most ``max_elements`` elements, and as many items, walked before anything is allocated.

    Raises NotADataSet.
    """
    encoding = encoding_of(transfer_syntax_uid)
    walked = scan(data, encoding, max_elements, _MAX_NESTING)
    if walked.broken or walked.flaws:  # which the parser would read in its own way
        raise NotADataSet(walked.broken or walked.flaws[0])
    try:
        return read_dataset(BytesIO(data), encoding.implicit, encoding.little)
    except Exception as error:  # the parser's many ways of failing
        raise NotADataSet("not a data set") from error
