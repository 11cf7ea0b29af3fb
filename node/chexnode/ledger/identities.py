"""The end of names: rows outlive files, to be counted, and then say no longer whose images they were of."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, null, select, text, update

from chexnode.ledger.database import Database
from chexnode.ledger.moves import locked
from chexnode.ledger.schema import IDENTIFIED, instances, results, series, studies

#: Of studies: whether nothing says whose they are.
UNNAMED: ColumnElement[bool] = and_(
    studies.c.patient_id.is_(None), studies.c.patient_name.is_(None), studies.c.accession_number.is_(None)
)

_OF_STUDY: dict[str, Any] = dict.fromkeys(
    (
        "patient_id",
        "issuer_of_patient_id",
        "patient_name",
        "patient_name_key",
        "patient_birth_date",
        "patient_sex",
        "accession_number",
        "study_id",
        "study_description",
        "referring_physician_name",
    ),
    null(),
)


class Identities:
    """Deleting them from rows. States, reasons, dates of studies and UIDs stay."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def expire(self, before: datetime, limit: int = 200) -> int:
        """Delete names, IDs and free texts of at most ``limit`` studies; return of how many.

        Of those whose last image came before ``before`` and of which no file is left: what names the patient in a file
        may as well be found by that name.
        """
        files = select(instances.c.path).where(
            instances.c.study_instance_uid == studies.c.study_instance_uid, instances.c.path.is_not(None)
        )
        made = select(results.c.path).where(
            results.c.study_instance_uid == studies.c.study_instance_uid, results.c.path.is_not(None)
        )
        is_over = and_(text(f"({IDENTIFIED})"), studies.c.last_received_at < before, ~files.exists(), ~made.exists())
        with self._db.write() as conn:
            wanted = select(studies.c.study_instance_uid).where(is_over).limit(limit)
            uids = list(conn.execute(wanted).scalars())
            # An image may come in between: it locks the study's row first, as we do.
            locked(conn, studies, studies.c.study_instance_uid.in_(uids))
            uids = list(conn.execute(wanted.where(studies.c.study_instance_uid.in_(uids))).scalars())
            conn.execute(update(studies).where(studies.c.study_instance_uid.in_(uids)).values(_OF_STUDY))
            described = series.c.study_instance_uid.in_(uids), series.c.series_description.is_not(None)
            conn.execute(update(series).where(*described).values(series_description=null()))
            # What was read of the header, in words.
            words = instances.c.study_instance_uid.in_(uids), instances.c.detail.is_not(None)
            conn.execute(update(instances).where(*words).values(detail=null()))
        return len(uids)
