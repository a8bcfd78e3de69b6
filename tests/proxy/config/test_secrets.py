"""Secrets as they come from pilot: tried out, and never shown."""

import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from pymesh.errors import ConfigError
from pymesh_proxy.config.model import InlineCertificate, InlineRoots
from pymesh_proxy.config.secrets import compile_secret
from tests.support.certificates import Authority

AUTHORITY = Authority()
ISSUED, OTHER = AUTHORITY.issue(dns=("a",)), AUTHORITY.issue(dns=("a",))


def certificate(chain: bytes = ISSUED.chain, key: bytes = ISSUED.key) -> Secret:
    found = Secret(name="kubernetes://web")
    found.tls_certificate.certificate_chain.inline_bytes = chain
    found.tls_certificate.private_key.inline_bytes = key
    return found


def roots(pem: bytes) -> Secret:
    found = Secret(name="kubernetes://web-cacert")
    found.validation_context.trusted_ca.inline_bytes = pem
    return found


def test_certificates_and_roots() -> None:
    assert compile_secret(certificate()) == InlineCertificate(ISSUED.chain, ISSUED.key)
    assert compile_secret(roots(AUTHORITY.root)) == InlineRoots(AUTHORITY.root)


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (certificate(key=OTHER.key), "tls_certificate"),
        (certificate(chain=b"hello"), "tls_certificate"),
        (roots(b"hello"), "validation_context.trusted_ca"),
        (Secret(name="kubernetes://nothing"), "validation_context.trusted_ca"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_path(message: Secret, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_secret(message)
    assert caught.value.path.startswith(path)
    assert caught.value.resource == f"Secret {message.name}"
    assert "PRIVATE" not in str(caught.value)


def test_what_is_not_supported_is_refused() -> None:
    message = Secret(name="kubernetes://tickets")
    message.session_ticket_keys.keys.add(inline_bytes=b"x" * 80)
    with pytest.raises(ConfigError, match="session_ticket_keys"):
        compile_secret(message)
