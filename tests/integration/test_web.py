"""The web role over a real socket: health, metrics, and the JSON that the commands print too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update
from typer.testing import CliRunner

from chexnode.cli.commands import app as commands
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.schema import results
from chexnode.node import Duty
from chexnode.settings.loading import load
from chexnode.settings.tree import Settings
from chexnode.spool.identity import FILE_NAME, name_of, prove
from chexnode.vocabulary.errors import BadEnvironment
from chexnode.vocabulary.notes import Note
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.scopes import TokenScope
from chexnode.vocabulary.states import DeliveryState
from chexnode.web.metrics import METRICS
from support.ledgers import NOT_ANALYSED, QUARANTINED, arrival, claim, complete, node_on, opened, record
from support.servers import LOOPBACK, Postgres
from support.webs import serving

on_both = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """SQLAlchemy URL: SQLite unless a test is marked ``on_both``."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path / 'chexnode.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def config(tmp_path: Path, database: str) -> Path:
    path = tmp_path / "chexnode.toml"
    path.write_text(
        f'[database]\nurl = "{database}"\n'
        '[[destination]]\nname = "pacs"\nkind = "folder"\npath = "out"\n'
        '[[destination]]\nname = "never-used"\nkind = "folder"\npath = "out"\n'
    )
    return path


@pytest.fixture
def settings(config: Path) -> Settings:
    return load(config)[0]


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with opened(settings.database.url) as ledger:
        yield ledger


@pytest.fixture
def client(settings: Settings, ledger: Ledger) -> Iterator[httpx.Client]:
    with serving(settings, ledger) as client:
        yield client


def fill(ledger: Ledger) -> str:
    """One of everything; return the id of the job that was analysed."""
    first = arrival(study={"accession_number": "ACC-7", "patient_name": "Doe^Jane", "patient_id": "PID-1"})
    record(ledger, first, first, arrival(verdict=NOT_ANALYSED), arrival(verdict=QUARANTINED))
    job = claim(ledger)
    complete(ledger, job, "pacs")
    record(ledger)
    ledger.jobs.refuse(claim(ledger), Reason.CONSTANT, "all pixels are 0")
    record(ledger)
    return job.id


def samples(client: httpx.Client, headers: dict[str, str] | None = None) -> dict[tuple[str, tuple[str, ...]], float]:
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200
    return {
        (sample.name, tuple(sample.labels[label] for label in METRICS[sample.name][1])): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name in METRICS  # those of a histogram have names of their own
    }


def test_live_and_ready(client: httpx.Client) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    answer = client.get("/health/ready")
    assert answer.status_code == 200
    assert [(check["name"], check["ok"]) for check in answer.json()] == [
        ("database", True), ("data_dir", True), ("receiver", False), ("workers", False), ("deliverers", False),
    ]  # fmt: skip


def test_it_is_known_who_lives(client: httpx.Client, settings: Settings, ledger: Ledger) -> None:
    def alive() -> dict[str, bool]:
        told = {check["name"]: check["ok"] for check in client.get("/health/ready").json()}
        metrics = client.get("/metrics").text
        for duty in Duty:
            assert f'chexnode_duty_up{{duty="{duty}"}} {float(told[duty])}' in metrics
        return {duty: told[duty] for duty in Duty}

    node_on(ledger, settings).report_alive(Duty.INFER)
    assert alive() == {"receiver": False, "workers": True, "deliverers": False}
    another = node_on(ledger, settings)
    another.report_alive(Duty.INFER)  # of two workers one counts
    another.report_alive(Duty.RECEIVE)
    ledger.leases.take("live/receiver", another.owner, -1)  # its sign of life ran out
    assert alive() == {"receiver": False, "workers": True, "deliverers": False}


def test_not_ready_without_its_data_dir(client: httpx.Client, settings: Settings) -> None:
    data_dir = settings.node.data_dir
    data_dir.rename(data_dir.with_name("elsewhere"))
    data_dir.mkdir()  # what an unmounted share leaves behind
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert [check["ok"] for check in answer.json()][:2] == [True, False]
    assert "mounted" in answer.json()[1]["detail"]
    assert client.get("/health/live").status_code == 200


@on_both
def test_not_ready_with_another_schema(client: httpx.Client, ledger: Ledger) -> None:
    with ledger.database.write() as conn:
        conn.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert "newer release" in answer.json()[0]["detail"]


def test_a_data_dir_of_another_database_is_refused(settings: Settings, ledger: Ledger) -> None:
    name = prove(settings.node.data_dir, ledger.files)
    assert prove(settings.node.data_dir, ledger.files) == name == name_of(settings.node.data_dir)
    empty = settings.node.data_dir.with_name("empty")
    with pytest.raises(BadEnvironment, match="mounted"):
        prove(empty, ledger.files)
    assert not (empty / FILE_NAME).exists(), "a name left behind would hide the fault at the next start"
    (settings.node.data_dir / FILE_NAME).write_text("0123\n")
    with pytest.raises(BadEnvironment, match="another database"):
        prove(settings.node.data_dir, ledger.files)


@on_both
def test_metrics_count_everything(client: httpx.Client, ledger: Ledger) -> None:
    fill(ledger)
    found = samples(client)
    assert found["chexnode_ledger_up", ()] == 1
    assert found["chexnode_instances_received_total", ()] == 5
    assert found["chexnode_duplicates_total", ()] == 1
    assert found["chexnode_own_results_total", ()] == 0
    assert found["chexnode_account_difference", ()] == 0
    assert found["chexnode_instances", ("ANALYSABLE", "")] == 3
    assert found["chexnode_instances", ("NOT_ANALYSED", "lateral-view")] == 1
    assert found["chexnode_instances", ("QUARANTINED", "malformed")] == 1
    assert found["chexnode_jobs", ("DELIVERING", "")] == 1
    assert found["chexnode_jobs", ("REFUSED", "constant-pixels")] == 1
    assert found["chexnode_jobs", ("QUEUED", "")] == 1
    assert found["chexnode_jobs", ("FAILED", "")] == 0
    assert found["chexnode_deliveries", ("pacs", "seg", "PENDING")] == 1
    assert found["chexnode_deliveries", ("pacs", "sc", "PENDING")] == 1
    assert found["chexnode_deliveries", ("pacs", "sr", "DEAD")] == 0
    assert found["chexnode_deliveries", ("never-used", "gsps", "DEAD")] == 0
    assert found["chexnode_oldest_queued_seconds", ()] > 0
    assert found["chexnode_disk_free_bytes", ()] > 0
    assert found["chexnode_disk_refusing", ()] == 0


@on_both
def test_metrics_show_an_open_breaker_and_notes(client: httpx.Client, ledger: Ledger) -> None:
    noted = replace(NOT_ANALYSED, notes=(Note.LOSSY, Note.BURNED_IN))
    record(ledger, arrival(verdict=noted))
    ledger.deliveries.destination_failed("pacs", "gone", ledger.clock().replace(year=9000))
    record(ledger)
    complete(ledger, claim(ledger), "pacs")
    found = samples(client)
    assert found["chexnode_destination_breaker_open", ("pacs",)] == 1
    assert found["chexnode_destination_breaker_open", ("never-used",)] == 0
    assert found["chexnode_notes", ("lossy",)] == found["chexnode_notes", ("burned-in-annotation",)] == 1
    assert found["chexnode_notes", ("view-unknown",)] == 0


def test_every_documented_metric_is_exposed_and_no_other(client: httpx.Client, ledger: Ledger) -> None:
    fill(ledger)
    with_a_baseline = {"chexnode_drift_psi", "chexnode_drift_shifted"}  # see test_ledger_drift.py
    assert {name for name, _ in samples(client)} == set(METRICS) - with_a_baseline


def test_metrics_name_no_patient(client: httpx.Client, ledger: Ledger) -> None:
    fill(ledger)
    text = client.get("/metrics").text
    for secret in ("ACC-7", "Doe", "PID-1", "1.2.3", "MODALITY", LOOPBACK):
        assert secret not in text


def test_a_lost_database_is_told_and_survived(postgres: Postgres, postgres_url: str, tmp_path: Path) -> None:
    settings = Settings(
        database={"url": postgres_url},
        node={"data_dir": tmp_path / "var"},
        destination=({"name": "pacs", "kind": "folder", "path": tmp_path},),
    )
    with opened(postgres_url) as ledger, serving(settings, ledger) as client:
        postgres.stop()
        try:
            found = samples(client)
            assert found["chexnode_ledger_up", ()] == 0
            assert ("chexnode_account_difference", ()) not in found
            answers = {path: client.get(path) for path in ("/health/live", "/health/ready", "/api/jobs")}
        finally:
            postgres.start()
        assert {path: answer.status_code for path, answer in answers.items()} == {
            "/health/live": 200,
            "/health/ready": 503,
            "/api/jobs": 503,
        }
        assert answers["/api/jobs"].headers["retry-after"]
        assert client.get("/health/ready").status_code == 200
        assert samples(client)["chexnode_ledger_up", ()] == 1


@on_both
@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("/api/jobs", ["jobs"]),
        (
            "/api/jobs?state=queued&state=REFUSED&limit=1",
            ["jobs", "--state", "queued", "--state", "refused", "--limit", "1"],
        ),
        ("/api/jobs/{job}", ["jobs", "show", "{job}"]),
        ("/api/account", ["account"]),
        ("/api/deliveries", ["deliveries"]),
        (
            "/api/deliveries?state=pending&destination=pacs",
            ["deliveries", "--state", "pending", "--destination", "pacs"],
        ),
    ],
)
def test_http_says_what_the_command_says(
    client: httpx.Client, ledger: Ledger, config: Path, path: str, command: list[str]
) -> None:
    job = fill(ledger)
    answer = client.get(path.format(job=job))
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    printed = CliRunner().invoke(
        commands, ["--config", str(config), *(part.format(job=job) for part in command), "--json"]
    )
    assert answer.json() == json.loads(printed.stdout)
    assert answer.json()


def test_jobs_of_one_study(client: httpx.Client, ledger: Ledger) -> None:
    one = arrival()
    record(ledger, one, arrival())
    found = client.get("/api/jobs", params={"study": one.study_instance_uid}).json()
    assert [job["sop_instance_uid"] for job in found] == [one.sop_instance_uid]


def test_lists_are_narrowed_down(client: httpx.Client, ledger: Ledger) -> None:
    fill(ledger)
    for path in ("/api/jobs", "/api/deliveries"):
        assert len(client.get(path, params={"since": "today", "until": "today"}).json()) >= 1
        for nothing in ({"until": "yesterday"}, {"accession": "A9"}, {"patient": "P9"}, {"study": "1.2.9"}):
            assert client.get(path, params=nothing).json() == []


@pytest.mark.parametrize("query", ["", "state=queued&state=not_analysed&"])
def test_pages_of_a_list_are_the_whole(client: httpx.Client, ledger: Ledger, query: str) -> None:
    record(ledger, *(arrival() for _ in range(7)))
    whole = [job["id"] for job in client.get(f"/api/jobs?{query}").json()]
    assert len(whole) == len(set(whole)) == 7
    found: list[str] = []
    following = f"/api/jobs?{query}limit=3"
    for size in (3, 3, 1):
        answer = client.get(following)
        found += [job["id"] for job in answer.json()]
        assert len(answer.json()) == size
        assert ("link" in answer.headers) == (len(found) < 7)
        following = answer.links["next"]["url"] if "link" in answer.headers else ""
    assert found == whole
    assert client.get("/api/jobs?offset=7").json() == []


def test_deliveries_of_a_result_that_is_in_no_study_are_found_by_its_image(
    client: httpx.Client, ledger: Ledger
) -> None:
    fill(ledger)
    (job, *_) = [
        one for one in client.get("/api/jobs").json() if client.get(f"/api/jobs/{one['id']}").json()["deliveries"]
    ]
    mine = client.get("/api/deliveries").json()
    with ledger.database.write() as conn:
        conn.execute(update(results).values(study_instance_uid=None))
    study = job["study_instance_uid"]
    assert client.get("/api/deliveries", params={"study": study}).json() == [
        one for one in mine if one["job"] == job["id"]
    ]
    assert client.get("/api/deliveries", params={"study": "1.2.9"}).json() == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/jobs?offset=-1", 422),
        ("/api/deliveries?ofset=1", 400),
        ("/api/account?limit=1", 400),
        ("/api/jobs?state=dine", 400),
        ("/api/jobs?acession=A1", 400),
        ("/api/jobs?since=last+week", 400),
        ("/api/deliveries?state=queued", 400),
        ("/api/jobs?limit=0", 422),
        ("/api/jobs/none", 404),
        ("/api/jobs/i0000", 404),
        ("/api/nothing", 404),
        ("/docs", 404),
    ],
)
def test_wrong_requests_get_a_code(client: httpx.Client, path: str, code: int) -> None:
    answer = client.get(path)
    assert answer.status_code == code
    assert answer.json()["detail"]


def test_the_interface_is_read_only(client: httpx.Client, ledger: Ledger) -> None:
    job = fill(ledger)
    for method in ("POST", "PUT", "DELETE"):
        assert client.request(method, f"/api/jobs/{job}").status_code == 405


def test_a_foreign_host_name_is_refused(client: httpx.Client) -> None:
    for host in ("localhost:8080", "127.0.0.1", "[::1]:8080"):
        assert client.get("/health/live", headers={"Host": host}).status_code == 200
    assert client.get("/api/jobs", headers={"Host": "rebound.example"}).status_code == 400


def test_openapi_describes_the_answers(client: httpx.Client) -> None:
    schema = client.get("/api/openapi.json").json()
    keys = schema["components"]["schemas"]["JobView"]["properties"]
    assert list(keys) == [
        "id", "state", "reason", "sop_instance_uid", "study_instance_uid", "accession_number", "model", "score",
        "abnormal", "regions", "attempts", "received_at", "finished_at", "error",
    ]  # fmt: skip
    assert set(schema["components"]["schemas"]["DeliveryState"]["enum"]) == set(DeliveryState)


def test_a_destination_is_paused_and_resumed_by_an_administrator(client: httpx.Client, ledger: Ledger) -> None:
    fill(ledger)
    pause, resume = "/api/destinations/pacs/pause", "/api/destinations/pacs/resume"
    for foreign in ({"Origin": "https://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert client.post(pause, headers=foreign).status_code == 403, "another site's page may have sent it"
    reader = {"Authorization": f"Bearer {ledger.tokens.add('reader', [TokenScope.READ])[1]}"}
    admin = {"Authorization": f"Bearer {ledger.tokens.add('admin', [TokenScope.ADMIN])[1]}"}
    assert [client.post(pause, headers=who).status_code for who in ({}, reader)] == [401, 403]
    paused = {"destination": "pacs", "paused": True, "changed": True, "waiting": 0}
    assert client.post(pause, headers=admin).json() == paused
    assert client.post(pause, headers=admin).json() == paused | {"changed": False}
    assert ledger.destinations.is_paused("pacs")
    assert samples(client, admin)["chexnode_destination_paused", ("pacs",)] == 1
    answer = client.post(resume, headers=admin).json()
    assert (answer["paused"], answer["changed"], answer["waiting"] > 0) == (False, True, True)
    assert not client.post(resume, headers=admin).json()["changed"]
    assert client.post("/api/destinations/nowhere/pause", headers=admin).status_code == 404
    assert client.post(f"{pause}?for=1h", headers=admin).status_code == 400
