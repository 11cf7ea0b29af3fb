"""The web role and transport security."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

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
    idle_seconds: float = Field(30, gt=0, description="A body, or the reading of an answer, may pause this long.")
    max_connections: int = Field(200, ge=1, description="Connections at once; more get 503.")
    viewer: Path | None = Field(
        None, description="Folder that `chexnode viewer fetch` puts OHIF into; none: viewer under node.data_dir."
    )


class TlsSettings(Section):
    """Transport security (PS3.15 B.12, BCP 195), of the DICOM listener, of calls to destinations and of the web."""

    certificate: Path | None = Field(None, description="PEM file of our certificate and its chain.")
    key: Path | None = Field(None, description="PEM file of its private key; none: it is in the certificate's file.")
    authorities: Path | None = Field(None, description="PEM file of the authorities that sign our peers' certificates.")
    port: Port | None = Field(None, description="DICOM TLS port (2762 by custom), 0 takes a free one; none: no TLS.")
    plain: bool = Field(True, description="Listen on node.port, without TLS, as well.")
    require_certificate: bool = Field(True, description="Callers must show a certificate of our authorities.")
    match_ae_title: bool = Field(False, description="A caller's certificate must have its AE title as Common Name.")
    min_version: Literal["1.2", "1.3"] = Field("1.2", description="Oldest TLS version spoken.")
    web: bool = Field(False, description="Serve HTTPS instead of HTTP on web.port.")

    @model_validator(mode="after")
    def _complete(self) -> TlsSettings:
        if (self.port is not None or self.web) and self.certificate is None:
            raise ValueError("serving TLS needs tls.certificate")
        if self.port is not None and self.require_certificate and self.authorities is None:
            raise ValueError("callers' certificates need tls.authorities; or set tls.require_certificate = false")
        if self.match_ae_title and not self.require_certificate:
            raise ValueError("tls.match_ae_title needs tls.require_certificate")
        if not self.plain and self.port is None:
            raise ValueError("without tls.plain there must be a tls.port")
        return self
