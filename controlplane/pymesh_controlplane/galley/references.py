"""Who names a resource without being wrong when it is not there: a thing to know before it is deleted. Pure.

What is *wrong* without it (a route to a Service, a subset of a DestinationRule, a Gateway of a VirtualService) galley's
other checks tell. Here is what they only warn of, since it may come later: a certificate, what a limit is for.
"""

from collections.abc import Collection, Iterable, Iterator

from pymesh.resources.istio.gateway import Gateway
from pymesh.resources.policy import Check, ConcurrencyLimit, RateLimit
from pymesh.resources.resource import Key, Resource, holds
from pymesh_controlplane.galley.findings import Findings
from pymesh_controlplane.pilot.credentials import CA_SUFFIX
from pymesh_controlplane.pilot.model import Problem


def missed(keys: Collection[Key], left: Iterable[Resource[object]]) -> list[Problem]:
    """Who of those that are `left` names one of `keys`, and where."""
    found: list[Problem] = []
    for resource in left:
        findings = Findings(resource)
        for path, key in _named(resource, keys):
            findings.error(path, f"names {key}")
        found += findings.problems
    return found


def _named(resource: Resource[object], keys: Collection[Key]) -> Iterator[tuple[str, Key]]:
    if holds(resource, Gateway):
        for index, server in enumerate(resource.value.spec.servers):
            credential = server.tls.credential_name if server.tls is not None else None
            for key in keys:
                # Of which namespace it is depends on where the gateway's pods are; any that has the name may be it.
                if key.kind == "Secret" and credential and key.name in {credential, f"{credential}{CA_SUFFIX}"}:
                    yield f"spec.servers[{index}].tls.credentialName", key
    elif holds(resource, RateLimit) or holds(resource, ConcurrencyLimit) or holds(resource, Check):
        for index, target in enumerate(resource.value.spec.target_refs):
            key = Key("Service", resource.key.namespace, target.name)
            if key in keys:
                yield f"spec.targetRefs[{index}].name", key
