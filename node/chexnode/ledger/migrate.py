"""The schema's version: checked by every role, raised by ``chexnode db upgrade`` and by ``chexnode up``."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from chexnode.ledger.database import Database
from chexnode.vocabulary.errors import BadEnvironment


def upgrade(database: Database) -> tuple[str | None, str]:
    """Bring the schema to this release's; return (revision before, revision now). Concurrent callers wait."""
    with database.write() as conn:
        if conn.dialect.name == "postgresql":
            conn.exec_driver_sql("SELECT pg_advisory_xact_lock(7278321)")
        before = MigrationContext.configure(conn).get_current_revision()
        _check_known(before)
        command.upgrade(_config(conn), "head")
    return before, _head()


def check_schema(database: Database) -> None:
    """Raise BadEnvironment, naming the remedy, unless the schema is this release's."""
    with database.read() as conn:
        current = MigrationContext.configure(conn).get_current_revision()
    _check_known(current)
    if current != _head():
        found = "is empty" if current is None else f"is at {current}"
        raise BadEnvironment(f"the database schema {found} and this release needs {_head()}: run `chexnode db upgrade`")


def _check_known(revision: str | None) -> None:
    if revision is not None and revision not in {r.revision for r in _scripts().walk_revisions()}:
        raise BadEnvironment(f"the database schema is at {revision}, which a newer release has made")


def _config(conn: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.attributes["connection"] = conn
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _head() -> str:
    head = _scripts().get_current_head()
    assert head is not None
    return head
