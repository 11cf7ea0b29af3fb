"""Who may call: the ``[[peer]]`` tables, or loopback only where there is none."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Sequence

from chexnode.settings.base import read_range
from chexnode.settings.peer import PeerSettings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: A host name is resolved again after this many seconds.
_RESOLVED_FOR = 60.0


def read_address(text: str) -> Address:
    """Parse a peer's address; an IPv4 address mapped into IPv6 counts as the IPv4 address it is."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_called(pattern: str, ae_title: str) -> bool:
    return ae_title.startswith(pattern[:-1]) if pattern.endswith("*") else ae_title == pattern


class Callers:
    """The allow list. Thread safe."""

    def __init__(self, peers: Sequence[PeerSettings]) -> None:
        self._peers = tuple(peers)
        self._resolved: dict[str, tuple[float, frozenset[Address]]] = {}
        self._lock = threading.Lock()

    def allows(self, calling_ae_title: str, address: str) -> bool:
        """Whether ``calling_ae_title`` may call from ``address``."""
        caller = read_address(address)
        if not self._peers:
            return caller.is_loopback
        return any(
            _is_called(peer.ae_title, calling_ae_title) and any(self._is_at(host, caller) for host in peer.host)
            for peer in self._peers
        )

    def _is_at(self, host: str, caller: Address) -> bool:
        if ends := read_range(host):
            return caller.version == ends[0] and ends[1] <= int(caller) <= ends[2]
        try:
            return caller in ipaddress.ip_network(host, strict=False)
        except ValueError:
            return caller in self._resolve(host)

    def _resolve(self, host: str) -> frozenset[Address]:
        with self._lock:
            expires, addresses = self._resolved.get(host, (0.0, frozenset()))
        if time.monotonic() < expires:
            return addresses
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            addresses = frozenset(read_address(str(info[4][0])) for info in found)
        except OSError:
            pass  # the last known addresses stay good while the name service is down
        with self._lock:
            self._resolved[host] = (time.monotonic() + _RESOLVED_FOR, addresses)
        return addresses
