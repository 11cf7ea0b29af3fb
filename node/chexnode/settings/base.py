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
    """Check an address, a CIDR block, a range of addresses or a host name (a name is resolved when it is used)."""
    first, dash, last = value.partition("-")
    if "/" in value:
        ipaddress.ip_network(value, strict=False)
    elif dash and is_address(first) and is_address(last):
        if read_range(value) is None:
            raise ValueError(f"{value!r} is no range: both ends are addresses of one kind, the lower one first")
    elif not value or (value.replace(".", "").isdigit() and not is_address(value)):
        raise ValueError(f"{value!r} is neither an address nor a host name, and would never match")
    return value


def is_address(text: str) -> bool:
    """Whether ``text`` is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def read_range(text: str) -> tuple[int, int, int] | None:
    """Version, first and last address (as numbers) of a range such as 10.1.2.3-10.1.2.9; None where it is none."""
    ends = text.split("-")
    if len(ends) != 2 or not all(is_address(end) for end in ends):
        return None
    first, last = (ipaddress.ip_address(end) for end in ends)
    if first.version != last.version or int(first) > int(last):
        return None
    return first.version, int(first), int(last)


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
