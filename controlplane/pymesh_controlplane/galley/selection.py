"""What an AuthorizationPolicy or a RequestAuthentication is for: one way of saying so, and a workload that it means."""

from collections.abc import Callable

from pymesh.resources.resource import Resource
from pymesh_controlplane.galley.findings import Findings
from pymesh_controlplane.galley.pods import Labels, Pods
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.selection import GATEWAY, T, selects


def check_selection(findings: Findings, resource: Resource[T], world: World, pods: Pods) -> None:
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
    if spec.targets or (spec.selector is not None and spec.selector.match_labels):
        where = "spec.targetRefs" if spec.targets else "spec.selector.matchLabels"
        place = "" if namespace == world.root_namespace else namespace
        warn_of_nobody(findings, where, place, pods, lambda of, labels: selects(resource, of, labels))


def warn_of_nobody(
    findings: Findings, path: str, namespace: str, pods: Pods, selects: Callable[[str, Labels], bool]
) -> None:
    """Warn of what is for some pods of a namespace (empty: any) if there are none. Without any pod nobody can say."""
    if pods.alike and not any(selects(*pod) for pod in pods.alike if namespace in {"", pod[0]}):
        there = f"namespace {namespace}" if namespace else "any namespace"
        findings.warning(path, f"it selects no pod of {there}, and has no effect")
