"""Names, ports and headers that the parts of the mesh, and the tools around it, agree on.

Istio's name is kept wherever a tool or a person depends on it: metrics, annotations, cluster names, ports.
"""

import ipaddress
import re
from typing import Final, NamedTuple

TRUST_DOMAIN: Final = "cluster.local"
CLUSTER_DOMAIN: Final = "cluster.local"
SYSTEM_NAMESPACE: Final = "pymesh-system"
CLUSTER_ID: Final = "Kubernetes"  # Istio's name for the one cluster of a mesh that has one
# The control plane's Deployment, account and Lease; on one machine its pod, too.
CONTROL_PLANE: Final = "pymesh-controlplane"
# The mesh's root certificates, in every namespace. Not Istio's name: an istiod would write its own root there.
ROOT_CONFIG_MAP: Final = "pymesh-ca-root-cert"
ROOT_FILE: Final = "root-cert.pem"
# The Secrets with the CA's key: as people bring it along, by Istio's name, and as citadel makes it.
CA_SECRET_PLUGGED: Final = "cacerts"
CA_SECRET_OWN: Final = "pymesh-ca"

PROXY_UID: Final = 1337
PORT_ADMIN: Final = 15000
PORT_OUTBOUND: Final = 15001
PORT_INBOUND: Final = 15006
PORT_READINESS: Final = 15021
PORT_METRICS: Final = 15090
PORT_XDS_PLAINTEXT: Final = 15010
PORT_XDS_TLS: Final = 15012
PORT_PILOT_HTTP: Final = 15014
PORT_WEBHOOK: Final = 15017
# What a sidecar asks its app in the kubelet's stead (pymesh.app_probes), in its environment.
APP_PROBES_VARIABLE: Final = "PYMESH_APP_PROBES"
# Where a sidecar asks the app's own probes for the kubelet; Istio's agent has it.
PORT_APP_HEALTH: Final = 15020
# gRPC of the policy and telemetry services over the mesh's mutual TLS; Istio's Mixer had it.
PORT_MESH_GRPC: Final = 9091

# Inbound traffic is dialled from here, so that the redirect can tell it from the app calling itself.
INBOUND_SOURCE_V4: Final = "127.0.0.6"
INBOUND_SOURCE_V6: Final = "::6"

PASSTHROUGH_CLUSTER: Final = "PassthroughCluster"
BLACK_HOLE_CLUSTER: Final = "BlackHoleCluster"
INBOUND_PASSTHROUGH_CLUSTER: Final = "InboundPassthroughCluster"

TOKEN_AUDIENCE: Final = "istio-ca"
TOKEN_PATH: Final = "/var/run/secrets/tokens/istio-token"
ROOT_CERT_PATH: Final = f"/var/run/secrets/istio/{ROOT_FILE}"
SDS_SOCKET_PATH: Final = "/var/run/secrets/workload-spiffe-uds/socket"
POD_LABELS_PATH: Final = "/etc/pymesh/pod/labels"
SDS_WORKLOAD: Final = "default"
SDS_ROOT: Final = "ROOTCA"
# Where citadel pushes the latter (`citadel/bundles.py`), and in which member of a node's metadata a workload says which
# root its own certificate leads to: SHA-256, hex.
SDS_SERVICE: Final = "envoy.service.secret.v3.SecretDiscoveryService"
SDS_STREAM: Final = "StreamSecrets"
METADATA_CERTIFICATE_ROOT: Final = "CERTIFICATE_ROOT"
# Prefix of the secrets that gateways get from pilot.
SDS_KUBERNETES: Final = "kubernetes://"

# ALPN that marks a TLS connection as the mesh's own; any other TLS belongs to the application.
ALPN_MESH_TCP: Final = ("istio-peer-exchange", "istio")
ALPN_MESH_HTTP1: Final = ("istio-http/1.1", "istio")
ALPN_MESH_PREFIX: Final = "istio"

LABEL_TLS_MODE: Final = "security.istio.io/tlsMode"
LABEL_CANONICAL_NAME: Final = "service.istio.io/canonical-name"
LABEL_CANONICAL_REVISION: Final = "service.istio.io/canonical-revision"
# On nodes: where they stand, from the widest to the narrowest.
LABELS_LOCALITY: Final = (
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
)

USER_AGENT: Final = "pymesh-proxy"


class ClusterName(NamedTuple):
    """The parts of `outbound|9080|v1|reviews.default.svc.cluster.local`."""

    direction: str
    port: int
    subset: str
    host: str

    def __str__(self) -> str:
        return f"{self.direction}|{self.port}|{self.subset}|{self.host}"

    @classmethod
    def parse(cls, name: str) -> "ClusterName | None":
        """The parts of `name`, or None if it is not in this form (`PassthroughCluster`, a user's own name)."""
        parts = name.split("|")
        if len(parts) != 4 or not parts[1].isdecimal():
            return None
        return cls(parts[0], int(parts[1]), parts[2], parts[3])


def outbound_cluster(port: int, host: str, subset: str = "") -> str:
    """Name of the cluster for `host:port`, narrowed to `subset` where one is given."""
    return f"outbound|{port}|{subset}|{host}"


def inbound_cluster(port: int) -> str:
    """Name of the cluster for the app's own `port`."""
    return f"inbound|{port}||"


def service_sni(cluster: ClusterName) -> str:
    """SNI that a sidecar sends for `cluster`: `outbound_.9080_.v1_.reviews.default.svc.cluster.local`.

    Without a subset it is `outbound_.9080_._.reviews...`, as in Istio.
    """
    return f"{cluster.direction}_.{cluster.port}_.{cluster.subset}_.{cluster.host}"


def service_host(name: str, namespace: str) -> str:
    """Fully qualified name of the Kubernetes service `name` in `namespace`."""
    return f"{name}.{namespace}.svc.{CLUSTER_DOMAIN}"


# Header fields that say where a message ends, what becomes of its connection, and what goes on over it (RFC 9112 6,
# RFC 9110 7.6.1): the proxy's own to say. Whoever could set or remove one could smuggle requests past it.
FRAMING_HEADERS: Final = frozenset(
    {"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
# Header fields that no claim of a token may be written to: those of the message and its connection, and those by which
# others are believed.
RESERVED_HEADERS: Final = FRAMING_HEADERS | {
    "host",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-request-id",
}
# Characters of a node id: a pod's name has up to 253 and stands in it once, its namespace (63) twice.
MAX_NODE_ID: Final = 512
_NODE_KIND: Final = re.compile(r"[a-z]{1,32}")
# RFC 1123, as Kubernetes checks the names of pods (subdomains) and namespaces (labels).
_LABEL: Final = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DNS_LABEL: Final = re.compile(_LABEL)
_DNS_SUBDOMAIN: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")


def is_namespace(text: str) -> bool:
    """Whether `text` can be the name of a namespace."""
    return _DNS_LABEL.fullmatch(text) is not None


class NodeId(NamedTuple):
    """The parts of a proxy's node id, `sidecar~10.244.0.7~reviews-v1-0.default~default.svc.cluster.local`."""

    kind: str
    ip: str
    pod: str
    namespace: str

    def __str__(self) -> str:
        return f"{self.kind}~{self.ip}~{self.pod}.{self.namespace}~{self.namespace}.svc.{CLUSTER_DOMAIN}"

    @classmethod
    def parse(cls, text: str) -> "NodeId":
        """The parts of `text`; the address may be empty.

        Raises:
            ValueError: `text` is not in the form of a node id, or one of its parts is not what it has to be.
        """
        if len(text) > MAX_NODE_ID:
            raise ValueError(f"node id {text[:64]!r}... has more than {MAX_NODE_ID} characters")
        parts = text.split("~")
        if len(parts) != 4 or "." not in parts[2]:
            raise ValueError(f"node id {text!r} is not of the form type~ip~pod.namespace~domain")
        kind, ip, name, domain = parts
        pod, _, namespace = name.rpartition(".")
        for what, part, grammar in (
            ("type", kind, _NODE_KIND),
            ("pod", pod, _DNS_SUBDOMAIN),
            ("namespace", namespace, _DNS_LABEL),
            ("domain", domain, _DNS_SUBDOMAIN),
        ):
            if not grammar.fullmatch(part):
                raise ValueError(f"node id {text!r}: {part!r} is not the name of a {what}")
        if ip and not _is_address(ip):
            raise ValueError(f"node id {text!r}: {ip!r} is not an IP address")
        return cls(kind, ip, pod, namespace)


def _is_address(text: str) -> bool:
    """Whether `text` is an IP address; one with a zone, which may hold any character, is not."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text
