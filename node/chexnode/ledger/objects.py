"""What DICOMweb finds and serves: the latest version of each image received, and the results, as one collection.

Conditions name columns of the tables; which DICOM attribute a column holds is the web role's business. A search first
finds the keys of its page, where an index holds all that it looks at, and then reads the rows of these only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    Table,
    and_,
    bindparam,
    false,
    func,
    not_,
    or_,
    select,
    true,
    union_all,
)

from chexnode.ledger.database import Database, in_chunks
from chexnode.ledger.matching import Condition, Conditions, matches
from chexnode.ledger.schema import instances, results, series, studies
from chexnode.vocabulary.records import Subject

Row = Mapping[str, Any]

_SERIES_KEY = ("study_instance_uid", "series_instance_uid")

_FEW = 1000
"""Studies that are better named one by one than looked for among all."""


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
    superseded: bool = False
    """Whether results that are valid no longer are found too."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object that the node holds, or has held."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str | None
    """Relative to ``data_dir``; None once retention has deleted the file."""
    size: int
    subject: Subject
    """Whose it is."""


class Objects:
    """Search (QIDO-RS) and lookup (WADO-RS)."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def studies(self, query: Query) -> list[Row]:
        """Studies, latest first: their columns and ``modalities``, ``sop_classes``, ``series``, ``instances`` (numbers)
        and ``held``, whether any of their files is there."""
        order = (studies.c.study_date.desc(), studies.c.study_instance_uid.desc())
        keys = select(studies.c.study_instance_uid).where(
            *self._of(studies, query.study), _has_members(studies, query.superseded)
        )
        keys = keys.order_by(*order)
        with self._db.read() as conn:
            keys = keys.where(*self._modalities(conn, query)(studies.c.study_instance_uid))
            uids = list(conn.execute(_paged(keys, query)).scalars())
            rows = {
                row["study_instance_uid"]: row
                for some in in_chunks(uids)
                for row in conn.execute(_STUDIES, {"some": some}).mappings()
            }
            found = _contents(conn, uids, query.superseded)
        return [{**rows[uid], **found[uid]} for uid in uids if uid in found]

    def series(self, query: Query) -> list[Row]:
        """Series with the columns of their studies, ``instances`` (their number) and ``held``."""
        order = (series.c.study_instance_uid, series.c.series_number, series.c.series_instance_uid)
        both: Select[Any] = select(*(series.c[name] for name in _SERIES_KEY))
        keys = self._below_studies(both.order_by(*order), series, query)
        keys = keys.where(*self._of(series, query.series), _has_members(series, query.superseded))
        columns = [*studies.c, *(column for column in series.c if column.name not in studies.c)]
        with self._db.read() as conn:
            keys = keys.where(*self._modalities(conn, query)(series.c.study_instance_uid))
            page = _paged(keys, query).subquery()
            wanted = select(*columns).join_from(page, series, _same_series(page, series)).join(studies)
            rows = _rows(conn, wanted.order_by(*order))
            counted = _counts(conn, {row["study_instance_uid"] for row in rows}, query.superseded)
        found = [(row, counted.get((row["study_instance_uid"], row["series_instance_uid"]))) for row in rows]
        return [{**row, "instances": count.instances, "held": count.held} for row, count in found if count is not None]

    def instances(self, query: Query) -> list[Row]:
        """Instances with the columns of their series and studies, those of a series by their number."""
        with self._db.read() as conn:
            held = self._modalities(conn, query)

            def wanted(table: Table, members: Select[Any]) -> Select[Any]:
                return self._wanted(table, members, query).where(*held(table.c.study_instance_uid))

            if "study_instance_uid" in query.study:
                found = _members(wanted, superseded=query.superseded).subquery()
                order = (found.c.study_instance_uid, series.c.series_number, found.c.series_instance_uid)
                order_below = (found.c.instance_number, found.c.sop_instance_uid)
                return _rows(conn, _paged(_joined(found).order_by(*order, *order_below), query))
            keys = (*_SERIES_KEY, "sop_instance_uid")
            most = query.offset + query.limit

            def first(table: Table, members: Select[Any]) -> Select[Any]:
                columns = _own(table)
                ordered = wanted(table, members).order_by(*(columns[key] for key in keys))
                return select(ordered.limit(most).subquery())

            page = _paged(_ordered(_members(first, keys, query.superseded), keys), query)
            uids = [row.sop_instance_uid for row in conn.execute(page)]
            rows = [
                dict(row)
                for some in in_chunks(uids)
                for row in conn.execute(_NAMED[query.superseded], {"some": some}).mappings()
            ]
        place = {uid: number for number, uid in enumerate(uids)}
        return sorted(rows, key=lambda row: place[row["sop_instance_uid"]])

    def locate(
        self,
        study_instance_uid: str,
        series_instance_uid: str | None = None,
        sop_instance_uid: str | None = None,
        *,
        superseded: bool = False,
    ) -> list[StoredObject]:
        """The objects of a study, of one of its series, or one of them; none if the node never held any.

        ``superseded``: also results that are valid no longer.
        """

        wanted = _objects_of(series_instance_uid is not None, sop_instance_uid is not None, superseded)
        named = {"study": study_instance_uid, "series": series_instance_uid, "instance": sop_instance_uid}
        with self._db.read() as conn:
            rows = conn.execute(wanted, named).all()
        if not rows:
            return []
        subject = Subject(study_instance_uid, *(fact or "" for fact in rows[0][-3:]))  # one study has one patient
        return [
            StoredObject(study, in_series, uid, sop_class, syntax or "", path, size, subject)
            for study, in_series, uid, sop_class, syntax, path, size, *_ in rows
        ]

    def _of(
        self, columns: Table | Mapping[str, ColumnElement[Any]], conditions: Conditions
    ) -> list[ColumnElement[bool]]:
        by_name = columns.c if isinstance(columns, Table) else columns
        dialect = self._db.engine.dialect.name
        return [matches(by_name[name], condition, dialect) for name, condition in conditions.items()]

    def _below_studies(self, wanted: Select[Any], table: Table, query: Query) -> Select[Any]:
        """Add the conditions on studies; one on their UID is asked of ``table`` itself."""
        above = dict(query.study)
        if (uid := above.pop("study_instance_uid", None)) is not None:
            wanted = wanted.where(*self._of(table, {"study_instance_uid": uid}))
        if not above:
            return wanted
        same = studies.c.study_instance_uid == table.c.study_instance_uid
        return wanted.join_from(table, studies, same).where(*self._of(studies, above))

    def _wanted(self, table: Table, wanted: Select[Any], query: Query) -> Select[Any]:
        """Add all conditions of ``query`` to a search for instances in ``table``."""
        above = dict(query.series)
        if (uid := above.pop("series_instance_uid", None)) is not None:
            wanted = wanted.where(*self._of(table, {"series_instance_uid": uid}))
        wanted = self._below_studies(wanted, table, query).where(*self._of(_own(table), query.instance))
        if above:
            wanted = wanted.join_from(table, series, _same_series(table, series)).where(*self._of(series, above))
        return wanted

    def _modalities(self, conn: Connection, query: Query) -> Callable[[ColumnElement[str]], list[ColumnElement[bool]]]:
        """What makes the condition on the modalities in a study, from the column that holds its UID."""
        if query.modalities is None:
            return lambda _: []
        held = series.alias("held")
        of = select(held.c.study_instance_uid).where(*self._of({"": held.c.modality}, {"": query.modalities}))
        some = list(conn.execute(of.limit(_FEW + 1)).scalars())
        if len(some) <= _FEW:
            return lambda uid: [uid.in_(sorted(set(some)))]
        return lambda uid: [of.where(held.c.study_instance_uid == uid).exists()]


def _paged(wanted: Select[Any], query: Query) -> Select[Any]:
    return wanted.limit(query.limit).offset(query.offset)


def _ordered(members: CompoundSelect[Any], keys: Sequence[str]) -> Select[Any]:
    found = members.subquery()
    return select(found).order_by(*(found.c[key] for key in keys))


def _rows(conn: Connection, wanted: Select[Any]) -> list[Row]:
    return [dict(row) for row in conn.execute(wanted).mappings()]


def _same_series(one: Any, other: Any) -> ColumnElement[bool]:
    return and_(*(one.c[key] == other.c[key] for key in _SERIES_KEY))


def _joined(found: Any) -> Select[Any]:
    """Members with the columns of their series and studies."""
    above = [c for c in [*studies.c, *series.c] if c.name not in found.c]
    columns = list({column.name: column for column in [*found.c, *above]}.values())
    wanted = select(*columns).join_from(found, series, _same_series(found, series))
    return wanted.join(studies, studies.c.study_instance_uid == series.c.study_instance_uid)


#: UIDs that a statement is for.
_SOME: BindParameter[Any] = bindparam("some", expanding=True)

#: Columns of an instance that results have too.
_COMMON = ("study_instance_uid", "series_instance_uid", "sop_class_uid", "transfer_syntax_uid", "instance_number")
_IMAGE = ("rows", "columns", "bits_allocated", "number_of_frames", "path", "size")


def _uid_of(table: Table) -> Column[str]:
    return table.c.uid if table is results else table.c.sop_instance_uid


def _own(table: Table) -> dict[str, Column[Any]]:
    return {**{name: table.c[name] for name in (*_COMMON, *_IMAGE)}, "sop_instance_uid": _uid_of(table)}


def _members(
    narrow: Callable[[Table, Select[Any]], Select[Any]], names: Collection[str] = (), superseded: bool = False
) -> CompoundSelect[Any]:
    """Latest versions and results, the columns of these ``names`` or all; ``narrow`` adds the conditions on either."""
    return union_all(
        *(
            narrow(
                table,
                select(
                    *(column.label(name) for name, column in _own(table).items() if not names or name in names)
                ).where(_is_served(table, superseded)),
            )
            for table in (instances, results)
        )
    )


@cache
def _objects_of(in_series: bool, single: bool, superseded: bool) -> Select[Any]:
    """The objects of study ``study``, of its series ``series``, or ``instance`` alone; built once: it takes a while."""

    def named(table: Table, wanted: Select[Any]) -> Select[Any]:
        wanted = wanted.where(table.c.study_instance_uid == bindparam("study"))
        if in_series:
            wanted = wanted.where(table.c.series_instance_uid == bindparam("series"))
        return wanted.where(_uid_of(table) == bindparam("instance")) if single else wanted

    found = _members(named, superseded=superseded).subquery()
    order = (found.c.series_instance_uid, found.c.instance_number, found.c.sop_instance_uid)
    columns = ("study_instance_uid", "series_instance_uid", "sop_instance_uid", "sop_class_uid", "transfer_syntax_uid")
    wanted = [found.c[name] for name in (*columns, "path", "size")]
    patient = (studies.c.patient_id, studies.c.patient_name, studies.c.accession_number)
    same = studies.c.study_instance_uid == found.c.study_instance_uid
    return select(*wanted, *patient).join_from(found, studies, same).order_by(*order)


def _is_served(table: Table, superseded: bool) -> ColumnElement[bool]:
    if table is results:
        valid = [] if superseded else [results.c.superseded.is_(None)]
        # Not "exists": of that PostgreSQL makes a join, and expects nothing to be left of it.
        received = select(true()).where(instances.c.sop_instance_uid == results.c.uid).limit(1).scalar_subquery()
        return and_(_is_in_series(results), *valid, not_(func.coalesce(received, false())))
    later = instances.alias("later")
    newer = or_(
        later.c.received_at > instances.c.received_at,
        and_(
            later.c.received_at == instances.c.received_at,
            or_(~instances.c.conflict, later.c.digest > instances.c.digest),
        ),
    )
    # Every version is a conflict but the first, until that comes again; they are rare, and have an index of their own.
    same = and_(
        later.c.sop_instance_uid == instances.c.sop_instance_uid,
        later.c.conflict,
        _is_in_series(later),
    )
    return and_(_is_in_series(instances), ~select(later.c.digest).where(same, newer).exists())


def _is_in_series(table: Any) -> ColumnElement[bool]:
    return and_(table.c.series_instance_uid.is_not(None), table.c.study_instance_uid.is_not(None))


@cache
def _has_members(above: Table, superseded: bool) -> ColumnElement[bool]:
    """Whether anything that is served is in a study or series: a page is not cut by rows that are then left out."""
    keys = [key for key in _SERIES_KEY if above is series or key == "study_instance_uid"]
    return or_(
        *(
            select(true())
            .where(*(table.c[key] == above.c[key] for key in keys), _is_served(table, superseded))
            .correlate(above)
            .exists()
            for table in (instances, results)
        )
    )


@dataclass(slots=True)
class _Count:
    modality: str | None
    instances: int
    held: bool
    sop_classes: set[str]


def _counted(superseded: bool) -> Select[Any]:
    """What is in each series of :data:`_SOME` studies, by SOP class."""
    members = _members(lambda table, wanted: wanted.where(table.c.study_instance_uid.in_(_SOME)), superseded=superseded)
    one = members.subquery()
    key = (one.c.study_instance_uid, one.c.series_instance_uid, one.c.sop_class_uid, series.c.modality)
    counted = select(*key, func.count(), func.count(one.c.path)).join_from(one, series, _same_series(one, series))
    return counted.group_by(*key)


#: Put together once: that takes SQLAlchemy as long as a small search takes a database.
_STUDIES = select(studies).where(studies.c.study_instance_uid.in_(_SOME))
_COUNTED = {superseded: _counted(superseded) for superseded in (False, True)}
_NAMED = {
    superseded: _joined(
        _members(lambda table, wanted: wanted.where(_uid_of(table).in_(_SOME)), superseded=superseded).subquery()
    )
    for superseded in (False, True)
}


def _counts(conn: Connection, study_instance_uids: Collection[str], superseded: bool) -> dict[tuple[str, str], _Count]:
    """(study, series) -> what is in it."""
    found: dict[tuple[str, str], _Count] = {}
    for some in in_chunks(sorted(study_instance_uids)):
        for study, one_series, sop_class, modality, number, files in conn.execute(_COUNTED[superseded], {"some": some}):
            count = found.setdefault((study, one_series), _Count(modality, 0, False, set()))
            count.instances += number
            count.held = count.held or files > 0
            count.sop_classes.add(sop_class)
    return found


def _contents(conn: Connection, study_instance_uids: Sequence[str], superseded: bool) -> dict[str, dict[str, Any]]:
    """Study -> what :meth:`Objects.studies` adds."""
    found: dict[str, dict[str, Any]] = {}
    for (study, _), count in _counts(conn, study_instance_uids, superseded).items():
        one = found.setdefault(
            study, {"modalities": set(), "sop_classes": set(), "series": 0, "instances": 0, "held": False}
        )
        one["series"] += 1
        one["instances"] += count.instances
        one["held"] = one["held"] or count.held
        one["sop_classes"] |= count.sop_classes
        if count.modality:
            one["modalities"].add(count.modality)
    return found
