"""TLS contexts from compiled configuration and the secrets of the moment."""

import ssl

from pymesh_proxy.config.model import PeerValidation, TlsClient, TlsServer
from pymesh_proxy.control.secrets import SecretStore


class TlsError(Exception):
    """A connection that TLS refuses; the text is what UPSTREAM_TRANSPORT_FAILURE_REASON shows."""


class TlsContexts:
    """SSL contexts by what they are made from. Ask anew for each connection: a rotated secret makes a new context."""

    def __init__(self, store: SecretStore) -> None:
        raise NotImplementedError

    def server(self, tls: TlsServer) -> ssl.SSLContext:
        """The context for one connection to accept; raises TlsError while a secret has not arrived."""
        raise NotImplementedError

    def client(self, tls: TlsClient, endpoint_key: str) -> ssl.SSLContext:
        """What to give `loop.create_connection(ssl=…, server_hostname="")` for one connection to the endpoint."""
        raise NotImplementedError

    def keep_session(self, tls: TlsClient, endpoint_key: str, ssl_object: ssl.SSLObject) -> None:
        """Remember the session of a connection that has carried its first response, to resume it next time."""
        raise NotImplementedError


def peer_identity(ssl_object: ssl.SSLObject) -> str:
    """The URI SAN of the peer's certificate, empty if it has none or showed no certificate. Read once a connection."""
    raise NotImplementedError


def verify_san(ssl_object: ssl.SSLObject, validation: PeerValidation | None) -> str:
    """The peer's identity, once its names satisfy `validation`; raises TlsError otherwise."""
    raise NotImplementedError


def failure_reason(error: BaseException) -> str:
    """What UPSTREAM_TRANSPORT_FAILURE_REASON shows for an exception of a handshake; empty if it is none of TLS's."""
    raise NotImplementedError
