"""Transport sockets, with real certificates."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from envoy.config.core.v3.base_pb2 import TransportSocket

from pymesh.errors import ConfigError
from pymesh_proxy.config import tls
from pymesh_proxy.config.model import InlineCertificate, InlineRoots, PeerValidation, SdsName, TlsClient, TlsServer
from tests.support.certificates import Authority
from tests.support.xds import message

CONTEXT = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
SDS = "{name: default, sds_config: {ads: {}}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cert.pem and key.pem that belong together, root.pem, other.pem (another's key), locked.pem (encrypted key)."""
    target = tmp_path_factory.mktemp("certificates")
    authority = Authority()
    mine, other = authority.issue(dns=("a.example",)), authority.issue(dns=("b.example",))
    files = {"cert.pem": mine.chain, "key.pem": mine.key, "root.pem": authority.root, "other.pem": other.key}
    files["locked.pem"] = serialization.load_pem_private_key(mine.key, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    files["garbage.pem"] = b"\xff\x00 garbage"
    for name, content in files.items():
        (target / name).write_bytes(content)
    return target


def server(common: str, rest: str = "") -> TlsServer:
    socket = message(
        TransportSocket,
        f"{{typed_config: {{'@type': {CONTEXT}.DownstreamTlsContext, common_tls_context: {{{common}}} {rest}}}}}",
    )
    found = tls.server(socket, "t")
    assert found is not None
    return found


def client(common: str, rest: str = "") -> TlsClient:
    socket = message(
        TransportSocket,
        f"{{typed_config: {{'@type': {CONTEXT}.UpstreamTlsContext, common_tls_context: {{{common}}} {rest}}}}}",
    )
    found = tls.client(socket, "t")
    assert found is not None
    return found


def pair(folder: Path, chain: str = "cert.pem", key: str = "key.pem") -> str:
    return (
        f"tls_certificates: [{{certificate_chain: {{filename: {folder / chain}}}, "
        f"private_key: {{filename: {folder / key}}}}}]"
    )


def test_certificates_and_roots_from_files(folder: Path) -> None:
    found = server(
        f"{pair(folder)}, validation_context: {{trusted_ca: {{filename: {folder}/root.pem}}}}, alpn_protocols: [istio]",
        ", require_client_certificate: true",
    )
    own = InlineCertificate((folder / "cert.pem").read_bytes(), (folder / "key.pem").read_bytes())
    roots = InlineRoots((folder / "root.pem").read_bytes())
    assert found == TlsServer(own, PeerValidation(roots), True, ("istio",))
    assert "PRIVATE" not in repr(found), "a key must not end up in a log"


def test_secrets_by_name_and_matchers_of_the_mesh() -> None:
    found = client(
        f"""tls_certificate_sds_secret_configs: [{SDS}], alpn_protocols: [istio-http/1.1, istio],
        combined_validation_context: {{
          default_validation_context: {{match_typed_subject_alt_names: [
            {{san_type: URI, matcher: {{exact: spiffe://cluster.local/ns/default/sa/reviews}}}}]}},
          validation_context_sds_secret_config: {{name: ROOTCA}}}}""",
        ", sni: outbound_.80",
    )
    assert (found.certificate, found.sni, found.alpn) == (
        SdsName("default"), "outbound_.80", ("istio-http/1.1", "istio"),
    )  # fmt: skip
    assert found.validation is not None
    assert found.validation.roots == SdsName("ROOTCA")
    (accepts,) = found.validation.san_matchers
    assert accepts("spiffe://cluster.local/ns/default/sa/reviews")
    assert not accepts("spiffe://cluster.local/ns/default/sa/ratings")


def test_a_client_without_validation_trusts_anyone() -> None:
    assert client("") == TlsClient()


def test_versions() -> None:
    found = client("tls_params: {tls_minimum_protocol_version: TLSv1_3}")
    assert (found.minimum_version, found.maximum_version) == ("TLSv1_3", "TLSv1_3")


def test_a_raw_buffer_is_no_tls() -> None:
    raw = "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
    socket = message(TransportSocket, f"{{typed_config: {{'@type': {raw}}}}}")
    assert tls.server(socket, "") is None
    assert tls.client(socket, "") is None


NAMED = f"tls_certificate_sds_secret_configs: [{SDS}]"
ROOTS_TWICE = """{default_validation_context: {trusted_ca: {inline_string: x}},
                  validation_context_sds_secret_config: {name: R}}"""
COMMON = "t.typed_config.common_tls_context"


@pytest.mark.parametrize(
    ("chain", "key", "path", "problem"),
    [
        ("cert.pem", "other.pem", "tls_certificates[0]", "KEY_VALUES_MISMATCH"),
        ("garbage.pem", "key.pem", "tls_certificates[0]", "not a PEM certificate chain"),
        ("cert.pem", "garbage.pem", "tls_certificates[0]", "not a PEM certificate chain"),
        ("cert.pem", "locked.pem", "tls_certificates[0]", "the key is encrypted"),
        ("none.pem", "key.pem", "tls_certificates[0].certificate_chain.filename", "No such file"),
        ("cert.pem", "none.pem", "tls_certificates[0].private_key.filename", "No such file"),
    ],
)
def test_broken_certificates_are_refused(folder: Path, chain: str, key: str, path: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        server(pair(folder, chain, key))
    assert caught.value.path == f"{COMMON}.{path}"


@pytest.mark.parametrize("name", ["garbage.pem", "key.pem"])
def test_broken_roots_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="not a PEM certificate") as caught:
        client(f"validation_context: {{trusted_ca: {{filename: {folder / name}}}}}")
    assert caught.value.path == f"{COMMON}.validation_context.trusted_ca"


@pytest.mark.parametrize(
    ("common", "rest", "path", "problem"),
    [
        ("", "", COMMON, "a certificate is required"),
        (f"tls_certificate_sds_secret_configs: [{SDS}, {SDS}]", "", f"{COMMON}.tls_certificates", "more than one"),
        ("tls_certificate_sds_secret_configs: [{}]", "", f"{COMMON}.tls_certificate_sds_secret_configs[0].name",
         "is required"),
        (NAMED, ", require_client_certificate: true", COMMON, "trusted roots"),
        (f"{NAMED}, alpn_protocols: ['']", "", f"{COMMON}.alpn_protocols[0]",
         "1 to 255 bytes"),
        (f"{NAMED}, tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_2}}", "",
         f"{COMMON}.tls_params", "above the maximum"),
        (f"{NAMED}, validation_context: {{match_subject_alt_names: [{{exact: a}}]}}",
         "", f"{COMMON}.validation_context", "prove nothing"),
        (f"{NAMED}, validation_context_sds_secret_config: {{}}", "",
         f"{COMMON}.validation_context_sds_secret_config.name", "is required"),
        (f"{NAMED}, combined_validation_context: {ROOTS_TWICE}", "",
         f"{COMMON}.combined_validation_context.default_validation_context.trusted_ca", "here and by SDS"),
    ],
)  # fmt: skip
def test_refusals(common: str, rest: str, path: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        server(common, rest)
    assert caught.value.path == path


def test_each_side_has_its_own_kind_of_context() -> None:
    upstream = message(TransportSocket, f"{{typed_config: {{'@type': {CONTEXT}.UpstreamTlsContext}}}}")
    downstream = message(TransportSocket, f"{{typed_config: {{'@type': {CONTEXT}.DownstreamTlsContext}}}}")
    with pytest.raises(ConfigError, match="a listener takes"):
        tls.server(upstream, "")
    with pytest.raises(ConfigError, match="a cluster takes"):
        tls.client(downstream, "")
