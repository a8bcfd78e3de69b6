"""The bootstrap that an Envoy in a pod of the mesh starts with. Pure."""

import json
from pathlib import Path
from typing import Any, Final

from pymesh.errors import ConfigError
from pymesh.names import PORT_METRICS, PORT_READINESS, SDS_ROOT, SDS_WORKLOAD
from pymesh_proxy.control.node import Node
from pymesh_proxy.control.target import Target

# Names that pilot's resources refer to; Istio's agent calls them the same.
XDS_CLUSTER: Final = "xds-grpc"
SDS_CLUSTER: Final = "sds-grpc"
ADMIN_CLUSTER: Final = "admin"

_HTTP2: Final = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {
            # 5 minutes is how often a gRPC server tolerates pings (proposal A8).
            "http2_protocol_options": {"connection_keepalive": {"interval": "310s", "timeout": "20s"}}
        },
    }
}


def envoy_bootstrap(node: Node, discovery: Target, sds_socket: Path, admin_port: int) -> str:
    """The bootstrap as JSON: delta ADS from `discovery` over mTLS, with the certificate and roots from `sds_socket`.

    Envoy needs no token: it shows its certificate, which the agent has got with the token.

    Raises:
        ConfigError: `discovery` has no TLS.
    """
    if discovery.tls is None:
        raise ConfigError("Envoy proves who it is by its certificate: use pilot's TLS port, 15012", path="--discovery")
    bootstrap: dict[str, Any] = {
        "node": {
            "id": node.id,
            "cluster": node.cluster,
            "metadata": node.metadata,
        },
        "admin": {"address": _address("127.0.0.1", admin_port)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER}}],
            },
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {
            "clusters": [
                _xds_cluster(discovery, discovery.tls.server_name),
                sds_cluster(sds_socket),
                _admin_cluster(admin_port),
            ],
            # The admin port is for loopback only: kubelet and Prometheus get exactly one page each.
            "listeners": [
                _page_listener("readiness", PORT_READINESS, "/healthz/ready", "/ready"),
                _page_listener("metrics", PORT_METRICS, "/stats/prometheus", "/stats/prometheus"),
            ],
        },
    }
    return json.dumps(bootstrap, indent=2) + "\n"


def _xds_cluster(discovery: Target, server_name: str) -> dict[str, Any]:
    return {
        "name": XDS_CLUSTER,
        "type": "STRICT_DNS",
        "connect_timeout": "10s",
        "load_assignment": _load_assignment(XDS_CLUSTER, _address(discovery.host, discovery.port)),
        "typed_extension_protocol_options": _HTTP2,
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": server_name,
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "tls_certificate_sds_secret_configs": [sds_secret(SDS_WORKLOAD)],
                    "combined_validation_context": {
                        "default_validation_context": {
                            "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": server_name}}]
                        },
                        "validation_context_sds_secret_config": sds_secret(SDS_ROOT),
                    },
                },
            },
        },
    }


def sds_cluster(socket: Path) -> dict[str, Any]:
    """The cluster behind which the agent serves secrets."""
    return {
        "name": SDS_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": _load_assignment(SDS_CLUSTER, {"pipe": {"path": str(socket)}}),
        "typed_extension_protocol_options": _HTTP2,
    }


def _admin_cluster(port: int) -> dict[str, Any]:
    return {
        "name": ADMIN_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": _load_assignment(ADMIN_CLUSTER, _address("127.0.0.1", port)),
    }


def _page_listener(name: str, port: int, path: str, admin_path: str) -> dict[str, Any]:
    """A listener on all addresses that shows `admin_path` of the admin port as `path`, and nothing else of it."""
    http = "type.googleapis.com/envoy.extensions.filters."
    route = {"match": {"path": path}, "route": {"cluster": ADMIN_CLUSTER, "prefix_rewrite": admin_path}}
    manager = {
        "@type": http + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": http + "http.router.v3.Router"}}
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": name, "address": _address("0.0.0.0", port), "filter_chains": [chain]}  # noqa: S104 - kubelet asks the pod's address


def sds_secret(name: str) -> dict[str, Any]:
    """An SdsSecretConfig for the secret `name` of the agent."""
    return {
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": SDS_CLUSTER}}],
            },
        },
    }


def _load_assignment(cluster: str, address: dict[str, Any]) -> dict[str, Any]:
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
