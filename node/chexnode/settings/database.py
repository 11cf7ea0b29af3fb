"""Section ``database``: where the ledger is."""

from __future__ import annotations

from pydantic import Field

from chexnode.settings.base import Section


class DatabaseSettings(Section):
    """Where the truth is."""

    url: str = Field(
        "",
        description="sqlite:///FILE or postgresql+psycopg://user:password@host/name; empty: chexnode.db in data_dir.",
    )
