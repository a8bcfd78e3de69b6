"""Services as only a cluster has them, as manifests."""

from tests.controlplane.pilot.worlds import BOOKINFO, pod, service, slice_of

DB = "db.default.svc.cluster.local"
REVIEWS = "reviews.default.svc.cluster.local"


def headless(protocol: str) -> str:
    """A StatefulSet's service, with one of its pods."""
    ports = f"[{{name: {protocol}, port: 9080}}]"
    there = slice_of("db", "10.244.0.40", port_name=protocol)
    return "---".join([service("db", ports, "None"), pod("db-0", "10.244.0.40", "db"), there])


def external(name: str, ports: str = "[{name: http, port: 9080}]") -> str:
    """A service that is another name, `name`."""
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: others, namespace: default}}
spec: {{type: ExternalName, externalName: {name}, ports: {ports}}}
"""


# Everything of it, on nodes of two zones.
CLUSTER = "---".join(
    [
        BOOKINFO,
        headless("http"),
        external("api.example.com").replace("name: others", "name: outside"),
        external(REVIEWS),
        """
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-1}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: reviews-2, namespace: default, labels: {kubernetes.io/service-name: reviews}}
addressType: IPv4
ports: [{name: http, port: 9080, protocol: TCP}]
endpoints: [{addresses: [10.244.0.12], nodeName: n1}, {addresses: [192.0.2.7], zone: eu-2}]
""",
    ]
)
