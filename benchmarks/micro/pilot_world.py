"""A mesh of many services, as a directory of manifests: what the benchmarks of pilot are fed.

Every service has one pod and an EndpointSlice; every fifth has subsets, and routes by header and weight.
"""

import random
from pathlib import Path

from pymesh_controlplane.pilot.node import Node

_SERVICE = """\
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  clusterIP: 10.96.{high}.{low}
  selector: {{app: {name}}}
  ports: [{{name: http, port: {port}}}]
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}-0
  namespace: default
  labels: {{app: {name}, version: v1, security.istio.io/tlsMode: istio}}
spec:
  serviceAccountName: {name}
  containers: [{{name: app, ports: [{{containerPort: {port}}}]}}]
status: {{podIP: 10.244.{high}.{low}, phase: Running}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: {port}, protocol: TCP}}]
endpoints:
- {{addresses: [10.244.{high}.{low}], conditions: {{ready: {ready}}}}}
"""
_ROUTED = """\
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: default}}
spec:
  host: {name}
  trafficPolicy: {{connectionPool: {{http: {{maxRetries: 3}}}}}}
  subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: [{name}]
  http:
  - match: [{{headers: {{end-user: {{exact: jason}}}}}}]
    route: [{{destination: {{host: {name}, subset: v2}}}}]
  - route:
    - {{destination: {{host: {name}, subset: v1}}, weight: {weight}}}
    - {{destination: {{host: {name}, subset: v2}}, weight: {rest}}}
"""
_PORTS = (80, 8080, 9080)


def manifest(index: int, *, weight: int = 90, ready: bool = True) -> str:
    """The file of one service. Another `weight` changes its routes (every fifth has some), `ready` its endpoints."""
    name = f"service-{index}"
    high, low = divmod(index + 256, 250)
    said = str(ready).lower()
    text = _SERVICE.format(name=name, high=high, low=low + 1, port=_PORTS[index % len(_PORTS)], ready=said)
    return text + _ROUTED.format(name=name, weight=weight, rest=100 - weight) if index % 5 == 0 else text


def write(folder: Path, services: int) -> None:
    """A file per service."""
    for index in range(services):
        (folder / f"{index}.yaml").write_text(manifest(index))


def replace(folder: Path, index: int, text: str) -> None:
    """Change one file as a careful writer does: write beside it, rename."""
    draft = folder / f".{index}.{random.getrandbits(32)}"
    draft.write_text(text)
    draft.rename(folder / f"{index}.yaml")


def node(index: int) -> Node:
    """The sidecar of the service's pod."""
    high, low = divmod(index + 256, 250)
    address, pod = f"10.244.{high}.{low + 1}", f"service-{index}-0"
    identity = f"sidecar~{address}~{pod}.default~default.svc.cluster.local"
    return Node(identity, "sidecar", (address,), pod, "default", f"service-{index}")
