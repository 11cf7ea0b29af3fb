"""The commands that look and act: JSON shapes, exit codes, one line an error. On a real ledger in SQLite."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from chexnode.cli import commands as cli
from chexnode.cli import tables
from chexnode.ledger.ledger import Ledger
from chexnode.vocabulary.errors import BadEnvironment, NodeError, Refused, StaleMove, Transient, Usage
from chexnode.vocabulary.notes import Note
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import Analysis, DeliveryOutcome
from chexnode.vocabulary.states import DeliveryState, JobState
from support.ledgers import (
    ANALYSABLE,
    NOT_ANALYSED,
    QUARANTINED,
    Clock,
    arrival,
    claim,
    complete,
    opened,
    record,
    results_for,
)

JOB_KEYS = [
    "id", "state", "reason", "sop_instance_uid", "study_instance_uid", "accession_number", "model", "score", "abnormal",
    "regions", "attempts", "received_at", "finished_at", "error",
]  # fmt: skip
DELIVERY_KEYS = [
    "id", "job", "destination", "kind", "sop_instance_uid", "state", "attempts", "next_attempt", "error",
    "created_at", "finished_at",
]  # fmt: skip
ACCOUNT_KEYS = [
    "received", "analysed", "not_analysed", "quarantined", "refused", "failed", "cancelled", "skipped", "pending",
    "difference", "duplicates", "own_results",
]  # fmt: skip

CONFIG = """
[database]
url = "sqlite:///x.db"
[model]
bundle = "phantom64"
[[destination]]
name = "pacs"
kind = "folder"
path = "out"
"""


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON document without NaN."""
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``chexnode ARGUMENTS`` in this process, in a folder with a settings file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Path("chexnode.toml").write_text(CONFIG)

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["chexnode", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return Ran(int(end.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def ledger(run: Run, tmp_path: Path) -> Iterator[Ledger]:
    with opened(f"sqlite:///{tmp_path / 'x.db'}", Clock()) as ledger:
        yield ledger


@pytest.fixture
def life(ledger: Ledger) -> Ledger:
    """One image in every end; the newest is QUEUED."""
    assert isinstance(ledger.clock, Clock)
    record(ledger, arrival(verdict=NOT_ANALYSED), arrival(verdict=QUARANTINED))
    record(
        ledger, arrival("1.2.840.1", study={"accession_number": "A1"}, verdict=replace(ANALYSABLE, notes=(Note.LOSSY,)))
    )
    complete(ledger, claim(ledger), "pacs")
    first, second = ledger.deliveries.claim("pacs", 9)
    ledger.deliveries.settle(
        [
            DeliveryOutcome(first, DeliveryState.SENT),
            DeliveryOutcome(second, DeliveryState.WAITING, "busy", ledger.clock() + timedelta(seconds=9)),
        ]
    )
    for end in range(3):
        ledger.clock.forward(1)
        record(ledger)
        job = claim(ledger)
        if end == 0:
            ledger.jobs.refuse(job, Reason.NOISE, "noise")
        elif end == 1:
            ledger.jobs.fail(job, "Traceback\n  somewhere\nZeroDivisionError: by zero")
        else:
            ledger.jobs.cancel(job.id)
    ledger.clock.forward(1)
    record(ledger)
    return ledger


def job_in(ledger: Ledger, state: JobState) -> str:
    (view,) = ledger.views.jobs([state])
    return view.id


def test_jobs_as_json(run: Run, life: Ledger) -> None:
    ran = run("jobs", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert all(list(job) == JOB_KEYS for job in ran.json)
    assert [job["state"] for job in ran.json][:4] == ["QUEUED", "CANCELLED", "FAILED", "REFUSED"]
    assert {job["state"] for job in ran.json[4:]} == {"DELIVERING", "NOT_ANALYSED", "QUARANTINED"}
    (done,) = run("jobs", "--json", "--state", "delivering").json
    assert (done["sop_instance_uid"], done["accession_number"], done["model"]) == ("1.2.840.1", "A1", "model 1")
    assert (done["score"], done["abnormal"], done["regions"], done["attempts"]) == (0.9, True, 1, 0)
    assert datetime.fromisoformat(done["received_at"]).utcoffset() == timedelta(0)
    assert done["finished_at"] is done["error"] is done["reason"] is None


def test_jobs_can_be_narrowed(run: Run, life: Ledger) -> None:
    assert len(run("jobs", "--json", "--limit", 2).json) == 2
    assert {job["state"] for job in run("jobs", "--json", "--state", "FAILED", "--state", "refused").json} == {
        "FAILED",
        "REFUSED",
    }
    (one,) = life.views.jobs(sop_instance_uid="1.2.840.1")
    assert [job["id"] for job in run("jobs", "--json", "--study", one.study_instance_uid).json] == [one.id]
    assert run("jobs", "--json", "--study", "1.9.9").json == []


def test_a_score_that_is_no_number_is_null(run: Run, ledger: Ledger) -> None:
    record(ledger)
    job = claim(ledger)
    try:
        ledger.jobs.complete(job, Analysis(math.inf, None, 0), [], [])
    except Transient:
        pytest.fail("the ledger takes it")
    assert run("jobs", "--json").json[0]["score"] is None


def test_job_show(run: Run, life: Ledger) -> None:
    job = job_in(life, JobState.DELIVERING)
    shown = run("jobs", "show", job, "--json").json
    assert list(shown)[: len(JOB_KEYS)] == JOB_KEYS
    assert shown["notes"] == ["lossy"]
    assert [event["event"] for event in shown["events"]] == ["new", "created", "claimed", "analysed"]
    assert {result["kind"] for result in shown["results"]} == {"seg", "sc"}
    assert all(result["path"].startswith("spool/results/") for result in shown["results"])
    assert {delivery["state"] for delivery in shown["deliveries"]} == {"SENT", "WAITING"}
    page = run("jobs", "show", job)
    for text in (job, "DELIVERING", "lossy", "1.2.840.1", "analysed", "spool/results", "busy", "model 1"):
        assert text in page.out
    trace = run("jobs", "show", job_in(life, JobState.FAILED)).out
    assert "ZeroDivisionError: by zero" in trace
    assert "  somewhere" in trace


def test_an_image_without_a_job_can_be_shown(run: Run, life: Ledger) -> None:
    (view,) = life.views.jobs(["NOT_ANALYSED"])
    shown = run("jobs", "show", view.id, "--json").json
    assert (shown["reason"], shown["model"], shown["results"]) == ("lateral-view", None, [])
    assert "View Position is LL" in run("jobs", "show", view.id).out


def test_retry_and_cancel(run: Run, life: Ledger) -> None:
    failed = job_in(life, JobState.FAILED)
    assert run("jobs", "retry", failed, "--json").json["state"] == "QUEUED"
    assert run("jobs", "cancel", failed, "--json").json["state"] == "CANCELLED"
    refused = run("jobs", "cancel", failed)
    assert (refused.code, refused.out) == (cli.Exit.USAGE, "")
    assert refused.err == f"chexnode: job {failed} is CANCELLED: it cannot become CANCELLED\n"
    assert "history" in run("jobs", "retry", failed).out


def test_account(run: Run, life: Ledger) -> None:
    ran = run("account", "--json")
    assert ran.code == cli.Exit.OK
    assert list(ran.json) == ACCOUNT_KEYS
    assert ran.json == {
        "received": 7, "analysed": 1, "not_analysed": {"lateral-view": 1}, "quarantined": 1,
        "refused": {"noise-pixels": 1}, "failed": 1, "cancelled": 1, "skipped": 0, "pending": 1, "difference": 0,
        "duplicates": 0, "own_results": 0,
    }  # fmt: skip
    assert "not analysed: lateral-view" in run("account").out


def test_an_account_that_does_not_balance_is_a_failure(run: Run, life: Ledger) -> None:
    with life.database.write() as conn:
        conn.exec_driver_sql("DELETE FROM jobs WHERE state = 'QUEUED'")
    ran = run("account", "--json")
    assert (ran.code, ran.json["difference"]) == (cli.Exit.SOME_FAILED, 1)


def test_deliveries(run: Run, life: Ledger) -> None:
    ran = run("deliveries", "--json")
    assert [list(one) for one in ran.json] == [DELIVERY_KEYS] * 2
    (waiting,) = run("deliveries", "--json", "--state", "waiting", "--destination", "pacs").json
    assert (waiting["error"], waiting["attempts"], waiting["kind"]) == ("busy", 1, "sc")
    assert datetime.fromisoformat(waiting["next_attempt"]) > life.clock()
    assert run("deliveries", "--json", "--destination", "other").json == []
    assert "busy" in run("deliveries").out


def test_replay(run: Run, life: Ledger) -> None:
    sent = run("deliveries", "--json", "--state", "sent").json[0]["id"]
    assert run("deliveries", "replay", sent, "--json").json == {"replayed": 1, "past_retention": 0}
    assert run("deliveries", "replay", "--destination", "pacs", "--json").json == {"replayed": 1, "past_retention": 0}
    assert run("deliveries", "replay", "--all", "--dead-only", "--json").json == {"replayed": 0, "past_retention": 0}
    assert run("deliveries", "replay", "--all").out == "0 deliveries will be sent again\n"
    for wrong in ([], [sent, "--all"], ["--all", "--destination", "pacs"], ["--destination", "nowhere"], [999]):
        ran = run("deliveries", "replay", *wrong)
        assert (ran.code, ran.out) == (cli.Exit.USAGE, ""), wrong
        assert len(ran.err.splitlines()) == 1


def test_destinations_are_paused_resumed_and_given_their_history(run: Run, life: Ledger) -> None:
    [before] = run("destinations", "list", "--json").json
    assert before["in_settings"]
    assert run("destinations", "pause", "pacs").out == "pacs is paused\n"
    [pacs] = run("destinations", "list", "--json").json
    assert pacs["paused_at"] is not None
    assert (before["name"], before["waiting"], before["paused_at"]) == ("pacs", pacs["waiting"], None)
    assert "paused" in run("destinations", "list").out
    assert run("destinations", "resume", "pacs", "--json").json["resumed"] == "pacs"
    assert run("destinations", "resume", "pacs").code == cli.Exit.USAGE
    assert run("destinations", "pause", "nowhere").code == cli.Exit.USAGE
    given = run("replay", "--destination", "pacs", "--json").json
    assert list(given) == ["results", "images", "lacking"]
    assert run("replay", "--destination", "nowhere").code == cli.Exit.USAGE


def test_erase_says_what_it_is_about_and_asks(run: Run, life: Ledger) -> None:
    for wrong in ([], ["--patient", "P", "--study", "1.2"], ["--patient", "P"]):
        assert run("erase", *wrong).code == cli.Exit.USAGE, wrong
    study = run("jobs", "show", run("jobs", "--json").json[0]["id"], "--json").json["study_instance_uid"]
    counted = run("erase", "--study", study, "--dry-run", "--json").json
    assert (counted["studies"], counted["images"] > 0) == (1, True)
    assert run("erase", "--study", study, "--dry-run").out.startswith("would erase 1 studies")


def test_settings(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHEXNODE_BROKER__URL", "redis://:hunter2@h/0")
    ran = run("settings", "--json")
    assert all(list(line) == ["key", "value", "source"] for line in ran.json)
    lines = {line["key"]: (line["value"], line["source"]) for line in ran.json}
    assert lines["broker.url"] == ("redis://:***@h/0", "CHEXNODE_BROKER__URL")
    assert lines["node.port"] == (11112, "default")
    assert lines["destination[0].name"] == ("pacs", "chexnode.toml")
    assert "hunter2" not in run("settings").out


def test_db_upgrade(run: Run, tmp_path: Path) -> None:
    missing = run("jobs")
    assert (missing.code, missing.out) == (cli.Exit.ENVIRONMENT, "")
    assert missing.err.startswith("chexnode: there is no database ")
    assert not list(tmp_path.rglob("*.db")), "who only looks makes none"
    first = run("db", "upgrade", "--json").json
    assert first["before"] is None
    assert run("db", "upgrade", "--json").json == {"before": first["now"], "now": first["now"]}
    assert run("jobs", "--json").json == []
    assert "the schema is at" in run("db", "upgrade").out


def test_a_list_on_an_empty_ledger_is_an_empty_array(run: Run, ledger: Ledger) -> None:
    for command in ("jobs", "deliveries"):
        assert run(command, "--json").json == []


def test_lists_are_narrowed_down(run: Run, life: Ledger) -> None:
    """``life`` is of 2030-01-02, 03:04:05 UTC; one image has an accession number, and nothing was delivered since."""

    def count(*arguments: str) -> int:
        return len(run(*arguments, "--json").json)

    everything = count("jobs")
    assert count("jobs", "--accession", "A1") == 1
    assert count("jobs", "--accession", "A2") == count("jobs", "--patient", "P0") == 0
    assert count("jobs", "--since", "2030-01-01", "--until", "2030-01-03") == everything
    assert count("jobs", "--since", "2030-01-02T03:04:06+00:00") < everything
    assert count("jobs", "--until", "2030-01-02T03:04:05+00:00") == count("jobs", "--since", "2031-01-01") == 0
    (study,) = {job["study_instance_uid"] for job in run("jobs", "--accession", "A1", "--json").json}
    assert count("jobs", "--study", study) == 1
    assert count("deliveries", "--since", "2030-01-01") == 2
    assert count("deliveries", "--until", "2029-12-31") == count("deliveries", "--accession", "A2") == 0
    assert run("deliveries", "replay", "--since", "2031-01-01", "--json").json["replayed"] == 0
    assert run("deliveries", "replay", "--until", "2030-02-01", "--json").json["replayed"] == 2
    assert run("deliveries", "replay", "--all", "--since", "2030-01-01").code == 2
    refused = run("jobs", "--since", "last week")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "'last week' is no time" in refused.err


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_column_is_cut_to_nothing(width: int) -> None:
    table = tables.TextTable("ID", "JOB", "STATE", "WHY")
    why = "SOP class not accepted by destination: Comprehensive 3D SR Storage"
    table.add_row("1", "0123456789ab" * 4, "DEAD", why)
    out = StringIO()
    Console(file=out, width=width).print(table)
    lines = [line.strip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    words = " ".join(" ".join(lines).split())
    assert "0123456789ab" * 4 in words
    if width == 60:
        assert f"WHY: {why}" in words


def test_what_goes_into_a_pipe_is_whole(run: Run, life: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    row = next(line for line in run("jobs", "--state", "failed").out.splitlines() if "FAILED" in line)
    assert "ZeroDivisionError: by zero" in row
    assert life.views.jobs(["FAILED"])[0].id in row


def test_tables_fit_80_columns_and_keep_ids_whole(run: Run, life: Ledger) -> None:
    long_uid = "1.2.826.0.1.3680043.8.498." + "7" * 38
    record(life, arrival(long_uid, verdict=replace(NOT_ANALYSED, detail="x" * 200)))
    for command in (["jobs"], ["deliveries"], ["account"], ["settings"]):
        out = run(*command).out
        assert max(len(line.rstrip()) for line in out.splitlines()) <= 80, command
        assert "\x1b" not in out, "colours are for terminals"
    jobs = run("jobs").out
    for view in life.views.jobs():
        assert re.search(rf"^ ?{view.id} +{view.state} ", jobs, re.M), view
    assert long_uid not in jobs
    assert re.search(r"1\.2\.8…7777", jobs), "a UID is shortened in its middle"


def test_what_came_from_outside_is_never_markup_or_control(run: Run, ledger: Ledger) -> None:
    record(ledger, arrival(calling_ae_title="[red]X[/red]\x1b[31m", verdict=replace(NOT_ANALYSED, detail="[bold]\x07")))
    (view,) = ledger.views.jobs()
    out = run("jobs", "show", view.id).out
    assert "[red]X[/red]\\x1b[31m" in out
    assert "[bold]\\x07" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["jobs", "--state", "dine"], "no state 'dine'; did you mean DONE?"),
        (["jobs", "--state", "zzz"], "no state 'zzz'; there are QUEUED"),
        (["deliveries", "--state", "queued"], "no state 'queued'"),
        (["jobs", "show", "nothing"], "no job nothing"),
        (["jobs", "--json", "show", "x"], "give --json after show"),
        (["deliveries", "--destination", "pacs", "replay"], "give --destination after replay"),
        (["--config", "nowhere.toml", "jobs"], "nowhere.toml"),
    ],
)
def test_usage_faults_are_one_line(run: Run, ledger: Ledger, arguments: list[str], told: str) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out) == (cli.Exit.USAGE, "")
    assert told in ran.err
    assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [["jbos"], ["jobs", "--nope"], ["jobs", "show"], ["jobs", "--limit", "0"], ["analyze", "x.dcm"], ["db"]],
)
def test_wrong_command_lines_exit_2_and_say_so(run: Run, arguments: list[str]) -> None:
    ran = run(*arguments)
    assert ran.code == cli.Exit.USAGE
    assert ran.err + ran.out
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("command", ["up", "receive", "worker", "web", "jobs", "account", "check", "analyze"])
def test_wrong_settings_stop_every_command_with_one_line_a_fault(run: Run, command: str) -> None:
    Path("chexnode.toml").write_text("[node]\nae_titel = 'X'\n[wbe]\n")
    arguments = [command, "x.dcm", "--out", "o"] if command == "analyze" else [command]
    ran = run(*arguments)
    assert (ran.code, ran.out) == (cli.Exit.USAGE, "")
    assert "did you mean node.ae_title?" in ran.err
    assert len(ran.err.splitlines()) == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Usage("x"), cli.Exit.USAGE),
        (BadEnvironment("x"), cli.Exit.ENVIRONMENT),
        (Transient("x"), cli.Exit.ENVIRONMENT),
        (Refused(Reason.NOISE), cli.Exit.SOME_FAILED),
        (StaleMove("x"), cli.Exit.SOME_FAILED),
    ],
)
def test_the_class_of_an_error_decides_the_exit_code(error: NodeError, code: cli.Exit) -> None:
    assert cli.exit_code(error) is code


def test_an_unusable_database_is_the_environment(run: Run) -> None:
    Path("x.db").write_bytes(b"this is no database at all, not even a small one")
    ran = run("jobs")
    assert ran.code == cli.Exit.ENVIRONMENT
    assert len(ran.err.splitlines()) == 1


def test_version_and_help(run: Run) -> None:
    assert run("--version").out == f"chexnode {version('chexnode')}\n"
    for command in (
        [],
        ["jobs"],
        ["jobs", "show"],
        ["deliveries", "replay"],
        ["db", "upgrade"],
        ["analyze"],
        ["check"],
    ):
        ran = run(*command, "--help")
        assert ran.code == 0
        assert "Usage: chexnode" in ran.out
        assert "--supervised" not in ran.out


def test_looking_loads_nothing_heavy(run: Run, ledger: Ledger) -> None:
    script = (
        "import sys; from chexnode.cli.commands import main; sys.argv = ['chexnode', 'jobs', '--json']\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'celery', 'monai', 'pynetdicom', 'highdicom', 'scipy', 'fastapi'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "[]\n")


def test_results_with_no_file_left_say_so(run: Run, ledger: Ledger) -> None:
    assert isinstance(ledger.clock, Clock)
    record(ledger)
    job = claim(ledger)
    ledger.jobs.complete(job, Analysis(0.1, False, 0), results_for(job), [])
    ledger.clock.forward(10)
    ledger.files.expire(ledger.clock())
    assert run("jobs", "show", job.id).out.count("deleted by retention") == 3
