"""The command line: reads the settings once, hands them on, and turns errors into one line and an exit code.

Nothing heavy is imported at the top: looking at jobs starts fast, and the receiver loads neither torch nor celery.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chexnode.cli.alarms import alarms_app
from chexnode.cli.backup import backup, recover, restore
from chexnode.cli.compare import compare
from chexnode.cli.deliveries import deliveries_app
from chexnode.cli.destinations import destinations_app, replay
from chexnode.cli.drift import drift_app
from chexnode.cli.erase import erase
from chexnode.cli.models import models_app
from chexnode.cli.options import (
    Accession,
    Exit,
    Json,
    JsonLogs,
    Limit,
    Options,
    Patient,
    States,
    Study,
    Supervised,
    group,
    is_for_subcommand,
    ledger_of,
    need,
    print_json,
    print_result,
    print_table,
    settings_of,
    start,
    with_filter,
)
from chexnode.cli.reanalyse import reanalyse_app
from chexnode.cli.tokens import tokens_app
from chexnode.cli.users import users_app
from chexnode.cli.viewer import viewer_app
from chexnode.logs import LogLevel, escaped
from chexnode.vocabulary import filters
from chexnode.vocabulary.errors import BadEnvironment, NodeError, Transient, Usage
from chexnode.vocabulary.filters import Filter

if TYPE_CHECKING:
    from chexnode.ledger.ledger import Ledger


app = group("ChexNode: finds abnormalities on chest radiographs and returns them to PACS.", no_args_is_help=True)
jobs_app = group("Show what was received and what became of it, or act on one job.")
db_app = group("The database schema.", no_args_is_help=True)
_lists = (("jobs", jobs_app), ("deliveries", deliveries_app), ("reanalyse", reanalyse_app), ("drift", drift_app))
_groups = (("tokens", tokens_app), ("users", users_app), ("alarms", alarms_app), ("viewer", viewer_app))
for _name, _group in (*_lists, *_groups, ("models", models_app), ("destinations", destinations_app), ("db", db_app)):
    app.add_typer(_group, name=_name, invoke_without_command=(_name, _group) in _lists)
for _command in (backup, restore, recover, compare, replay, erase):
    app.command()(_command)


def main() -> None:
    """Entry point of ``chexnode``."""
    os.umask(0o077)  # images, results, the database, keys: nothing is for other users of this machine
    try:
        app(prog_name="chexnode")
    except NodeError as error:
        for line in str(error).splitlines():
            print(f"chexnode: {escaped(line)}", file=sys.stderr)
        raise SystemExit(exit_code(error)) from None


def exit_code(error: NodeError) -> Exit:
    """The exit code that tells of ``error``."""
    if isinstance(error, Usage):
        return Exit.USAGE
    if isinstance(error, BadEnvironment | Transient):
        return Exit.ENVIRONMENT
    return Exit.SOME_FAILED


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"chexnode {version('chexnode')}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings file; otherwise chexnode.toml here, if there is one.")
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(case_sensitive=False, help="How much to log.")] = LogLevel.INFO,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    ctx.obj = Options(config, log_level)


@app.command()
def up(ctx: typer.Context, json: JsonLogs = False) -> None:
    """Run everything on this machine: receiver, worker and web, with no outside service. Ctrl-C stops all."""
    settings = start(ctx, json)
    from chexnode.roles.up import run

    run(settings, ctx.obj.config, ctx.obj.log_level, json)


@app.command()
def receive(ctx: typer.Context, json: JsonLogs = False, supervised: Supervised = False) -> None:
    """Run the receiver role: C-STORE and C-ECHO."""
    settings = start(ctx, json)
    from chexnode.roles.processes import run_receiver

    run_receiver(settings, supervised)


@app.command()
def worker(ctx: typer.Context, json: JsonLogs = False, supervised: Supervised = False) -> None:
    """Run the worker role: analyse, encode, deliver, keep house."""
    settings = start(ctx, json)
    need("celery", "torch")
    from chexnode.roles.processes import run_worker

    run_worker(settings, supervised)


@app.command()
def web(ctx: typer.Context, json: JsonLogs = False, supervised: Supervised = False) -> None:
    """Run the web role: health, metrics and the JSON interface."""
    settings = start(ctx, json)
    from chexnode.roles.processes import run_web

    run_web(settings, supervised)


@app.command()
def analyze(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="DICOM, PNG or JPEG files.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")],
    heat: Annotated[bool, typer.Option("--heat", help="Also write the heat map: STEM.npz, STEM.heat.dcm.")] = False,
    json: Json = False,
) -> None:
    """Analyse files without any service; the results go to DIR. Exit code 1 if any file has no result."""
    settings = start(ctx, False)
    need("torch")
    from chexnode.cli import tables
    from chexnode.work.analyze import analyze as run

    reports = list(tables.with_progress(run(settings, files, out, heat), len(files)))
    print_table(json, reports, lambda: tables.reports_table(reports))
    raise typer.Exit(Exit.OK if all(report.state == "DONE" for report in reports) else Exit.SOME_FAILED)


@app.command()
def check(
    ctx: typer.Context,
    file: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Say instead what would be done with this DICOM file.")
    ] = None,
    calling_ae_title: Annotated[
        str, typer.Option("--from", metavar="AE", help="With --file: as if it had come from this AE title.")
    ] = "",
    json: Json = False,
) -> None:
    """Look at everything the node needs: settings, disk, database, broker, model, device, destinations."""
    from chexnode.cli import tables
    from chexnode.settings.loading import load

    settings, path = load(ctx.obj.config)
    if file:
        from chexnode.roles.trial import trial

        trials = [trial(settings, one, calling_ae_title) for one in file]
        print_table(json, trials, lambda: tables.trials_table(trials))
        return
    from chexnode.roles.check import run

    checks = run(settings, path)
    print_table(json, checks, lambda: tables.checks_table(checks))
    raise typer.Exit(Exit.OK if all(line.ok for line in checks) else Exit.SOME_FAILED)


@jobs_app.callback()
@with_filter
def jobs(
    ctx: typer.Context,
    *,
    state: States = None,
    wanted: Filter,
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """Show what was received and what became of it, newest first; or act on one job."""
    if is_for_subcommand(ctx):
        return
    from chexnode.cli import tables

    with ledger_of(ctx) as ledger:
        found = ledger.views.jobs(filters.job_states(state or ()), wanted, limit=limit)
    print_table(json, found, lambda: tables.jobs_table(found))


JobId = Annotated[str, typer.Argument(metavar="ID", help="Job id, as `jobs` shows it.")]


@jobs_app.command("show")
def jobs_show(ctx: typer.Context, job: JobId, json: Json = False) -> None:
    """Show one job: its facts, results, deliveries and history."""
    with ledger_of(ctx) as ledger:
        _print_job(ctx, ledger, job, json)


@jobs_app.command("retry")
def jobs_retry(ctx: typer.Context, job: JobId, json: Json = False) -> None:
    """Put a REFUSED, FAILED or CANCELLED job back into the queue."""
    with ledger_of(ctx) as ledger:
        ledger.jobs.retry(job)
        _print_job(ctx, ledger, job, json)


@jobs_app.command("cancel")
def jobs_cancel(ctx: typer.Context, job: JobId, json: Json = False) -> None:
    """Leave a QUEUED or RUNNING job undone."""
    with ledger_of(ctx) as ledger:
        ledger.jobs.cancel(job)
        _print_job(ctx, ledger, job, json)


def _print_job(ctx: typer.Context, ledger: Ledger, job: str, json: bool) -> None:
    from chexnode.cli import tables
    from chexnode.web.viewer import install

    found = ledger.views.job(job)
    if json:
        print_json(found)
        return
    settings = settings_of(ctx)
    is_installed = install.installed(settings.viewer_home) is not None
    viewer = install.study_url(settings.web_url, found.study_instance_uid) if is_installed else None
    tables.show(tables.job_page(found, str(settings.node.data_dir), viewer))


@app.command()
def account(ctx: typer.Context, json: Json = False) -> None:
    """Say where every acknowledged image is. Exit code 1 if the sum does not come out."""
    from chexnode.cli import tables

    with ledger_of(ctx) as ledger:
        counted = ledger.accounts.account()
    if json:
        print_json(counted)
    else:
        from chexnode.spool.spool import Spool

        settings = settings_of(ctx)
        spool = Spool(settings.node.data_dir)
        tables.show(tables.account_table(counted, spool.free(), spool.has_room(settings.disk)))
    raise typer.Exit(Exit.SOME_FAILED if counted.difference else Exit.OK)


@app.command()
def settings(ctx: typer.Context, json: Json = False) -> None:
    """Show the effective settings and where each came from; secrets are masked."""
    from chexnode.cli import tables
    from chexnode.settings.keys import flat
    from chexnode.settings.loading import load
    from chexnode.vocabulary.reports import Setting

    tree, _ = load(ctx.obj.config)
    lines = [Setting(key, value, tree.source_of(key)) for key, value in flat(tree)]
    print_table(json, lines, lambda: tables.settings_table(lines))


@app.command()
def reconcile(
    ctx: typer.Context,
    pacs: Annotated[str, typer.Option(metavar="NAME", help="The destination to compare with; of kind dicom.")],
    since: Annotated[
        str, typer.Option(metavar="DATE", help="Studies from this day on: today, yesterday or 2026-01-31.")
    ],
    until: Annotated[str | None, typer.Option(metavar="DATE", help="Studies to this day, which is included.")] = None,
    accession: Accession = None,
    patient: Patient = None,
    study: Study = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Have it send what was missed to us (C-MOVE or C-GET).")
    ] = False,
    json: Json = False,
) -> None:
    """Ask a PACS which chest radiographs and which of our results it has, and compare (C-FIND)."""
    from chexnode.archive.query_retrieve import Archive
    from chexnode.archive.reconcile import reconcile as compared
    from chexnode.cli import tables
    from chexnode.node import Node
    from chexnode.receive.storage import StorageService

    settings = settings_of(ctx)
    days = filters.given(accession, patient, study, since, until)
    one = settings.destination_called(pacs, "dicom")
    with ExitStack() as stack:
        node = stack.enter_context(Node.open(settings, "reconcile"))
        storage = stack.enter_context(StorageService(node)) if fetch and one.retrieve == "get" else None
        archive = stack.enter_context(Archive(node, one, storage))
        found = compared(node, archive, days, fetch, tables.asking(pacs))
    if json:
        print_json(found)
    else:
        tables.show(*tables.reconciliation(found))
    raise typer.Exit(Exit.OK if found.balanced else Exit.SOME_FAILED)


@app.command()
def pull(
    ctx: typer.Context,
    source: Annotated[str, typer.Option("--from", metavar="NAME", help="The destination to ask; of kind stow.")],
    study: Annotated[
        list[str] | None, typer.Option(metavar="UID", help="Study Instance UID to fetch; repeatable.")
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Studies that match, such as StudyDate=20250101-20250131; repeatable."),
    ] = None,
    per_minute: Annotated[float, typer.Option(min=0, help="At most this many instances a minute; 0: no limit.")] = 0,
    queue: Annotated[
        int, typer.Option(min=0, help="Wait while this many images are queued for analysis; 0: do not wait.")
    ] = 100,
    json: Json = False,
) -> None:
    """Fetch studies from a DICOMweb service (WADO-RS) as if they had been sent; what the node holds is left out."""
    from chexnode.archive.pull import DicomWebArchive, Pace, wanted_query, wanted_studies
    from chexnode.archive.pull import pull as fetch
    from chexnode.cli import tables
    from chexnode.node import Node
    from chexnode.receive.storage import StorageService

    settings = start(ctx, False)
    if bool(study) == bool(query):
        raise Usage("give --study UID, or --query KEY=VALUE")
    one = settings.destination_called(source, "stow")
    asked_for = wanted_query(query or ()), wanted_studies(study or ())
    with Node.open(settings, "pull") as node, DicomWebArchive(node, one) as service, StorageService(node) as storage:
        studies = asked_for[1] or service.studies(asked_for[0])
        shown = tables.asking(source)(studies)
        said = fetch(node, service, storage, shown, Pace(node, storage, queue, per_minute))
    if json:
        print_json(said)
    else:
        images = f"{said.found} of {said.expected} images" if said.found < said.expected else f"{said.found} images"
        print(f"{said.studies} studies, {images}: {said.stored} fetched, {said.held} held before")
        for uid, why in said.failed.items():
            print(f"{uid}: {escaped(why)}")
        for sentence in said.incomplete:
            print(f"incomplete: {escaped(sentence)}")
    raise typer.Exit(Exit.SOME_FAILED if said.failed or said.incomplete else Exit.OK)


@app.command()
def certs(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Whom to give a certificate; none: our AE title.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the authority and its certificates.")] = Path(
        "certs"
    ),
    host: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="Address or name that they are for; repeatable.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long they are valid.")] = 365,
    json: Json = False,
) -> None:
    """Make certificates for DICOM TLS and HTTPS, with a small authority of their own: for tests and first set-ups."""
    from chexnode.roles.certificates import Authority

    authority = Authority.open(out)
    hosts = host or ["127.0.0.1", "localhost"]
    issued = [authority.issue(name, hosts, days) for name in names or [settings_of(ctx).node.ae_title]]
    if json:
        print_json(issued)
    else:
        for one in issued:
            print(f"{one.name}: {one.certificate}, {one.key}, until {one.not_after:%Y-%m-%d}")
        print(f'\n[tls]\ncertificate = "{issued[0].certificate}"\nkey = "{issued[0].key}"')
        print(f'authorities = "{authority.path}"\nport = 2762')


@db_app.command("upgrade")
def db_upgrade(ctx: typer.Context, json: Json = False) -> None:
    """Bring the database schema to this release's."""
    from chexnode.ledger.database import Database
    from chexnode.ledger.migrate import upgrade

    database = Database(settings_of(ctx).database.url)
    try:
        before, now = upgrade(database)
    finally:
        database.close()
    text = f"the schema is at {now}" + ("" if before == now else f" (it was {before or 'empty'})")
    print_result(json, {"before": before, "now": now}, text)


if __name__ == "__main__":
    main()
