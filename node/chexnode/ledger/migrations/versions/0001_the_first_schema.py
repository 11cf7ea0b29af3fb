"""The first schema

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _where(condition: str) -> dict[str, sa.TextClause]:
    return {f"{dialect}_where": sa.text(condition) for dialect in ("sqlite", "postgresql")}


def upgrade() -> None:
    op.create_table(
        "destinations",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("open_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", _text(), nullable=True),
        sa.Column("last_success_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_failure_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("known_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_destinations")),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("subject", sa.String(length=12), nullable=False),
        sa.Column("subject_id", sa.String(length=128), nullable=False),
        sa.Column("event", sa.String(length=24), nullable=False),
        sa.Column("from_state", sa.String(length=16), nullable=True),
        sa.Column("to_state", sa.String(length=16), nullable=True),
        sa.Column("detail", _text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_events_event"), ["event"], unique=False)
        batch_op.create_index(batch_op.f("ix_events_subject_subject_id"), ["subject", "subject_id"], unique=False)

    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("owner", _text(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "markers",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", _text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_markers")),
    )
    op.create_table(
        "tokens",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tokens")),
        sa.UniqueConstraint("sha256", name=op.f("uq_tokens_sha256")),
    )
    op.create_table(
        "studies",
        sa.Column("study_instance_uid", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("patient_id", _text(), nullable=True),
        sa.Column("issuer_of_patient_id", _text(), nullable=True),
        sa.Column("patient_name", _text(), nullable=True),
        sa.Column("patient_name_key", _text(), nullable=True),
        sa.Column("patient_birth_date", _text(), nullable=True),
        sa.Column("patient_sex", _text(), nullable=True),
        sa.Column("accession_number", _text(), nullable=True),
        sa.Column("study_id", _text(), nullable=True),
        sa.Column("study_date", _text(), nullable=True),
        sa.Column("study_time", _text(), nullable=True),
        sa.Column("study_description", _text(), nullable=True),
        sa.Column("referring_physician_name", _text(), nullable=True),
        sa.Column("first_received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("report_digest", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("study_instance_uid", name=op.f("pk_studies")),
    )
    with op.batch_alter_table("studies", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_studies_accession_number"), ["accession_number"], unique=False)
        batch_op.create_index(batch_op.f("ix_studies_patient_id"), ["patient_id"], unique=False)
        batch_op.create_index(
            "ix_studies_identified",
            ["last_received_at"],
            unique=False,
            **_where("patient_id IS NOT NULL OR patient_name IS NOT NULL OR accession_number IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_studies_to_be_reported", ["state", "closed_at"], unique=False, **_where("report_digest IS NULL")
        )
        batch_op.create_index(batch_op.f("ix_studies_patient_name_key"), ["patient_name_key"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_studies_state_last_received_at"), ["state", "last_received_at"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_studies_study_date_study_instance_uid"), ["study_date", "study_instance_uid"], unique=False
        )

    op.create_table(
        "series",
        sa.Column("study_instance_uid", sa.String(length=128), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=128), nullable=False),
        sa.Column("modality", _text(), nullable=True),
        sa.Column("series_number", sa.Integer(), nullable=True),
        sa.Column("series_description", _text(), nullable=True),
        sa.Column("body_part_examined", _text(), nullable=True),
        sa.Column("performed_procedure_step_start_date", _text(), nullable=True),
        sa.Column("performed_procedure_step_start_time", _text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["studies.study_instance_uid"], name=op.f("fk_series_study_instance_uid")
        ),
        sa.PrimaryKeyConstraint("study_instance_uid", "series_instance_uid", name=op.f("pk_series")),
    )
    with op.batch_alter_table("series", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_series_modality_study_instance_uid"), ["modality", "study_instance_uid"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_series_series_instance_uid"), ["series_instance_uid"], unique=False)

    op.create_table(
        "instances",
        sa.Column("sop_instance_uid", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=128), nullable=True),
        sa.Column("series_instance_uid", sa.String(length=128), nullable=True),
        sa.Column("conflict", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=True),
        sa.Column("detail", _text(), nullable=True),
        sa.Column("notes", _text(), nullable=False),
        sa.Column("priority", sa.String(length=8), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=128), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=128), nullable=False),
        sa.Column("instance_number", sa.Integer(), nullable=True),
        sa.Column("rows", sa.Integer(), nullable=True),
        sa.Column("columns", sa.Integer(), nullable=True),
        sa.Column("bits_allocated", sa.Integer(), nullable=True),
        sa.Column("number_of_frames", sa.Integer(), nullable=True),
        sa.Column("view_position", _text(), nullable=True),
        sa.Column("photometric_interpretation", _text(), nullable=True),
        sa.Column("station_name", _text(), nullable=True),
        sa.Column("path", _text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("calling_ae_title", _text(), nullable=False),
        sa.Column("address", _text(), nullable=False),
        sa.Column("duplicates", sa.Integer(), nullable=False),
        sa.Column("note_due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("note_failures", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_instance_uid", "series_instance_uid"],
            ["series.study_instance_uid", "series.series_instance_uid"],
            name=op.f("fk_instances_study_instance_uid_series_instance_uid"),
        ),
        sa.PrimaryKeyConstraint("sop_instance_uid", "digest", name=op.f("pk_instances")),
    )
    with op.batch_alter_table("instances", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_instances_received_at"), ["received_at"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_instances_calling_ae_title_station_name_received_at"),
            ["calling_ae_title", "station_name", "received_at"],
            unique=False,
        )
        batch_op.create_index(batch_op.f("ix_instances_state_reason_notes"), ["state", "reason", "notes"], unique=False)
        batch_op.create_index(batch_op.f("ix_instances_state_received_at"), ["state", "received_at"], unique=False)
        batch_op.create_index("ix_instances_kept", ["received_at"], unique=False, **_where("path IS NOT NULL"))
        batch_op.create_index(batch_op.f("ix_instances_path"), ["path"], unique=False, **_where("path IS NOT NULL"))
        batch_op.create_index(
            "ix_instances_notes_due", ["note_due_at"], unique=False, **_where("note_due_at IS NOT NULL")
        )
        batch_op.create_index(
            "ix_instances_notes_failing", ["received_at"], unique=False, **_where("note_failures > 0")
        )
        batch_op.create_index("ix_instances_again", ["duplicates"], unique=False, **_where("duplicates > 0"))
        batch_op.create_index(
            "ix_instances_of_series", ["study_instance_uid", "series_instance_uid", "sop_instance_uid"], unique=False
        )
        batch_op.create_index(
            "ix_instances_conflicts",
            ["sop_instance_uid"],
            unique=False,
            sqlite_where=sa.text("conflict = 1"),
            postgresql_where=sa.text("conflict"),
        )

    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("model", _text(), nullable=False),
        sa.Column("model_digest", sa.String(length=64), nullable=False),
        sa.Column("settings_digest", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=True),
        sa.Column("error", _text(), nullable=True),
        sa.Column("purpose", sa.String(length=16), nullable=False),
        sa.Column("urgency", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("owner", _text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("abnormal", sa.Boolean(), nullable=True),
        sa.Column("regions", sa.Integer(), nullable=True),
        sa.Column("area", sa.Float(), nullable=True),
        sa.Column("brightness", sa.Float(), nullable=True),
        sa.Column("contrast", sa.Float(), nullable=True),
        sa.Column("decode_seconds", sa.Float(), nullable=True),
        sa.Column("inference_seconds", sa.Float(), nullable=True),
        sa.Column("encode_seconds", sa.Float(), nullable=True),
        sa.Column("content_digest", sa.String(length=64), nullable=True),
        sa.Column("identity_digest", sa.String(length=64), nullable=True),
        sa.Column("answer_path", _text(), nullable=True),
        sa.Column("superseded", sa.Boolean(), nullable=False),
        sa.Column("notes", _text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["sop_instance_uid", "digest"],
            ["instances.sop_instance_uid", "instances.digest"],
            name=op.f("fk_jobs_sop_instance_uid_digest"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("key", name=op.f("uq_jobs_key")),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_jobs_sop_instance_uid_digest"), ["sop_instance_uid", "digest"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_jobs_state_urgency_due_at"), ["state", "urgency", "due_at"], unique=False)
        batch_op.create_index("ix_jobs_state_created_at", ["state", "created_at", "superseded"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_jobs_superseded_purpose_state_reason_notes"),
            ["superseded", "purpose", "state", "reason", "notes"],
            unique=False,
        )
        batch_op.create_index(
            batch_op.f("ix_jobs_answer_path"), ["answer_path"], unique=False, **_where("answer_path IS NOT NULL")
        )

    op.create_table(
        "results",
        sa.Column("uid", sa.String(length=128), nullable=False),
        sa.Column("job_id", sa.String(length=16), nullable=True),
        sa.Column("study_instance_uid", sa.String(length=128), nullable=True),
        sa.Column("series_instance_uid", sa.String(length=128), nullable=True),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("variant", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=128), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=128), nullable=True),
        sa.Column("instance_number", sa.Integer(), nullable=True),
        sa.Column("rows", sa.Integer(), nullable=True),
        sa.Column("columns", sa.Integer(), nullable=True),
        sa.Column("bits_allocated", sa.Integer(), nullable=True),
        sa.Column("number_of_frames", sa.Integer(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("path", _text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("superseded", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_results_job_id")),
        sa.ForeignKeyConstraint(
            ["study_instance_uid", "series_instance_uid"],
            ["series.study_instance_uid", "series.series_instance_uid"],
            name=op.f("fk_results_study_instance_uid_series_instance_uid"),
        ),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_results")),
    )
    with op.batch_alter_table("results", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_results_job_id"), ["job_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_results_path"), ["path"], unique=False, **_where("path IS NOT NULL"))
        batch_op.create_index(
            "ix_results_of_studies",
            ["job_id", "created_at"],
            unique=False,
            **_where("job_id IS NULL AND path IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_results_of_series", ["study_instance_uid", "series_instance_uid", "uid"], unique=False
        )

    op.create_table(
        "deliveries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("result_uid", sa.String(length=128), nullable=False),
        sa.Column("job_id", sa.String(length=16), nullable=True),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_attempt", sa.DateTime(timezone=True), nullable=True),
        sa.Column("commit_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", _text(), nullable=True),
        sa.Column("comment", _text(), nullable=True),
        sa.Column("uncommitted", sa.String(length=16), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_deliveries_job_id")),
        sa.ForeignKeyConstraint(["result_uid"], ["results.uid"], name=op.f("fk_deliveries_result_uid")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("result_uid", "destination", name=op.f("uq_deliveries_result_uid_destination")),
    )
    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_deliveries_state_destination_kind"), ["state", "destination", "kind"], unique=False
        )
        batch_op.create_index(
            "ix_deliveries_to_be_committed", ["commit_at"], unique=False, **_where("commit_at IS NOT NULL")
        )
        batch_op.create_index(batch_op.f("ix_deliveries_job_id"), ["job_id"], unique=False)

    op.create_table(
        "commitments",
        sa.Column("transaction_uid", sa.String(length=128), nullable=False),
        sa.Column("ours", sa.Boolean(), nullable=False),
        sa.Column("peer", _text(), nullable=False),
        sa.Column("instances", sa.JSON(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("report_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", _text(), nullable=True),
        sa.PrimaryKeyConstraint("transaction_uid", name=op.f("pk_commitments")),
    )
    with op.batch_alter_table("commitments", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_commitments_report_at"), ["report_at"], unique=False)

    op.create_table(
        "users",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("password_hash", sa.String(length=256), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=True),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_users")),
        sa.UniqueConstraint("subject", name=op.f("uq_users_subject")),
    )
    op.create_table(
        "sessions",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("user_name", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_name"], ["users.name"], name=op.f("fk_sessions_user_name"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_sessions")),
    )
    op.create_table(
        "token_sessions",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("token_name", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["token_name"], ["tokens.name"], name=op.f("fk_token_sessions_token_name"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_token_sessions")),
    )
    op.create_table(
        "alarms",
        sa.Column("rule", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("severity", sa.String(length=8), nullable=False),
        sa.Column("detail", _text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("rule", "subject", name=op.f("pk_alarms")),
    )
    op.create_table(
        "notices",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("event", sa.String(length=16), nullable=False),
        sa.Column("rule", sa.String(length=32), nullable=False),
        sa.Column("subject", _text(), nullable=False),
        sa.Column("severity", sa.String(length=8), nullable=False),
        sa.Column("detail", _text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
    )
