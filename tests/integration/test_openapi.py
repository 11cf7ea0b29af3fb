"""The JSON interface against its own description: made-up requests, well formed and not, and never an answer of 5xx."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from chexnode.settings.tree import Settings
from chexnode.vocabulary.scopes import TokenScope
from support.ledgers import NOT_ANALYSED, arrival, claim, complete, opened, record
from support.servers import Postgres
from support.webs import serving

PATHS = [
    "/api/jobs",
    "/api/jobs/{job}",
    "/api/account",
    "/api/alarms",
    "/api/deliveries",
    "/api/compare",
    "/api/drift",
    "/api/drift/daily",
    "/api/events",
    "/health/live",
    "/health/ready",
    "/metrics",
]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A running web role on each database: its URL, and a token that may read."""
    folder = tmp_path_factory.mktemp("web")
    url = f"sqlite:///{folder / 'chexnode.db'}"
    if request.param == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        url = postgres.create_database()
    settings = Settings(node={"data_dir": folder / "var"}, database={"url": url}, web={"requests_per_second": 0})
    with opened(url) as ledger:
        record(ledger, arrival(), arrival(verdict=NOT_ANALYSED))
        complete(ledger, claim(ledger), "pacs")
        _, secret = ledger.tokens.add("fuzzer", [TokenScope.READ])
        with serving(settings, ledger) as client:
            yield str(client.base_url), secret


def test_every_route_of_the_interface_is_tried(service: tuple[str, str]) -> None:
    described = httpx.get(f"{service[0]}/api/openapi.json").json()["paths"]
    reading = {path for path, methods in described.items() if "get" in methods}
    assert {path for path in reading if not path.startswith("/dicom-web")} == set(PATHS)


def test_examples_are_as_their_schema_says(service: tuple[str, str]) -> None:
    document = httpx.get(f"{service[0]}/api/openapi.json").json()
    checked = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("responses", {}).get("200", {}).get("content", {}).get("application/json", {})
            if "example" in content:
                schema = content["schema"] | {"components": document["components"]}
                jsonschema_rs.validate(schema, content["example"])
                checked += 1
            elif method == "post" and path.startswith("/api/"):
                assert path == "/api/analyze", path
    assert checked >= 4


@pytest.mark.parametrize(
    "address",
    [
        "/api/jobs?patient=%00",
        "/api/jobs?accession=a%0Ab",
        "/api/jobs/a%00b",
        "/api/deliveries?destination=%1b%5b2J",
        "/dicom-web/studies?PatientName=%00",
        "/dicom-web/studies?PatientName=%C2%85",
        "/dicom-web/studies/1.2%7f",
    ],
)
def test_control_characters_are_a_bad_request(service: tuple[str, str], address: str) -> None:
    url, secret = service
    assert httpx.get(url + address, headers={"Authorization": f"Bearer {secret}"}).status_code == 400
    assert httpx.get(f"{url}/api/jobs?patient=a%20b", headers={"Authorization": f"Bearer {secret}"}).status_code == 200


WITH_PARAMETERS = ["/api/jobs", "/api/jobs/{job}", "/api/deliveries"]


@pytest.mark.parametrize(
    ("path", "mode"),
    [*((path, GenerationMode.POSITIVE) for path in PATHS), *((p, GenerationMode.NEGATIVE) for p in WITH_PARAMETERS)],
)
@pytest.mark.parametrize("shown", ["a token", "none"])
def test_no_request_gets_a_server_error(service: tuple[str, str], path: str, mode: GenerationMode, shown: str) -> None:
    url, secret = service
    schema = schemathesis.openapi.from_url(f"{url}/api/openapi.json")
    headers = {"Authorization": f"Bearer {secret}"} if shown == "a token" else {}
    tried = []

    @given(case=schema[path]["GET"].as_strategy(generation_mode=mode))
    @examples(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    def ask(case: schemathesis.Case) -> None:
        response = case.call(headers=headers)
        tried.append(response.status_code)
        assert response.status_code < 500
        if response.status_code in (200, 404, 422):
            case.validate_response(response, checks=[content_type_conformance, response_schema_conformance])

    ask()
    if shown == "none" and not path.startswith("/health"):
        assert not set(tried) & {200, 422}, "answered before the caller was known"
    else:
        assert set(tried) <= {200, 400, 401, 404, 422}  # 401: a wrong request may bring a wrong token
