"""The words of the console: one file for each language in ``messages/``, chosen by Accept-Language (RFC 9110 12.5.4).

A key is ``section.name``. What differs with a number has entries ``name`` and
``name_one``, and perhaps ``name_none``. Numbers and times are
written as the language writes them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("messages")
DEFAULT = "en"


class Texts:
    """The words of one language. Immutable."""

    def __init__(self, language: str, words: Mapping[str, str]) -> None:
        self.language = language
        self.words = words

    def __call__(self, key: str, **values: object) -> str:
        """The text of ``key`` with ``values`` put in, in the form for ``n`` of them. Raises KeyError."""
        form = {0: f"{key}_none", 1: f"{key}_one"}.get(values.get("n"), key)  # type: ignore[call-overload]
        key = form if form in self.words else key
        return self.words[key].format(**{name: self._written(value) for name, value in values.items()})

    def code(self, section: str, code: str | None) -> str:
        """The text of a code of ours, or the code itself where it has none."""
        return self.words.get(f"{section}.{code}", code or "")

    def _written(self, value: object) -> object:
        return self.number(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    def number(self, value: float, digits: int = 0) -> str:
        """With the language's separators."""
        text = f"{value:,.{digits}f}"
        if self.language == "de":
            text = text.translate(str.maketrans(",.", ".,"))
        return text

    def percent(self, share: float | None, digits: int = 0) -> str:
        """A share in [0, 1]."""
        return "–" if share is None else f"{self.number(share * 100, digits)} %"

    def duration(self, seconds: float | None) -> str:
        """How long, in the two units that matter."""
        if seconds is None:
            return "–"
        seconds = max(0.0, seconds)
        if 0.05 <= seconds < 10:
            return f"{self.number(seconds, 1)} s"
        if seconds < 100:
            return f"{seconds:.0f} s"
        minutes = round(seconds / 60)
        if minutes < 100:
            return f"{minutes} min"
        if minutes < 48 * 60:
            return f"{minutes // 60} h {minutes % 60:02d} min"
        return self("unit.days", n=minutes // 1440)

    def ago(self, at: datetime | None, now: datetime) -> str:
        """How long before ``now``."""
        if at is None:
            return self("unit.never")
        seconds = (now - at).total_seconds()
        return self("unit.now") if seconds < 2 else self("unit.ago", age=self.duration(float(int(seconds))))

    def time(self, at: datetime | None) -> str:
        """A moment in the host's time zone, with its day."""
        if at is None:
            return "–"
        local = at.astimezone()
        return local.strftime("%d.%m.%Y %H:%M:%S" if self.language == "de" else "%Y-%m-%d %H:%M:%S")

    def size(self, count: float) -> str:
        """Bytes, in the unit that fits."""
        for unit in ("B", "kB", "MB", "GB"):
            if count < 1000:
                return f"{self.number(count, 1 if unit == 'GB' else 0)} {unit}"
            count /= 1000
        return f"{self.number(count, 1)} TB"


@cache
def texts(language: str) -> Texts:
    """The words of ``language``, which is one of :func:`languages`."""
    sections = tomllib.loads((FOLDER / f"{language}.toml").read_text("utf-8"))
    words = {f"{section}.{key}": text for section, entries in sections.items() for key, text in entries.items()}
    return Texts(language, words)


@cache
def languages() -> tuple[str, ...]:
    """Those that there are."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def preferred(accept_language: str) -> Texts:
    """The words of the language that the browser prefers of those that there are."""
    ranked = []
    for place, one in enumerate(accept_language.split(",")[:20]):
        name, _, parameters = one.strip().partition(";")
        weight = re.fullmatch(r"\s*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*", parameters)
        ranked.append((-(float(weight[1]) if weight else 1.0), place, name.strip().lower().partition("-")[0]))
    known = languages()
    return texts(next((name for weight, _, name in sorted(ranked) if weight and name in known), DEFAULT))
