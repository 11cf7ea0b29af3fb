"""Headers as broken as real senders write them: every face of the node reads them the same way.

What search, job tables and the audit trail say comes from the receiver's header, what the PACS gets from the encoder's,
metadata from the JSON model, rendered pictures from the web role's renderer, the verdict from the gate.
"""

from __future__ import annotations

import struct
from itertools import product

import numpy as np
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from chexmodels.dicom.decode import decode
from chexmodels.dicom.part10 import ReadLimits, read
from chexmodels.pixels import to_image
from chexnode.dicomweb.json_model import model_of
from chexnode.encode.source import sanitise
from chexnode.receive.filemeta import Announced, file_prefix
from chexnode.receive.header import read_header
from chexnode.settings.limits import LimitSettings
from chexnode.triage.header import Header
from chexnode.web.dicomweb.render import annotation, to_screen
from support.radiographs import part10, radiograph

EXPLICIT_VR = "1.2.840.10008.1.2.1"
CR = "1.2.840.10008.5.1.4.1.1.1"
NAMES = {
    "nothing declared, UTF-8": (None, "Müller^Jörg".encode(), "Müller^Jörg"),
    "nothing declared, Latin-1": (None, "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
    "ISO IR 192": (b"ISO IR 192", "Müller^J".encode(), "Müller^J"),
    "UTF-8": (b"UTF-8", "Müller^J".encode(), "Müller^J"),
    "utf8": (b"utf8", "Müller^J".encode(), "Müller^J"),
    "ISO_IR 192 of Latin-1": (b"ISO_IR 192", "Müller^J".encode("latin-1"), "Müller^J"),
    "ISO_IR 100 in lower case": (b"iso_ir 100", "Müller^J".encode("latin-1"), "Müller^J"),
    "ISO-IR-100": (b"ISO-IR-100", "Müller^J".encode("latin-1"), "Müller^J"),
    "ISO_IR100": (b"ISO_IR100", "Müller^J".encode("latin-1"), "Müller^J"),
    "ISO 8859-1": (b"ISO 8859-1", "Müller^J".encode("latin-1"), "Müller^J"),
    "ISO-8859-5": (b"ISO-8859-5", "Иванов^И".encode("iso8859-5"), "Иванов^И"),
    "ISO_IR_144": (b"ISO_IR_144", "Иванов^И".encode("iso8859-5"), "Иванов^И"),
    "windows-1251": (b"windows-1251", "Иванов^И".encode("cp1251"), "Иванов^И"),
    "ISO2022 IR 87": (b"\\ISO2022 IR 87", b"Yamada^T=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^T=山田^太郎"),
    "escapes, nothing declared": (None, b"Yamada^T=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^T=山田^太郎"),
    "GB18030": (b"GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
    "unknown": (b"ISO_IR 999", "Müller^J".encode("latin-1"), "Müller^J"),
    "padded with NUL": (b"ISO_IR 192\0", b"Doe^John\0", "Doe^John"),
    "NUL inside": (None, b"Doe\0^John", "Doe ^John"),
    "line break inside": (None, b"Doe^John\r\nJr", "Doe^John Jr"),
}


def broken(**values: bytes | None) -> bytes:
    """A file of a drawn radiograph whose elements hold these very bytes; None removes one."""
    whole = read(part10(radiograph("CR", (64, 72))), ReadLimits())
    elements = {e.tag: bytes(whole.encoded[e.at : e.start + e.length]) for e in whole.scan.elements.values()}
    for keyword, value in ({"SpecificCharacterSet": None} | values).items():
        tag = Tag(keyword)
        elements.pop(tag, None)
        if value is not None:
            even = value + b" " * (len(value) % 2)
            elements[tag] = struct.pack("<HH2sH", tag.group, tag.element, dictionary_VR(tag).encode(), len(even)) + even
    assert whole.scan.pixels is not None
    return file_prefix(Announced(CR, "1.2.3", EXPLICIT_VR), "TEST") + b"".join(
        [*(elements[tag] for tag in sorted(elements)), bytes(whole.encoded[whole.scan.pixels.at :])]
    )


class Faces:
    """One file as each part of the node reads it."""

    def __init__(self, content: bytes) -> None:
        self.part10 = read(content, ReadLimits())
        self.received = read_header(self.part10.encoded, EXPLICIT_VR, LimitSettings())
        self.results = sanitise(self.part10.header)
        self.metadata = model_of(self.part10.whole_header(), lambda path: path)
        self.gate = Header(self.received.ds)
        self.picture = annotation(self.part10.whole_header(), ["patient"])


@pytest.mark.parametrize("case", NAMES)
def test_a_name_is_the_same_everywhere(case: str) -> None:
    declared, encoded, name = NAMES[case]
    faces = Faces(broken(SpecificCharacterSet=declared, PatientName=encoded, StudyDescription=encoded))
    assert faces.received.study["patient_name"] == name
    assert str(faces.results.ds.PatientName) == name
    assert "=".join(faces.metadata["00100010"]["Value"][0].values()) == name
    assert faces.picture[0] == name
    assert faces.received.study["study_description"] == faces.results.ds.StudyDescription == name
    assert faces.metadata["00081030"]["Value"] == [name]
    assert " ".join(faces.gate.text(0x00081030).split()) == " ".join(name.upper().replace(" ^", "\0^").split())


@pytest.mark.parametrize(
    ("keyword", "column", "written", "expected"),
    [
        ("StudyDate", "study_date", b"2026.01.02", "20260102"),
        ("StudyDate", "study_date", b"2026-01-02", "20260102"),
        ("StudyDate", "study_date", b"2026/01/02", "20260102"),
        ("StudyDate", "study_date", b" 20260102\0", "20260102"),
        ("StudyDate", "study_date", b"20261302", None),
        ("StudyDate", "study_date", b"today", None),
        ("PatientBirthDate", "patient_birth_date", b"1950.02.30", None),
        ("PatientBirthDate", "patient_birth_date", b"00000000", None),
        ("StudyTime", "study_time", b"10:15:00", "101500"),
        ("StudyTime", "study_time", b"25:99", None),
        ("PatientSex", "patient_sex", b"m\0", "M"),
        ("PatientSex", "patient_sex", b"female", None),
        ("PatientID", "patient_id", b"A\0B\x0bC \0", "A B C"),
        ("PatientID", "patient_id", "P-ü".encode(), "P-ü"),
        ("PatientID", "patient_id", b"A\\B", "A\\B"),
        ("PatientName", "patient_name", b"Doe\\John", "Doe^John"),
        ("AccessionNumber", "accession_number", b"  17 ", "17"),
        ("StudyID", "study_id", b"", None),
    ],
)
def test_a_value_is_the_same_in_search_and_in_results(
    keyword: str, column: str, written: bytes, expected: str | None
) -> None:
    faces = Faces(broken(**{keyword: written}))
    assert faces.received.study[column] == expected
    copied = faces.results.ds[keyword].value
    assert ("\\".join(copied) if isinstance(copied, MultiValue) else str(copied)).strip() == (expected or "")


@pytest.mark.parametrize(
    ("photometric", "shape"),
    product([b"MONOCHROME1", b"MONOCHROME2", b"monochrome1\0"], [None, b"IDENTITY", b"INVERSE", b"inverse\0", b"ODD"]),
)
def test_polarity_is_the_same_for_model_presentation_state_and_picture(photometric: bytes, shape: bytes | None) -> None:
    faces = Faces(broken(PhotometricInterpretation=photometric, PresentationLUTShape=shape))
    ds = faces.part10.dataset()
    pixels = decode(ds)
    low, high = np.unravel_index(pixels.argmin(), pixels.shape), np.unravel_index(pixels.argmax(), pixels.shape)
    inverse = photometric.lower().startswith(b"monochrome1") or (shape or b"").lower().startswith(b"inverse")
    for seen in (to_image(ds, pixels).pixels, to_screen(pixels, ds, None)):
        assert (seen[low] > seen[high]) == inverse
    assert faces.results.greyscale.inverse == inverse
