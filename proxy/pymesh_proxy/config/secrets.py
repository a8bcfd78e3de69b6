"""envoy.extensions.transport_sockets.tls.v3.Secret → a certificate or trusted roots, tried out."""

from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from google.protobuf.message import DecodeError

from pymesh.errors import ConfigError
from pymesh.xds.check import check
from pymesh_proxy.config.model import InlineCertificate, InlineRoots
from pymesh_proxy.config.tls import inline_certificate, inline_roots


def secret_in(encoded: bytes) -> InlineCertificate | InlineRoots:
    """What the secret holds whose encoding this is; see `compile_secret`."""
    try:
        message = Secret.FromString(encoded)
    except DecodeError as error:
        raise ConfigError(f"is not a well-formed Secret: {error}") from error
    return compile_secret(message)


def compile_secret(message: Secret) -> InlineCertificate | InlineRoots:
    """What `message` holds.

    Raises:
        ConfigError: it cannot be used; neither path nor sentence shows any of it.
    """
    try:
        check(message)
        if message.WhichOneof("type") == "tls_certificate":
            return inline_certificate(message.tls_certificate, "tls_certificate")
        return inline_roots(message.validation_context, "validation_context.trusted_ca")
    except ConfigError as error:
        raise ConfigError(error.problem, path=error.path, resource=f"Secret {message.name}") from None
