"""What a person who signs in to the console may do."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """Each may do what those before it may."""

    VIEWER = "viewer"
    """See what the node does, without the identity of patients."""
    OPERATOR = "operator"
    """See patients too; retry, cancel and replay; try a file."""
    ADMIN = "admin"
    """See the settings too."""

    def includes(self, other: Role) -> bool:
        """Whether this role may do what ``other`` may."""
        return _RANK[self] >= _RANK[other]


_RANK = {role: rank for rank, role in enumerate(Role)}
