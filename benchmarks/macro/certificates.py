"""Certificates for scenarios with TLS, made anew for each run: ECDSA P-256, as citadel's."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE: Final = timedelta(days=1)
_BEGIN: Final = timedelta(minutes=5)  # before now: clocks
# By the names of their files: what an edge shows to browsers, and the two workloads of a pair.
_SERVER_NAMES: Final = (x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1")))
_WORKLOADS: Final = ("client", "server")
_IDENTITY: Final = "spiffe://cluster.local/ns/default/sa/{}"


@dataclass(frozen=True, slots=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def write(folder: Path) -> None:
    """Write a root and what it signed: `root.pem`, and of `edge`, `client`, `server` each NAME.pem and NAME.key.

    `edge.both.pem` has certificate and key, which HAProxy wants in one file. The folder `authority` is for a citadel
    that is to be of the same root.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority = _root()
    (folder / "root.pem").write_bytes(_pem(authority.certificate))
    of_citadel = folder / "authority"
    of_citadel.mkdir(mode=0o700)
    for name in ("ca-cert.pem", "root-cert.pem"):
        (of_citadel / name).write_bytes(_pem(authority.certificate))
    (of_citadel / "ca-key.pem").write_bytes(_private(authority.key))
    (of_citadel / "ca-key.pem").chmod(0o600)
    names: dict[str, Sequence[x509.GeneralName]] = {"edge": _SERVER_NAMES}
    names |= {each: (x509.UniformResourceIdentifier(_IDENTITY.format(each)),) for each in _WORKLOADS}
    for name, subjects in names.items():
        chain, key = _leaf(authority, subjects)
        (folder / f"{name}.pem").write_bytes(chain)
        (folder / f"{name}.key").write_bytes(key)
        (folder / f"{name}.both.pem").write_bytes(chain + key)


def _root() -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "pymesh benchmark")])
    builder = (
        _builder(name, name, key, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
    )
    return _Authority(builder.sign(key, hashes.SHA256()), key)


def _leaf(authority: _Authority, subjects: Sequence[x509.GeneralName]) -> tuple[bytes, bytes]:
    """A certificate and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        _builder(x509.Name([]), authority.certificate.subject, key, authority.key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.SubjectAlternativeName(subjects), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    )
    return _pem(builder.sign(authority.key, hashes.SHA256())), _private(key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEGIN)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
