"""Attribute matching (PS3.4 C.2.2.2) as conditions on columns, which both databases can answer from an index.

Neither knows that a pattern with a fixed beginning is a range; the conditions say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, or_


@dataclass(frozen=True, slots=True)
class OneOf:
    """The value is one of these (PS3.4 C.2.2.2.1 and C.2.2.2.2)."""

    values: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Like:
    """The value matches a pattern with ``*`` for any characters and ``?`` for one (C.2.2.2.4)."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Between:
    """The value begins like, or lies between, two ends of digits (C.2.2.2.5); an empty end is open."""

    low: str
    high: str


@dataclass(frozen=True, slots=True)
class Name:
    """One of a person name's component groups (PS3.5 6.2.1.2) matches a pattern like that of :class:`Like`."""

    pattern: str


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The value meets one of several conditions."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """The value meets each of several conditions."""

    conditions: tuple[Condition, ...]


Condition = OneOf | Like | Between | Name | AnyOf | AllOf
Conditions = Mapping[str, Condition]
"""Column name -> what its value must be."""


def matches(column: ColumnElement[Any], condition: Condition, dialect: str) -> ColumnElement[bool]:
    """``condition`` on ``column``, as the database of ``dialect`` says it."""
    match condition:
        case OneOf(values):
            return column == values[0] if len(values) == 1 else column.in_(values)
        case Between(low, high):
            ends = [column >= low] if low else []
            # All that begins with the upper end is inside it: 1030 is the whole of that minute.
            return and_(*ends, *([column < high + "~"] if high else []))
        case Like(pattern):
            return and_(*_ends(column, pattern), _like(column, pattern, dialect))
        case AnyOf(conditions):
            return or_(*(matches(column, one, dialect) for one in conditions))
        case AllOf(conditions):
            return and_(*(matches(column, one, dialect) for one in conditions))
        case Name(pattern):
            # The alphabetic group comes first; the others hold nothing that is written in ASCII.
            first = and_(*_ends(column, pattern), _any_like(column, pattern, dialect))
            return first if pattern.isascii() else or_(first, _any_like(column, f"*={pattern}", dialect))


def _ends(column: ColumnElement[Any], pattern: str) -> list[ColumnElement[bool]]:
    head = pattern.split("*")[0].split("?")[0]
    return [column >= head, column < _after(head)] if head else []


def _any_like(column: ColumnElement[Any], pattern: str, dialect: str) -> ColumnElement[bool]:
    """The pattern alone, or with another component group after it."""
    patterns = [pattern] if pattern.endswith("*") else [pattern, f"{pattern}=*"]
    return or_(*(_like(column, one, dialect) for one in patterns))


def _like(column: ColumnElement[Any], pattern: str, dialect: str) -> ColumnElement[bool]:
    if dialect == "sqlite":
        return column.op("GLOB")(pattern.replace("[", "[[]"))
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return column.like(escaped.replace("*", "%").replace("?", "_"), escape="\\")


def _after(head: str) -> str:
    """The least text that is greater than all that begin with ``head``."""
    last = ord(head[-1]) + 1
    return head[:-1] + chr(0xE000 if last == 0xD800 else min(last, 0x10FFFF))
