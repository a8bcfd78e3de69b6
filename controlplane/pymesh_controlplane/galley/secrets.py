"""Secret: certificates of gateways. No sentence here shows any of what a Secret holds."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from pymesh.resources.kubernetes import Secret
from pymesh.resources.resource import Resource
from pymesh_controlplane.galley.findings import Findings
from pymesh_controlplane.pilot.credentials import CHAIN, KEY, ROOTS
from pymesh_controlplane.pilot.model import Problem

TLS_TYPE: Final = "kubernetes.io/tls"
# A certificate that ends within this time is told: long enough to have a new one made.
SOON: Final = timedelta(days=14)


def check(resource: Resource[Secret], now: datetime | None) -> list[Problem]:
    """What is wrong with a Secret; of the life of certificates nothing is said without the time."""
    findings = Findings(resource)
    secret = resource.value
    try:
        content = secret.content()
    except ValueError as error:
        findings.error(f"data.{error}", "is not base64; plain text goes below stringData")
        return findings.problems
    chain, key, roots = (_named(content, names) for names in (CHAIN, KEY, ROOTS))
    if secret.type == TLS_TYPE:
        for name in ("tls.crt", "tls.key"):
            if name not in content:
                findings.error("data", f"a Secret of type {TLS_TYPE} has tls.crt and tls.key; {name} is missing")
                return findings.problems
    if chain and key:
        certificates = _certificates(findings, _path(secret, chain), content[chain], now)
        public = _private_key(findings, _path(secret, key), content[key])
        if certificates and public and _public_key(certificates[0]) != public:
            sentence = "is not the key of the first certificate: chains begin with the server's own"
            findings.error(_path(secret, key), sentence)
    if roots:
        _certificates(findings, _path(secret, roots), content[roots], now)
    return findings.problems


def _named(content: dict[str, bytes], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in content), "")


def _path(secret: Secret, key: str) -> str:
    return f"stringData.{key}" if key in secret.string_data else f"data.{key}"


def _private_key(findings: Findings, path: str, pem: bytes) -> bytes:
    """The public half of the key in `pem`, empty if there is none."""
    try:
        private = load_pem_private_key(pem, password=None)
    except TypeError:
        findings.error(path, "the key is encrypted; a gateway cannot ask for its password: store it without")
    except (ValueError, UnsupportedAlgorithm):
        findings.error(path, "is not a private key in PEM (-----BEGIN PRIVATE KEY-----)")
    else:
        return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return b""


def _certificates(findings: Findings, path: str, pem: bytes, now: datetime | None) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        findings.error(path, "is not a certificate in PEM (-----BEGIN CERTIFICATE-----)")
        return []
    for sentence in _of_their_life(found, now) if now is not None else ():
        findings.warning(path, sentence)
    return found


def _public_key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _of_their_life(certificates: list[x509.Certificate], now: datetime) -> Iterator[str]:
    for certificate in certificates:
        name = certificate.subject.rfc4514_string() or "(no subject)"
        end, begin = certificate.not_valid_after_utc, certificate.not_valid_before_utc
        if end <= now:
            yield f"the certificate of {name} expired on {end:%Y-%m-%d %H:%M} UTC: clients refuse it"
        elif end - now < SOON:
            yield f"the certificate of {name} expires on {end:%Y-%m-%d %H:%M} UTC: renew it"
        elif begin > now:
            yield f"the certificate of {name} is valid only from {begin:%Y-%m-%d %H:%M} UTC on"
