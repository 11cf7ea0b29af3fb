"""The reference pages say what the code says, all of it; and every link between pages leads somewhere."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import typer

from chexnode.cli.commands import Exit, app
from chexnode.settings.keys import known_keys
from chexnode.settings.tree import Settings
from chexnode.vocabulary.notes import Note
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.states import DeliveryState, InstanceState, JobState, StudyState
from chexnode.web.metrics import METRICS

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    sys.path.append(str(REFERENCE))  # where a script finds its neighbours
    spec = importlib.util.spec_from_file_location("generate", REFERENCE / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages: dict[str, str] = module.pages()
    return pages


def test_the_pages_are_fresh(generated: dict[str, str]) -> None:
    stale = [name for name, text in generated.items() if (REFERENCE / name).read_text("utf-8") != text]
    assert not stale, f"run `make docs`: {', '.join(stale)}"


def page(name: str) -> str:
    return (REFERENCE / name).read_text("utf-8")


# Models on trial are written as [[model]] too, and documented there.
@pytest.mark.parametrize("key", sorted(key for key in known_keys(Settings) if not key.startswith("shadow.")))
def test_every_setting_is_documented(key: str) -> None:
    section, _, name = key.rpartition(".")
    found = re.search(rf"^## `\[+{section}\]+`\n(.*?)(?=^## |\Z)", page("settings.md"), re.S | re.M)
    assert found, section
    row = re.search(rf"^\| `{name}` \| .+ \| .+ \| (.+) \|$", found[1], re.M)
    assert row, key
    assert row[1].strip()


def _commands(group: object, words: str = "chexnode") -> list[tuple[str, object]]:
    found = []
    for name, command in getattr(group, "commands", {}).items():
        found.append((f"{words} {name}", command))
        found += _commands(command, f"{words} {name}")
    return found


COMMANDS = [(words, command) for words, command in _commands(typer.main.get_command(app)) if words != "chexnode db"]


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[words for words, _ in COMMANDS])
def test_every_command_and_option_is_documented(words: str, command: object) -> None:
    found = re.search(rf"^### `{words}( [^`]+)?`\n(.*?)(?=^##|\Z)", page("cli.md"), re.S | re.M)
    assert found, words
    for option in command.params:  # type: ignore[attr-defined]
        if option.param_type_name == "option" and not option.hidden:
            assert option.opts[0] in found[2]
            assert option.help, f"{words} {option.opts[0]}"


@pytest.mark.parametrize("code", Exit)
def test_every_exit_code_is_documented(code: Exit) -> None:
    assert re.search(rf"^\| {code.value} \| {code.name} \| \w.+ \|$", page("cli.md"), re.M)


@pytest.mark.parametrize("value", [*JobState, *DeliveryState, *InstanceState, *StudyState, *Reason, *Note], ids=repr)
def test_every_state_reason_and_note_is_documented(value: str) -> None:
    assert re.search(rf"^\| `{value}` \| \S.+ \|$", page("states.md"), re.M)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_documented(name: str) -> None:
    assert f"| `{name}` |" in page("http.md")


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text("utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target
