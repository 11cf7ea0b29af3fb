"""The words and codes in which headers say which view, part of the body, species and processing an image is of.

They are data: the TOML files in ``words/``, which a site extends by a file of the same form (``[gate] lexicon``). A
table such as ``[view.lateral]`` is a meaning; its key ``codes`` lists Code Values, every other key is a language
(ISO 639-1; ``any``: all; ``position``: only in View Position) with its terms. A term is one or more words, matched
in text without regard to case, diacritics and punctuation:

* ``LAT`` a whole word, ``KLATK* PIERSIOW*`` words in a row; ``*`` at either end of a word stands for any letters;
* a term in a script without spaces (Han, kana, Hangul, Thai) is found anywhere;
* ``!CAT SCAN`` is no such term: what it covers is not counted for this meaning.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from chexnode.vocabulary.errors import Usage

_WORD = re.compile(r"[^\W\d_]+|\d+")
_SPACELESS = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_PLAIN = str.maketrans({"Ł": "L", "Ø": "O", "Æ": "AE", "Œ": "OE", "Đ": "D", "Þ": "TH", "ı": "I"})
_FILES = ("view.toml", "part.toml", "origin.toml")


class LexiconError(Usage, ValueError):
    """A site's lexicon cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Match:
    """A term that was found in a text."""

    group: str
    """Of the meaning, such as ``view``."""
    name: str
    """Of the meaning in its group, such as ``lateral``."""
    term: str
    """The term as the lexicon's file writes it; never the header's text, which may hold anything."""
    language: str
    start: int
    end: int

    @property
    def meaning(self) -> str:
        """Such as ``view.lateral``."""
        return f"{self.group}.{self.name}"

    def overlaps(self, other: Match) -> bool:
        """Whether both cover a character of the text."""
        return self.start < other.end and other.start < self.end


@dataclass(frozen=True, slots=True)
class _Term:
    group: str
    name: str
    language: str
    text: str
    words: tuple[str, ...]


class Lexicon:
    """Finds terms in texts. Immutable; texts that were looked up are remembered, for they repeat."""

    def __init__(self, tables: Iterable[Mapping[str, Any]]) -> None:
        """Read ``tables``, parsed TOML documents. Raises LexiconError for one of another form."""
        self._codes: dict[str, set[str]] = {}
        self._spaceless: list[_Term] = []
        self._exact: dict[str, list[_Term]] = {}
        self._wild: dict[str, list[_Term]] = {}  # by the first letter of the first word; "": any
        for document in tables:
            for group, meanings in document.items():
                if not isinstance(meanings, Mapping):
                    raise LexiconError(f"{group} is no table of meanings")
                for name, languages in meanings.items():
                    self._add(group, name, languages)
        self.find = lru_cache(maxsize=4096)(self._find)

    def _add(self, group: str, name: str, languages: object) -> None:
        meaning = f"{group}.{name}"
        if not isinstance(languages, Mapping):
            raise LexiconError(f"[{meaning}] is no table of languages")
        for language, terms in languages.items():
            if not isinstance(terms, list) or not all(isinstance(term, str) and term.strip("!* ") for term in terms):
                raise LexiconError(f"[{meaning}] {language} is no list of terms")
            if language == "codes":
                for code in terms:
                    self._codes.setdefault(code.upper(), set()).add(meaning)
                continue
            for text in terms:
                self._index(_Term(group, name, language, text, tuple(_plain(text.removeprefix("!")).split())))

    def _index(self, term: _Term) -> None:
        first = term.words[0]
        if _SPACELESS.search(term.text):
            self._spaceless.append(term)
        elif "*" in first:
            self._wild.setdefault(first[0].strip("*"), []).append(term)
        else:
            self._exact.setdefault(first, []).append(term)

    @property
    def meanings(self) -> frozenset[str]:
        """All meanings that there are terms or codes for."""
        terms = (*self._spaceless, *(t for table in (self._exact, self._wild) for ts in table.values() for t in ts))
        return frozenset(f"{term.group}.{term.name}" for term in terms).union(*self._codes.values())

    def of_code(self, code: str) -> frozenset[str]:
        """Return what a Code Value, in upper case, means."""
        return frozenset(self._codes.get(code, ()))

    def _find(self, text: str) -> tuple[Match, ...]:
        """Return every term in ``text``, any case, in no order of importance."""
        plain = _plain(text)
        words = [(word[0], word.start(), word.end()) for word in _WORD.finditer(plain)]
        found: list[Match] = []
        refused: list[Match] = []

        def note(term: _Term, start: int, end: int) -> None:
            match = Match(term.group, term.name, term.text, term.language, start, end)
            (refused if term.text.startswith("!") else found).append(match)

        for at, (word, start, _end) in enumerate(words):
            for term in (*self._exact.get(word, ()), *self._wild.get(word[0], ()), *self._wild.get("", ())):
                last = at + len(term.words) - 1
                if last < len(words) and all(_fits(words[at + n][0], pattern) for n, pattern in enumerate(term.words)):
                    note(term, start, words[last][2])
        if _SPACELESS.search(plain):
            for term in self._spaceless:
                pattern = " ".join(term.words)
                start = plain.find(pattern)
                while start >= 0:
                    note(term, start, start + len(pattern))
                    start = plain.find(pattern, start + 1)
        return tuple(
            match
            for match in found
            if not any(other.meaning == match.meaning and other.overlaps(match) for other in refused)
        )


def _fits(word: str, pattern: str) -> bool:
    if pattern.startswith("*"):
        inner = pattern.strip("*")
        return inner in word if pattern.endswith("*") else word.endswith(inner)
    return word.startswith(pattern[:-1]) if pattern.endswith("*") else word == pattern


def _plain(text: str) -> str:
    """Return ``text`` in upper case, without diacritics, full-width forms and letters that only look different."""
    if text.isascii():
        return text.upper()
    decomposed = unicodedata.normalize("NFKD", text.translate(_PLAIN).upper().translate(_PLAIN))
    return unicodedata.normalize("NFC", "".join(c for c in decomposed if unicodedata.category(c) != "Mn"))


@cache
def lexicon(extension: Path | None = None) -> Lexicon:
    """Return the shipped words, extended by the file of a site where there is one; each file is read once.

    Raises LexiconError, which names the file, if ``extension`` cannot be read, is no TOML or has a meaning that the
    gate does not ask for.
    """
    shipped = [tomllib.loads((files("chexnode.triage") / "words" / name).read_text("utf-8")) for name in _FILES]
    if extension is None:
        return Lexicon(shipped)
    try:
        own = tomllib.loads(extension.read_text("utf-8"))
        unknown = Lexicon([own]).meanings - Lexicon(shipped).meanings
        if unknown:
            raise LexiconError(f"no meaning is called {', '.join(sorted(unknown))}")
        return Lexicon([*shipped, own])
    except (OSError, ValueError) as error:
        raise LexiconError(f"{extension}: {error}") from error
