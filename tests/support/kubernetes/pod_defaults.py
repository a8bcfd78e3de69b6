"""Defaults of pod specs (pkg/apis/core/v1/defaults.go): what stands in a pod that nobody wrote there."""

from collections.abc import Iterator

from tests.support.kubernetes.errors import Object

_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_PROBE = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
_READABLE = 0o644
# A projected service account token's life in seconds, where it does not say.
_TOKEN_LIFE = 3600
_DEFAULT_MODES = ("configMap", "secret", "downwardAPI", "projected")


def pod_spec(spec: Object) -> None:
    """Fill in a pod's spec, in place. Idempotent."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    if spec.get("serviceAccountName"):
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    elif spec.get("serviceAccount"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    for container in _containers(spec):
        _container(container, host_network=bool(spec.get("hostNetwork")))
    for volume in spec.get("volumes") or ():
        _volume(volume)


def _containers(spec: Object) -> Iterator[Object]:
    for key in ("initContainers", "containers", "ephemeralContainers"):
        yield from (each for each in spec.get(key) or () if isinstance(each, dict))


def _container(container: Object, *, host_network: bool) -> None:
    image = str(container.get("image", ""))
    container.setdefault("imagePullPolicy", "Always" if _latest(image) else "IfNotPresent")
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    resources = container.setdefault("resources", {})
    for name, limit in (resources.get("limits") or {}).items():
        resources.setdefault("requests", {}).setdefault(name, limit)
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if host_network:
            port.setdefault("hostPort", port.get("containerPort"))
    for probe in filter(None, (container.get(name) for name in _PROBES)):
        for key, value in _PROBE.items():
            probe.setdefault(key, value)
        _action(probe)
    for action in (container.get("lifecycle") or {}).values():
        if isinstance(action, dict):
            _action(action)
    for variable in container.get("env") or ():
        if field := (variable.get("valueFrom") or {}).get("fieldRef"):
            field.setdefault("apiVersion", "v1")


def _latest(image: str) -> bool:
    """Whether an image's name has no tag, or the tag `latest`, and no digest."""
    name = image.rpartition("/")[2]
    return "@" not in name and name.partition(":")[2] in ("", "latest")


def _action(action: Object) -> None:
    if http := action.get("httpGet"):
        http.setdefault("path", "/")
        http.setdefault("scheme", "HTTP")
    if grpc := action.get("grpc"):
        grpc.setdefault("service", "")


def _volume(volume: Object) -> None:
    if set(volume) <= {"name"}:
        volume["emptyDir"] = {}
    for key in _DEFAULT_MODES:
        if isinstance(volume.get(key), dict):
            volume[key].setdefault("defaultMode", _READABLE)
    if isinstance(volume.get("hostPath"), dict):
        volume["hostPath"].setdefault("type", "")
    for source in (volume.get("projected") or {}).get("sources") or ():
        if token := source.get("serviceAccountToken"):
            token.setdefault("expirationSeconds", _TOKEN_LIFE)
        _downward(source.get("downwardAPI"))
    _downward(volume.get("downwardAPI"))


def _downward(source: Object | None) -> None:
    for item in (source or {}).get("items") or ():
        if field := item.get("fieldRef"):
            field.setdefault("apiVersion", "v1")
