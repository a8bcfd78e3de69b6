"""The gateways of a local mesh: pods of `pymesh-proxy` at its edge, and the machine's ports that lead into them. Pure.

They are like any gateway that an operator would apply: what they serve is for `Gateway` resources to say, whose
selector finds them by the label `istio`.
"""

from typing import Any, Final

from pymesh import names
from pymesh_controlplane.injector import scraping
from pymesh_controlplane.injector.containers import InjectionConfig, gateway_pod

INGRESS: Final = "ingress"
EGRESS: Final = "egress"
# Name of the pod, its account and its Service, by the part that `--without` names.
GATEWAYS: Final = {INGRESS: "ingressgateway", EGRESS: "egressgateway"}
# What the gateways cannot do without.
NEEDED: Final = frozenset({"pilot", "citadel"})

# Ports of the Service and of the pod, by name. A Gateway's server names the first.
PORTS: Final = {"http2": (80, 8080), "https": (443, 8443)}
# Where the machine reaches the ingress gateway, by the pod's port, unless something else is there already.
HOST_ADDRESS: Final = "127.0.0.1"
HOST_PORTS: Final = (8080, 8443)

Document = dict[str, Any]


def manifests(part: str, host_ports: dict[int, int], injection: InjectionConfig) -> list[Document]:
    """Account, Service and Pod of a gateway. `host_ports` has the machine's port for each of the pod's that has one."""
    name = GATEWAYS[part]
    metadata = {"name": name, "namespace": names.SYSTEM_NAMESPACE}
    labels = {"app": f"istio-{name}", "istio": name, "sidecar.istio.io/inject": "false"}
    ports: list[Document] = [
        {"name": port_name, "containerPort": target, "protocol": "TCP"}
        | ({"hostPort": host_ports[target], "hostIP": HOST_ADDRESS} if target in host_ports else {})
        for port_name, (_, target) in PORTS.items()
    ]
    service = [{"name": port_name, "port": port, "targetPort": target} for port_name, (port, target) in PORTS.items()]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": {"istio": name}, "ports": service},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**metadata, "labels": labels, "annotations": scraping.of_proxy()},
            "spec": {
                "serviceAccountName": name,
                "terminationGracePeriodSeconds": 10,
                **gateway_pod(injection, name, ports),
            },
        },
    ]
