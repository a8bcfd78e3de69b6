"""PEM in, an authority out, or a sentence that says what is wrong with it. No file, no Secret and no clock here.

An authority of your own is four documents under the names that Istio's `cacerts` secret uses: `ca-cert.pem`,
`ca-key.pem`, `root-cert.pem`, and `cert-chain.pem` where intermediates stand between the first and the root.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from pymesh.errors import ConfigError, Position
from pymesh_controlplane.citadel.authority import Authority, CaKey, private_pem, self_signed, weakness
from pymesh_controlplane.citadel.rotation import OwnRoots, Pair

CERTIFICATE: Final = "ca-cert.pem"
KEY: Final = "ca-key.pem"
ROOT: Final = "root-cert.pem"
CHAIN: Final = "cert-chain.pem"
# Of an authority that citadel made, while its root is replaced (`rotation.OwnRoots`).
NEXT_CERTIFICATE: Final = "next-cert.pem"
NEXT_KEY: Final = "next-key.pem"
OLD_CERTIFICATE: Final = "old-cert.pem"
SINCE: Final = "rotating-since"

# Bytes of each. A chain of ten RSA-4096 certificates is about 20,000.
MAX_BYTES: Final = 1024 * 1024


def new_pair(trust_domain: str, *, now: datetime) -> Pair:
    """A new root of the mesh."""
    new = self_signed(trust_domain, now=now)
    return Pair(new.certificate, new.key)


def own_roots(found: Mapping[str, bytes], where: Callable[[str], str], *, now: datetime) -> OwnRoots:
    """The roots that citadel made: CERTIFICATE and KEY, and what there is of a rotation.

    Args:
        found: what is there, by name.
        where: what the sentences call a document, by its name.

    Raises:
        ConfigError: one is damaged, has expired or does not fit the rest.
    """
    signer = _own_pair(found, where, CERTIFICATE, KEY, now)
    if not found.keys() & {NEXT_CERTIFICATE, OLD_CERTIFICATE}:
        return OwnRoots(signer)
    try:
        since = datetime.fromisoformat(found.get(SINCE, b"").decode())
    except ValueError as error:
        raise refuse(where(SINCE), "is no time: restore it from a backup") from error
    if NEXT_CERTIFICATE in found:
        return OwnRoots(signer, next=_own_pair(found, where, NEXT_CERTIFICATE, NEXT_KEY, now), since=since)
    # Whether it has expired is nothing to us: nobody is signed for by it any more.
    return OwnRoots(signer, old=_one(where(OLD_CERTIFICATE), found[OLD_CERTIFICATE]), since=since)


def documents_of(own: OwnRoots) -> dict[str, bytes]:
    """What `own_roots` reads."""
    found = {CERTIFICATE: _text(own.signer.certificate), KEY: private_pem(own.signer.key)}
    if own.next is not None:
        found |= {NEXT_CERTIFICATE: _text(own.next.certificate), NEXT_KEY: private_pem(own.next.key)}
    if own.old is not None:
        found[OLD_CERTIFICATE] = _text(own.old)
    if own.since is not None:
        found[SINCE] = own.since.isoformat().encode()
    return found


def _own_pair(
    found: Mapping[str, bytes], where: Callable[[str], str], certificate: str, key: str, now: datetime
) -> Pair:
    for name in (certificate, key):
        if name not in found:
            raise refuse(where(name), "is missing: restore it from a backup")
    # The key first: of a file that is damaged as a whole, its absence says most.
    private, root = _private_key(where(key), found[key]), _one(where(certificate), found[certificate])
    _check_signer(where(certificate), root, private, now)
    _check_link(where(certificate), root, root, "itself")
    return Pair(root, private)


def _one(where: str, content: bytes) -> x509.Certificate:
    (root, *more) = _certificates(where, content)
    if more:
        raise refuse(where, f"holds {len(more) + 1} certificates, and one was written: restore it from a backup")
    return root


def _text(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def plugged(found: Mapping[str, bytes], place: str, trust_domain: str, *, now: datetime) -> Authority:
    """The authority that somebody brought: CERTIFICATE, KEY, ROOT and, if there are intermediates, CHAIN.

    Args:
        found: what is there, by name.
        place: with the name behind it, what the sentences call a document: `/etc/citadel/`.

    Raises:
        ConfigError: one is missing, damaged, expired or does not fit the rest.
    """
    for name in (CERTIFICATE, KEY, ROOT):
        if name not in found:
            there = f", while {min(found)} is there" if found else ""
            raise refuse(place + name, f"is missing{there}: put it there too")
    at_signer, at_root, at_chain = place + CERTIFICATE, place + ROOT, place + CHAIN
    key = _private_key(place + KEY, found[KEY])
    signing = _certificates(at_signer, found[CERTIFICATE])[0]
    roots = _certificates(at_root, found[ROOT])
    _check_signer(at_signer, signing, key, now)
    path = [signing]
    if found.get(CHAIN):
        chain = _certificates(at_chain, found[CHAIN])
        path += [certificate for certificate in chain if certificate != signing and certificate not in roots]
        for below, above in pairwise(path):
            _check_link(at_chain, below, above, "the next one in it")
            _check_dates(at_chain, above, now)
    for root in roots:
        _check_dates(at_root, root, now)
    leads_to = next((root for root in roots if _issued(path[-1], root)), None)
    if leads_to is None:
        raise refuse(
            at_root,
            f"holds no root that issued {path[-1].subject.rfc4514_string()!r}: put the right root there, "
            f"or the missing intermediates into {CHAIN}",
        )
    intermediates = tuple(certificate for certificate in path if certificate != leads_to)
    return Authority(
        trust_domain, signing, key, intermediates, (leads_to, *(root for root in roots if root != leads_to))
    )


def _private_key(where: str, content: bytes) -> CaKey:
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The parser's own words are left out: they may quote what they could not read.
        raise refuse(
            where, "holds no private key that can be read (PEM, not encrypted): restore it from a backup"
        ) from error
    if not isinstance(key, CaKey):
        raise refuse(where, "holds a kind of key that is not supported: use ECDSA P-256 or RSA")
    return key


def _certificates(where: str, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except (ValueError, x509.InvalidVersion) as error:
        raise refuse(where, "holds no certificate that can be read (PEM): restore it from a backup") from error


def _check_signer(where: str, certificate: x509.Certificate, key: CaKey, now: datetime) -> None:
    if certificate.public_key() != key.public_key():
        raise refuse(where, "and the private key do not belong together: restore the pair from a backup")
    if problem := weakness(key.public_key()):
        raise refuse(where, f"is too weak: {problem}")
    _check_authority(where, certificate)
    _check_dates(where, certificate, now)


def _check_authority(where: str, certificate: x509.Certificate) -> None:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise refuse(where, f"is not a CA's certificate ({error}): it needs CA:TRUE and keyCertSign") from error
    if not constraints.ca or not usage.key_cert_sign:
        raise refuse(where, "is not a CA's certificate: it needs CA:TRUE and keyCertSign")


def _check_dates(where: str, certificate: x509.Certificate, now: datetime) -> None:
    subject = certificate.subject.rfc4514_string()
    if now >= certificate.not_valid_after_utc:
        raise refuse(where, f"expired: {subject!r} ended at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if now < certificate.not_valid_before_utc:
        starts = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise refuse(where, f"is not valid yet: {subject!r} starts at {starts}; is this machine's clock right?")


def _check_link(where: str, below: x509.Certificate, above: x509.Certificate, what: str) -> None:
    if not _issued(below, above):
        raise refuse(where, f"is out of order or damaged: {below.subject.rfc4514_string()!r} was not issued by {what}")


def _issued(below: x509.Certificate, above: x509.Certificate) -> bool:
    try:
        below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def refuse(where: str, problem: str) -> ConfigError:
    """The error that says what is wrong with `where`."""
    return ConfigError(problem, position=Position(where))
