"""Worlds to translate, made of manifests as people and Kubernetes write them."""

from collections.abc import Mapping
from typing import Final, TypeAlias

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from google.protobuf.message import Message

from pymesh.resources.parse import parse
from pymesh.xds import types
from pymesh_controlplane.pilot import world
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.node import Node
from pymesh_controlplane.pilot.session import Snapshot
from pymesh_controlplane.pilot.translate import Translator

# By type URL, then by resource name.
Messages: TypeAlias = Mapping[str, Mapping[str, Message]]

_MESSAGES: Final[Mapping[str, type[Message]]] = {
    types.CLUSTER: Cluster,
    types.ENDPOINT: ClusterLoadAssignment,
    types.LISTENER: Listener,
    types.ROUTE: RouteConfiguration,
    types.SECRET: Secret,
}


def service(name: str, ports: str = "[{name: http, port: 9080}]", ip: str = "10.96.0.1", selector: str = "") -> str:
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  clusterIP: {ip}
  selector: {{app: {selector or name}}}
  ports: {ports}
"""


def pod(name: str, ip: str, app: str, version: str = "v1", *, mesh: bool = True, port: int = 9080) -> str:
    label = ", security.istio.io/tlsMode: istio" if mesh else ""
    return f"""
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: default
  labels: {{app: {app}, version: {version}{label}}}
spec:
  serviceAccountName: {app}
  containers: [{{name: app, ports: [{{containerPort: {port}, name: web}}]}}]
status: {{podIP: {ip}, phase: Running}}
"""


def slice_of(name: str, *addresses: str, port: int = 9080, port_name: str = "http") -> str:
    endpoints = "".join(f"\n- addresses: ['{address}']\n  conditions: {{ready: true}}" for address in addresses)
    return f"""
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: '{port_name}', port: {port}, protocol: TCP}}]
endpoints: {endpoints or "[]"}
"""


BOOKINFO = "---".join(
    [
        service("productpage", ip="10.96.0.10"),
        service("reviews", ip="10.96.0.11"),
        service("ratings", ip="10.96.0.12"),
        pod("productpage-1", "10.244.0.10", "productpage"),
        pod("reviews-v1", "10.244.0.11", "reviews"),
        pod("reviews-v2", "10.244.0.12", "reviews", "v2"),
        pod("reviews-v3", "10.244.0.13", "reviews", "v3"),
        pod("ratings-1", "10.244.0.14", "ratings", mesh=False),
        slice_of("productpage", "10.244.0.10"),
        slice_of("reviews", "10.244.0.11", "10.244.0.12", "10.244.0.13"),
        slice_of("ratings", "10.244.0.14"),
        """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    connectionPool:
      tcp: {maxConnections: 100, connectTimeout: 2s}
      http: {idleTimeout: 30s, maxRequestsPerConnection: 9}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
  - {name: v3, labels: {version: v3}}
""",
        """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews]
  http:
  - name: jason
    match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - route:
    - {destination: {host: reviews, subset: v1}, weight: 80}
    - {destination: {host: reviews, subset: v3}, weight: 20}
    timeout: 3s
    retries: {attempts: 3, perTryTimeout: 1s, retryOn: "5xx,503"}
    headers: {request: {set: {x-a: '1'}, add: {x-b: '2'}, remove: [x-c]}, response: {add: {x-d: '3'}}}
""",
    ]
)

EVERYTHING = "---".join(
    [
        BOOKINFO,
        service("db", "[{name: tcp-sql, port: 5432}]", "10.96.0.20"),
        service("cache", "[{name: cache, port: 9080}, {name: redis, port: 6379}]", "10.96.0.21"),
        service("peers", "[{name: tcp-peer, port: 7000}]", "None"),
        pod("db-0", "10.244.0.20", "db", port=5432),
        pod("peers-0", "10.244.0.21", "peers", port=7000),
        pod("peers-1", "10.244.0.22", "peers", port=7000),
        slice_of("db", "10.244.0.20", port=5432, port_name="tcp-sql"),
        slice_of("peers", "10.244.0.21", "10.244.0.22", port=7000, port_name="tcp-peer"),
        slice_of("cache", port=9080, port_name="cache"),
        """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: default}
spec:
  hosts: [api.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild, namespace: default}
spec:
  hosts: ["*.example.org"]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: fixed, namespace: default}
spec:
  hosts: [fixed.internal]
  location: MESH_INTERNAL
  addresses: [192.0.2.0/24]
  ports: [{number: 9000, name: tcp, protocol: TCP, targetPort: 9001}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.7, labels: {version: a}, weight: 3}, {address: 10.244.0.20, ports: {tcp: 5432}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api, namespace: default}
spec:
  host: api.example.com
  trafficPolicy:
    portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings, namespace: default}
spec:
  hosts: [ratings.default.svc.cluster.local]
  http:
  - match:
    - uri: {prefix: /Old}
      ignoreUriCase: true
      method: {exact: GET}
      queryParams: {q: {exact: '1'}, any: {}}
      withoutHeaders: {x-no: {prefix: a}, x-never: {}}
    - uri: {regex: '/v[0-9]+/.*'}
      sourceLabels: {app: reviews}
    rewrite: {uri: /new, authority: ratings.internal}
    route: [{destination: {host: ratings, port: {number: 9080}}}]
  - match: [{uri: {exact: /moved}}]
    redirect: {uri: /there, authority: elsewhere.example.com, scheme: https, port: 8443, redirectCode: 308}
  - match: [{uri: {prefix: /teapot}}]
    directResponse: {status: 418, body: {string: short and stout}}
  - match: [{uri: {prefix: /digits}, port: 9080}]
    rewrite: {uriRegexRewrite: {match: '^/digits/([0-9]+)$', rewrite: '/d/\\1'}}
    route: [{destination: {host: ratings}, headers: {request: {set: {Host: digits.example.com}}}}]
    retries: {attempts: 0}
  - route: [{destination: {host: ratings}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: invented, namespace: default}
spec:
  hosts: [invented.example.net]
  http: [{route: [{destination: {host: ratings}}]}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: reviews, namespace: default}
spec:
  selector: {matchLabels: {app: reviews}}
  mtls: {mode: STRICT}
  portLevelMtls: {9999: {mode: DISABLE}, 8888: {mode: PERMISSIVE}}
""",
    ]
)


# Istio's documented way out through an egress gateway, and routes of connections of other kinds.
EGRESS = "---".join(
    [
        EVERYTHING,
        service("egressgateway", "[{name: http, port: 80, targetPort: 8080}, {name: tls, port: 443}]", "10.96.0.30"),
        pod("egressgateway-1", "10.244.0.30", "egressgateway", mesh=False, port=8080),
        slice_of("egressgateway", "10.244.0.30", port=8443, port_name="tls"),
        service("vault", "[{name: tls, port: 8200}]", "10.96.0.31"),
        service("db2", "[{name: tcp-sql, port: 5432}]", "10.96.0.32"),
        """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress, namespace: default}
spec:
  selector: {app: egressgateway}
  servers:
  - {port: {number: 443, name: tls, protocol: TLS}, hosts: ["*.example.org", api.example.com], tls: {mode: PASSTHROUGH}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: egress, namespace: default}
spec:
  host: egressgateway
  subsets: [{name: api}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api, namespace: default}
spec:
  hosts: [api.example.com]
  gateways: [mesh, egress]
  tls:
  - match: [{gateways: [mesh], port: 443, sniHosts: [api.example.com]}]
    route: [{destination: {host: egressgateway, subset: api, port: {number: 443}}}]
  - match: [{gateways: [egress], port: 443, sniHosts: [api.example.com]}]
    route: [{destination: {host: api.example.com, port: {number: 443}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: one-of-wild, namespace: default}
spec:
  hosts: [one.example.org, "*.two.example.org"]
  tls:
  - match: [{sniHosts: [one.example.org], sourceLabels: {app: reviews}}]
    route: [{destination: {host: egressgateway, port: {number: 443}}}]
  - match: [{sniHosts: ["*.two.example.org"], sourceNamespace: default}]
    route:
    - {destination: {host: egressgateway, port: {number: 443}}, weight: 9}
    - {destination: {host: "*.example.org", port: {number: 443}}, weight: 1}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: vault, namespace: default}
spec:
  hosts: [vault]
  tls:
  - match: [{sniHosts: [vault.default.svc.cluster.local]}]
    route: [{destination: {host: db}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db, namespace: default}
spec:
  hosts: [db]
  tcp:
  - match: [{destinationSubnets: [203.0.113.0/25], port: 5432}]
    route: [{destination: {host: db2}}]
  - match: [{port: 1}]
    route: [{destination: {host: db2}}]
  - route:
    - {destination: {host: db}, weight: 1}
    - {destination: {host: db2}, weight: 3}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cache, namespace: default}
spec:
  hosts: [cache]
  tcp:
  - match: [{port: 9080}]
    route: [{destination: {host: cache, port: {number: 9080}}}]
""",
    ]
)


# The collector, as the local mesh has it.
TELEMETRY = """
---
apiVersion: v1
kind: Service
metadata: {name: telemetry, namespace: pymesh-system}
spec: {clusterIP: 10.96.0.40, ports: [{name: grpc-telemetry, port: 9091}]}
"""


def mesh_config(text: str) -> str:
    """The ConfigMap with the MeshConfig `text`."""
    indented = "".join(f"    {line}\n" for line in text.strip().splitlines())
    return f"""
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: pymesh, namespace: pymesh-system}}
data:
  mesh: |
{indented}
"""


REGISTRY_ONLY = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: pymesh, namespace: pymesh-system}
data:
  mesh: |
    outboundTrafficPolicy:
      mode: REGISTRY_ONLY
"""


def world_of(text: str) -> World:
    """The world of the manifests in `text`, which must be right."""
    parsed = parse(text, "world.yaml")
    assert not parsed.errors, "\n".join(str(error) for error in parsed.errors)
    return world.build(parsed.resources)


def sidecar(ip: str = "10.244.0.10", pod: str = "productpage-1", **changes: object) -> Node:
    """The sidecar of a pod."""
    values = {"id": f"sidecar~{ip}~{pod}.default~default.svc.cluster.local", "kind": "sidecar", "addresses": (ip,)}
    values |= {"pod": pod, "namespace": "default"} | changes
    return Node(**values)  # type: ignore[arg-type]  # assembled by the caller


def decoded(snapshot: Snapshot) -> Messages:
    """A translation as a proxy reads it."""
    return {
        kind: {name: _MESSAGES[kind].FromString(resource.body) for name, resource in resources.items()}
        for kind, resources in snapshot.items()
    }


def resources_for(node: Node, current: World) -> Messages:
    """What `node` is sent, translated from nothing."""
    return decoded(Translator().snapshot(node, current))
