"""What DICOMweb finds and serves: the latest version of each image received, and the results, as one collection.

Conditions name columns of the tables; which DICOM attribute a column holds is the web role's business.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    Table,
    and_,
    func,
    or_,
    select,
    union_all,
)

from chexnode.ledger.database import Database, in_chunks
from chexnode.ledger.records import Subject
from chexnode.ledger.schema import instances, results, series, studies

Row = Mapping[str, Any]


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


Condition = OneOf | Like | Between | Name
Conditions = Mapping[str, Condition]
"""Column name -> what its value must be."""


@dataclass(frozen=True, slots=True)
class Query:
    """A search at any level; conditions of a lower level than the one searched are not looked at."""

    study: Conditions = field(default_factory=dict)
    series: Conditions = field(default_factory=dict)
    instance: Conditions = field(default_factory=dict)
    modalities: Condition | None = None
    """Of any series of the study."""
    offset: int = 0
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class Held:
    """One object that the node holds, or has held."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str | None
    """Relative to ``data_dir``; None once retention has deleted the file."""
    size: int
    subject: Subject = Subject()
    """Whose it is."""


class Objects:
    """Search (QIDO-RS) and lookup (WADO-RS)."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def studies(self, query: Query) -> list[Row]:
        """Studies, latest first: their columns and ``modalities``, ``sop_classes``, ``series``, ``instances`` (numbers)
        and ``held``, whether any of their files is there."""
        wanted = select(studies).where(*self._conditions(studies, query.study))
        if query.modalities is not None:
            modality = self._condition(series.c.modality, query.modalities)
            same = series.c.study_instance_uid == studies.c.study_instance_uid
            wanted = wanted.where(select(series.c.study_instance_uid).where(same, modality).exists())
        wanted = wanted.order_by(studies.c.study_date.desc(), studies.c.study_instance_uid.desc())
        with self._db.read() as conn:
            rows = _page(conn, wanted, query)
            found = _contents(conn, [row["study_instance_uid"] for row in rows])
        return [{**row, **found[row["study_instance_uid"]]} for row in rows if row["study_instance_uid"] in found]

    def series(self, query: Query) -> list[Row]:
        """Series with the columns of their studies, ``instances`` (their number) and ``held``."""
        columns = [*studies.c, *(column for column in series.c if column.name not in studies.c)]
        wanted = (
            select(*columns)
            .join_from(series, studies)
            .where(*self._conditions(studies, query.study), *self._conditions(series, query.series))
            .order_by(series.c.study_instance_uid, series.c.series_number, series.c.series_instance_uid)
        )
        with self._db.read() as conn:
            rows = _page(conn, wanted, query)
            counted = _counts(conn, {row["study_instance_uid"] for row in rows})
        keys = [(row["study_instance_uid"], row["series_instance_uid"]) for row in rows]
        return [
            {**row, "instances": counted[key].instances, "held": counted[key].held}
            for row, key in zip(rows, keys, strict=True)
            if key in counted
        ]

    def instances(self, query: Query) -> list[Row]:
        """Instances with the columns of their series and studies."""
        members = _members(lambda table: self._conditions(_own(table), query.instance) + self._narrowed(table, query))
        found = members.subquery()
        above = [c for c in [*studies.c, *series.c] if c.name not in found.c]
        columns = list({column.name: column for column in [*found.c, *above]}.values())
        wanted = select(*columns).select_from(found)
        wanted = wanted.join(
            series,
            and_(
                series.c.study_instance_uid == found.c.study_instance_uid,
                series.c.series_instance_uid == found.c.series_instance_uid,
            ),
        ).join(studies, studies.c.study_instance_uid == series.c.study_instance_uid)
        wanted = wanted.where(*self._conditions(studies, query.study), *self._conditions(series, query.series))
        if "study_instance_uid" in query.study:
            wanted = wanted.order_by(
                found.c.study_instance_uid,
                series.c.series_number,
                found.c.series_instance_uid,
                found.c.instance_number,
                found.c.sop_instance_uid,
            )
        else:
            wanted = wanted.order_by(found.c.sop_instance_uid)
        with self._db.read() as conn:
            return _page(conn, wanted, query)

    def locate(
        self, study_instance_uid: str, series_instance_uid: str | None = None, sop_instance_uid: str | None = None
    ) -> list[Held]:
        """The objects of a study, of one of its series, or one of them; none if the node never held any."""

        def named(table: Table) -> list[ColumnElement[bool]]:
            where = [table.c.study_instance_uid == study_instance_uid]
            if series_instance_uid is not None:
                where.append(table.c.series_instance_uid == series_instance_uid)
            if sop_instance_uid is not None:
                where.append(_uid_of(table) == sop_instance_uid)
            return where

        found = _members(named).subquery()
        order = (found.c.series_instance_uid, found.c.instance_number, found.c.sop_instance_uid)
        patient = (studies.c.patient_id, studies.c.patient_name, studies.c.accession_number)
        same = studies.c.study_instance_uid == found.c.study_instance_uid
        wanted = select(found, *patient).join_from(found, studies, same).order_by(*order)
        with self._db.read() as conn:
            return [
                Held(
                    row.study_instance_uid,
                    row.series_instance_uid,
                    row.sop_instance_uid,
                    row.sop_class_uid,
                    row.transfer_syntax_uid or "",
                    row.path,
                    row.size,
                    Subject(
                        row.study_instance_uid,
                        row.patient_id or "",
                        row.patient_name or "",
                        row.accession_number or "",
                    ),
                )
                for row in conn.execute(wanted)
            ]

    def _narrowed(self, table: Table, query: Query) -> list[ColumnElement[bool]]:
        """Conditions that each branch can use its index for, before anything is joined."""
        here: list[ColumnElement[bool]] = []
        for conditions, name in ((query.study, "study_instance_uid"), (query.series, "series_instance_uid")):
            if name in conditions:
                here.append(self._condition(table.c[name], conditions[name]))
        return here

    def _conditions(self, columns: Any, conditions: Conditions) -> list[ColumnElement[bool]]:
        by_name = columns.c if isinstance(columns, Table) else columns
        return [self._condition(by_name[name], condition) for name, condition in conditions.items()]

    def _condition(self, column: ColumnElement[Any], condition: Condition) -> ColumnElement[bool]:
        match condition:
            case OneOf(values):
                return column == values[0] if len(values) == 1 else column.in_(values)
            case Between(low, high):
                ends = [column >= low] if low else []
                # All that begins with the upper end is inside it: 1030 is the whole of that minute.
                return and_(*ends, *([column < high + "~"] if high else []))
            case Like(pattern):
                return self._like(column, pattern)
            case Name(pattern):
                # The alphabetic group comes first; the others hold nothing that is written in ASCII.
                others = [] if pattern.isascii() else [f"*={pattern}", f"*={pattern}=*"]
                return or_(*(self._like(column, one) for one in (pattern, f"{pattern}=*", *others)))

    def _like(self, column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
        head = pattern.split("*")[0].split("?")[0]
        # Neither database knows that a pattern with a fixed beginning is a range of its index; this says so.
        ends = [column >= head, column < _after(head)] if head else []
        if self._db.engine.dialect.name == "sqlite":
            return and_(*ends, column.op("GLOB")(pattern.replace("[", "[[]")))
        escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        return and_(*ends, column.like(escaped.replace("*", "%").replace("?", "_"), escape="\\"))


def _after(head: str) -> str:
    """The least text that is greater than all that begin with ``head``."""
    last = ord(head[-1]) + 1
    return head[:-1] + chr(0xE000 if last == 0xD800 else min(last, 0x10FFFF))


def _page(conn: Connection, wanted: Select[Any], query: Query) -> list[Row]:
    return [dict(row) for row in conn.execute(wanted.limit(query.limit).offset(query.offset)).mappings()]


#: Columns of an instance that results have too.
_COMMON = ("study_instance_uid", "series_instance_uid", "sop_class_uid", "transfer_syntax_uid", "instance_number")
_IMAGE = ("rows", "columns", "bits_allocated", "number_of_frames", "path", "size")


def _uid_of(table: Table) -> Column[str]:
    return table.c.uid if table is results else table.c.sop_instance_uid


def _own(table: Table) -> dict[str, Column[Any]]:
    return {**{name: table.c[name] for name in (*_COMMON, *_IMAGE)}, "sop_instance_uid": _uid_of(table)}


def _members(where: Any) -> CompoundSelect[Any]:
    """Latest versions and results; ``where`` gives the conditions on either table."""
    return union_all(
        *(
            select(*(column.label(name) for name, column in _own(table).items())).where(
                _is_served(table), *where(table)
            )
            for table in (instances, results)
        )
    )


def _is_served(table: Table) -> ColumnElement[bool]:
    if table is results:
        received = select(instances.c.sop_instance_uid).where(instances.c.sop_instance_uid == results.c.uid).exists()
        return and_(results.c.series_instance_uid.is_not(None), ~received)
    later = instances.alias("later")
    newer = or_(
        later.c.received_at > instances.c.received_at,
        and_(
            later.c.received_at == instances.c.received_at,
            or_(~instances.c.conflict, later.c.digest > instances.c.digest),
        ),
    )
    # Every version but the first is a conflict, and conflicts are rare.
    same = and_(
        later.c.sop_instance_uid == instances.c.sop_instance_uid,
        later.c.conflict,
        later.c.series_instance_uid.is_not(None),
    )
    return and_(instances.c.series_instance_uid.is_not(None), ~select(later.c.digest).where(same, newer).exists())


@dataclass(slots=True)
class _Count:
    instances: int
    held: bool
    sop_classes: set[str]


def _counts(conn: Connection, study_instance_uids: Collection[str]) -> dict[tuple[str, str], _Count]:
    """(study, series) -> what is in it."""
    found: dict[tuple[str, str], _Count] = {}
    for some in in_chunks(sorted(study_instance_uids)):
        members = _members(lambda table, some=some: [table.c.study_instance_uid.in_(some)]).subquery()
        key = (members.c.study_instance_uid, members.c.series_instance_uid, members.c.sop_class_uid)
        counted = select(*key, func.count(), func.count(members.c.path)).group_by(*key)
        for study, one_series, sop_class, number, files in conn.execute(counted):
            count = found.setdefault((study, one_series), _Count(0, False, set()))
            count.instances += number
            count.held = count.held or files > 0
            count.sop_classes.add(sop_class)
    return found


def _contents(conn: Connection, study_instance_uids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Study -> what :meth:`Objects.studies` adds."""
    found: dict[str, dict[str, Any]] = {}
    for (study, _), count in _counts(conn, study_instance_uids).items():
        one = found.setdefault(
            study, {"modalities": set(), "sop_classes": set(), "series": 0, "instances": 0, "held": False}
        )
        one["series"] += 1
        one["instances"] += count.instances
        one["held"] = one["held"] or count.held
        one["sop_classes"] |= count.sop_classes
    for some in in_chunks(study_instance_uids):
        kinds = select(series.c.study_instance_uid, series.c.modality).where(series.c.study_instance_uid.in_(some))
        for study, modality in conn.execute(kinds.distinct()):
            if study in found and modality:
                found[study]["modalities"].add(modality)
    return found
