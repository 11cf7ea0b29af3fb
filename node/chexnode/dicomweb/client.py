"""An HTTP client for one DICOMweb service: who we are to it, and what its failures are to us.

httpx rather than dicomweb-client, whose ``store_instances`` takes data sets that it encodes anew, where the bytes that
were committed must go out; which holds the whole request in memory twice; and which raises for a 409 without its
answer's lists. dicomweb-client is what the tests look at our own service with.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

import httpx
from pydantic import SecretStr

from chexnode.dicomweb.stow_response import named
from chexnode.vocabulary.errors import DestinationDown

_REMEDIES: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: "it does not know our credentials",
    HTTPStatus.FORBIDDEN: "our credentials do not allow it",
    HTTPStatus.NOT_FOUND: "is the URL right?",
    HTTPStatus.METHOD_NOT_ALLOWED: "is the URL right?",
}


class Service(Protocol):
    """What must be known of a service to call it; a destination's settings are one."""

    @property
    def url(self) -> str | None:
        """Of its root, below which ``/studies`` is."""

    @property
    def token(self) -> SecretStr | None:
        """A bearer token (RFC 6750)."""

    @property
    def token_file(self) -> Path | None:
        """Where the token is read from, in place of ``token``."""

    @property
    def user(self) -> str | None:
        """Of basic authentication (RFC 7617)."""

    @property
    def password(self) -> SecretStr | None:
        """To ``user``."""

    @property
    def password_file(self) -> Path | None:
        """Where the password is read from, in place of ``password``."""

    @property
    def timeout_seconds(self) -> float:
        """How long each step of an exchange may take."""


def open_client(service: Service, tls: ssl.SSLContext | None) -> httpx.Client:
    """A client of the service that ``service`` describes; nothing is contacted yet. Raises DestinationDown.

    ``tls``: for https. Secrets in files are read here, so that a new one is taken up without a restart.
    """
    token = _secret(service.token, service.token_file)
    password = _secret(service.password, service.password_file)
    if token is not None and not (token.isascii() and token.isprintable()):
        raise DestinationDown("its token holds characters that no header can")  # h11 would quote it
    return httpx.Client(
        base_url=service.url or "",
        headers={"Authorization": f"Bearer {token}"} if token is not None else {},
        auth=httpx.BasicAuth(service.user, password) if service.user and password is not None else None,
        verify=tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # for plain http one that trusts nobody
        timeout=service.timeout_seconds,
        limits=httpx.Limits(max_connections=1),
        trust_env=False,  # a proxy that somebody set for a package manager must not see patients' data
    )


def probe_search(service: Service, tls: ssl.SSLContext | None) -> None:
    """See whether it answers a search (QIDO-RS) with our credentials. Raises DestinationDown."""
    with open_client(service, tls) as client, translated(service.timeout_seconds):
        answer = client.get("/studies", params={"limit": "1"}, headers={"Accept": "application/dicom+json"})
    if answer.status_code not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
        raise DestinationDown(unusable(answer))


@contextmanager
def translated(seconds: float) -> Iterator[None]:
    """Turn a failure of the connection into DestinationDown."""
    try:
        yield
    except httpx.TimeoutException as error:
        what = "connection" if isinstance(error, httpx.ConnectTimeout) else "answer"
        raise DestinationDown(f"no {what} within {seconds:g} s") from error
    except httpx.ConnectError as error:
        raise DestinationDown(f"no connection: {error}") from error
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise DestinationDown(f"the connection failed: {error or type(error).__name__}") from error


def unusable(response: httpx.Response) -> str:
    """A sentence about an answer that says that the service cannot be used now, or not by us, or not there."""
    status = response.status_code
    why = _REMEDIES.get(status)
    if 300 <= status < 400:
        why = "give the URL that it redirects to"  # which we follow nowhere: our credentials would go there too
    return f"it answered {named(status)}" + (f": {why}" if why else "")


def _secret(value: SecretStr | None, file: Path | None) -> str | None:
    if file is None:
        return value.get_secret_value() if value is not None else None
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise DestinationDown(f"cannot read {file}: {why}") from error
