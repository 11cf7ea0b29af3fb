"""Section ``web``: the web role."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from chexnode.settings.base import Port, Section


def _origin(value: str) -> str:
    """Check an origin (RFC 6454): scheme, host and perhaps port, nothing else. A wildcard is none."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or value != f"{parts.scheme}://{parts.netloc}" or "*" in value:
        raise ValueError(f"{value!r} is no origin, such as https://viewer.example")
    return value


def _network(value: str) -> str:
    """Check an address or network, such as 10.0.0.0/8."""
    ip_network(value, strict=False)  # raises ValueError with the right words
    return value


class WebSettings(Section):
    """The web role."""

    host: str = Field(
        "127.0.0.1", description="Address the web server binds to; any but loopback needs a token to exist."
    )
    port: Port = Field(8080, description="HTTP port; 0 takes a free one.")
    names: tuple[str, ...] = Field(
        (),
        description="Host names that clients may call us by, besides web.host and localhost; empty: on loopback "
        "none, elsewhere any.",
    )
    proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        (),
        description="Addresses or networks of proxies before us, whose X-Forwarded-For, -Proto, -Host and -Prefix are "
        "believed; nobody else's are.",
    )
    cors_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = Field(
        (), description="Origins, such as https://viewer.example, whose pages may read our answers; empty: none."
    )
    requests_per_second: float = Field(
        200, ge=0, description="Requests from one address, four times that at once; more get 429. 0: no limit."
    )
    max_request_mb: int = Field(4096, ge=1, description="Largest body of one request, in MB; larger ones get 413.")
    header_seconds: float = Field(
        10, gt=0, description="A new connection has this long for its TLS handshake and the whole header of a request."
    )
    idle_seconds: float = Field(30, gt=0, description="A body, or the reading of an answer, may pause this long.")
    min_kb_per_second: float = Field(
        2, gt=0, description="A body, or the reading of an answer, that falls idle_seconds behind this rate is ended."
    )
    max_connections: int = Field(
        400, ge=1, description="Connections at once; one that waits for a request makes room, else more get 503."
    )
    max_connections_per_address: int = Field(
        100, ge=1, description="The same for one address, or one IPv6 /64; proxies of ours may have all."
    )
    viewer: Path | None = Field(
        None, description="Folder that `chexnode viewer fetch` puts OHIF into; none: viewer under node.data_dir."
    )
