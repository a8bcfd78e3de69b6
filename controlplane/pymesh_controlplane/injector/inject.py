"""inject(pod) → pod: adds the redirect and the sidecar to a pod somebody wrote. Pure and idempotent.

Which pods get a sidecar follows Istio's rules (docs: "Controlling the injection policy"). A pod on the host's network
is never touched. `istio-injection: disabled` on the namespace or `sidecar.istio.io/inject: "false"` on the pod says no;
`enabled` on the namespace or `"true"` on the pod says yes. The pod's label counts before its annotation of that name.
"""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from pymesh import names
from pymesh.errors import ConfigError
from pymesh_controlplane.injector import kept, lifecycle, probes
from pymesh_controlplane.injector.conflicts import refuse_conflicts
from pymesh_controlplane.injector.containers import (
    InjectionConfig,
    init_container,
    sidecar_containers,
    volumes,
)
from pymesh_controlplane.injector.scraping import announce
from pymesh_controlplane.injector.settings import (
    ANNOTATION_INJECT,
    ANNOTATION_STATUS,
    annotation_path,
    read_bool,
    read_settings,
)
from pymesh_controlplane.injector.shape import Manifest, mapping, named_items, strings
from pymesh_controlplane.injector.workload import made_by, workload_of

LABEL_NAMESPACE: Final = "istio-injection"

# Where the pod stands in each kind of document that makes pods.
_POD_OF_KIND: Final[Mapping[str, tuple[str, ...]]] = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a pod gets a sidecar, and why, in words for a person."""

    inject: bool
    reason: str


def decide(pod: Manifest, config: InjectionConfig, namespace_labels: Mapping[str, str]) -> Decision:
    """Whether `pod` (a Pod or a pod template) gets a sidecar.

    Raises:
        ConfigError: the pod's or the namespace's wish cannot be read.
    """
    spec = mapping(pod, "spec")
    if spec.get("hostNetwork"):
        return Decision(False, "hostNetwork: a redirect would catch the whole host's traffic")
    if mapping(spec, "os", path="spec.").get("name") == "windows":
        return Decision(False, "os windows: there is no sidecar for it")
    namespace = namespace_labels.get(LABEL_NAMESPACE)
    if namespace not in {None, "enabled", "disabled"}:
        raise ConfigError(f"write enabled or disabled; got {namespace!r}", path=f"namespace label {LABEL_NAMESPACE}")
    if namespace == "disabled":
        return Decision(False, f"namespace label {LABEL_NAMESPACE}: disabled")
    metadata = mapping(pod, "metadata")
    for place, where in (("labels", "label"), ("annotations", "annotation")):
        text = strings(metadata, place).get(ANNOTATION_INJECT)
        if text is None:
            continue
        try:
            wish = read_bool(text)
        except ValueError as error:
            raise ConfigError(f"{error}; got {text!r}", path=f"metadata.{place}[{ANNOTATION_INJECT}]") from None
        return Decision(wish, f'{where} {ANNOTATION_INJECT}: "{text}"')
    if namespace == "enabled":
        return Decision(True, f"namespace label {LABEL_NAMESPACE}: enabled")
    wish_by_default = "injected" if config.inject_by_default else "left alone"
    return Decision(config.inject_by_default, f"neither pod nor namespace says; pods are {wish_by_default} by default")


def inject(
    pod: Manifest,
    *,
    config: InjectionConfig,
    namespace_labels: Mapping[str, str] | None = None,
    workload: str = "",
) -> Manifest:
    """`pod` with a sidecar, or `pod` itself where it gets none. The argument is never changed.

    Args:
        pod: a Pod or a pod template: a mapping with `metadata` and `spec`.
        config: what is the same for the whole mesh.
        namespace_labels: labels of the pod's namespace.
        workload: name of what made the pod (its Deployment); by default found in the pod.

    Raises:
        ConfigError: the pod is malformed, or asks for something that cannot be done.
    """
    if not decide(pod, config, namespace_labels or {}).inject:
        return pod
    result = copy.deepcopy(pod)
    metadata = mapping(result, "metadata", create=True)
    settings = read_settings(strings(metadata, "annotations"))
    _remove_injected(result, metadata)
    workload = workload or workload_of(metadata)
    spec = mapping(result, "spec", create=True)
    if settings.resources is None and mapping(spec, "resources", path="spec."):
        settings = replace(settings, resources={})  # the pod has a budget as a whole; more would be more than that
    native = config.native_sidecars if settings.native is None else settings.native
    app_probes = probes.rewrite(spec, settings.status_port, native=native) if settings.rewrite_probes else ""
    added = {
        "initContainers": [init_container(settings, config)],
        "containers": sidecar_containers(settings, config, workload, app_probes),
        "volumes": volumes(settings),
    }
    refuse_conflicts(spec, added, settings)
    lifecycle.place(spec, added, native=native)
    kept.keep(spec, mapping(pod, "spec"))
    _label(metadata, workload)
    status = {field: [item["name"] for item in items] for field, items in added.items()}
    annotations = mapping(metadata, "annotations", create=True, path="metadata.")
    announce(annotations)
    annotations[ANNOTATION_STATUS] = json.dumps(status, separators=(",", ":"), sort_keys=True)
    return result


def inject_document(
    document: Manifest,
    *,
    config: InjectionConfig,
    namespaces: Mapping[str, Mapping[str, str]] | None = None,
    namespace: str = "default",
    report: Callable[[str, Decision], None] | None = None,
) -> Manifest:
    """`document` with a sidecar in every pod that it makes; other kinds are returned as they are.

    Args:
        document: one Kubernetes object; a List is looked into.
        config: what is the same for the whole mesh.
        namespaces: labels of the namespaces, by name.
        namespace: of a document that names none.
        report: is told of each pod-making object (`Deployment default/reviews`) and what was decided.

    Raises:
        ConfigError: as `inject` does, with the resource and the full path of the field.
    """
    kind = document.get("kind")
    if kind == "List":
        return {**document, "items": [
            inject_document(item, config=config, namespaces=namespaces, namespace=namespace, report=report)
            for item in _objects(document)
        ]}  # fmt: skip
    path = _POD_OF_KIND.get(kind) if isinstance(kind, str) else None
    if path is None:
        return document
    metadata = mapping(document, "metadata")
    own_namespace = str(metadata.get("namespace") or namespace)
    name = str(metadata.get("name") or metadata.get("generateName") or "(no name)")
    resource = f"{kind} {own_namespace}/{name}"
    try:
        pod = document
        for key in path:
            pod = mapping(pod, key)
        labels = (namespaces or {}).get(own_namespace, {})
        decision = decide(pod, config, labels)
        # The pod of a Pod document knows its own maker; the pods of a template are made by the document.
        workload = "" if kind == "Pod" else made_by(str(kind), name)
        injected = inject(pod, config=config, namespace_labels=labels, workload=workload)
    except ConfigError as error:
        outer = error.at(".".join(path)) if path else error
        raise ConfigError(outer.problem, path=outer.path, position=outer.position, resource=resource) from None
    if report is not None:
        report(resource, decision)
    return document if injected is pod else _replaced(document, path, injected)


def _objects(document: Manifest) -> list[Manifest]:
    items = document.get("items")
    if items is None:
        return []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ConfigError("a list of objects belongs here", path="items", resource="List")
    return items


def _replaced(document: Manifest, path: tuple[str, ...], value: Manifest) -> Manifest:
    """`document` with `value` at `path`; what lies on the way is copied, the rest is shared."""
    if not path:
        return value
    return {**document, path[0]: _replaced(document[path[0]], path[1:], value)}


def _label(metadata: Manifest, workload: str) -> None:
    """Say that the pod speaks mTLS, and which service and revision it is in telemetry (Istio's canonical service)."""
    labels = mapping(metadata, "labels", create=True, path="metadata.")
    name = labels.get("app.kubernetes.io/name") or labels.get("app") or workload
    revision = labels.get("app.kubernetes.io/version") or labels.get("version") or "latest"
    labels.setdefault(names.LABEL_TLS_MODE, "istio")
    labels.setdefault(names.LABEL_CANONICAL_NAME, name)
    labels.setdefault(names.LABEL_CANONICAL_REVISION, revision)


def _remove_injected(pod: Manifest, metadata: Manifest) -> None:
    """Take away what an earlier injection added, as its status annotation says, so that a second one starts afresh."""
    text = strings(metadata, "annotations").get(ANNOTATION_STATUS)
    if text is None:
        return
    try:
        injected = {field: set(item_names) for field, item_names in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ConfigError(
            "this annotation is written by the injector and cannot be read; remove it, and with it what was injected",
            path=annotation_path(ANNOTATION_STATUS),
        ) from None
    spec = mapping(pod, "spec")
    removed: list[Manifest] = []
    for field in ("initContainers", "containers", "volumes"):
        if field in spec:
            items, names_of = named_items(spec, field), injected.get(field, set())
            spec[field] = [item for item in items if item["name"] not in names_of]
            removed += [item for item in items if item["name"] in names_of and field != "volumes"]
    probes.restore(spec, removed)
