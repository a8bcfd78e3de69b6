"""What the certificate of a peer says of it, read once for each certificate and not for each connection.

The same few peers connect again and again, and to read a certificate costs more than a request does. It is remembered
by its own bytes, so whoever shows another one is read anew. Whether it is trusted is no matter of this memory: that is
decided in each handshake.
"""

import math
import ssl
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from pymesh.remembered import remember

# Certificates remembered, 2 to 4 kB each; the oldest goes first. Workloads that call one another are fewer, and each
# has a new certificate once or twice a day.
MAX_REMEMBERED: Final = 512
# ASN.1 strings in getpeercert() that name a workload.
_SAN_KINDS: Final = ("URI", "DNS", "IP Address", "email")
# RFC 2253, section 2.3.
_ATTRIBUTES: Final = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C"}


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """A peer's certificate. Of one that nobody verified there is only the hash; without one, nothing.

    Attributes:
        identity: its URI SAN; empty if it has none, or several: a SPIFFE certificate has exactly one (X509-SVID,
            section 2), and with more nobody can say who it is.
        names: its SANs of every kind that may name a workload.
        dns: those that are DNS names.
        subject: as RFC 2253 writes it; SPIFFE leaves have an empty one.
        hash: SHA-256 of the certificate, hex.
        ends: when it does, in Unix time.
    """

    identity: str = ""
    names: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    subject: str = ""
    hash: str = ""
    ends: float = math.inf


_NONE: Final = PeerCertificate()
# By whether it was verified, which says whether it was read, and its DER.
_remembered: Final[dict[tuple[bool, bytes], PeerCertificate]] = {}


def peer_certificate(ssl_object: ssl.SSLObject) -> PeerCertificate:
    """The certificate that the peer of a connection showed."""
    der = ssl_object.getpeercert(binary_form=True)
    if der is None:
        return _NONE
    key = ssl_object.context.verify_mode is not ssl.CERT_NONE, der
    found = _remembered.get(key)
    if found is None:
        found = _read(der, ssl_object.getpeercert() or {})
        remember(_remembered, key, found, MAX_REMEMBERED)
    return found


def _read(der: bytes, fields: dict[str, Any]) -> PeerCertificate:
    """From what `getpeercert` gives, in both forms."""
    names = [(kind, value) for kind, value, *_ in fields.get("subjectAltName", ()) if isinstance(value, str)]
    uris = [value for kind, value in names if kind == "URI"]
    subject = [pair for part in reversed(fields.get("subject", ())) for pair in part]
    return PeerCertificate(
        identity=uris[0] if len(uris) == 1 else "",
        names=tuple(value for kind, value in names if kind in _SAN_KINDS),
        dns=tuple(value for kind, value in names if kind == "DNS"),
        subject=",".join(f"{_ATTRIBUTES.get(name, name)}={value}" for name, value in subject),
        hash=sha256(der).hexdigest(),
        ends=ssl.cert_time_to_seconds(fields["notAfter"]) if "notAfter" in fields else math.inf,
    )
