"""Transport sockets: TLS in either direction, or none.

Certificates given in the resource itself are tried out here, so that a broken file is refused with its path now and not
discovered by the first connection.
"""

import os
import ssl
from typing import Final

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2 import RawBuffer
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    TlsCertificate,
    TlsParameters,
)
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext

from pymesh.errors import ConfigError
from pymesh.xds.check import join, unpack
from pymesh_proxy.config import matchers
from pymesh_proxy.config.fields import data, required
from pymesh_proxy.config.model import (
    InlineCertificate,
    InlineRoots,
    PeerValidation,
    SdsName,
    TlsClient,
    TlsServer,
)

_VERSIONS: Final = {TlsParameters.TLSv1_2: "TLSv1_2", TlsParameters.TLSv1_3: "TLSv1_3"}
_LOWEST: Final = "TLSv1_2"
_HIGHEST: Final = "TLSv1_3"
# One ALPN name, in bytes (RFC 7301 section 3.1).
_MAX_ALPN_BYTES: Final = 255


def server(socket: TransportSocket, path: str) -> TlsServer | None:
    """Downstream TLS, or None for a raw buffer.

    Raises:
        ConfigError: another kind of transport, a setting that contradicts itself, or a certificate that is not one.
    """
    here = join(path, "typed_config")
    message = unpack(socket.typed_config, here)
    if isinstance(message, RawBuffer):
        return None
    if not isinstance(message, DownstreamTlsContext):
        raise ConfigError("a listener takes a DownstreamTlsContext or a RawBuffer", path=here)
    common, here = message.common_tls_context, join(here, "common_tls_context")
    own = certificate(common, here)
    if own is None:
        raise ConfigError("a certificate is required: tls_certificates or an SDS name", path=here)
    lowest, highest = versions(common.tls_params, join(here, "tls_params"))
    peers = validation(common, here)
    if message.require_client_certificate.value and peers is None:
        raise ConfigError("require_client_certificate needs trusted roots to check it against", path=here)
    return TlsServer(own, peers, message.require_client_certificate.value, alpn(common, here), lowest, highest)


def client(socket: TransportSocket, path: str) -> TlsClient | None:
    """Upstream TLS, or None for a raw buffer; raises ConfigError as `server` does."""
    here = join(path, "typed_config")
    message = unpack(socket.typed_config, here)
    if isinstance(message, RawBuffer):
        return None
    if not isinstance(message, UpstreamTlsContext):
        raise ConfigError("a cluster takes an UpstreamTlsContext or a RawBuffer", path=here)
    common, inner = message.common_tls_context, join(here, "common_tls_context")
    lowest, highest = versions(common.tls_params, join(inner, "tls_params"))
    return TlsClient(
        certificate(common, inner), validation(common, inner), message.sni, alpn(common, inner), lowest, highest
    )


def certificate(common: CommonTlsContext, path: str) -> SdsName | InlineCertificate | None:
    """Our own certificate, if one is given."""
    given, named = common.tls_certificates, common.tls_certificate_sds_secret_configs
    if len(given) + len(named) > 1:
        raise ConfigError("more than one certificate is not supported", path=join(path, "tls_certificates"))
    if named:
        return SdsName(required(named[0].name, join(path, "tls_certificate_sds_secret_configs[0].name")))
    return inline_certificate(given[0], join(path, "tls_certificates[0]")) if given else None


def validation(common: CommonTlsContext, path: str) -> PeerValidation | None:
    """Whom to accept on the other end; None accepts anyone."""
    which = common.WhichOneof("validation_context_type")
    if which is None:
        return None
    here = join(path, which)
    if which == "validation_context_sds_secret_config":
        return PeerValidation(SdsName(required(common.validation_context_sds_secret_config.name, join(here, "name"))))
    if which == "validation_context":
        return _validation(common.validation_context, None, here)
    combined = common.combined_validation_context
    secret = required(
        combined.validation_context_sds_secret_config.name, join(here, "validation_context_sds_secret_config.name")
    )
    return _validation(combined.default_validation_context, SdsName(secret), join(here, "default_validation_context"))


def _validation(context: CertificateValidationContext, named: SdsName | None, path: str) -> PeerValidation | None:
    names = tuple(
        matchers.subject_alt_name(matcher, f"{path}.match_typed_subject_alt_names[{index}]")
        for index, matcher in enumerate(context.match_typed_subject_alt_names)
    ) + tuple(
        matchers.any_subject_alt_name(matcher, f"{path}.match_subject_alt_names[{index}]")
        for index, matcher in enumerate(context.match_subject_alt_names)
    )
    if context.HasField("trusted_ca"):
        if named is not None:
            raise ConfigError("roots are given here and by SDS", path=join(path, "trusted_ca"))
        return PeerValidation(inline_roots(context, join(path, "trusted_ca")), names)
    if named is not None:
        return PeerValidation(named, names)
    if names:
        raise ConfigError("names without trusted roots prove nothing; add trusted_ca", path=path)
    return None


def versions(parameters: TlsParameters, path: str) -> tuple[str, str]:
    """Lowest and highest TLS version."""
    lowest = _VERSIONS.get(parameters.tls_minimum_protocol_version, _LOWEST)
    highest = _VERSIONS.get(parameters.tls_maximum_protocol_version, _HIGHEST)
    if lowest > highest:
        raise ConfigError(f"the minimum {lowest} is above the maximum {highest}", path=path)
    return lowest, highest


def alpn(common: CommonTlsContext, path: str) -> tuple[str, ...]:
    """ALPN names, the preferred one first."""
    for index, name in enumerate(common.alpn_protocols):
        if not 0 < len(name.encode()) <= _MAX_ALPN_BYTES:
            raise ConfigError("an ALPN name has 1 to 255 bytes", path=f"{path}.alpn_protocols[{index}]")
    return tuple(common.alpn_protocols)


def inline_roots(context: CertificateValidationContext, path: str) -> InlineRoots:
    """The trusted roots in `context`, tried out; raises ConfigError as `server` does."""
    pem = data(context.trusted_ca, path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"not a PEM certificate: {_reason(error)}", path=path) from error
    return InlineRoots(pem)


def inline_certificate(message: TlsCertificate, path: str) -> InlineCertificate:
    """The chain and key in `message`, tried out; raises ConfigError as `server` does."""
    chain = data(message.certificate_chain, join(path, "certificate_chain"))
    key = data(message.private_key, join(path, "private_key"))
    # ssl loads a chain from files only; this one is in memory and has no name on any disk.
    descriptor = os.memfd_create("certificate")
    try:
        os.write(descriptor, chain + b"\n" + key)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"not a PEM certificate chain and its key: {_reason(error)}", path=path) from error
    finally:
        os.close(descriptor)
    return InlineCertificate(chain, key)


def _no_password() -> str:
    """Without it OpenSSL would ask on the terminal for the password of an encrypted key."""
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    return (error.reason or str(error)) if isinstance(error, ssl.SSLError) else str(error)
