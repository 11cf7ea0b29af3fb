"""TLS as DICOM asks for it: PS3.15 annexes B.12 and B.13, which are BCP 195 (RFC 8996, RFC 9325).

TLS 1.2 and 1.3 only, 1.3 preferred; ephemeral key exchange and authenticated encryption only. Both sides show a
certificate unless the settings say otherwise. The contexts serve the association server, the requestors to
destinations and the web role alike.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from chexnode.settings.tls import TlsSettings
from chexnode.vocabulary.errors import BadEnvironment

#: RFC 9325 section 4.2 for TLS 1.2; PS3.15 B.12 asks for the first two of them. TLS 1.3 has its own, all of them good.
CIPHERS = ":".join(
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "DHE-RSA-AES128-GCM-SHA256",
        "DHE-RSA-AES256-GCM-SHA384",
    )
)


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """For those who call us. Raises BadEnvironment where a file is missing or unfit."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, settings)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    if settings.require_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(settings: TlsSettings) -> ssl.SSLContext:
    """For those we call: their certificate must name the host and come from our authorities, or from the system's where
    the settings name none. Raises BadEnvironment."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, settings)
    if settings.authorities is None:
        context.load_default_certs()
    return context


def common_names(certificate: dict[str, Any] | None) -> frozenset[str]:
    """Common Names of a verified peer's ``certificate``, as ``SSLSocket.getpeercert`` gives it; none: empty."""
    if not certificate:
        return frozenset()
    return frozenset(value for part in certificate.get("subject", ()) for name, value in part if name == "commonName")


def _context(protocol: int, settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if settings.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    if settings.authorities is not None:
        _load(settings.authorities, lambda path: context.load_verify_locations(path))
    if settings.certificate is not None:
        _load(settings.certificate, lambda path: context.load_cert_chain(path, settings.key))
    return context


def _load(path: Path, load: Any) -> None:
    try:
        load(path)
    except ssl.SSLError as error:
        raise BadEnvironment(f"{path} is not fit for TLS: {error.reason or error}") from error
    except OSError as error:
        raise BadEnvironment(f"cannot read {path} or its key: {error.strerror}") from error


def explained(error: OSError) -> str:
    """Why there is no connection, in words for an administrator: of TCP, of TLS, or of a certificate."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {error.reason or 'no handshake'}"
    return error.strerror or type(error).__name__
