"""A small certificate authority for tests and first set-ups: PEM files in one folder, no state besides them.

trustme makes the certificates, with RSA keys and SHA-256, which every DICOM toolkit speaks. A hospital has an authority
of its own; its files go into the same three settings.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from trustme import CA, KeyType

from chexnode.vocabulary.errors import BadEnvironment, Usage

_AUTHORITY = "ca"
_ISSUED_EARLIER = timedelta(minutes=5)  # for peers whose clocks are behind


@dataclass(frozen=True, slots=True)
class Issued:
    """One certificate on disk."""

    name: str
    """Common Name: the AE title of whoever shows it."""
    certificate: Path
    key: Path
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates. :meth:`open` makes it on first use."""

    folder: Path
    ca: CA

    @property
    def path(self) -> Path:
        """What goes into ``tls.authorities``."""
        return self.folder / f"{_AUTHORITY}.pem"

    @classmethod
    def open(cls, folder: Path) -> Authority:
        """The authority of ``folder``, new if there is none. Raises BadEnvironment, and Usage for files not ours."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            pem, key = folder / f"{_AUTHORITY}.pem", folder / f"{_AUTHORITY}.key"
            if not pem.exists():
                ca = CA(organization_name="ChexNode test authority", key_type=KeyType.RSA)
                _write_key(key, ca.private_key_pem.bytes())
                pem.write_bytes(ca.cert_pem.bytes())
            return cls(folder, CA.from_pem(pem.read_bytes(), key.read_bytes()))
        except OSError as error:
            raise BadEnvironment(f"cannot use {folder}: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise Usage(f"{folder} holds files that are not an authority of this command") from error

    def issue(self, name: str, hosts: Sequence[str], days: int) -> Issued:
        """Write ``NAME.pem`` and ``NAME.key`` for ``name``, valid for ``hosts``; as server and as client.

        Negative ``days`` give an expired one, for tests. Raises Usage for a name that is no file name, or is taken, and
        for hosts that are neither addresses nor host names.
        """
        pem, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        fit = 0 < len(name) <= 64 and name.isprintable() and Path(name).name == name
        if not fit or name.casefold() == _AUTHORITY:
            raise Usage(f"{name!r} cannot be the name of a certificate")
        if pem.exists() or key.exists():
            raise Usage(f"{pem} or its key exists; remove both to have new ones")
        end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
        start = min(datetime.now(UTC) - _ISSUED_EARLIER, end - timedelta(days=1))
        try:
            issued = self.ca.issue_cert(
                *dict.fromkeys(hosts), common_name=name, not_before=start, not_after=end, key_type=KeyType.RSA
            )
        except ValueError as error:
            raise Usage(f"cannot make a certificate for {', '.join(hosts)}: {error}") from error
        try:
            _write_key(key, issued.private_key_pem.bytes())
            pem.write_bytes(issued.cert_chain_pems[0].bytes())
        except OSError as error:
            raise BadEnvironment(f"cannot write {pem}: {error.strerror}") from error
        return Issued(name, pem, key, end)


def not_after(pem: Path) -> datetime:
    """When the first certificate of ``pem`` expires, aware. Raises BadEnvironment."""
    try:
        return x509.load_pem_x509_certificate(pem.read_bytes()).not_valid_after_utc
    except OSError as error:
        raise BadEnvironment(f"cannot read {pem}: {error.strerror}") from error
    except ValueError as error:
        raise BadEnvironment(f"{pem} holds no certificate") from error


def _write_key(path: Path, content: bytes) -> None:
    """For the owner's eyes only, from its first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
