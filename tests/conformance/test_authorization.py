"""The same AuthorizationPolicies in Envoy and in pymesh-proxy, as pilot translates them: the same are let in.

Who is kept out is so by the same rule, the one that is written beside the question in authorization.yaml.
"""

import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import jwt
import msgspec
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3.listener_components_pb2 import FilterChain, FilterChainMatch
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.protobuf import json_format

from pymesh_controlplane.pilot import guards, listener_settings
from pymesh_controlplane.pilot.filters import Before, Where, inbound_http, tcp
from pymesh_controlplane.pilot.listener_settings import ListenerSettings
from pymesh_controlplane.pilot.messages import packed, socket_address
from pymesh_controlplane.pilot.reporting import Reporting
from tests.conformance.sides import CLIENT_TIMEOUT, Side, both_proxies
from tests.controlplane.pilot.security_worlds import OPA
from tests.controlplane.pilot.worlds import mesh_config, sidecar, world_of
from tests.support.certificates import Authority
from tests.support.echo import EchoServer
from tests.support.policy_peer import PolicyPeer, policy_peer
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.envoy

IDENTITIES = {
    "web": "cluster.local/ns/default/sa/web",
    "webby": "cluster.local/ns/default/sa/webby",
    "api": "cluster.local/ns/prod/sa/api",
    "own": "cluster.local/ns/foo/sa/own",
    "elsewhere": "cluster.local/ns/else/sa/web-2",
    "old": "old.domain/ns/default/sa/web",
    "stranger": "strange.domain/ns/default/sa/web",
}
ISSUER = "https://issuer.test"
TOKENS: dict[str, dict[str, object]] = {
    "ann": {"sub": "ann", "groups": ["users", "admins"], "address": {"country": "at"}},
    "bob": {"sub": "bob", "groups": ["users"]},
    "far": {"sub": "far", "groups": ["admins"], "address": {"country": "xx"}},
    "carl": {"sub": "carl"},
    "shopper": {"sub": "shopper", "aud": ["shop", "other"], "azp": "front"},
    "presenterless": {"sub": "presenterless", "aud": "shop"},
    "writer": {"sub": "writer", "scope": "read write"},
    "one": {"sub": "one", "groups": "developers"},
    "other": {"iss": "other", "sub": "anybody"},
    "nameless": {},
}
# Of the cases: by which of its addresses one is asked about requests, and about opaque bytes.
FOR_REQUESTS, FOR_BYTES = "127.1.1", "127.1.2"
LINE = "%REQ(X-TEST)%|%RESPONSE_CODE_DETAILS%"
LINE_TIMEOUT = 10.0  # seconds


class Ask(msgspec.Struct, frozen=True, rename={"as_": "as", "from_": "from"}, forbid_unknown_fields=True):
    lets: bool | str | tuple[int, int]
    as_: str = ""
    from_: str = "127.0.0.1"
    path: str = "/"
    method: str = "GET"
    host: str = "any.test"
    server: str = "any.test"
    token: str = ""
    opaque: bool = False
    headers: dict[str, str] = {}


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    policies: list[dict[str, object]]
    asks: list[Ask]
    mesh: str = ""
    tokens: bool = False


CASES = msgspec.convert(yaml.safe_load(Path(__file__).with_name("authorization.yaml").read_text()), list[Case])


class Told(NamedTuple):
    """What a client gets, and what the log says of it."""

    let_in: bool
    why: str = ""


def expected(ask: Ask) -> Told:
    if ask.lets is True:
        return Told(True, "via_upstream")
    if isinstance(ask.lets, str) and ask.lets != "none":
        return Told(False, ask.lets)
    rule = "none" if isinstance(ask.lets, str | bool) else "ns[foo]-policy[p{}]-rule[{}]".format(*ask.lets)
    return Told(False, f"rbac_access_denied_matched_policy[{rule}]")


# --- From policies to a configuration ---------------------------------------------------------------------------------


def key_set() -> tuple[ec.EllipticCurvePrivateKey, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    public = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return key, json.dumps({"keys": [{**public, "kid": "k", "alg": "ES256"}]})


KEY, KEYS = key_set()


def manifests(case: Case) -> str:
    documents = []
    for index, written in enumerate(case.policies):
        spec = dict(written)
        metadata: dict[str, object] = {"name": f"p{index}", "namespace": "foo"}
        if "dry" in spec:
            metadata["annotations"] = {"istio.io/dry-run": spec.pop("dry")}
        documents.append({"kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec})
    if case.tokens:
        rules = [{"issuer": issuer, "jwks": KEYS} for issuer in (ISSUER, "other")]
        metadata = {"name": "tokens", "namespace": "foo"}
        documents.append({"kind": "RequestAuthentication", "metadata": metadata, "spec": {"jwtRules": rules}})
    text = [json.dumps({"apiVersion": "security.istio.io/v1", **document}) for document in documents]
    return "\n---\n".join([*text, OPA]) + (mesh_config(case.mesh) if case.mesh else "")


def chains(number: int, case: Case, folder: Path) -> Iterator[FilterChain]:
    """A case's own filter chains: of requests and of opaque bytes, with mutual TLS and without."""
    world = world_of(manifests(case).replace("${LISTEN}", "65535"))
    node = sidecar(namespace="foo")
    before = guards.before(guards.SecurityPolicies(world).guards(node))
    listener = Listener()
    for place, handlers in handled(before):
        for transport in ("tls", "raw_buffer"):
            match = FilterChainMatch(transport_protocol=transport)
            match.prefix_ranges.add(address_prefix=f"{place}.{number}").prefix_len.value = 32
            added = listener.filter_chains.add(name=f"{number} {place} {transport}", filter_chain_match=match)
            added.filters.extend(handlers)
            if transport == "tls":
                added.transport_socket.CopyFrom(mutual(folder))
    reports = Reporting(file=f"{folder}/LISTEN.log", format=LINE)
    paths = listener_settings.listener_settings(node, world).paths
    listener_settings.put_into(listener, ListenerSettings(reports, paths))
    yield from listener.filter_chains


def handled(before: Before) -> tuple[tuple[str, list[object]], ...]:
    return (
        (FOR_REQUESTS, [inbound_http(Where(80, "a"), None, before.requests)]),
        (FOR_BYTES, [*before.connections, tcp("a", "a")]),
    )


def mutual(folder: Path) -> base_pb2.TransportSocket:
    context = DownstreamTlsContext()
    context.require_client_certificate.value = True
    certificate = context.common_tls_context.tls_certificates.add()
    certificate.certificate_chain.filename = str(folder / "server.pem")
    certificate.private_key.filename = str(folder / "server.key")
    context.common_tls_context.validation_context.trusted_ca.filename = str(folder / "root.pem")
    return base_pb2.TransportSocket(name="tls", typed_config=packed(context))


def bootstrap(folder: Path, authorizer: int) -> str:
    listener = Listener(name="all", address=socket_address("0.0.0.0", 0))
    listener.listener_filters.add(name="tls", typed_config=packed(TlsInspector()))
    listener.filter_chains.extend(chain.from_iterable(chains(n, case, folder) for n, case in enumerate(CASES)))
    found = json_format.MessageToDict(listener)
    found["address"]["socketAddress"]["portValue"] = 0
    text = json.dumps(found).replace('"portValue": 0', '"portValue": ${LISTEN}')
    text = text.replace("LISTEN.log", "${LISTEN}.log").replace("65535", "${LISTEN}")
    clusters = """{"name": "a", "loadAssignment": {"clusterName": "a", "endpoints": [{"lbEndpoints": [{"endpoint":
        {"address": {"socketAddress": {"address": "127.0.0.1", "portValue": ${A}}}}}]}]}},
        {"name": "outbound|9191||opa.default.svc.cluster.local", "typedExtensionProtocolOptions": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"explicitHttpConfig": {"http2ProtocolOptions": {}},
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"}},
        "loadAssignment": {"clusterName": "opa", "endpoints": [{"lbEndpoints": [{"endpoint":
        {"address": {"socketAddress": {"address": "127.0.0.1", "portValue": AUTHORIZER}}}}]}]}}"""
    clusters = clusters.replace("AUTHORIZER", str(authorizer))
    return f'{{"static_resources": {{"listeners": [{text}], "clusters": [{clusters}]}}}}'


# --- Asking -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authorization")
    authority = Authority()
    (folder / "root.pem").write_bytes(authority.root)
    for name, identity in {**IDENTITIES, "server": "cluster.local/ns/foo/sa/own"}.items():
        issued = authority.issue(uri=f"spiffe://{identity}")
        (folder / f"{name}.pem").write_bytes(issued.chain)
        (folder / f"{name}.key").write_bytes(issued.key)
    return folder


@pytest.fixture(scope="module")
def sides(folder: Path) -> Iterator[tuple[Side, Side]]:
    with (
        EchoServer("a") as a,
        policy_peer(peer=PolicyPeer({}, decide=decide)) as peer,
        both_proxies(folder, a, a, bootstrap(folder, peer.port)) as both,
    ):
        yield both


def decide(request: CheckRequest) -> CheckResponse:
    """Who is asked refuses what says so itself."""
    answer = CheckResponse()
    if "x-refuse" in request.attributes.request.http.headers:
        answer.status.code = 7
        answer.denied_response.status.code = 403  # type: ignore[assignment]  # an open enum
    return answer


def connect(side: Side, number: int, ask: Ask, folder: Path) -> socket.socket:
    place = FOR_BYTES if ask.opaque else FOR_REQUESTS
    source = (ask.from_, 0)
    plain = socket.create_connection((f"{place}.{number}", side.port), CLIENT_TIMEOUT, source_address=source)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not ask.as_:
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(folder / "root.pem")
    context.load_cert_chain(folder / f"{ask.as_}.pem", folder / f"{ask.as_}.key")
    return context.wrap_socket(plain, server_hostname=ask.server)


def request(side: Side, number: int, ask: Ask, label: str, folder: Path) -> bool:
    """Whether a request is let in."""
    connection = http.client.HTTPConnection(f"{FOR_REQUESTS}.{number}", side.port)
    connection.sock = connect(side, number, ask, folder)
    try:
        connection.putrequest(ask.method, ask.path, skip_host=True, skip_accept_encoding=True)
        claims = {"iss": ISSUER, "exp": int(time.time()) + 3600, **TOKENS.get(ask.token, {})}
        token = {"authorization": f"Bearer {jwt.encode(claims, KEY, 'ES256', {'kid': 'k'})}"} if ask.token else {}
        for name, value in {"host": ask.host, "x-test": label, **token, **ask.headers}.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    assert answer.status != 403 or body in {b"RBAC: access denied", b""}  # HEAD has none
    return answer.status == 200


def bytes_pass(side: Side, number: int, ask: Ask, folder: Path) -> bool:
    """Whether bytes get through: the upstream speaks HTTP, and says so."""
    with connect(side, number, ask, folder) as connection:
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            return connection.recv(100).startswith(b"HTTP/1.1 200")
        except (ConnectionError, ssl.SSLEOFError):
            return False


def test_both_let_in_the_same_for_the_same_reason(sides: tuple[Side, Side], folder: Path) -> None:
    asks = [(n, i, case, ask) for n, case in enumerate(CASES) for i, ask in enumerate(case.asks)]
    wanted = {f"{case.name}: {ask}": expected(ask) for _, _, case, ask in asks}
    assert len(wanted) == len(asks) >= 150, "each ask is another one"
    for side in sides:
        let_in = {}
        for number, index, case, ask in asks:
            label = f"{number}/{index}"
            passed = bytes_pass(side, number, ask, folder) if ask.opaque else request(side, number, ask, label, folder)
            let_in[f"{case.name}: {ask}"] = passed
        found = {}
        for number, index, case, ask in asks:
            name = f"{case.name}: {ask}"
            # What the log says of opaque bytes is held against Envoy in test_network_rbac.py.
            reason = wanted[name].why if ask.opaque else why(side, f"{number}/{index}", folder)
            found[name] = Told(let_in[name], reason)
        assert found == wanted, side.name


def why(side: Side, label: str, folder: Path) -> str:
    """What the log says of a request."""
    log = folder / f"{side.port}.log"

    def line() -> str:
        found = re.search(rf"^{label}\|(.*)$", log.read_text(), re.MULTILINE)
        return found[1] if found else ""

    return eventually_sync(line, what=f"a line for {label}", timeout=LINE_TIMEOUT)
