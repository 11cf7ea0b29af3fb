"""The ledger's tables. Natural keys throughout: what DICOM already identifies needs no number of ours.

File columns hold paths relative to ``data_dir``. Times are UTC. A change here needs a migration: a test compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

from chexnode.vocabulary.purposes import Purpose
from chexnode.vocabulary.states import DeliveryState, InstanceState, JobState, StudyState, Uncommitted
from chexnode.vocabulary.supersession import Supersession
from chexnode.vocabulary.variants import ResultKind

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime on every database; SQLite itself would drop the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive values, store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("the ledger takes aware datetimes only")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back an aware UTC value."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class SafeText(TypeDecorator[str]):
    """Text of any origin, compared by its bytes, so that a range of dates or a prefix of a name can use an index.

    PostgreSQL takes neither NUL nor lone surrogates: they become U+FFFD on every database.
    """

    impl = Text().with_variant(Text(collation="C"), "postgresql")
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Replace what cannot be stored."""
        if value is None:
            return None
        return value.replace("\0", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")


class Coded(TypeDecorator[StrEnum]):
    """A member of an enum of ours, by its value."""

    impl = String
    cache_ok = True

    def __init__(self, members: type[StrEnum], length: int = 16) -> None:
        super().__init__(length)
        self.members = members

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:
        """The member."""
        return None if value is None else self.members(value)


class Codes(TypeDecorator[tuple[str, ...]]):
    """A few codes of ours as one text, which an index can hold: counting what was noted never reads the rows."""

    impl = SafeText
    cache_ok = True

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> str:
        """Joined by spaces."""
        return " ".join(value or ())

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[str, ...]:
        """Apart again."""
        return tuple((value or "").split())


# SQLite numbers rows by itself only for INTEGER PRIMARY KEY.
_RowId = BigInteger().with_variant(Integer, "sqlite")


def _uid(name: str, *args: Any, **kwargs: Any) -> Column[str]:
    # 64 characters by PS3.5 section 9.1; quarantined data sets may bring longer ones.
    return Column(name, String(128), *args, **kwargs)


def _where(condition: str) -> dict[str, Any]:
    """Make an index of the rows that meet ``condition``, which queries must state in the very same words."""
    return {f"{dialect}_where": text(condition) for dialect in ("sqlite", "postgresql")}


IDENTIFIED = "patient_id IS NOT NULL OR patient_name IS NOT NULL OR accession_number IS NOT NULL"
"""Of studies: those that say whose they are."""

studies = Table(
    "studies",
    metadata,
    _uid("study_instance_uid", primary_key=True),
    Column("state", Coded(StudyState), nullable=False),
    Column("patient_id", SafeText),
    Column("issuer_of_patient_id", SafeText),
    Column("patient_name", SafeText),
    Column("patient_name_key", SafeText),  # without case, for searching
    Column("patient_birth_date", SafeText),
    Column("patient_sex", SafeText),
    Column("accession_number", SafeText, index=True),
    Column("study_id", SafeText),
    Column("study_date", SafeText),
    Column("study_time", SafeText),
    Column("study_description", SafeText),
    Column("referring_physician_name", SafeText),
    Column("first_received_at", UtcDateTime, nullable=False),
    Column("last_received_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime),
    # Of what the study's report was made from; NULL while it is due, empty where nobody wanted one.
    Column("report_digest", String(64)),
    Index(None, "state", "last_received_at"),
    Index(None, "patient_id"),
    Index(None, "patient_name_key"),
    Index(None, "study_date", "study_instance_uid"),
    Index("ix_studies_identified", "last_received_at", **_where(IDENTIFIED)),
    Index("ix_studies_to_be_reported", "state", "closed_at", **_where("report_digest IS NULL")),
)

series = Table(
    "series",
    metadata,
    _uid("study_instance_uid", ForeignKey("studies.study_instance_uid"), primary_key=True),
    _uid("series_instance_uid", primary_key=True, index=True),
    Column("modality", SafeText),
    Column("series_number", Integer),
    Column("series_description", SafeText),
    Column("body_part_examined", SafeText),
    Column("performed_procedure_step_start_date", SafeText),
    Column("performed_procedure_step_start_time", SafeText),
    Index(None, "modality", "study_instance_uid"),
)

instances = Table(
    "instances",
    metadata,
    _uid("sop_instance_uid", primary_key=True),
    Column("digest", String(64), primary_key=True),
    # NULL where a quarantined data set brings no usable UIDs.
    _uid("study_instance_uid"),
    _uid("series_instance_uid"),
    Column("conflict", Boolean, nullable=False, default=False),
    Column("state", Coded(InstanceState), nullable=False),
    Column("reason", String(32)),
    Column("detail", SafeText),
    Column("notes", Codes, nullable=False),
    Column("priority", String(8), nullable=False),
    _uid("sop_class_uid", nullable=False),
    _uid("transfer_syntax_uid", nullable=False),
    Column("instance_number", Integer),
    Column("rows", Integer),
    Column("columns", Integer),
    Column("bits_allocated", Integer),
    Column("number_of_frames", Integer),
    Column("view_position", SafeText),
    Column("photometric_interpretation", SafeText),
    Column("station_name", SafeText),
    Column("path", SafeText),  # NULL once retention has deleted the file
    Column("size", BigInteger, nullable=False),
    Column("calling_ae_title", SafeText, nullable=False),
    Column("address", SafeText, nullable=False),
    Column("duplicates", Integer, nullable=False, default=0),
    # Of a Key Object Selection: when to look for a rejection in it; NULL: it was read, or given up
    Column("note_due_at", UtcDateTime),
    Column("note_failures", Integer, nullable=False, default=0),
    Column("received_at", UtcDateTime, nullable=False, index=True),
    ForeignKeyConstraint(
        ["study_instance_uid", "series_instance_uid"], ["series.study_instance_uid", "series.series_instance_uid"]
    ),
    Index("ix_instances_of_series", "study_instance_uid", "series_instance_uid", "sop_instance_uid"),
    # Which version is the latest is asked of every instance that is found.
    Index(
        "ix_instances_conflicts",
        "sop_instance_uid",
        sqlite_where=text("conflict = 1"),
        postgresql_where=text("conflict"),
    ),
    # Answers the account and the metrics by itself: they never read the rows.
    Index(None, "state", "reason", "notes"),
    Index(None, "state", "received_at"),
    # Who sent last, from which station: the console asks every few seconds.
    Index(None, "calling_ae_title", "station_name", "received_at"),
    Index("ix_instances_kept", "received_at", **_where("path IS NOT NULL")),
    Index(None, "path", **_where("path IS NOT NULL")),
    Index("ix_instances_notes_due", "note_due_at", **_where("note_due_at IS NOT NULL")),
    Index("ix_instances_notes_failing", "received_at", **_where("note_failures > 0")),
    Index("ix_instances_again", "duplicates", **_where("duplicates > 0")),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("key", String(64), nullable=False, unique=True),
    _uid("sop_instance_uid", nullable=False),
    Column("digest", String(64), nullable=False),
    Column("model", SafeText, nullable=False),
    Column("model_digest", String(64), nullable=False),
    Column("settings_digest", String(64), nullable=False),
    Column("state", Coded(JobState), nullable=False),
    Column("reason", String(32)),
    Column("error", SafeText),
    Column("purpose", Coded(Purpose), nullable=False, default=Purpose.IMAGE),
    Column("urgency", Integer, nullable=False),  # chexnode.vocabulary.purposes.Urgency: claimed in this order
    Column("due_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("crashes", Integer, nullable=False, default=0),
    Column("fence", BigInteger, nullable=False, default=0),
    Column("owner", SafeText),
    Column("lease_until", UtcDateTime),
    Column("score", Float),
    Column("abnormal", Boolean),
    Column("regions", Integer),
    # For the watch over drift: see chexnode.vocabulary.records.Figures
    Column("area", Float),
    Column("brightness", Float),
    Column("contrast", Float),
    # For histograms: see chexnode.vocabulary.records.Stages
    Column("decode_seconds", Float),
    Column("inference_seconds", Float),
    Column("encode_seconds", Float),
    # Of what the model was given, and of all else that the results say: see chexnode.vocabulary.records.Digests
    Column("content_digest", String(64)),
    Column("identity_digest", String(64)),
    Column("answer_path", SafeText),  # what the model answered; NULL where it was not asked, or once retention took it
    # Another analysis of the same version counts in its place.
    Column("superseded", Boolean, nullable=False, default=False),
    Column("notes", Codes, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    ForeignKeyConstraint(["sop_instance_uid", "digest"], ["instances.sop_instance_uid", "instances.digest"]),
    Index(None, "state", "urgency", "due_at"),
    Index(None, "sop_instance_uid", "digest"),
    # Answers how many images of a day are in which state by itself.
    Index("ix_jobs_state_created_at", "state", "created_at", "superseded"),
    # As that of instances.
    Index(None, "superseded", "purpose", "state", "reason", "notes"),
    Index(None, "answer_path", **_where("answer_path IS NOT NULL")),
)

results = Table(
    "results",
    metadata,
    _uid("uid", primary_key=True),
    Column("job_id", ForeignKey("jobs.id"), index=True),  # NULL: a study's report at its closing
    _uid("study_instance_uid"),
    _uid("series_instance_uid"),
    Column("kind", Coded(ResultKind, 8), nullable=False),
    Column("variant", String(64), nullable=False),
    _uid("sop_class_uid", nullable=False),
    _uid("transfer_syntax_uid"),
    Column("instance_number", Integer),
    Column("rows", Integer),
    Column("columns", Integer),
    Column("bits_allocated", Integer),
    Column("number_of_frames", Integer),
    Column("sha256", String(64), nullable=False),
    Column("path", SafeText),  # NULL once retention has deleted the file
    Column("size", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("superseded", Coded(Supersession, 32)),  # why it is valid no longer; NULL while it is
    ForeignKeyConstraint(
        ["study_instance_uid", "series_instance_uid"], ["series.study_instance_uid", "series.series_instance_uid"]
    ),
    Index("ix_results_of_series", "study_instance_uid", "series_instance_uid", "uid"),
    Index(None, "path", **_where("path IS NOT NULL")),
    Index("ix_results_of_studies", "job_id", "created_at", **_where("job_id IS NULL AND path IS NOT NULL")),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _RowId, primary_key=True),
    _uid("result_uid", ForeignKey("results.uid"), nullable=False),
    Column("job_id", ForeignKey("jobs.id"), index=True),  # as the result has it
    Column("destination", String(64), nullable=False),
    Column("kind", Coded(ResultKind, 8), nullable=False),  # as the result has it
    Column("state", Coded(DeliveryState), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("fence", BigInteger, nullable=False, default=0),
    Column("lease_until", UtcDateTime),
    Column("next_attempt", UtcDateTime),
    # When to ask for storage commitment, or to ask again; NULL where it is not wanted or was answered, and unless SENT
    Column("commit_at", UtcDateTime),
    Column("error", SafeText),  # in our own words
    Column("comment", SafeText),  # the destination's, an Error Comment (0000,0902), which may name a patient
    Column("uncommitted", Coded(Uncommitted)),  # NULL unless storage commitment is what failed last
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    UniqueConstraint("result_uid", "destination"),
    Index(None, "state", "destination", "kind"),
    Index("ix_deliveries_to_be_committed", "commit_at", **_where("commit_at IS NOT NULL")),
)

#: Requests for storage commitment (PS3.4 annex J), ours to destinations and those of others to us.
commitments = Table(
    "commitments",
    metadata,
    _uid("transaction_uid", primary_key=True),
    Column("ours", Boolean, nullable=False),
    Column("peer", SafeText, nullable=False),  # ours: the destination's name; else the AE title that asked
    Column("instances", JSON, nullable=False),  # [[SOP Class UID, SOP Instance UID], ...]
    Column("requested_at", UtcDateTime, nullable=False),
    Column("report_at", UtcDateTime),  # not ours: when to report next; NULL: reported, or given up
    Column("attempts", Integer, nullable=False, default=0),
    Column("answered_at", UtcDateTime),
    Column("error", SafeText),
    Index(None, "report_at"),
)

destinations = Table(
    "destinations",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("failures", Integer, nullable=False, default=0),
    Column("open_until", UtcDateTime),
    Column("last_error", SafeText),
    Column("last_success_at", UtcDateTime),
    Column("last_failure_at", UtcDateTime),
    Column("known_at", UtcDateTime),  # when a host last had it in its settings
    Column("paused_at", UtcDateTime),  # since when a person wants nothing sent to it; NULL: it is not paused
)

events = Table(
    "events",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("subject", String(12), nullable=False),  # instance, job, delivery, study, token, user
    Column("subject_id", String(128), nullable=False),
    Column("event", String(24), nullable=False),
    Column("from_state", String(16)),
    Column("to_state", String(16)),
    Column("detail", SafeText),
    Index(None, "subject", "subject_id"),
    Index(None, "event"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("owner", SafeText, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("until", UtcDateTime, nullable=False),
)

markers = Table(
    "markers",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", SafeText, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("sha256", String(64), nullable=False, unique=True),  # of the secret, which is kept nowhere
    Column("scopes", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
)

#: Browsers that were given a token.
token_sessions = Table(
    "token_sessions",
    metadata,
    Column("sha256", String(64), primary_key=True),  # of the secret in the browser's cookie, which is kept nowhere
    Column("token_name", ForeignKey("tokens.name", ondelete="CASCADE"), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

#: People who sign in to the console.
users = Table(
    "users",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("password_hash", String(256), nullable=False),  # argon2id; empty: see subject
    Column("subject", String(512), unique=True),  # issuer and sub of OpenID Connect; NULL: signs in with a password
    Column("role", String(16), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

#: Browsers that somebody has signed in with.
sessions = Table(
    "sessions",
    metadata,
    Column("sha256", String(64), primary_key=True),  # of the secret in the browser's cookie, which is kept nowhere
    Column("user_name", ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

#: What is wrong at this moment: one row from the first sight of it until it is over.
alarms = Table(
    "alarms",
    metadata,
    Column("rule", String(32), primary_key=True),
    Column("subject", String(128), primary_key=True),  # a destination, a station; empty: the node
    Column("severity", String(8), nullable=False),
    Column("detail", SafeText, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("reported_at", UtcDateTime),  # NULL while it has not lasted long enough
)

#: Messages about alarms that a channel has not taken yet, in their order.
notices = Table(
    "notices",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("channel", String(16), nullable=False),
    Column("event", String(16), nullable=False),  # alarm, recovery
    Column("rule", String(32), nullable=False),
    Column("subject", SafeText, nullable=False),
    Column("severity", String(8), nullable=False),
    Column("detail", SafeText, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)
