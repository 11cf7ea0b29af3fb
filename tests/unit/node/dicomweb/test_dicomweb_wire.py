"""The wire of DICOMweb: multipart over any chunks, media types, query strings, the JSON model. No sockets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from chexnode.dicomweb.json_model import model_of
from chexnode.dicomweb.media_types import BadMediaType, parse_accept, parse_media_type
from chexnode.dicomweb.multipart import (
    MultipartBody,
    MultipartError,
    MultipartReader,
    Part,
    PartBegins,
    PartData,
)
from chexnode.ledger.matching import AnyOf, Between, Like, Name, OneOf
from chexnode.web.dicomweb.query import MOST, Level, read_query
from chexnode.web.dicomweb.responses import BadRequest

# Content made of what a boundary is made of: the hardest there is.
CONTENTS = st.lists(
    st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--b", b"\r\n--b", b"x", b"\0", b"b", b"\r\n--bo\r"])).map(b"".join)
)


def read(body: bytes, cuts: Sequence[int], boundary: str = "bo") -> list[bytes]:
    """The content of each part, of a body fed in pieces."""
    reader = MultipartReader(boundary)
    found: list[bytes] = []
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    for start, end in pairwise(edges):
        for event in reader.feed(body[start:end]):
            if isinstance(event, PartBegins):
                assert event.headers == {"content-type": "application/dicom"}
                found.append(b"")
            elif isinstance(event, PartData):
                found[-1] += event.data
    reader.close()
    return found


@given(CONTENTS, st.lists(st.integers(0, 2000), max_size=40), st.sampled_from([b"", b"preamble", b"\r\n"]))
def test_what_is_written_is_read_however_it_is_cut(contents: list[bytes], cuts: list[int], preamble: bytes) -> None:
    written = MultipartBody(
        "application/dicom", [Part("application/dicom", [one], length=len(one)) for one in contents]
    )
    body, boundary = b"".join(written), written.content_type.partition("boundary=")[2]
    assert written.length == len(body)
    start = preamble + (b"\r\n" if preamble else b"")
    assert read(start + body + b"epilogue", cuts, boundary) == contents


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=10))
def test_rubbish_is_refused_or_read_and_nothing_else(body: bytes, cuts: list[int]) -> None:
    with pytest.raises(MultipartError):
        read(body, cuts)


@pytest.mark.parametrize("boundary", ["", "x" * 201, "ends with space ", "snowman\N{SNOWMAN}", 'quote"'])
def test_a_boundary_that_is_none(boundary: str) -> None:
    with pytest.raises(MultipartError):
        MultipartReader(boundary)


def test_endless_headers_are_refused() -> None:
    reader = MultipartReader("b")
    for _ in range(16):
        assert list(reader.feed(b"--b\r\n" + b"X" * 1000)) == []
    with pytest.raises(MultipartError, match="too long"):
        list(reader.feed(b"X" * 1000))


def test_ranges_are_ranked() -> None:
    ranked = parse_accept(
        'image/png;q=0.2, */*;q=0.1, multipart/related; type="application/dicom"; q=0.9, text/html;q=0'
    )
    assert [one.essence for one in ranked] == ["multipart/related", "image/png", "*/*"]
    assert ranked[0].inner == "application/dicom"
    assert [one.essence for one in parse_accept("a/b", "c/d")] == ["c/d", "a/b"]
    assert [one.essence for one in parse_accept(None)] == ["*/*"]
    assert parse_accept("rubbish") == []
    assert parse_media_type('multipart/related; boundary="a\\"b"; Type=x/y').parameters == {
        "boundary": 'a"b',
        "type": "x/y",
    }
    with pytest.raises(BadMediaType):
        parse_media_type("text")


@given(st.text(max_size=200))
def test_any_accept_header_is_read(text: str) -> None:
    for one in parse_accept(text):
        assert 0 < one.quality <= 1


def conditions(**query: str) -> dict[str, object]:
    found = read_query(Level.INSTANCE, query.items(), {}).query
    return {**found.study, **found.series, **found.instance}


def test_queries_become_conditions() -> None:
    assert conditions(StudyDate="20240101-20241231") == {"study_date": Between("20240101", "20241231")}
    assert conditions(StudyDate="-2024") == {"study_date": Between("", "2024")}
    assert conditions(StudyTime="1030") == {"study_time": Between("1030", "1030")}
    assert conditions(PatientName="MÜLLER^J*^^") == {"patient_name_key": Name("müller^j*")}
    assert conditions(PatientID="A?") == {"patient_id": Like("A?")}
    assert conditions(**{"00080018": "1.2,1.3"}) == {"sop_instance_uid": OneOf(("1.2", "1.3"))}
    assert conditions(InstanceNumber="7") == {"instance_number": OneOf((7,))}
    assert conditions(PatientID="", AccessionNumber="*") == {}
    assert conditions(Modality="CR,DX") == {"modality": OneOf(("CR", "DX"))}
    assert conditions(Modality="C*,DX") == {"modality": AnyOf((Like("C*"), OneOf(("DX",))))}
    assert conditions(PatientID="a,b") == {"patient_id": OneOf(("a,b",))}, "a comma may be inside one"
    assert conditions(PatientID="a,b", multiplevaluematching="true") == {"patient_id": OneOf(("a", "b"))}


@pytest.mark.parametrize(
    "query",
    [
        {"StudyDate": "yesterday"},
        {"StudyDate": "-"},
        {"StudyTime": "1-2-3"},
        {"InstanceNumber": "x"},
        {"limit": "-1"},
        {"limit": "9" * 30},
        {"offset": "1.5"},
        {"fuzzymatching": "maybe"},
        {"StudyInstanceUID": "1.2.x"},
    ],
)
def test_queries_that_cannot_be_read(query: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        read_query(Level.INSTANCE, query.items(), {})


def test_what_cannot_be_done_is_warned_of() -> None:
    search = read_query(
        Level.STUDY,
        [
            ("emptyvaluematching", "true"),
            ("_", "1732932000"),
            ("SOPInstanceUID", "1.2"),
            ("includefield", "00081030,all,PixelData"),
            ("limit", "99999"),
        ],
        {},
    )
    assert len(search.warnings) == 3
    assert search.warnings[0].startswith("The emptyvaluematching parameter is not supported.")
    assert search.query.limit == MOST + 1


def test_the_path_and_the_query_may_contradict() -> None:
    search = read_query(Level.SERIES, [("StudyInstanceUID", "1.2")], {"StudyInstanceUID": "1.3"})
    assert search.query.study == {"study_instance_uid": OneOf(("",))}


def test_values_that_json_cannot_hold() -> None:
    ds = Dataset()
    ds.RealWorldValueSlope = [math.nan, math.inf, -math.inf, 1.5]
    item = Dataset()
    item.EncapsulatedDocument = bytes(10_000)
    ds.ReferencedSeriesSequence = Items([Dataset(), item])
    model = model_of(ds, lambda path: f"/{path}")
    assert model["00409225"]["Value"] == ["NaN", "Infinity", "-Infinity", 1.5]
    assert model["00081115"]["Value"][1]["00420011"]["BulkDataURI"] == "/00081115/1/00420011"
