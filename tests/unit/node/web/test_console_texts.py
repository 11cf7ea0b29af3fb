"""The console's words: complete in every language, and written as the language writes."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Formatter

import pytest

from chexnode.alarms import rules
from chexnode.node import Duty
from chexnode.vocabulary.plain import plain
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.states import DeliveryState, InstanceState, JobState
from chexnode.web.console import texts as module
from chexnode.web.console.pages import person
from chexnode.web.console.texts import DEFAULT, languages, preferred, texts

CONSOLE = Path(module.__file__).parent
#: ``t("key")`` in templates and ``"section.key"`` handed on in Python.
USED = re.compile(r"""\bt\(\s*["']([a-z_]+\.[\w-]+)["']\s*[,)]""")
HANDED_ON = re.compile(r"""["']((?:light|turned)\.[a-z_]+)["']""")


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


@pytest.mark.parametrize("language", languages())
def test_every_language_has_every_text_with_the_same_values(language: str) -> None:
    ours, first = texts(language).words, texts(DEFAULT).words
    assert ours.keys() == first.keys()
    differing = [key for key in first if placeholders(ours[key]) - {"n"} != placeholders(first[key]) - {"n"}]
    assert differing == []


def test_templates_and_code_ask_for_texts_that_there_are() -> None:
    used = set()
    for path in CONSOLE.rglob("*"):
        if path.suffix == ".html":
            used |= set(USED.findall(path.read_text("utf-8")))
        elif path.suffix == ".py":
            used |= set(HANDED_ON.findall(path.read_text("utf-8")))
    assert len(used) > 60
    assert used - texts(DEFAULT).words.keys() == {"turned.html"}


def test_templates_hold_no_words_of_their_own() -> None:
    """What stands between tags is a text, a value, or a name that no language changes."""
    allowed = {
        "PSI",
        "chexnode drift baseline --since … --until …",
        "mm²",
        "px",
        "ChexNode",
        "chexnode users add NAME --role admin",
    }
    for path in (CONSOLE / "templates").glob("*.html"):
        html = re.sub(r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}|<[^>]*>", "\n", path.read_text("utf-8"), flags=re.S)
        words = {line.strip() for line in html.splitlines() if re.search(r"[A-Za-z]{2}", line)}
        assert {word.removeprefix("· ") for word in words} - allowed == set(), path.name


@pytest.mark.parametrize("language", languages())
def test_every_state_reason_and_duty_has_a_text(language: str) -> None:
    words = texts(language).words
    wanted = [f"state.{one}" for one in (*JobState, *InstanceState, *DeliveryState)]
    wanted += [f"reason.{one}" for one in Reason] + [f"duty.{one}" for one in Duty]
    assert [key for key in wanted if not words.get(key)] == []


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.5", "de"),
        ("fr, en;q=0.8, de;q=0.9", "de"),
        ("de;q=0, en", "en"),
        ("xx;q=bad, " * 500, "en"),
    ],
)
def test_the_browsers_language_is_taken_where_there_is_one(header: str, language: str) -> None:
    assert preferred(header).language == language


def test_numbers_and_times_are_written_as_the_language_writes_them() -> None:
    english, german = texts("en"), texts("de")
    assert (english.number(12345.678, 1), german.number(12345.678, 1)) == ("12,345.7", "12.345,7")
    assert [english.duration(s) for s in (0, 3.21, 75, 600, 7500, 300_000)] == [
        "0 s", "3.2 s", "75 s", "10 min", "2 h 05 min", "3 days",
    ]  # fmt: skip
    now = datetime.now(UTC)
    assert german.ago(now - timedelta(seconds=40), now) == "vor 40 s"
    assert english.ago(None, now) == "never"
    assert english("overview.images", n=1) == "image"
    assert english.size(1_500_000) == "2 MB"


def test_what_could_disguise_itself_is_shown() -> None:
    assert plain("Doe\u202egpj.exe\r\nX: 1\x00") == "Doe\\u202egpj.exe\\u000d\\u000aX: 1\\u0000"
    assert person("Doe^Jane^Q^Dr.=猫") == "Doe, Jane Q"
    assert person(None) == person("^^^") == ""


@pytest.mark.parametrize("language", languages())
def test_every_alarm_has_a_name(language: str) -> None:
    source = Path(rules.__file__).read_text("utf-8")
    codes = {*re.findall(r'Condition\(\s*"([\w-]+)"', source), *(f"no-{duty}" for duty in Duty)}
    assert len(codes) == 15
    assert {f"alarm.{code}" for code in codes} <= texts(language).words.keys()
