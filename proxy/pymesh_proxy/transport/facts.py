"""What is known of a downstream connection before its first byte of payload."""

from dataclasses import dataclass, field


@dataclass(slots=True)  # nobody changes it, but to freeze it triples what it costs each connection
class Facts:
    """A downstream connection, as seen when it was accepted. Every request on it has this same object.

    Attributes:
        direction: "inbound", "outbound" (a gateway's too, as in Istio) or "unspecified".
        remote, local, original: "ip:port"; `original` is empty where the connection was not redirected.
        original_destination: (ip, port) for ORIGINAL_DST clusters.
        tls: the connection is encrypted to us.
        peer, own: SPIFFE identities; empty on plaintext.
        peer_certificate_hash: SHA-256 of the peer's certificate, hex, for x-forwarded-client-cert.
        peer_subject, peer_dns: the peer certificate's subject in RFC 2253 form and its DNS names, for the same.
        sni: server name asked for.
        decided: what follows from all of this for every request, found out with the first one, by whoever asked.
    """

    direction: str
    remote: str
    local: str
    original: str = ""
    original_destination: tuple[str, int] | None = None
    tls: bool = False
    peer: str = ""
    own: str = ""
    peer_certificate_hash: str = ""
    peer_subject: str = ""
    peer_dns: tuple[str, ...] = ()
    sni: str = ""
    decided: dict[object, object] = field(default_factory=dict, init=False, compare=False, repr=False)
