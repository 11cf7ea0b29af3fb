"""What an API token is good for."""

from __future__ import annotations

from enum import StrEnum


class TokenScope(StrEnum):
    """What a token is good for."""

    READ = "read"
    """Look: jobs, deliveries, the account, metrics, DICOMweb search and retrieve."""
    STORE = "store"
    """Bring images: DICOMweb store."""
    ADMIN = "admin"
    """Everything, what changes the node's work included."""
