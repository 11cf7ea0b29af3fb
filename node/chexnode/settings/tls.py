"""Section ``tls``: transport security."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from chexnode.settings.base import Port, Section


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
