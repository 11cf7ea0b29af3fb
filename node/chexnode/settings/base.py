"""What the sections of the settings are made of."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _ae_title(value: str) -> str:
    """Check an AE title: 1 to 16 characters of the default repertoire, no backslash, not only spaces (PS3.5 6.2)."""
    value = value.strip()
    if not 1 <= len(value) <= 16 or "\\" in value or any(not 0x20 <= ord(c) < 0x7F for c in value):
        raise ValueError("an AE title is 1 to 16 printable ASCII characters without a backslash")
    return value


def network(value: str) -> str:
    """Check an address, a CIDR block or a host name (a name is resolved when it is used)."""
    if "/" in value:
        ipaddress.ip_network(value, strict=False)
    return value


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine's own address, reached by nobody else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


AETitle = Annotated[str, AfterValidator(_ae_title)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """Frozen; an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
