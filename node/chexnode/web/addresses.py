"""Callers' addresses. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(given: Sequence[str]) -> list[Network]:
    """Addresses and networks, such as 10.0.0.0/8. Raises ValueError."""
    return [ipaddress.ip_network(one, strict=False) for one in given]


def is_inside(address: str, among: Sequence[Network]) -> bool:
    """Whether ``address`` is one, and in one of the networks."""
    try:
        ip = ipaddress.ip_address(address.strip())
    except ValueError:
        return False
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return any(ip in network for network in among)


def subscriber(address: str) -> str:
    """Who is behind an address: an IPv6 caller is its /64, which is what one gets and can pick addresses from."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
