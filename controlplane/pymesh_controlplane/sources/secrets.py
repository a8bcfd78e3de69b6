"""Which Secrets the world needs: those that Gateways name, where the pods of those Gateways are. Pure."""

from collections.abc import Mapping
from typing import Final

from pymesh.resources.istio.gateway import Gateway
from pymesh.resources.resource import Resource
from pymesh_controlplane.pilot.credentials import CA_SUFFIX, NEVER
from pymesh_controlplane.pilot.gateways import TERMINATED, selects
from pymesh_controlplane.pilot.model import World

# Secrets, each of which is a watch and so a connection of its own. A client has 100; the other watches of a control
# plane take some 40, and questions about tokens must not have to wait for one.
MAX_SECRETS: Final = 40


def wanted(world: World) -> dict[tuple[str, str], Resource[Gateway]]:
    """By (namespace, name), the oldest Gateway that needs the Secret; those that have been needed longest first.

    A Gateway is served by the pods that it selects and that have no sidecar; one that selects none by name is looked
    for in the system namespace, where the gateways of the mesh are.
    """
    found: dict[tuple[str, str], Resource[Gateway]] = {}
    for gateway in sorted(world.gateways, key=_created):
        credentials = list(_credentials(gateway.value))
        if credentials:
            for namespace in _namespaces(gateway.value, world):
                for name in credentials:
                    found.setdefault((namespace, name), gateway)
    return found


def _created(gateway: Resource[Gateway]) -> str:
    """When the API server has made it, as it writes times, which sort as they are; empty if nobody says."""
    metadata = gateway.raw.get("metadata")
    return str(metadata.get("creationTimestamp") or "") if isinstance(metadata, Mapping) else ""


def _credentials(gateway: Gateway) -> Mapping[str, None]:
    found: dict[str, None] = {}
    for server in gateway.spec.servers:
        tls = server.tls
        if tls is not None and tls.credential_name is not None and tls.mode in TERMINATED:
            found[tls.credential_name] = None
            if tls.mode == "MUTUAL":
                found[f"{tls.credential_name}{CA_SUFFIX}"] = None
    for name in NEVER:
        found.pop(name, None)
    return found


def _namespaces(gateway: Gateway, world: World) -> list[str]:
    if not gateway.spec.selector:
        return [world.root_namespace]
    return sorted(
        {
            workload.namespace
            for workload in world.workloads.values()
            if not workload.mesh and selects(gateway, workload.labels)
        }
    )
