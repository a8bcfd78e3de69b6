"""The authority on disk: read if it is there, made if nothing is, and refused, untouched, if it is damaged.

An authority of your own is four files under the names that Istio's `cacerts` secret uses: `ca-cert.pem`, `ca-key.pem`,
`root-cert.pem`, and `cert-chain.pem` where intermediates stand between the first and the root. Without them citadel
makes its own and keeps key and certificate together in `self-signed-ca.pem`: one file, so that there is no moment at
which one is written and the other is not.
"""

import logging
import os
import stat
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from pymesh.errors import ConfigError, Position
from pymesh_controlplane import files
from pymesh_controlplane.citadel.authority import Authority, CaKey, private_pem, self_signed, weakness

log = logging.getLogger("pymesh.citadel")

CERTIFICATE: Final = "ca-cert.pem"
KEY: Final = "ca-key.pem"
ROOT: Final = "root-cert.pem"
CHAIN: Final = "cert-chain.pem"
SELF_SIGNED: Final = "self-signed-ca.pem"

# Bytes. A chain of ten RSA-4096 certificates is about 20,000.
MAX_PEM_BYTES: Final = 1024 * 1024


def load_or_create(directory: Path, trust_domain: str, *, now: datetime) -> Authority:
    """The authority kept in `directory`, which is made, 0700, if it is not there.

    Raises:
        ConfigError: a file is missing, damaged, expired, readable by others or does not fit the rest; or a new
            authority cannot be written. Nothing that is there is ever overwritten.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        mode = stat.S_IMODE(directory.stat().st_mode)
        present = {name for name in (CERTIFICATE, KEY, ROOT, CHAIN, SELF_SIGNED) if (directory / name).exists()}
    except OSError as error:
        raise _refuse(directory, f"cannot be used as citadel's folder: {error.strerror}") from error
    if mode & 0o077:
        raise _refuse(directory, f"is open to other users (mode {mode:04o}): chmod 700 it")
    own = present - {SELF_SIGNED}
    if not own:
        return _self_signed(directory / SELF_SIGNED, trust_domain, now)
    if SELF_SIGNED in present:
        log.warning("%s is not used: %s is there, and it comes first", directory / SELF_SIGNED, min(own))
    for name in (CERTIFICATE, KEY, ROOT):
        if name not in own:
            raise _refuse(directory / name, f"is missing, while {min(own)} is there: put it there too")
    return _plugged(directory, trust_domain, now, with_chain=CHAIN in own)


def _self_signed(path: Path, trust_domain: str, now: datetime) -> Authority:
    if not path.exists():
        new = self_signed(trust_domain, now=now)
        pem = private_pem(new.key) + new.certificate.public_bytes(serialization.Encoding.PEM)
        if files.create(path, pem, 0o600):
            log.info("made a new root: %s, good until %s", path, new.certificate.not_valid_after_utc.isoformat())
    content = _read(path, secret=True)
    key = _private_key(path, content)
    (root, *more) = _certificates(path, content)
    if more:
        raise _refuse(path, f"holds {len(more) + 1} certificates, and one was written: restore it from a backup")
    _check_signer(path, root, key, now)
    _check_link(path, root, root, "itself")
    return Authority(trust_domain, root, key, (), (root,))


def _plugged(directory: Path, trust_domain: str, now: datetime, *, with_chain: bool) -> Authority:
    certificate_file, key_file, root_file = directory / CERTIFICATE, directory / KEY, directory / ROOT
    key = _private_key(key_file, _read(key_file, secret=True))
    signing = _certificates(certificate_file, _read(certificate_file))[0]
    roots = _certificates(root_file, _read(root_file))
    _check_signer(certificate_file, signing, key, now)
    path = [signing]
    if with_chain:
        chain_file = directory / CHAIN
        path += [
            certificate
            for certificate in _certificates(chain_file, _read(chain_file))
            if certificate != signing and certificate not in roots
        ]
        for below, above in pairwise(path):
            _check_link(chain_file, below, above, "the next one in it")
            _check_dates(chain_file, above, now)
    for root in roots:
        _check_dates(root_file, root, now)
    leads_to = next((root for root in roots if _issued(path[-1], root)), None)
    if leads_to is None:
        raise _refuse(
            root_file,
            f"holds no root that issued {path[-1].subject.rfc4514_string()!r}: put the right root there, "
            f"or the missing intermediates into {CHAIN}",
        )
    intermediates = tuple(certificate for certificate in path if certificate != leads_to)
    return Authority(
        trust_domain, signing, key, intermediates, (leads_to, *(root for root in roots if root != leads_to))
    )


def _read(path: Path, *, secret: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise _refuse(path, f"cannot be read: {error.strerror}") from error
    if secret and mode & 0o077:
        raise _refuse(path, f"holds a private key that other users may read (mode {mode:04o}): chmod 600 it")
    if len(content) > MAX_PEM_BYTES:
        raise _refuse(path, f"has more than {MAX_PEM_BYTES} bytes: that is no certificate")
    return content


def _private_key(path: Path, content: bytes) -> CaKey:
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The parser's own words are left out: they may quote what they could not read.
        raise _refuse(
            path, "holds no private key that can be read (PEM, not encrypted): restore it from a backup"
        ) from error
    if not isinstance(key, CaKey):
        raise _refuse(path, "holds a kind of key that is not supported: use ECDSA P-256 or RSA")
    return key


def _certificates(path: Path, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except (ValueError, x509.InvalidVersion) as error:
        raise _refuse(path, "holds no certificate that can be read (PEM): restore it from a backup") from error


def _check_signer(path: Path, certificate: x509.Certificate, key: CaKey, now: datetime) -> None:
    if certificate.public_key() != key.public_key():
        raise _refuse(path, "and the private key do not belong together: restore the pair from a backup")
    if problem := weakness(key.public_key()):
        raise _refuse(path, f"is too weak: {problem}")
    _check_authority(path, certificate)
    _check_dates(path, certificate, now)


def _check_authority(path: Path, certificate: x509.Certificate) -> None:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise _refuse(path, f"is not a CA's certificate ({error}): it needs CA:TRUE and keyCertSign") from error
    if not constraints.ca or not usage.key_cert_sign:
        raise _refuse(path, "is not a CA's certificate: it needs CA:TRUE and keyCertSign")


def _check_dates(path: Path, certificate: x509.Certificate, now: datetime) -> None:
    subject = certificate.subject.rfc4514_string()
    if now >= certificate.not_valid_after_utc:
        raise _refuse(path, f"expired: {subject!r} ended at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if now < certificate.not_valid_before_utc:
        starts = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise _refuse(path, f"is not valid yet: {subject!r} starts at {starts}; is this machine's clock right?")


def _check_link(path: Path, below: x509.Certificate, above: x509.Certificate, what: str) -> None:
    if not _issued(below, above):
        raise _refuse(path, f"is out of order or damaged: {below.subject.rfc4514_string()!r} was not issued by {what}")


def _issued(below: x509.Certificate, above: x509.Certificate) -> bool:
    try:
        below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _refuse(path: Path, problem: str) -> ConfigError:
    return ConfigError(problem, position=Position(str(path)))
