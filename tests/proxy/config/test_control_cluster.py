"""The cluster behind `ads_config`: what is taken from it, and that nothing of it is passed over."""

from pathlib import Path

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap

from pymesh.errors import ConfigError
from pymesh_proxy.config.snapshot import Configuration
from pymesh_proxy.control.plane import ads_target
from pymesh_proxy.control.target import ServerTls, Target
from pymesh_proxy.upstream.registry import EndpointRegistry
from tests.support.certificates import Authority
from tests.support.xds import message

TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
RAW = "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
ENDPOINT = "{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 15012}}}}"
CONTEXT = "static_resources.clusters[0].transport_socket.typed_config."


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("roots") / "root.pem"
    file.write_bytes(Authority().root)
    return file


def bootstrap(more: str, endpoints: str = ENDPOINT) -> Bootstrap:
    text = f"""{{
      dynamic_resources: {{ads_config: {{api_type: DELTA_GRPC, grpc_services: [{{envoy_grpc: {{cluster_name: p}}}}]}}}},
      static_resources: {{clusters: [
        {{name: p, load_assignment: {{cluster_name: p, endpoints: [{{lb_endpoints: [{endpoints}]}}]}} {more}}}]}}}}"""
    return message(Bootstrap, text)


def socket(kind: str, context: str = "") -> str:
    return f", transport_socket: {{name: tls, typed_config: {{'@type': {kind} {context}}}}}"


def trusting(roots: Path, more: str = "", sni: str = ", sni: pilot") -> str:
    context = f"{{trusted_ca: {{filename: {roots}}}}}"
    return socket(TLS, f"{sni}, common_tls_context: {{validation_context: {context} {more}}}")


def target(found: Bootstrap) -> Target:
    """Where ADS goes, once the bootstrap is accepted."""
    Configuration(EndpointRegistry(), lambda: 0.0).apply_bootstrap(found)
    return ads_target(found, found.dynamic_resources.ads_config)


def test_plaintext_only_where_it_is_written() -> None:
    for more in ("", socket(RAW)):
        assert target(bootstrap(more)) == Target("127.0.0.1", 15012)


def test_tls_by_a_root_and_a_name(roots: Path) -> None:
    expected = Target("127.0.0.1", 15012, tls=ServerTls(roots, "pilot"))
    assert target(bootstrap(trusting(roots))) == expected
    assert target(bootstrap(trusting(roots, ", alpn_protocols: [h2]"))) == expected


@pytest.mark.parametrize(
    ("more", "path", "problem"),
    [
        (lambda roots: trusting(roots, sni=""), CONTEXT + "sni", "is required"),
        (lambda _: socket(TLS, ", sni: pilot"),
         CONTEXT + "common_tls_context.validation_context.trusted_ca.filename", "is required"),
        (lambda roots: trusting(roots, ", alpn_protocols: [http/1.1]"),
         CONTEXT + "common_tls_context.alpn_protocols", "h2"),
        (lambda roots: trusting(roots, ", tls_params: {tls_minimum_protocol_version: TLSv1_3}"),
         CONTEXT + "common_tls_context.tls_params.tls_minimum_protocol_version", "not supported"),
        (lambda roots: trusting(roots, ", tls_certificate_sds_secret_configs: [{name: default}]"),
         CONTEXT + "common_tls_context.tls_certificate_sds_secret_configs", "not supported"),
        (lambda _: ", transport_socket_matches: [{name: a, transport_socket: "
                   f"{{name: raw, typed_config: {{'@type': {RAW}}}}}}}]",
         "static_resources.clusters[0].transport_socket_matches", "transport_socket only"),
    ],
)  # fmt: skip
def test_what_would_be_passed_over_is_refused(more, path: str, problem: str, roots: Path) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        target(bootstrap(more(roots)))
    assert caught.value.path == path


@pytest.mark.parametrize("endpoints", ["", f"{ENDPOINT}, {ENDPOINT.replace('15012', '15013')}"])
def test_one_endpoint(endpoints: str) -> None:
    with pytest.raises(ConfigError, match="exactly one endpoint") as caught:
        target(bootstrap("", endpoints))
    assert caught.value.path == "static_resources.clusters[0].load_assignment.endpoints"
