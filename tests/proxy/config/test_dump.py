"""What the dump leaves out."""

from envoy.extensions.transport_sockets.tls.v3.common_pb2 import TlsCertificate

from pymesh_proxy.config.dump import REDACTED, as_data


def test_private_keys_are_left_out() -> None:
    certificate = TlsCertificate()
    certificate.private_key.inline_string = "secret"
    certificate.certificate_chain.inline_string = "chain"
    assert as_data(certificate) == {"private_key": REDACTED, "certificate_chain": {"inline_string": "chain"}}
