"""What the kinds that matter must and must not be, beyond their schema: values, references and immutable fields."""

from collections.abc import Callable, Iterator
from typing import Any

from tests.support.kubernetes import crds
from tests.support.kubernetes.errors import Object, cause, required
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.names import wrong_data_key
from tests.support.kubernetes.pod_rules import changed_pod, wrong_pod_spec
from tests.support.kubernetes.selectors import by_selector
from tests.support.kubernetes.tables import at

_IMMUTABLE = "Invalid value: field is immutable"
# Bytes of all data of a Secret or ConfigMap.
_DATA = 1024 * 1024


def wrong(new: Object, old: Object | None, kind: Kind) -> Iterator[Object]:
    """Causes of a 422."""
    if rule := _RULES.get(kind.storage):
        yield from rule(new)
    if old is not None:
        for path in _FIXED.get(kind.storage, ()):
            if at(new, path) != at(old, path):
                yield cause(path, _IMMUTABLE)
        if change := _CHANGES.get(kind.storage):
            yield from change(new, old)


def _config_map(new: Object) -> Iterator[Object]:
    data, binary = new.get("data") or {}, new.get("binaryData") or {}
    for key in (*data, *binary):
        yield from wrong_data_key(key, "data")
    for key in data.keys() & binary.keys():
        yield cause(f"data[{key}]", f'Invalid value: "{key}": duplicate of key present in binaryData')
    yield from _size({**data, **binary})


def _secret(new: Object) -> Iterator[Object]:
    data = new.get("data") or {}
    for key in data:
        yield from wrong_data_key(key, "data")
    yield from _size(data)
    for key in _SECRET_KEYS.get(new.get("type", ""), ()):
        if key not in data:
            yield required(f"data[{key}]")


_SECRET_KEYS = {"kubernetes.io/tls": ("tls.crt", "tls.key"), "kubernetes.io/dockerconfigjson": (".dockerconfigjson",)}


def _size(data: dict[str, str]) -> Iterator[Object]:
    if sum(len(value.encode()) for value in data.values()) > _DATA:
        yield cause("data", f"Too long: may not be more than {_DATA} bytes", "FieldValueTooLong")


def _immutable_data(new: Object, old: Object) -> Iterator[Object]:
    if not old.get("immutable"):
        return
    for field in ("data", "binaryData"):
        if (new.get(field) or {}) != (old.get(field) or {}):
            yield cause(field, "Forbidden: field is immutable when `immutable` is set", "FieldValueForbidden")
    if not new.get("immutable"):
        yield cause("immutable", "Forbidden: field is immutable when `immutable` is set", "FieldValueForbidden")


def _service(new: Object) -> Iterator[Object]:
    spec = new.get("spec", {})
    ports = spec.get("ports") or ()
    if spec.get("type") == "ExternalName":
        if not spec.get("externalName"):
            yield required("spec.externalName")
        return
    if not ports and spec.get("clusterIP") != "None":
        yield required("spec.ports")
    names: set[str] = set()
    for index, port in enumerate(ports):
        if len(ports) > 1 and not port.get("name"):
            yield required(f"spec.ports[{index}].name")
        if port.get("name") and port["name"] in names:
            yield cause(f"spec.ports[{index}].name", f'Duplicate value: "{port["name"]}"', "FieldValueDuplicate")
        names.add(port.get("name", ""))
        yield from _port(port.get("port"), f"spec.ports[{index}].port")


def _port(value: Any, field: str) -> Iterator[Object]:
    if not isinstance(value, int) or not 1 <= value <= 65535:
        yield cause(field, f"Invalid value: {value}: must be between 1 and 65535, inclusive")


def _changed_service(new: Object, old: Object) -> Iterator[Object]:
    ours, before = new["spec"].get("clusterIP"), old["spec"].get("clusterIP")
    if before and ours != before and new["spec"].get("type") != "ExternalName":
        yield cause("spec.clusterIPs[0]", f'Invalid value: ["{ours}"]: may not change once set')


def _workload(new: Object) -> Iterator[Object]:
    spec = new.get("spec", {})
    labels = spec.get("template", {}).get("metadata", {}).get("labels") or {}
    selector = spec.get("selector") or {}
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        yield cause("spec.selector", "Invalid value: {}: empty selector is invalid for deployment")
    elif not by_selector(selector)(labels):
        yield cause("spec.template.metadata.labels", "Invalid value: `selector` does not match template `labels`")
    pod = spec.get("template", {}).get("spec", {})
    if pod.get("restartPolicy") != "Always":
        yield cause("spec.template.spec.restartPolicy",
                    f"Unsupported value: \"{pod.get('restartPolicy')}\": supported values: \"Always\"",
                    "FieldValueNotSupported")  # fmt: skip
    yield from wrong_pod_spec(pod, "spec.template.spec")


def _job(new: Object) -> Iterator[Object]:
    pod = new["spec"].get("template", {}).get("spec", {})
    if pod.get("restartPolicy") not in ("OnFailure", "Never"):
        yield cause("spec.template.spec.restartPolicy",
                    "Required value: valid values: \"OnFailure\", \"Never\"", "FieldValueRequired")  # fmt: skip
    yield from wrong_pod_spec(pod, "spec.template.spec")


def _pod(new: Object) -> Iterator[Object]:
    yield from wrong_pod_spec(new.get("spec", {}), "spec")


def _lease(new: Object) -> Iterator[Object]:
    spec = new.get("spec") or {}
    if "leaseDurationSeconds" in spec and spec["leaseDurationSeconds"] <= 0:
        yield cause(
            "spec.leaseDurationSeconds", f"Invalid value: {spec['leaseDurationSeconds']}: must be greater than 0"
        )
    if "leaseTransitions" in spec and spec["leaseTransitions"] < 0:
        yield cause(
            "spec.leaseTransitions", f"Invalid value: {spec['leaseTransitions']}: must be greater than or equal to 0"
        )


def _webhooks(new: Object) -> Iterator[Object]:
    for index, webhook in enumerate(new.get("webhooks") or ()):
        field = f"webhooks[{index}]"
        if webhook.get("name", "").count(".") < 2:
            yield cause(f"{field}.name", f"Invalid value: \"{webhook.get('name')}\": should be a domain with at least "
                                         "three segments separated by dots")  # fmt: skip
        if "v1" not in webhook.get("admissionReviewVersions", ()):
            yield cause(f"{field}.admissionReviewVersions", "Invalid value: must include at least one of v1, v1beta1")
        if webhook.get("sideEffects") not in ("None", "NoneOnDryRun"):
            said = f'Unsupported value: "{webhook.get("sideEffects")}": supported values: "None", "NoneOnDryRun"'
            yield cause(f"{field}.sideEffects", said, "FieldValueNotSupported")
        if not 1 <= webhook.get("timeoutSeconds", 10) <= 30:
            yield cause(f"{field}.timeoutSeconds", "Invalid value: the timeout value must be between 1 and 30 seconds")


def _binding(new: Object) -> Iterator[Object]:
    for index, subject in enumerate(new.get("subjects") or ()):
        if subject.get("kind") == "ServiceAccount" and not subject.get("namespace"):
            yield required(f"subjects[{index}].namespace")


def _changed_binding(new: Object, old: Object) -> Iterator[Object]:
    if new.get("roleRef") != old.get("roleRef"):
        yield cause("roleRef", f"{_IMMUTABLE.replace('field is immutable', '')}cannot change roleRef")


def _changed_stateful_set(new: Object, old: Object) -> Iterator[Object]:
    free = {"replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy", "minReadySeconds"}  # fmt: skip
    fixed = [{key: value for key, value in each["spec"].items() if key not in free} for each in (new, old)]
    if fixed[0] != fixed[1]:
        yield cause("spec", "Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', "
                    "'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and "
                    "'minReadySeconds' are forbidden", "FieldValueForbidden")  # fmt: skip


_RULES: dict[tuple[str, str], Callable[[Object], Iterator[Object]]] = {
    ("", "configmaps"): _config_map,
    ("", "pods"): _pod,
    ("", "secrets"): _secret,
    ("", "services"): _service,
    ("apps", "daemonsets"): _workload,
    ("apps", "deployments"): _workload,
    ("apps", "replicasets"): _workload,
    ("apps", "statefulsets"): _workload,
    ("batch", "jobs"): _job,
    ("coordination.k8s.io", "leases"): _lease,
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"): _webhooks,
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"): _webhooks,
    ("rbac.authorization.k8s.io", "rolebindings"): _binding,
    ("rbac.authorization.k8s.io", "clusterrolebindings"): _binding,
    crds.STORAGE: crds.wrong,
}

_CHANGES: dict[tuple[str, str], Callable[[Object, Object], Iterator[Object]]] = {
    ("", "configmaps"): _immutable_data,
    ("", "pods"): changed_pod,
    ("", "secrets"): _immutable_data,
    ("", "services"): _changed_service,
    ("apps", "statefulsets"): _changed_stateful_set,
    ("rbac.authorization.k8s.io", "rolebindings"): _changed_binding,
    ("rbac.authorization.k8s.io", "clusterrolebindings"): _changed_binding,
}

# Fields that are what they were when the object was made.
_FIXED = {
    ("", "secrets"): ("type",),
    ("apps", "daemonsets"): ("spec.selector",),
    ("apps", "deployments"): ("spec.selector",),
    ("apps", "replicasets"): ("spec.selector",),
    ("batch", "jobs"): ("spec.completions", "spec.selector", "spec.template"),
    ("discovery.k8s.io", "endpointslices"): ("addressType",),
    crds.STORAGE: ("spec.scope", "spec.group", "spec.names.plural", "spec.names.kind"),
}
