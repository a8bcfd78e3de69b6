"""What an AuthorizationPolicy or a RequestAuthentication is for: one way of saying so, and a workload that it means."""

from collections.abc import Iterator

from pymesh.resources.resource import Resource
from pymesh_controlplane.galley.findings import Findings
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.selection import GATEWAY, T, selects


def check_selection(findings: Findings, resource: Resource[T], world: World) -> None:
    """Report what is wrong with selector and targets."""
    spec, namespace = resource.value.spec, resource.key.namespace
    if spec.target_ref is not None and spec.target_refs:
        findings.error("spec.targetRef", "there is targetRefs, too: write one of them")
    if spec.selector is not None and spec.targets:
        findings.error("spec.selector", "there is a target, too: write one of them")
    field = "targetRefs[{}]" if spec.target_refs else "targetRef"
    for index, target in enumerate(spec.targets):
        if (target.group, target.kind) == GATEWAY:
            continue
        if target.kind in {"Service", "ServiceEntry", "GatewayClass"}:
            sentence = f"a {target.kind} is a target for waypoints, and sidecars are none: select pods by spec.selector"
        else:
            sentence = "only kind: Gateway, group: gateway.networking.k8s.io is a target; select pods by spec.selector"
        findings.error(f"spec.{field.format(index)}.kind", sentence)
    narrowed = spec.targets or (spec.selector is not None and spec.selector.match_labels)
    if narrowed and world.workloads and not any(_selected(resource, world)):
        there = "any namespace" if namespace == world.root_namespace else f"namespace {namespace}"
        what = "spec.targetRefs" if spec.targets else "spec.selector.matchLabels"
        findings.warning(what, f"it selects no pod of {there}, and has no effect")


def _selected(resource: Resource[T], world: World) -> Iterator[bool]:
    everywhere = resource.key.namespace == world.root_namespace
    for workload in world.workloads.values():
        if everywhere or workload.namespace == resource.key.namespace:
            yield selects(resource, workload.namespace, workload.labels)
