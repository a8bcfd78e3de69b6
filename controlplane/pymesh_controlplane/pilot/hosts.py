"""The names under which a service is known. Pure.

Source: Kubernetes DNS specification 1.1.0, section 2.3; Istio's rule that a host without a dot belongs to the namespace
of the resource that mentions it.
"""

from collections.abc import Container, Iterable, Mapping

from pymesh import names
from pymesh.resources.extension_providers import Provider
from pymesh_controlplane.pilot.model import Service, World

_SERVICE_DOMAIN = f"svc.{names.CLUSTER_DOMAIN}"


def resolve(host: str, namespace: str, services: Mapping[str, Service]) -> str:
    """The full name that `host`, written in `namespace`, stands for.

    `reviews`, `reviews.default` and `reviews.default.svc` become `reviews.default.svc.cluster.local`; a name that
    already is a service's, a wildcard, and a name that cannot be shortened from a service's stay as they are.
    """
    host = host.lower()
    if host in services or "*" in host:
        return host
    if "." not in host:
        return names.service_host(host, namespace)
    for candidate in (f"{host}.{_SERVICE_DOMAIN}", f"{host}.{names.CLUSTER_DOMAIN}"):
        if candidate in services:
            return candidate
    return host


def destination(host: str, namespace: str, world: World) -> str:
    """The service that a destination means that is written in `namespace`: of one with other names, itself."""
    full = resolve(host, namespace, world.services)
    return next((real for real, others in world.aliases.items() if full in {other.host for other in others}), full)


def of_provider(provider: Provider, world: World) -> str:
    """The full name of the service that a provider of the MeshConfig names, perhaps as `<namespace>/<host>`."""
    return resolve(provider.service.rpartition("/")[2], world.root_namespace, world.services)


def short_names(service: Service, namespace: str) -> list[str]:
    """All names under which a proxy in `namespace` may be asked for `service`, the full one first."""
    if not service.kubernetes:
        return [service.host]
    found = [service.host, f"{service.name}.{service.namespace}", f"{service.name}.{service.namespace}.svc"]
    if service.namespace == namespace:
        found.append(service.name)
    return found


def known_as(service: Service, namespace: str, aliases: Iterable[Service]) -> list[str]:
    """What a request from `namespace` to `service` may say in its Host header: all names, and its addresses.

    The pods of a headless service have names below its own (`db-0.db`), those of a StatefulSet for example. `aliases`
    are services that are but other names of it.
    """
    found = short_names(service, namespace)
    if service.headless:
        found += [f"*.{name}" for name in found]
    for alias in aliases:
        found += short_names(alias, namespace)
    return [*found, *(address for address in service.addresses if "/" not in address)]


def most_specific(host: str, patterns: Container[str]) -> str | None:
    """The pattern that says most about `host`: itself, else the longest wildcard; None if none covers it."""
    if host in patterns:
        return host
    rest = host.removeprefix("*.")
    while "." in rest:
        rest = rest.partition(".")[2]
        if f"*.{rest}" in patterns:
            return f"*.{rest}"
    return "*" if "*" in patterns else None
