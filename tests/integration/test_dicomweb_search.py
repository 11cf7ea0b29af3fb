"""QIDO-RS on both databases: what matches, what is in an answer, pages and warnings; sources and results alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chexnode.ledger.ledger import Ledger
from chexnode.vocabulary.records import Analysis, Arrival, NewResult
from chexnode.vocabulary.variants import ResultKind, Variant
from support.dicomweb import Service, holding, serving
from support.ledgers import arrival, claim, record
from support.receivers import a_settings

SEG = "1.2.840.10008.5.1.4.1.1.66.4"


@pytest.fixture
def service(ledger: Ledger, tmp_path: Path) -> Iterator[Service]:
    with serving(a_settings(tmp_path), ledger) as service:
        yield service


def image(number: int, modality: str = "CR", **study: Any) -> Arrival:
    """An image in a study and a series of its own."""
    facts = {"study_date": f"2024010{number}", "study_time": f"10{number}000.5", "patient_id": f"P{number}"}
    return replace(
        arrival(f"1.2.{number}.1.1"),
        study_instance_uid=f"1.2.{number}",
        series_instance_uid=f"1.2.{number}.1",
        study=facts | study,
        series={"modality": modality, "series_number": number},
        instance={"instance_number": 1, "rows": 10 * number},
    )


def uids(service: Service, path: str, *query: tuple[str, str]) -> list[str]:
    """Study, series or instance numbers of what matches."""
    answer = service.client.get(path, params=list(query))
    assert answer.status_code in (200, 204), answer.text
    tag = {"studies": "0020000D", "series": "0020000E", "instances": "00080018"}[path.rsplit("/", 1)[1]]
    return [one[tag]["Value"][0] for one in answer.json()] if answer.content else []


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def three_studies(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that holds three; tests only ask."""
    with holding(request, tmp_path_factory) as service:
        record(
            service.ledger,
            image(1, patient_name="Doe^Jane^^"),
            image(2, "DX", patient_name="Doe^John", accession_number="A[1]2"),
            image(3, patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう"),
        )
        yield service


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({}, "321"),
        ({"PatientID": "P1"}, "1"),
        ({"00100020": "P1"}, "1"),
        ({"PatientID": "P*"}, "321"),
        ({"PatientID": "P?"}, "321"),
        ({"PatientID": "?"}, ""),
        ({"PatientID": "p1"}, ""),
        ({"PatientID": "%"}, ""),
        ({"PatientID": "_1"}, ""),
        ({"AccessionNumber": "A[1]*"}, "2"),
        ({"PatientName": "doe^JANE"}, "1"),
        ({"PatientName": "DOE*"}, "21"),
        ({"PatientName": "*jane"}, "1"),
        ({"PatientName": "山田^太郎"}, "3"),
        ({"PatientName": "yamada^tarou"}, "3"),
        ({"PatientName": "山*"}, "3"),
        ({"StudyDate": "20240102"}, "2"),
        ({"StudyDate": "20240102-"}, "32"),
        ({"StudyDate": "-20240102"}, "21"),
        ({"StudyDate": "20240101-20240102"}, "21"),
        ({"StudyDate": "202401"}, "321"),
        ({"StudyTime": "1020-1030"}, "32"),
        ({"StudyTime": "1020"}, "2"),
        ({"StudyInstanceUID": "1.2.1,1.2.3"}, "31"),
        ({"StudyInstanceUID": "1.2.1\\1.2.3"}, "31"),
        ({"ModalitiesInStudy": "DX"}, "2"),
        ({"ModalitiesInStudy": "C*"}, "31"),
        ({"ModalitiesInStudy": "CR,DX"}, "321"),
        ({"ModalitiesInStudy": "CT\\DX"}, "2"),
        ({"ModalitiesInStudy": "D*,MR"}, "2"),
        ({"PatientID": "P1\\P3"}, "31"),
        ({"PatientName": "jane", "fuzzymatching": "true"}, "1"),
        ({"PatientName": "John Doe", "fuzzymatching": "true"}, "2"),
        ({"PatientName": "太郎", "fuzzymatching": "true"}, "3"),
        ({"PatientName": "jane", "fuzzymatching": "false"}, ""),
        ({"_": "1732932000", "access_token": "x", "include-defaults": "true"}, "321"),
        ({"PatientID": "P1", "StudyDate": "20240102"}, ""),
        ({"PatientID": ""}, "321"),
    ],
)
def test_studies_that_match(three_studies: Service, query: dict[str, str], numbers: str) -> None:
    assert uids(three_studies, "/studies", *query.items()) == [f"1.2.{number}" for number in numbers]


def test_lower_levels(service: Service) -> None:
    record(service.ledger, image(1), image(2, "DX"))
    assert uids(service, "/series", ("Modality", "DX")) == ["1.2.2.1"]
    assert uids(service, "/series", ("SeriesNumber", "1")) == ["1.2.1.1"]
    assert uids(service, "/series", ("PatientID", "P1")) == ["1.2.1.1"]
    assert uids(service, "/studies/1.2.1/series") == ["1.2.1.1"]
    assert uids(service, "/studies/1.2.1/series", ("StudyInstanceUID", "1.2.2")) == []
    assert uids(service, "/instances", ("Rows", "20")) == ["1.2.2.1.1"]
    assert uids(service, "/instances", ("PatientID", "P2"), ("Modality", "DX")) == ["1.2.2.1.1"]
    assert uids(service, "/studies/1.2.1/instances") == ["1.2.1.1.1"]
    assert uids(service, "/studies/1.2.1/series/1.2.1.1/instances") == ["1.2.1.1.1"]
    assert uids(service, "/studies/1.2.1/series/1.2.2.1/instances") == []


def test_an_answer_has_what_the_standard_wants(service: Service) -> None:
    record(service.ledger, image(1, patient_name="Yamada^Tarou=山田^太郎", referring_physician_name="House^Gregory"))
    answer = service.get("/studies", "application/dicom+json")
    assert answer.headers["content-type"] == "application/dicom+json"
    (study,) = answer.json()
    assert list(study) == sorted(study)
    assert study["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}]}
    assert study["00080050"] == {"vr": "SH"}
    assert study["00080061"]["Value"] == ["CR"]
    assert study["00201206"]["Value"] == study["00201208"]["Value"] == [1]
    assert study["00081190"]["Value"] == [f"{service.url}/studies/1.2.1"]
    assert study["00080056"]["Value"] == ["ONLINE"]
    (series,) = service.get("/studies/1.2.1/series").json()
    assert series["00201209"] == {"vr": "IS", "Value": [1]}
    (instance,) = service.get("/studies/1.2.1/instances").json()
    assert instance["00280010"] == {"vr": "US", "Value": [10]}
    assert service.get("/studies", PatientID="nobody").json() == []
    assert service.get("/studies", "text/html").status_code == 406


def test_pages_and_warnings(service: Service) -> None:
    record(service.ledger, *(image(number) for number in range(1, 6)))
    first = service.get("/studies", limit="2")
    assert "additional results" in first.headers["warning"]
    assert uids(service, "/studies", ("limit", "2"), ("offset", "2")) == ["1.2.3", "1.2.2"]
    last = service.get("/studies", limit="2", offset="4")
    assert len(last.json()) == 1
    assert "warning" not in last.headers
    warned = service.get("/studies", emptyvaluematching="true", SOPInstanceUID="1.2", includefield="all").headers[
        "warning"
    ]
    assert warned.startswith(f'299 {service.url} "The emptyvaluematching parameter is not supported.')
    assert warned.count("299 ") == 2
    assert service.get("/studies", StudyDate="never").status_code == 400


def test_results_are_found_beside_their_sources(service: Service, ledger: Ledger) -> None:
    record(ledger, image(1))
    seg = NewResult(
        "2.25.7",
        Variant.parse(ResultKind.SEG, "planar"),
        SEG,
        "0" * 64,
        "spool/results/x.dcm",
        5,
        "2.25.8",
        {"modality": "SEG", "series_number": 9901},
    )
    ledger.jobs.complete(claim(ledger), Analysis(0.9, True, 1), [seg], [])
    assert uids(service, "/studies/1.2.1/instances") == ["1.2.1.1.1", "2.25.7"]
    assert uids(service, "/instances", ("SOPClassUID", SEG)) == ["2.25.7"]
    (study,) = service.get("/studies", ModalitiesInStudy="SEG").json()
    assert study["00080061"]["Value"] == ["CR", "SEG"]
    assert study["00201206"]["Value"] == study["00201208"]["Value"] == [2]
    assert uids(service, "/series", ("Modality", "SEG")) == ["2.25.8"]


def test_only_the_latest_version_counts(service: Service, ledger: Ledger) -> None:
    one = image(1)
    record(ledger, one)
    ledger.clock.forward(1)  # type: ignore[attr-defined]
    record(ledger, replace(one, digest="f" * 64, instance={"rows": 99}))
    (found,) = service.get("/instances").json()
    assert found["00280010"]["Value"] == [99]
    assert service.get("/studies").json()[0]["00201208"]["Value"] == [1]


@pytest.mark.parametrize("at_once", [False, True])
def test_the_version_received_last_is_served(service: Service, ledger: Ledger, at_once: bool) -> None:
    orders = ["A B A", "A B A B", "A B C B", "A B C A", "A B A A", "A A B"]
    digests = {"A": "a" * 64, "B": "0" * 64, "C": "f" * 64}
    duplicates = 0
    for number, order in enumerate(orders, 1):
        names = order.split()
        versions = [replace(image(number), digest=digests[name], instance={"rows": ord(name)}) for name in names]
        for some in [versions] if at_once else [[version] for version in versions]:
            record(ledger, *some)
        (found,) = service.get(f"/studies/1.2.{number}/instances").json()
        assert found["00280010"]["Value"] == [ord(names[-1])], order
        (study,) = service.get("/studies", StudyInstanceUID=f"1.2.{number}").json()
        assert study["00201208"]["Value"] == [1], order
        duplicates += len(names) - len(set(names))
        assert ledger.accounts.account().duplicates == duplicates, order
