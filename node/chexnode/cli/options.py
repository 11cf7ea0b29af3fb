"""What the commands share: exit codes, common options, and how they read the settings and print."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexnode.logs import LogLevel, configure
from chexnode.vocabulary import filters
from chexnode.vocabulary.errors import BadEnvironment, Usage

if TYPE_CHECKING:
    from rich.console import RenderableType

    from chexnode.ledger.ledger import Ledger
    from chexnode.settings.tree import Settings


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    """Done, and everything is well."""
    SOME_FAILED = 1
    """Done, but something failed: a file, a check, or the account's difference is not zero."""
    USAGE = 2
    """The command line or the settings are wrong."""
    ENVIRONMENT = 3
    """The machine is not fit: database, schema, disk, broker or an extra that is not installed."""


Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
JsonLogs = Annotated[bool, typer.Option("--json", help="Log JSON lines even on a terminal.")]
Supervised = Annotated[bool, typer.Option("--supervised", hidden=True, help="Set by `up` for its roles.")]
States = Annotated[list[str] | None, typer.Option("--state", metavar="STATE", help="Only this state; repeatable.")]
Limit = Annotated[int, typer.Option(min=1, help="At most this many, newest first.")]

Accession = Annotated[str | None, typer.Option("--accession", metavar="NUMBER", help="Only of this Accession Number.")]
Patient = Annotated[str | None, typer.Option("--patient", metavar="ID", help="Only of this Patient ID.")]
Study = Annotated[str | None, typer.Option("--study", metavar="UID", help="Only of this Study Instance UID.")]
Since = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="WHEN", help="From then on: today, yesterday, 2026-01-31, 2026-01-31T08:30, 08:30."
    ),
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="WHEN", help="Until then, as --since; a day is included.")
]

_FILTER = {"accession": Accession, "patient": Patient, "study": Study, "since": Since, "until": Until}


def with_filter(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with the options that choose images in place of its keyword ``wanted``, the filter that they make."""
    signature = inspect.signature(command, eval_str=True)
    own = list(signature.parameters.values())
    place = [parameter.name for parameter in own].index("wanted")
    own[place : place + 1] = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in _FILTER.items()
    ]

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        chosen = {name: values.pop(name) for name in _FILTER}
        command(**values, wanted=filters.given(**chosen))

    vars(with_options)["__signature__"] = signature.replace(parameters=own)
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in own}
    return with_options


def group(text: str, **more: Any) -> typer.Typer:
    """A group of commands, styled as all are."""
    return typer.Typer(help=text, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **more)


@dataclass(frozen=True)
class Options:
    """What stands before the command."""

    config: Path | None
    log_level: LogLevel


def start(ctx: typer.Context, json: bool) -> Settings:
    """What every role does first."""
    from chexnode.roles.words import read_words

    configure(ctx.obj.log_level, True if json else None)
    settings = settings_of(ctx)
    read_words(settings)
    return settings


def settings_of(ctx: typer.Context) -> Settings:
    """The settings that the command is for."""
    from chexnode.settings.loading import load

    return load(ctx.obj.config)[0]


@contextmanager
def ledger_of(ctx: typer.Context) -> Iterator[Ledger]:
    """The node's ledger, open."""
    from chexnode.ledger.ledger import Ledger

    ledger = Ledger(settings_of(ctx).database.url)
    try:
        yield ledger
    finally:
        ledger.close()


def need(*packages: str) -> None:
    """Raise BadEnvironment unless the worker extra is installed."""
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise BadEnvironment(f"{', '.join(missing)} not installed: pip install 'chexnode[worker]'")


def is_for_subcommand(ctx: typer.Context) -> bool:
    """Whether a subcommand follows; options before it would have no effect and so are refused."""
    if ctx.invoked_subcommand is None:
        return False
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        raise Usage(f"give --{given[0].replace('_', '-')} after {ctx.invoked_subcommand}")
    return True


def print_json(value: object) -> None:
    """Print ``value`` as JSON, and nothing else.

    Keys are the field names of its dataclasses; times are ISO 8601, and what is not a number is null.
    """
    from pydantic_core import to_json

    print(to_json(value, indent=2, inf_nan_mode="null").decode())


def acted(ctx: typer.Context, what: str) -> None:
    """Record in the audit trail, if anybody wants one, that a person at this host has changed the node's work."""
    from getpass import getuser
    from socket import gethostname

    from chexnode.audit.trail import open_trail

    with open_trail(settings_of(ctx), "command") as trail:
        trail.acted(getuser(), gethostname(), what)


def print_table(json: bool, value: object, table: Callable[[], RenderableType]) -> None:
    """Print ``value`` as JSON, or as the table that ``table`` makes of it."""
    if json:
        print_json(value)
    else:
        from chexnode.cli.tables import show

        show(table())


def print_result(json: bool, facts: dict[str, Any], text: str) -> None:
    """Say what was done: as JSON, or as a sentence."""
    if json:
        print_json(facts)
    else:
        print(text)
