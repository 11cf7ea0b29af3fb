"""A small certificate authority for tests and first set-ups: PEM files in one folder, no state besides them.

RSA of 3072 bits and SHA-256, which every DICOM toolkit speaks. A hospital has an authority of its own; its files go
into the same three settings.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chexnode.vocabulary.errors import BadEnvironment, Usage

_BITS = 3072
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
    certificate: x509.Certificate
    key: rsa.RSAPrivateKey

    @property
    def path(self) -> Path:
        """What goes into ``tls.authorities``."""
        return self.folder / f"{_AUTHORITY}.pem"

    @classmethod
    def open(cls, folder: Path, days: int) -> Authority:
        """The authority of ``folder``, new if there is none. Raises BadEnvironment, and Usage for files not ours."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            pem, key_pem = folder / f"{_AUTHORITY}.pem", folder / f"{_AUTHORITY}.key"
            if not pem.exists():
                key = rsa.generate_private_key(public_exponent=65537, key_size=_BITS)
                name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ChexNode test authority")])
                made = _builder(name, name, key.public_key(), days)
                made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                made = made.add_extension(_usage(signs_certificates=True), critical=True)
                made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
                _write_key(key_pem, key)
                pem.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
            loaded = serialization.load_pem_private_key(key_pem.read_bytes(), password=None)
            if not isinstance(loaded, rsa.RSAPrivateKey):
                raise Usage(f"{key_pem} is not a key of this command")
            return cls(folder, x509.load_pem_x509_certificate(pem.read_bytes()), loaded)
        except OSError as error:
            raise BadEnvironment(f"cannot use {folder}: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise Usage(f"{folder} holds files that are not an authority of this command") from error

    def issue(self, name: str, hosts: Sequence[str], days: int) -> Issued:
        """Write ``NAME.pem`` and ``NAME.key`` for ``name``, valid for ``hosts``; as server and as client.

        Negative ``days`` give an expired one, for tests. Raises Usage for a name that is no file name, or is taken.
        """
        pem, key_pem = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        fit = 0 < len(name) <= 64 and name.isprintable() and Path(name).name == name
        if not fit or name.casefold() == _AUTHORITY:
            raise Usage(f"{name!r} cannot be the name of a certificate")
        if pem.exists() or key_pem.exists():
            raise Usage(f"{pem} or its key exists; remove both to have new ones")
        key = rsa.generate_private_key(public_exponent=65537, key_size=_BITS)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = _builder(subject, self.certificate.subject, key.public_key(), days)
        made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        made = made.add_extension(_usage(signs_certificates=False), critical=True)
        made = made.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        made = made.add_extension(x509.SubjectAlternativeName(list(_alternatives(hosts))), critical=False)
        made = made.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
        )
        certificate = made.sign(self.key, hashes.SHA256())
        try:
            _write_key(key_pem, key)
            pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        except OSError as error:
            raise BadEnvironment(f"cannot write {pem}: {error.strerror}") from error
        return Issued(name, pem, key_pem, certificate.not_valid_after_utc)


def not_after(pem: Path) -> datetime:
    """When the first certificate of ``pem`` expires, aware. Raises BadEnvironment."""
    try:
        return x509.load_pem_x509_certificate(pem.read_bytes()).not_valid_after_utc
    except OSError as error:
        raise BadEnvironment(f"cannot read {pem}: {error.strerror}") from error
    except ValueError as error:
        raise BadEnvironment(f"{pem} holds no certificate") from error


def _builder(
    subject: x509.Name, issuer: x509.Name, key: rsa.RSAPublicKey, days: int
) -> x509.CertificateBuilder:  # fmt: skip
    end = datetime.now(UTC) + timedelta(days=days)
    start = min(datetime.now(UTC) - _ISSUED_EARLIER, end - timedelta(days=1))
    return x509.CertificateBuilder(
        issuer, subject, key, x509.random_serial_number(), not_valid_before=start, not_valid_after=end
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(hosts: Sequence[str]) -> Iterator[x509.GeneralName]:
    for host in dict.fromkeys(hosts):
        try:
            yield x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            yield x509.DNSName(host)


def _write_key(path: Path, key: rsa.RSAPrivateKey) -> None:
    """For the owner's eyes only, from its first byte on."""
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
