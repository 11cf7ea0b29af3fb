"""What commands print for people: tables that fit the terminal, whole where there is none; colours only on a terminal.

Everything that came from outside goes through :func:`~chexnode.logs.escaped` and is never read as markup.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn, track
from rich.table import Table
from rich.text import Text

from chexnode.ledger.account import Account
from chexnode.ledger.overview import DestinationView
from chexnode.ledger.views import JobDetail
from chexnode.logs import escaped
from chexnode.vocabulary.purposes import Purpose
from chexnode.vocabulary.records import DeliveryView, JobView
from chexnode.vocabulary.reports import Check, FileReport, Setting, Trial

if TYPE_CHECKING:
    from chexnode.archive.reconcile import Reconciliation
    from chexnode.ledger.tokens import Token
    from chexnode.ledger.users import User

T = TypeVar("T")

_UNBOUNDED = 10_000
_LEAST = 16
"""Characters that a column of free text has at least, if it needs them."""
_FREE = frozenset({"WHY", "DETAIL", "VALUE", "FILE", "SOURCE", "SOP INSTANCE UID"})
"""Columns that give way: an id or a state cut in two is of no use."""

_STYLES: Mapping[str, str] = {
    "DONE": "green",
    "SENT": "green",
    "COMMITTED": "green",
    "RUNNING": "cyan",
    "DELIVERING": "cyan",
    "WAITING": "yellow",
    "REFUSED": "yellow",
    "NOT_ANALYSED": "yellow",
    "CANCELLED": "yellow",
    "QUARANTINED": "red",
    "FAILED": "red",
    "DEAD": "red",
}


def show(*parts: RenderableType) -> None:
    """Print to stdout, in the width of the terminal, or of ``COLUMNS``; into a pipe or file as wide as need be."""
    width = shutil.get_terminal_size((_UNBOUNDED, 25)).columns
    Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False).print(Group(*parts))


def short_uid(uid: str, length: int = 15) -> str:
    """``uid`` with its middle left out where it is longer than ``length``: its ends tell UIDs apart."""
    uid = escaped(uid)
    head = length // 3
    return uid if len(uid) <= length else f"{uid[:head]}…{uid[-(length - head - 1) :]}"


def finding(score: float | None, abnormal: bool | None, regions: int | None, analysed: bool) -> str:
    """``2 regions 0.93``, ``no finding 0.04``, ``not evaluated``; empty before the analysis."""
    if not analysed:
        return ""
    if abnormal is None:
        return "not evaluated"
    number = "" if score is None else f" {score:.2f}"
    if not abnormal:
        return "no finding" + number
    return (f"{regions} region{'' if regions == 1 else 's'}" if regions else "abnormal") + number


def with_progress(items: Iterable[T], total: int) -> Iterator[T]:
    """Yield ``items``, with a bar on stderr where that is a terminal."""
    console = Console(stderr=True)
    yield from track(items, "analysing", total, console=console, transient=True, disable=not console.is_terminal)


def downloading(pieces: Iterable[bytes], length: int | None) -> Iterator[bytes]:
    """Yield ``pieces``, with a bar of megabytes on stderr where that is a terminal."""
    console = Console(stderr=True)
    columns = TextColumn("downloading"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=length)
        for piece in pieces:
            progress.advance(task, len(piece))
            yield piece


def asking(name: str) -> Callable[[list[str]], Iterable[str]]:
    """What shows the progress of a comparison with the PACS ``name``, study by study."""
    console = Console(stderr=True)

    def track_studies(studies: list[str]) -> Iterable[str]:
        return track(
            studies, f"asking {escaped(name)}", console=console, transient=True, disable=not console.is_terminal
        )

    return track_studies


def reconciliation(found: Reconciliation) -> list[RenderableType]:
    """``chexnode reconcile``."""
    parts: list[RenderableType] = [
        f"{found.pacs} since {found.since}: {found.studies} studies, {found.radiographs} radiographs, "
        f"{len(found.missed)} of them never received ({sum(one.fetched for one in found.missed)} fetched now); "
        f"{found.results} results delivered, {len(found.gone)} of them gone"
    ]
    if found.missed or found.gone:
        table = TextTable("WHAT", "STUDY", "SOP INSTANCE UID", "")
        for missed in found.missed:
            mark = Text("fetched", style="green") if missed.fetched else Text("missing", style="bold red")
            table.add_row("radiograph", short_uid(missed.study_instance_uid), missed.sop_instance_uid, mark)
        for gone in found.gone:
            table.add_row(
                "result", short_uid(gone.study_instance_uid), gone.sop_instance_uid, Text("gone", style="red")
            )
        parts.append(table)
    return parts


def reports_table(reports: Sequence[FileReport]) -> TextTable:
    """``chexnode analyze``."""
    table = TextTable("FILE", "STATE", "WHY", "FINDING", "SECONDS")
    for report in reports:
        done = report.state == "DONE"
        table.add_row(
            Text(escaped(Path(report.file).name), overflow="fold"),
            _state(report.state),
            _why(report.reason, report.error),
            finding(report.score, report.abnormal, len(report.regions), done),
            f"{report.seconds:.2f}",
        )
    return table


def jobs_table(jobs: Sequence[JobView]) -> TextTable:
    """``chexnode jobs``."""
    table = TextTable("ID", "STATE", "WHY", "FINDING", "IMAGE", "RECEIVED")
    for job in jobs:
        table.add_row(
            job.id,
            _state(job.state),
            _why(job.reason, job.error),
            finding(job.score, job.abnormal, job.regions, _is_analysed(job)),
            short_uid(job.sop_instance_uid),
            _moment(job.received_at),
        )
    return table


def job_page(job: JobDetail, data_dir: str, viewer: str | None = None) -> Group:
    """``chexnode jobs show``; ``viewer``: the URL that shows the study, where there is a viewer."""
    facts: list[tuple[str, str | Text | None]] = [
        ("state", _state(job.state)),
        ("reason", job.reason),
        ("detail", job.instance_detail),
        ("finding", finding(job.score, job.abnormal, job.regions, _is_analysed(job)) or None),
        ("notes", ", ".join(job.notes) or None),
        ("priority", job.priority),
        ("error", None if job.error == job.instance_detail else job.error),
        ("attempts", str(job.attempts)),
        ("image", job.sop_instance_uid),
        ("study", job.study_instance_uid),
        ("viewer", viewer),
        ("accession", job.accession_number),
        ("SOP class", job.sop_class_uid),
        ("SHA-256", job.digest),
        ("from", f"{job.calling_ae_title} at {job.address}"),
        ("file", job.source_path or "deleted by retention"),
        ("model", job.model and f"{job.model} ({job.model_digest})"),
        ("purpose", job.purpose if job.purpose != Purpose.IMAGE else None),
        ("received", _moment(job.received_at)),
        ("finished", _moment(job.finished_at) if job.finished_at else None),
    ]
    page = Table.grid(padding=(0, 2))
    page.add_column(style="bold", no_wrap=True)
    page.add_column(overflow="fold")
    for name, value in facts:
        if value is not None:
            page.add_row(name, value if isinstance(value, Text) else _lines(value))
    parts: list[RenderableType] = [Text(f"job {job.id}", style="bold"), page]
    if job.results:
        results = TextTable("KIND", "VARIANT", "BYTES", "FILE", title=f"results, under {data_dir}")
        for result in job.results:
            where = result.path or "deleted by retention"
            results.add_row(result.kind, result.variant, f"{result.size:,}", Text(where, overflow="fold"))
        parts += ["", results]
    if job.shadows:
        shadows = TextTable("JOB", "MODEL", "STATE", "FINDING", "WHY", title="models on trial: nothing is delivered")
        for one in job.shadows:
            said = finding(one.score, one.abnormal, one.regions, one.state in ("DONE", "DELIVERING"))
            shadows.add_row(one.job, escaped(one.model), _state(one.state), said, _why(None, one.error))
        parts += ["", shadows]
    if job.deliveries:
        parts += ["", deliveries_table(job.deliveries)]
    history = TextTable("WHEN", "WHAT", "FROM", "TO", "DETAIL", title="history")
    for event in job.events:
        detail = _lines((event.detail or "").strip().splitlines()[-1] if event.detail else "")
        when = event.at.astimezone().strftime("%m-%d %H:%M:%S")
        history.add_row(when, event.event, event.from_state or "", event.to_state or "", detail)
    return Group(*parts, "", history)


def destinations_table(destinations: Sequence[DestinationView], known: Sequence[str]) -> TextTable:
    """``chexnode destinations list``; ``known``: names of those in the settings."""
    table = TextTable("NAME", "WAITING", "DEAD", "STATE", "LAST SUCCESS", "WHY")
    for one in destinations:
        state, why = ("fails", one.last_error) if one.failures else ("well", None)
        if one.paused_at is not None:
            state, why = "paused", f"since {_moment(one.paused_at)}"
        if one.name not in known:
            state, why = "removed", "not in the settings: what waits is given up, and kept to be replayed"
        succeeded = _moment(one.last_success_at) if one.last_success_at else "never"
        table.add_row(one.name, str(one.waiting), str(one.dead), state, succeeded, _why(None, why))
    return table


def deliveries_table(deliveries: Sequence[DeliveryView]) -> TextTable:
    """``chexnode deliveries``."""
    table = TextTable("ID", "JOB", "TO", "KIND", "STATE", "TRIES", "NEXT", "WHY")
    for delivery in deliveries:
        table.add_row(
            str(delivery.id),
            delivery.job or "of a study",
            delivery.destination,
            delivery.kind,
            _state(delivery.state),
            str(delivery.attempts),
            _moment(delivery.next_attempt) if delivery.next_attempt else "",
            _why(None, delivery.error),
        )
    return table


def account_table(account: Account, free: int | None, has_room: bool) -> Table:
    """``chexnode account``: a sum, with what stands outside it below; ``free``: bytes on the disk, None if unknown."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_row("received", str(account.received), style="bold")
    table.add_row("  analysed", str(account.analysed))
    for reason, count in sorted(account.not_analysed.items()):
        table.add_row(f"  not analysed: {reason}", str(count))
    for reason, count in sorted(account.refused.items()):
        table.add_row(f"  refused: {reason}", str(count))
    for name in ("quarantined", "failed", "cancelled", "skipped", "pending"):
        table.add_row(f"  {name}", str(getattr(account, name)))
    wrong = account.difference != 0
    table.add_row("difference", str(account.difference), style="bold red" if wrong else "bold green")
    table.add_row("outside the sum: duplicates", str(account.duplicates))
    table.add_row("outside the sum: own results", str(account.own_results))
    room = "no disk" if free is None else f"{free / 1e9:.1f} GB free"
    table.add_row("disk", room if has_room else Text(f"{room}: images are refused", style="bold red"))
    return table


def settings_table(settings: Sequence[Setting]) -> TextTable:
    """``chexnode settings``."""
    table = TextTable("KEY", "VALUE", "SOURCE")
    for line in settings:
        style = "dim" if line.source == "default" else ""
        table.add_row(line.key, Text(_value(line.value), overflow="fold"), line.source, style=style)
    return table


def tokens_table(tokens: Sequence[Token]) -> TextTable:
    """``chexnode tokens list``."""
    table = TextTable("NAME", "SCOPES", "MADE", "EXPIRES")
    for token in tokens:
        expires = "never" if token.expires_at is None else token.expires_at.astimezone().strftime("%Y-%m-%d %H:%M")
        made = token.created_at.astimezone().strftime("%Y-%m-%d")
        table.add_row(token.name, ", ".join(token.scopes), made, expires)
    return table


def users_table(users: Sequence[User]) -> TextTable:
    """``chexnode users list``."""
    table = TextTable("NAME", "ROLE", "ADDED")
    for user in users:
        table.add_row(user.name, user.role, user.created_at.astimezone().strftime("%Y-%m-%d"))
    return table


def checks_table(checks: Iterable[Check]) -> TextTable:
    """``chexnode check``."""
    table = TextTable("CHECK", "", "DETAIL")
    for check in checks:
        mark = Text("ok", style="green") if check.ok else Text("NOT OK", style="bold red")
        table.add_row(check.name, mark, Text(escaped(check.detail), overflow="fold"))
    return table


def trials_table(trials: Iterable[Trial]) -> TextTable:
    """``chexnode check --file``."""
    table = TextTable("FILE", "VERDICT", "RULE", "PRIORITY", "RESULTS TO", "EVIDENCE")
    for one in trials:
        verdict = one.state if one.reason is None else f"{one.state} {one.reason}"
        always = set(one.destinations_without_finding)
        to = ", ".join(name if name in always else f"{name} (not without a finding)" for name in one.destinations)
        noted = f"; noted: {', '.join(one.notes)}" if one.notes else ""
        cells = (one.file, verdict, one.rule or "-", one.priority, to or "-", one.detail + noted)
        table.add_row(*(Text(escaped(cell), overflow="fold") for cell in cells))
    return table


class TextTable:
    """A table that cuts no column to nothing: where columns of free text get no room, they stand below their row."""

    def __init__(self, *columns: str, title: str | None = None) -> None:
        self._columns, self._title = columns, title
        self._rows: list[tuple[list[Text], str]] = []

    def add_row(self, *cells: str | Text, style: str = "") -> None:
        """One cell for each column."""
        texts = [cell if isinstance(cell, Text) else Text(cell, overflow="fold") for cell in cells]
        self._rows.append((texts, style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widest = [
            max([len(name), *(max(map(cell_len, cells[i].plain.split("\n"))) for cells, _ in self._rows)])
            for i, name in enumerate(self._columns)
        ]
        needed = [
            min(w, _LEAST) if n in _FREE and n != "SOP INSTANCE UID" else w
            for n, w in zip(self._columns, widest, strict=True)
        ]
        fits = sum(needed) + 2 * len(needed) <= options.max_width
        aside = [] if fits else [i for i, name in enumerate(self._columns) if name in _FREE]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title=self._title, title_justify="left")
        table.title_style = "bold"
        for i, name in enumerate(self._columns):
            if i not in aside:
                table.add_column(name, no_wrap=name not in _FREE, min_width=needed[i], overflow="fold")
        if not aside:
            for cells, style in self._rows:
                table.add_row(*cells, style=style)
            yield table
            return
        beside = [i for i in range(len(self._columns)) if i not in aside]
        yield Text("  ".join(self._columns[i].ljust(widest[i]) for i in beside).rstrip(), style="bold")
        for cells, style in self._rows:
            line = Text("  ").join(_padded(cells[i], widest[i]) for i in beside)
            line.rstrip()
            yield Text.assemble(line, style=style)
            for i in aside:
                if cells[i].plain:
                    yield Padding(
                        Text.assemble(f"{self._columns[i]}: ", cells[i], style=style, overflow="fold"), (0, 0, 0, 4)
                    )


def _padded(cell: Text, width: int) -> Text:
    padded = cell.copy()
    padded.pad_right(max(0, width - cell_len(cell.plain)))
    return padded


def _state(state: str) -> Text:
    return Text(str(state), style=_STYLES.get(state, ""))


def _why(reason: str | None, error: str | None) -> Text:
    """The code, or the last line of the error: a traceback's own sentence."""
    if reason:
        return Text(reason, overflow="fold")
    lines = (error or "").strip().splitlines()
    return Text(escaped(lines[-1]) if lines else "", overflow="fold")


def _lines(value: str) -> Text:
    return Text("\n".join(escaped(line) for line in value.splitlines()), overflow="fold")


def _moment(at: datetime) -> str:
    """Local time; the date only where it is not today."""
    local = at.astimezone()
    today = datetime.now(local.tzinfo).date() == local.date()
    return local.strftime("%H:%M:%S" if today else "%m-%d %H:%M")


def _is_analysed(job: JobView) -> bool:
    return job.score is not None or job.abnormal is not None


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value) or "[]"
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else escaped(str(value))
