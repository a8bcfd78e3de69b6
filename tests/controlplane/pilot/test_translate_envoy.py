"""A real Envoy takes what pilot makes: every listener, route, cluster and endpoint assignment of a node."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf import json_format
from google.protobuf.message import Message

from pymesh.xds import types
from tests.controlplane.galley.certificates import AUTHORITY, WEB, tls_secret
from tests.controlplane.pilot.cluster_worlds import CLUSTER
from tests.controlplane.pilot.gateway_worlds import EVERY_SERVER, router
from tests.controlplane.pilot.reporting_worlds import REPORTED
from tests.controlplane.pilot.security_worlds import ASKED, FETCHED, FULL, OPA, authentication, policy
from tests.controlplane.pilot.worlds import (
    BOOKINFO,
    EGRESS,
    EVERYTHING,
    REGISTRY_ONLY,
    Messages,
    resources_for,
    sidecar,
    world_of,
)

pytestmark = pytest.mark.envoy

TOKENS = authentication("tokens", f"{{jwtRules: [{FULL}, {FETCHED}]}}")

ENVOY = Path(os.environ.get("ENVOY", Path(__file__).parents[3] / ".venv-envoy/bin/envoy"))

GRPC = {"explicit_http_config": {"http2_protocol_options": {}}}
HELPERS = [
    {
        "name": name,
        "connect_timeout": "1s",
        "type": "STATIC",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": types.HTTP_PROTOCOL_OPTIONS, **GRPC}
        },
    }
    for name in ("xds-grpc", "sds-grpc")
]


def as_json(message: Message) -> dict[str, object]:
    return dict(json_format.MessageToDict(message, preserving_proto_field_name=True))


def with_routes_inline(listener: Message, resources: Messages) -> Listener:
    """The listener with its route configurations in it, where the validation looks at them."""
    copy = Listener()
    copy.CopyFrom(listener)
    for chain in [*copy.filter_chains, copy.default_filter_chain]:
        for item in chain.filters:
            if item.typed_config.type_url == types.HTTP_CONNECTION_MANAGER:
                manager = HttpConnectionManager.FromString(item.typed_config.value)
                if manager.HasField("rds"):
                    manager.route_config.CopyFrom(resources[types.ROUTE][manager.rds.route_config_name])
                item.typed_config.Pack(manager)
    return copy


def bootstrap(resources: Messages) -> dict[str, object]:
    assignments = [
        Cluster(name=f"endpoints of {name}", type=Cluster.STATIC, load_assignment=assignment)
        for name, assignment in resources[types.ENDPOINT].items()
    ]
    clusters = [as_json(cluster) for cluster in [*resources[types.CLUSTER].values(), *assignments]]
    listeners = [as_json(with_routes_inline(item, resources)) for item in resources[types.LISTENER].values()]
    ads = {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
    }
    return {
        "node": {"id": "test", "cluster": "test"},
        "dynamic_resources": {"ads_config": ads},
        "static_resources": {
            "clusters": [*clusters, *HELPERS],
            "listeners": listeners,
            "secrets": [as_json(secret) for secret in resources.get(types.SECRET, {}).values()],
        },
    }


@pytest.mark.parametrize(
    ("text", "ip", "pod"),
    [
        (BOOKINFO, "10.244.0.10", "productpage-1"),
        (EVERYTHING, "10.244.0.10", "productpage-1"),
        (EVERYTHING, "10.244.0.11", "reviews-v1"),
        (EGRESS + REGISTRY_ONLY, "10.244.0.11", "reviews-v1"),
        (BOOKINFO + REPORTED + TOKENS, "10.244.0.10", "productpage-1"),
        (CLUSTER, "10.244.0.10", "productpage-1"),
        ("", "10.244.0.99", "stranger"),
    ],
    ids=["bookinfo", "everything", "strict", "egress", "reported, tokens", "cluster", "empty-world"],
)
def test_envoy_accepts_everything_that_a_sidecar_is_sent(tmp_path: Path, text: str, ip: str, pod: str) -> None:
    resources = resources_for(sidecar(ip, pod), world_of(text))
    assert validated(resources, tmp_path) == ""


def test_envoy_accepts_what_policies_become(tmp_path: Path) -> None:
    """Who is asked by gRPC, about requests and connections, or by HTTP; and what is noted, denied, allowed, tried."""
    text = BOOKINFO + "---" + OPA + ASKED
    for name, spec in (
        ("grpc", "{action: CUSTOM, provider: {name: opa}, rules: [{}]}"),
        ("web", "{action: CUSTOM, provider: {name: web}, rules: [{}]}"),
        ("gone", "{action: CUSTOM, provider: {name: gone}, rules: [{}]}"),
        ("noted", "{action: AUDIT, rules: [{}]}"),
        ("denied", "{action: DENY, rules: [{from: [{source: {notNamespaces: [default]}}]}]}"),
        ("nothing", "{}"),
    ):
        text += policy(name, spec)
    text += policy("tried", "{}", dry="true") + policy("denied-dry", "{action: DENY, rules: [{}]}", dry="true")
    resources = resources_for(sidecar("10.244.0.11", "reviews-v1", user_agent="envoy"), world_of(text))
    assert validated(resources, tmp_path) == ""


def test_envoy_accepts_everything_that_a_gateway_is_sent(tmp_path: Path) -> None:
    text = BOOKINFO + EVERY_SERVER + tls_secret(WEB, roots=AUTHORITY.root)
    resources = resources_for(router(service_account="default"), world_of(text))
    assert len(resources[types.LISTENER]) == 3
    assert validated(resources, tmp_path) == ""


def validated(resources: Messages, tmp_path: Path) -> str:
    """What Envoy has against `resources`; empty if it takes them."""
    config = tmp_path / "bootstrap.json"
    config.write_text(json.dumps(bootstrap(resources)))
    command = [str(ENVOY), "--mode", "validate", "-c", str(config), "-l", "warning", "--disable-hot-restart"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return "" if result.returncode == 0 else result.stdout + result.stderr
