"""Worlds with gateways, as manifests."""

from pymesh_controlplane.pilot.node import Node
from tests.controlplane.pilot.worlds import BOOKINFO, Messages, resources_for, world_of

EDGE = """
---
apiVersion: v1
kind: Pod
metadata: {name: edge-0, namespace: pymesh-system, labels: {istio: ingressgateway}}
spec: {containers: [{name: istio-proxy}]}
status: {podIP: 10.244.0.90, phase: Running}
---
apiVersion: v1
kind: Service
metadata: {name: edge, namespace: pymesh-system}
spec:
  clusterIP: 10.96.0.90
  selector: {istio: ingressgateway}
  ports: [{name: http2, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: 8443}]
"""
HTTP = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}"
TO = "route: [{destination: {host: productpage.default.svc.cluster.local}}]"


def gateway(*servers: str, name: str = "edge", namespace: str = "default", selector: str = "ingressgateway") -> str:
    """A Gateway for the pods of EDGE."""
    return f"""
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{selector: {{istio: {selector}}}, servers: [{", ".join(servers)}]}}
"""


def virtual(
    hosts: str, http: str = f"[{{{TO}}}]", gateways: str = "[edge]", name: str = "front", namespace: str = "default"
) -> str:
    """A VirtualService."""
    return f"""
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{hosts: {hosts}, gateways: {gateways}, http: {http}}}
"""


def router(**changes: object) -> Node:
    """The gateway's pod."""
    values = {"id": "router~10.244.0.90~edge-0.pymesh-system~pymesh-system.svc.cluster.local", "kind": "router"}
    values |= {"addresses": ("10.244.0.90",), "pod": "edge-0", "namespace": "pymesh-system"}
    values |= {"labels": {"istio": "ingressgateway"}} | changes
    return Node(**values)  # type: ignore[arg-type]  # assembled by the caller


def edge(*manifests: str) -> Messages:
    """What the gateway's pod is sent in a world of Bookinfo and `manifests`."""
    return resources_for(router(), world_of(BOOKINFO + EDGE + "".join(manifests)))


def _https(name: str, host: str, tls: str, protocol: str = "HTTPS") -> str:
    return f"{{port: {{number: 443, name: {name}, protocol: {protocol}}}, hosts: ['{host}'], tls: {{{tls}}}}}"


# Every kind of server.
EVERY_SERVER = EDGE + "".join(
    [
        gateway(
            HTTP,
            "{port: {number: 8081, name: up, protocol: HTTP}, hosts: ['*'], tls: {httpsRedirect: true}}",
            _https("web", "www.example.com", "mode: SIMPLE, credentialName: web"),
            _https("shop", "shop.example.com", "mode: MUTUAL, credentialName: web, maxProtocolVersion: TLSV1_2"),
            _https("mesh", "mesh.example.com", "mode: ISTIO_MUTUAL"),
            _https("pass", "*.example.org", "mode: PASSTHROUGH", "TLS"),
        ),
        virtual("['*.example.com']"),
        virtual("['*.example.org']", name="pass").replace(
            "http: [{route: [{destination: {host: productpage.default.svc.cluster.local}}]}]",
            "tls: [{match: [{sniHosts: ['*.example.org']}], route: [{destination: {host: productpage}}]}]",
        ),
    ]
)
