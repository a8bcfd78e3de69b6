"""TLS contexts from compiled configuration and the secrets of the moment.

Contexts are asked for anew for each connection, which is a dictionary lookup. A rotated secret drops the contexts made
from it: later handshakes use the new certificate and the new roots, connections that stand are not touched. Session
tickets belong to a context, so they die with it, and nobody resumes past a rotation.

Contexts are shared by all clusters that differ only in server name and accepted identities: an SSL context weighs tens
of kilobytes, and a mesh has hundreds of clusters but one certificate.
"""

import os
import ssl
import time
from collections import OrderedDict
from typing import Final, TypeAlias, cast

from pymesh_proxy.config.model import InlineCertificate, InlineRoots, PeerValidation, SdsName, TlsClient, TlsServer
from pymesh_proxy.control.secrets import Certificate, Roots, SecretStore
from pymesh_proxy.transport.peer_certificate import PeerCertificate, peer_certificate

# Contexts kept: one or two for the mesh's own certificate, the rest for certificates given in the configuration.
MAX_CONTEXTS: Final = 64
# Sessions kept for resumption, over all endpoints: 2 to 4 kB each.
MAX_SESSIONS: Final = 1024
# Session tickets that a server gives to each new client of TLS 1.3: one, whose use brings the next. To make one costs
# about a tenth of a handshake.
TICKETS: Final = 1

CertificateSource: TypeAlias = SdsName | InlineCertificate
RootsSource: TypeAlias = SdsName | InlineRoots
# What a context depends on. Server contexts and client contexts never share one.
_Key: TypeAlias = tuple[bool, CertificateSource | None, RootsSource | None, ssl.VerifyMode, tuple[str, ...], str, str]


class TlsError(Exception):
    """A connection that TLS refuses; the text is what UPSTREAM_TRANSPORT_FAILURE_REASON shows, in Envoy's words."""


class _Context:
    """An SSL context, and the client sessions that it can resume, by (endpoint, server name)."""

    __slots__ = ("sessions", "ssl")

    def __init__(self, context: ssl.SSLContext) -> None:
        self.ssl = context
        self.sessions: OrderedDict[tuple[str, str], ssl.SSLSession] = OrderedDict()


class _EndpointContext:
    """What an event loop needs of an SSL context, for one connection: the server name and the session are put in here,
    where the loop has no parameter for them (the session) or would need the right one from every caller (the name).
    """

    __slots__ = ("_context", "_key")

    def __init__(self, context: _Context, key: tuple[str, str]) -> None:
        self._context = context
        self._key = key

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> ssl.SSLObject:
        """The TLS machine of the connection; the loop calls this."""
        return self._context.ssl.wrap_bio(
            incoming,
            outgoing,
            server_side=server_side,
            server_hostname=self._key[1] or None,
            session=self._context.sessions.get(self._key),
        )


class TlsContexts:
    """The contexts in use, made from what `store` holds."""

    def __init__(self, store: SecretStore) -> None:
        self._store = store
        self._contexts: OrderedDict[_Key, _Context] = OrderedDict()
        store.subscribe(self._rotated)

    def server(self, tls: TlsServer) -> ssl.SSLContext:
        """The context to accept one connection with.

        Raises:
            TlsError: a secret has not arrived yet, or is no usable certificate.
        """
        verify = ssl.CERT_NONE
        if tls.validation is not None:
            verify = ssl.CERT_REQUIRED if tls.require_client_certificate else ssl.CERT_OPTIONAL
        elif tls.require_client_certificate:
            raise TlsError("TLS_error: a client certificate is required, but no validation context says whom to trust")
        roots = tls.validation.roots if tls.validation else None
        key = (True, tls.certificate, roots, verify, tls.alpn, tls.minimum_version, tls.maximum_version)
        return self._get(key).ssl

    def client(self, tls: TlsClient, endpoint_key: str) -> ssl.SSLContext:
        """What to pass as `ssl` to `create_connection` for one connection to the endpoint; `server_hostname` is "".

        The server's chain is verified in the handshake; call `verify_san` after it.

        Raises:
            TlsError: a secret has not arrived yet, or is no usable certificate.
        """
        context = self._get(_client_key(tls))
        # Both event loops only ever call wrap_bio (proved by the tests on both); see _EndpointContext.
        return cast("ssl.SSLContext", _EndpointContext(context, (endpoint_key, tls.sni)))

    def keep_session(self, tls: TlsClient, endpoint_key: str, ssl_object: ssl.SSLObject) -> None:
        """Remember the session of a connection, to resume it at the next one to the same endpoint.

        Call it after the first bytes of the server: in TLS 1.3 its tickets come with them.
        """
        context = self._contexts.get(_client_key(tls))
        session = ssl_object.session
        if context is None or session is None or ssl_object.context is not context.ssl:
            return  # rotated meanwhile
        context.sessions[endpoint_key, tls.sni] = session
        context.sessions.move_to_end((endpoint_key, tls.sni))
        if len(context.sessions) > MAX_SESSIONS:
            context.sessions.popitem(last=False)

    def _get(self, key: _Key) -> _Context:
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = _Context(self._make(key))
            if len(self._contexts) > MAX_CONTEXTS:
                self._contexts.popitem(last=False)
        return context

    def _rotated(self, name: str) -> None:
        """The secret `name` has changed: what was made from it is of no use any more."""
        for key in [key for key in self._contexts if SdsName(name) in key[1:3]]:
            del self._contexts[key]

    def _make(self, key: _Key) -> ssl.SSLContext:
        server, certificate, roots, verify, alpn, minimum, maximum = key
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = verify
        context.minimum_version = ssl.TLSVersion[minimum]
        context.maximum_version = ssl.TLSVersion[maximum]
        if server:
            context.num_tickets = TICKETS
        if alpn:
            context.set_alpn_protocols(list(alpn))
        try:
            if roots is not None:
                context.load_verify_locations(cadata=self._roots(roots).decode("ascii", "ignore"))
            if certificate is not None:
                _load_certificate(context, self._certificate(certificate))
        except (ssl.SSLError, ValueError) as error:
            raise TlsError(f"TLS_error: a certificate, its key or the roots cannot be used: {error}") from error
        return context

    def _certificate(self, source: CertificateSource) -> Certificate | InlineCertificate:
        if isinstance(source, InlineCertificate):
            return source
        secret = self._store.get(source.name)
        if not isinstance(secret, Certificate):
            raise TlsError(_NO_SECRET)
        return secret

    def _roots(self, source: RootsSource) -> bytes:
        if isinstance(source, InlineRoots):
            return source.pem
        secret = self._store.get(source.name)
        if not isinstance(secret, Roots):
            raise TlsError(_NO_SECRET)
        return secret.pem


def _client_key(tls: TlsClient) -> _Key:
    """Neither the server name nor the accepted identities are in it: those are matters of the single connection."""
    roots = tls.validation.roots if tls.validation else None
    verify = ssl.CERT_REQUIRED if tls.validation else ssl.CERT_NONE
    return (False, tls.certificate, roots, verify, tls.alpn, tls.minimum_version, tls.maximum_version)


def _load_certificate(context: ssl.SSLContext, certificate: Certificate | InlineCertificate) -> None:
    """Load chain and key. The ssl module reads files only: a nameless one in memory keeps the key off the disk."""
    descriptor = os.memfd_create("certificate")
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(certificate.chain + b"\n" + certificate.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def check_names(certificate: PeerCertificate, validation: PeerValidation | None) -> None:
    """See that one of the peer's names satisfies `validation`, and that its certificate has not ended meanwhile.

    OpenSSL looks at the time when a certificate is shown, and never again where that session is resumed.

    Raises:
        TlsError: none does, or it has.
    """
    if certificate.ends < time.time():
        raise TlsError(_reason("SSLV3_ALERT_CERTIFICATE_EXPIRED"))
    if not accepts(validation, certificate):
        detail = f"SAN matcher, certificate SANs are [{', '.join(certificate.names)}]"
        raise TlsError(_reason("CERTIFICATE_VERIFY_FAILED", f"verify cert failed: {detail}"))


def accepts(validation: PeerValidation | None, certificate: PeerCertificate) -> bool:
    """Whether one of the peer's names satisfies `validation`, or none has to."""
    if validation is None or not validation.san_matchers:
        return True
    return any(matches(name) for name in certificate.names for matches in validation.san_matchers)


def verify_san(ssl_object: ssl.SSLObject, validation: PeerValidation | None) -> str:
    """The identity in the peer's certificate, once its names are checked. Raises TlsError, as `check_names`."""
    certificate = peer_certificate(ssl_object)
    check_names(certificate, validation)
    return certificate.identity


# Envoy's words, as its access log writes them (seen in 1.40): BoringSSL's number for the reason, no blanks.
_NO_SECRET: Final = "TLS_error:_Secret_is_not_supplied_by_SDS"
_SSL_LIBRARY: Final = 16 << 24
_REASONS: Final = {
    "CERTIFICATE_VERIFY_FAILED": 125,
    "UNSUPPORTED_PROTOCOL": 240,
    "WRONG_VERSION_NUMBER": 247,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": 1040,
    "SSLV3_ALERT_BAD_CERTIFICATE": 1042,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": 1045,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": 1046,
    "TLSV1_ALERT_UNKNOWN_CA": 1048,
    "TLSV1_ALERT_PROTOCOL_VERSION": 1070,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": 1116,
}


def _reason(name: str, detail: str = "") -> str:
    number = _SSL_LIBRARY + _REASONS.get(name, 0)
    parts = ["TLS_error:|" + str(number), "SSL routines", "OPENSSL_internal", name, detail, "TLS_error_end"]
    return ":".join(part for part in parts if part).replace(" ", "_")


def failure_reason(error: BaseException) -> str:
    """What UPSTREAM_TRANSPORT_FAILURE_REASON shows for an exception of a handshake; empty if it is none of TLS's."""
    if isinstance(error, TlsError):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        detail = f"verify cert failed: X509_verify_cert: certificate verification error: {error.verify_message}"
        return _reason("CERTIFICATE_VERIFY_FAILED", detail)
    return _reason(error.reason or "UNKNOWN") if isinstance(error, ssl.SSLError) else ""
