"""Write the pages beside this file from the code: settings, commands, states, triage and the HTTP interface.

    make docs

Nothing in those pages is written by hand, so nothing in them can be out of date: a test generates them in memory and
compares.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import tempfile
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import typer
from conformance import statement
from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined
from writing import page, table

from chexnode.cli.commands import app
from chexnode.cli.options import Exit
from chexnode.dimse.messages import Status
from chexnode.ledger.account import Account
from chexnode.ledger.database import Database
from chexnode.ledger.migrate import upgrade
from chexnode.ledger.views import EventView, JobDetail, ResultView, ShadowView
from chexnode.node import Node
from chexnode.receive.storage import StorageService
from chexnode.settings.keys import section_of
from chexnode.settings.tree import Settings
from chexnode.triage.gate import NOTES, PIXEL_NOTES, PIXEL_REASONS, REASONS
from chexnode.vocabulary import records, reports
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.notes import Note
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import DeliveryView, JobView
from chexnode.vocabulary.states import DeliveryState, InstanceState, JobState, StudyState
from chexnode.vocabulary.supersession import Supersession
from chexnode.vocabulary.transitions import TRANSITIONS
from chexnode.web.app import create_app
from chexnode.web.dicomweb.query import ATTRIBUTES
from chexnode.web.dicomweb.routes import ROOT
from chexnode.web.histograms import HISTOGRAMS
from chexnode.web.metrics import METRICS
from chextrain.config import Config
from chextrain.recipes.registry import RECIPES
from chextrain.recipes.stages import STAGES

REFERENCE = Path(__file__).parent


def pages() -> dict[str, str]:
    """File name -> content of every generated page."""
    return {
        "settings.md": _settings(),
        "cli.md": _cli(),
        "states.md": _states(),
        "triage.md": _triage(),
        "dicom-conformance.md": statement(_member_docs(Status), _member_docs(Reason), _member_docs(Supersession)),
        "http.md": _http(),
        "training.md": _training(),
    }


def _text(thing: Any) -> str:
    """The docstring as one paragraph of Markdown."""
    return _markdown(inspect.getdoc(thing) or "")


def _markdown(doc: str) -> str:
    doc = re.sub(r":\w+:`~?([^`]+)`", lambda m: f"`{m[1].split('.')[-1]}`", doc)
    return re.sub(r"``([^`]+)``", r"`\1`", re.sub(r"\s*\n\s*", " ", doc.strip()))


def _member_docs(owner: type) -> dict[str, str]:
    """Name -> the string literal below it, for enum members and dataclass fields; read from the source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    assert isinstance(tree.body[0], ast.ClassDef)
    docs: dict[str, str] = {}
    name = None
    for node in tree.body[0].body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name is not None:
            docs[name] = _markdown(str(node.value.value))
            name = None
    return docs


# Settings


def _settings() -> str:
    parts = [
        "Read once when a command starts. Later sources win: defaults, the settings file, environment variables. The "
        "file is the one given with `chexnode --config FILE`, else the one `CHEXNODE_CONFIG` names, else "
        "`chexnode.toml` in the working folder. The variable of `section.key` is `CHEXNODE_SECTION__KEY`; lists and "
        "tables are written in it as JSON. Relative paths resolve against the file's folder. An unknown key or "
        "variable is an error that names the nearest known one. `chexnode settings` shows every effective value and "
        "where it came from.",
    ]
    for name, field in Settings.model_fields.items():
        model = section_of(field.annotation)
        assert model is not None
        if name == "shadow":  # written as [[model]], which says so
            continue
        is_list = get_origin(field.annotation) is tuple
        parts.append(
            f"## `{f'[[{name}]]' if is_list else f'[{name}]'}`\n\n{_text(model)}" + (" Repeatable." if is_list else "")
        )
        parts.append(table(("key", "value", "default", "meaning"), _keys(model)))
    return page("Settings", *parts)


def _keys(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    for name, field in model.model_fields.items():
        default = "required" if field.default is PydanticUndefined else f"`{_toml(field.default)}`"
        yield f"`{name}`", _kind(field.annotation, field.metadata), default, field.description or ""


def _kind(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{_toml(value)}`" for value in get_args(annotation))
    if origin is tuple:
        return f"list of: {_kind(get_args(annotation)[0])}"
    if origin in (Union, types.UnionType):
        inner = next(arg for arg in get_args(annotation) if arg is not type(None))
        return _kind(inner, metadata)
    if hasattr(annotation, "__metadata__"):
        return _kind(annotation.__origin__, [*metadata, *_flat(annotation.__metadata__)])
    words = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "`true`, `false`",
        Path: "path",
        SecretStr: "text",
    }
    bounds = [
        f"{sign} {getattr(one, bound):g}"
        for one in _flat(metadata)
        for bound, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(one, bound, None) is not None
    ]
    return " ".join([words[annotation], ", ".join(bounds)]).strip()


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    for one in metadata:
        yield from getattr(one, "metadata", [one])


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value) if isinstance(value, int) else f'"{value}"'


# Commands


def _cli() -> str:
    group = typer.main.get_command(app)
    parts = [
        "`chexnode [--config FILE] [--log-level LEVEL] COMMAND`. With `--json` a command prints one JSON document and "
        "nothing else on standard output: a list command one array, whatever its length. Logs and errors go to "
        "standard error, an error as one line for each fault.",
        _options(group),
        "## Exit codes\n\n"
        + table(("code", "name", "meaning"), ((str(e.value), e.name, _member_docs(Exit)[e.name]) for e in Exit)),
        "## Commands",
    ]
    for words, command in _commands(group, ()):
        arguments = " ".join(p.metavar or p.name.upper() for p in command.params if p.param_type_name == "argument")
        usage = " ".join(part for part in ("chexnode", *words, arguments) if part)
        text = _markdown(command.callback.__doc__ or "")
        parts.append(f"### `{usage}`\n\n{text}\n\n{_options(command)}")
    parts.append("## JSON\n\nTimes are ISO 8601 in UTC; what is not a number is `null`.")
    for title, shape in _SHAPES.items():
        parts.append(f"### {title}\n\n" + table(("key", "type", "meaning"), _fields(shape)))
    return page("Commands", *parts)


#: Heading -> the dataclass that is printed.
_SHAPES: Mapping[str, type] = {
    "`jobs`, an array of": JobView,
    "`jobs show`, `jobs retry` and `jobs cancel`, one object: the keys of `jobs` and": JobDetail,
    "an event": EventView,
    "a result": ResultView,
    "a model on trial": ShadowView,
    "`deliveries`, an array of": DeliveryView,
    "`account`, one object": Account,
    "`analyze`, an array of; also the content of `STEM.json`": reports.FileReport,
    "a region": reports.RegionReport,
    "`reanalyse` and `reanalyse rollback`, one object": reports.Reanalysis,
    "`erase --dry-run`, and what `erase` says of what went": reports.Extent,
    "`erase`, one object": reports.Erasure,
    "`compare`, one object": reports.Comparison,
    "a discordant image": reports.Discordance,
    "`drift`, one object": reports.DriftReport,
    "its baseline": reports.Baseline,
    "its drift, an array of": reports.Drift,
    "`drift daily`, an array of": reports.DailyFigures,
    "`settings`, an array of": reports.Setting,
    "`check`, an array of": reports.Check,
}


def _commands(group: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        if inner is None or command.invoke_without_command:
            yield (*words, name), command
        if inner is not None:
            yield from _commands(command, (*words, name))


def _options(command: Any) -> str:
    rows = [
        (f"`{', '.join(p.opts)}{f' {p.metavar}' if p.metavar and not p.is_flag else ''}`", p.help or "")
        for p in command.params
        if p.param_type_name == "option" and not p.hidden
    ]
    return table(("option", "meaning"), rows)


def _fields(shape: type) -> Iterator[tuple[str, str, str]]:
    docs = {name: doc for owner in reversed(shape.__mro__[:-1]) for name, doc in _member_docs(owner).items()}
    hints = get_type_hints(shape, vars(records) | vars(sys.modules[shape.__module__]))
    inherited = {f.name for base in shape.__bases__ if dataclasses.is_dataclass(base) for f in dataclasses.fields(base)}
    for field in dataclasses.fields(shape):
        if field.name not in inherited:
            yield (
                f"`{field.name}`",
                _json_kind(hints[field.name]),
                re.sub(r"\bNone\b", "null", docs.get(field.name, "")),
            )


def _json_kind(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys("null" if a is type(None) else _json_kind(a) for a in args))
    if origin in (list, tuple):
        return f"array of {_json_kind(args[0])}"
    if origin is not None:
        return "object"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "state"
    names = {
        "str": "text",
        "int": "number",
        "float": "number",
        "bool": "true or false",
        "datetime": "time",
        "Any": "any",
    }
    return names.get(getattr(hint, "__name__", ""), "object")


# States


def _states() -> str:
    parts = [
        "Truth is the database. Every move below is one compare-and-swap update and one row in the table `events` in "
        "the same transaction; every other move is refused. The diagrams are drawn from the table that the ledger "
        "checks, `TRANSITIONS`."
    ]
    for title, kind, start in (
        ("Job", JobState, JobState.QUEUED),
        ("Delivery", DeliveryState, DeliveryState.PENDING),
        ("Instance", InstanceState, None),
        ("Study", StudyState, StudyState.OPEN),
    ):
        docs = _member_docs(kind)
        begins = [start] if start is not None else list(kind)
        lines = ["stateDiagram-v2", *(f"    [*] --> {state}" for state in begins)]
        lines += [f"    {state} --> {to}" for state in kind for to in kind if to in TRANSITIONS[state]]
        diagram = "\n".join(["```mermaid", *lines, "```"])
        rows = ((f"`{s}`", docs[s.name], ", ".join(f"`{t}`" for t in kind if t in TRANSITIONS[s])) for s in kind)
        parts.append(f"## {title}\n\n{_text(kind)}\n\n{diagram}\n\n" + table(("state", "meaning", "may become"), rows))
    parts.append(f"## Reasons\n\n{_text(Reason)}\n\n" + _codes(Reason))
    parts.append(f"## Notes\n\n{_text(Note)}\n\n" + _codes(Note))
    parts.append(f"## Supersessions\n\n{_text(Supersession)}\n\n" + _codes(Supersession))
    parts.append(f"## Events\n\n{_text(Event)}\n\n" + _codes(Event))
    return page("States, reasons and notes", *parts)


def _codes(kind: type[Reason | Note | Supersession | Event]) -> str:
    docs = _member_docs(kind)
    return table(("code", "meaning"), ((f"`{code}`", docs[code.name]) for code in kind))


# Triage


def _triage() -> str:
    reasons, notes = _member_docs(Reason), _member_docs(Note)
    return page(
        "Triage",
        "Which images are analysed. The header is judged in the transaction that stores the image, the pixels by the "
        "worker. Reasons are asked in this order and the first that holds is given; every note that holds is kept. "
        "`chexnode jobs` shows both.",
        "## From the header: not analysed\n\n"
        + table(
            ("reason", "state", "meaning"),
            ((f"`{r.reason}`", f"`{r.state}`", reasons[r.reason.name]) for r in REASONS),
        ),
        "## From the header: analysed, and noted\n\n"
        + table(("note", "meaning"), ((f"`{r.note}`", notes[r.note.name]) for r in NOTES)),
        "## From the pixels: refused\n\nDecoding itself refuses with the reasons of [States](states.md#reasons).\n\n"
        + table(("reason", "meaning"), ((f"`{reason}`", reasons[reason.name]) for reason, _ in PIXEL_REASONS)),
        "## From the pixels: analysed, and noted\n\n"
        + table(("note", "meaning"), ((f"`{note}`", notes[note.name]) for note, _ in PIXEL_NOTES)),
    )


# Training


def _training() -> str:
    parts = [
        "What `chextrain train RECIPE` can be given, by `--config FILE.toml` (a section is a table) and, after it, by "
        "`--set section.key=value`. An unknown key is an error that names the nearest known one. Every run writes all "
        "its values to `run.json`, and the command that repeats it to the card of a bundle.",
        "## Recipes",
        table(
            ("recipe", "network", "begins with", "its own defaults", "what it trains"),
            (
                (
                    f"`{name}`",
                    f"`{recipe.architecture}`",
                    ", ".join(f"`--{stage}`" for stage in STAGES.get(name, {})),
                    ", ".join(
                        f"`{section}.{key}={_toml(value)}`"
                        for section, values in recipe.defaults.items()
                        for key, value in values.items()
                    ),
                    _markdown((sys.modules[recipe.train.__module__].__doc__ or "").partition("\n\n")[0]),
                )
                for name, recipe in RECIPES.items()
            ),
        ),
    ]
    for name, field in Config.model_fields.items():
        section = cast(type[BaseModel], field.annotation)
        rows = ((*cells[:3], _markdown(cells[3])) for cells in _keys(section))
        parts.append(f"## `[{name}]`\n\n{_text(section)}\n\n" + table(("key", "value", "default", "meaning"), rows))
    return page("Training", *parts)


# HTTP


def _http() -> str:
    with tempfile.TemporaryDirectory() as folder:
        tree = Settings(node={"data_dir": folder}, database={"url": f"sqlite:///{folder}/x.db"})
        database = Database(tree.database.url)
        upgrade(database)
        database.close()
        with Node.open(tree, "documentation") as node:
            schema = create_app(node, StorageService(node)).openapi()
    rows = []
    for path, methods in schema["paths"].items():
        for method, what in methods.items():
            query = ", ".join(f"`{p['name']}`" for p in what.get("parameters", ()) if p["in"] == "query")
            scopes = [name.removeprefix("token-") for need in what.get("security", ()) for name in need]
            answer = _markdown(what.get("description", ""))
            rows.append((f"`{method.upper()} {path}`", ", ".join(f"`{s}`" for s in scopes), query, answer))
    kinds = {"_total": "counter", "_info": "info"}
    metrics = [
        (
            f"`{name}`",
            next((kind for end, kind in kinds.items() if name.endswith(end)), "gauge"),
            ", ".join(f"`{label}`" for label in labels),
            text,
        )
        for name, (text, labels) in METRICS.items()
    ] + [
        (f"`{name}`", "histogram" if buckets else "counter", ", ".join(f"`{label}`" for label in labels), text)
        for name, (text, labels, buckets) in HISTOGRAMS.items()
    ]
    return page(
        "HTTP",
        "The web role. Where tokens exist, a route needs one with its scope, or with `admin`: see [Secure the web "
        "role](../how-to/secure-the-web.md). Everything but "
        "DICOMweb's storing and what is POSTed is read only. The answers under `/api` are those of the "
        "[commands](cli.md#json) with `--json`; their OpenAPI schema is at `/api/openapi.json`. While the database "
        "is away they are 503 with `Retry-After`.",
        "## Routes\n\n" + table(("route", "scope", "query", "answer"), rows),
        "## DICOMweb\n\nHow it behaves is in [Use DICOMweb](../how-to/dicomweb.md). What the routes answer "
        "besides 200; routes with the same statuses are told of once:\n\n"
        + table(("route", "status", "meaning"), _statuses(schema["paths"])),
        "### Searchable attributes\n\nBy keyword or tag, in searches at their own level and below; all are in every "
        "answer. `ModalitiesInStudy` is searchable too.\n\n"
        + table(
            ("level", "attribute", "VR"), ((a.level.name.lower(), f"`{a.keyword}`", a.vr) for a in ATTRIBUTES.values())
        ),
        "## Metrics\n\nRead from the ledger at every scrape; histograms and `chexnode_answers_total` count from the "
        "start of the web role that is asked, and each counts all that the node did. No label names a patient, a study "
        "or a peer.\n\n" + table(("metric", "type", "labels", "meaning"), metrics),
    )


def _searchable() -> Iterator[tuple[str, str, str]]:
    return ((one.level.name.lower(), f"`{one.keyword}`", one.vr) for one in ATTRIBUTES.values())


def _statuses(paths: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What each DICOMweb route answers, but for what a search or a retrieval has in common with its like."""
    seen: set[str] = set()
    for path, methods in paths.items():
        for method, what in methods.items():
            codes = {c: r["description"] for c, r in what.get("responses", {}).items() if c not in ("200", "422")}
            if not path.startswith(ROOT) or method == "options" or str(codes) in seen:
                continue
            seen.add(str(codes))
            for code, meaning in codes.items():
                yield f"`{method.upper()} {path}`", code, meaning


def main() -> None:
    """Write the pages."""
    for name, content in pages().items():
        (REFERENCE / name).write_text(content, "utf-8")


if __name__ == "__main__":
    main()
