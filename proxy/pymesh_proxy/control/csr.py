"""Make a key and a certificate signing request, and check the certificate that comes back: a process of its own.

`cryptography` weighs 13 MB, and a sidecar needs it for a moment once in twelve hours. So this runs as a short-lived
child, `python -m pymesh_proxy.control.csr`, which speaks one JSON object a line over its pipes:

    ← {"uri": "spiffe://…"}                        who the certificate is for
    → {"csr": "PEM"}
    ← {"chain": ["PEM", …], "roots": "PEM"}        what citadel has answered, and whom to trust
    → {"key": "PEM", "chain": "PEM", "not_before": …, "not_after": …, "serial": "…"}   or   {"error": "…"}

The key is in no file, argument or environment, and leaves the child only once its certificate has been checked.
"""

import itertools
import json
import sys
from datetime import datetime
from typing import IO, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

# A chain is the leaf, a few intermediates and the root.
MAX_CHAIN = 10


class RefusedError(Exception):
    """The certificate is not what was asked for."""


def make_request(key: ec.EllipticCurvePrivateKey, uri: str) -> bytes:
    """The CSR, PEM: an empty subject and the identity as URI SAN, as Istio's agent makes it."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def check_chain(
    chain: list[x509.Certificate],
    roots: list[x509.Certificate],
    key: ec.EllipticCurvePublicKey,
    uri: str,
    now: datetime,
) -> None:
    """Whether the chain's leaf is for `key` and `uri`, valid at `now` (UTC), and leads to one of `roots`.

    Raises:
        RefusedError: it is or does not.
    """
    if not 1 <= len(chain) <= MAX_CHAIN:
        raise RefusedError(f"a chain of {len(chain)} certificates")
    leaf = chain[0]
    encoding = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if leaf.public_key().public_bytes(*encoding) != key.public_bytes(*encoding):
        raise RefusedError("the certificate is for another key")
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise RefusedError("the certificate names nobody") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if uris != [uri]:
        raise RefusedError(f"the certificate is for {', '.join(uris) or 'nobody'}, not for {uri}")
    if not leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc:
        raise RefusedError(
            f"the certificate is valid from {leaf.not_valid_before_utc} to {leaf.not_valid_after_utc}; it is {now} here"
        )
    for certificate, issuer in itertools.pairwise(chain):
        if not _issued(certificate, issuer):
            raise RefusedError(f"the chain is broken: {issuer.subject} did not issue {certificate.subject or uri}")
    if not any(chain[-1] == root or _issued(chain[-1], root) for root in roots):
        raise RefusedError(f"the chain ends in {chain[-1].issuer}, which is not among the trusted roots")


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
        return issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False


def converse(lines: IO[str], out: IO[str], now: datetime) -> None:
    """The whole conversation, from the first line to the last; see the module's docstring."""
    uri = str(json.loads(lines.readline())["uri"])
    key = ec.generate_private_key(ec.SECP256R1())
    _say(out, {"csr": make_request(key, uri).decode()})
    answer = lines.readline()
    if not answer:
        return  # the request was refused or is given up
    try:
        _say(out, _secret(json.loads(answer), key, uri, now))
    except RefusedError as error:
        _say(out, {"error": str(error)})


def _secret(answer: dict[str, Any], key: ec.EllipticCurvePrivateKey, uri: str, now: datetime) -> dict[str, Any]:
    chain = _certificates("\n".join(answer["chain"]), "the answer")
    check_chain(chain, _certificates(answer["roots"], "the roots file"), key.public_key(), uri, now)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "key": private.decode(),
        "chain": "".join(certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in chain),
        "not_before": chain[0].not_valid_before_utc.timestamp(),
        "not_after": chain[0].not_valid_after_utc.timestamp(),
        "serial": f"{chain[0].serial_number:x}",
    }


def _certificates(pem: str, where: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise RefusedError(f"{where} holds no certificate that can be read: {error}") from error


def _say(out: IO[str], message: dict[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


if __name__ == "__main__":
    from datetime import UTC

    converse(sys.stdin, sys.stdout, datetime.now(UTC))
