"""Section ``audit``: the audit trail (PS3.15 section A.5)."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from chexnode.settings.base import Section


def _collector(url: str) -> str:
    """Check where audit messages go: ``SCHEME://HOST`` or ``SCHEME://HOST:PORT``, or nothing."""
    parts = urlsplit(url)
    well = parts.scheme in ("udp", "tcp", "tls") and parts.hostname and parts.netloc == url.partition("://")[2]
    if url and (not well or "@" in url or parts.port == 0):
        raise ValueError("an audit collector is udp://HOST:PORT, tcp://HOST:PORT or tls://HOST:PORT")
    return url


class AuditSettings(Section):
    """The audit trail (PS3.15 A.5): who sent and got which patient's images, told to a collector by syslog."""

    url: Annotated[str, AfterValidator(_collector)] = Field(
        "", description="udp://HOST:514, tcp://HOST:514 or tls://HOST:6514 (by the section tls); empty: no audit trail."
    )
    enterprise_site_id: str = Field("", description="Audit Enterprise Site ID: how the collector tells sites apart.")
    spool_limit: int = Field(
        100_000, ge=1, description="Messages kept while the collector is away; beyond that the oldest are dropped."
    )
    keep_days: int = Field(
        30, ge=0, description="Days that messages stay here, to be searched, after the collector has them; 0: none do."
    )
