"""What a pod's spec must be (pkg/apis/core/validation), as far as an injector or a manifest can get it wrong."""

import ipaddress
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from tests.support.kubernetes.errors import Object, cause, required
from tests.support.kubernetes.names import dns_1035, is_label

_SOURCES_AT_MOST = 1
_PULL = ("Always", "IfNotPresent", "Never")
_RESTART = ("Always", "OnFailure", "Never")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")


def wrong_pod_spec(spec: Object, path: str) -> Iterator[Object]:
    """Causes of a 422 in a pod's spec."""
    volumes = {each.get("name", "") for each in spec.get("volumes") or ()}
    yield from _volumes(spec.get("volumes") or (), path)
    if not spec.get("containers"):
        yield required(f"{path}.containers")
    if spec.get("restartPolicy") not in _RESTART:
        yield _unsupported(f"{path}.restartPolicy", spec.get("restartPolicy"), _RESTART)
    names: set[str] = set()
    for key in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(key) or ()):
            where = f"{path}.{key}[{index}]"
            name = container.get("name", "")
            if name in names:
                yield cause(f"{where}.name", f'Duplicate value: "{name}"', "FieldValueDuplicate")
            names.add(name)
            yield from _container(container, where, volumes, init=key == "initContainers")
    yield from _ports(spec, path)
    yield from _security(spec, path)


def _unsupported(field: str, value: object, supported: tuple[str, ...]) -> Object:
    listed = ", ".join(f'"{each}"' for each in supported)
    return cause(field, f'Unsupported value: "{value}": supported values: {listed}', "FieldValueNotSupported")


def _container(container: Object, where: str, volumes: set[str], *, init: bool) -> Iterator[Object]:
    yield from _container_name(container, where)
    if not container.get("image"):
        yield required(f"{where}.image")
    if container.get("imagePullPolicy") not in _PULL:
        yield _unsupported(f"{where}.imagePullPolicy", container.get("imagePullPolicy"), _PULL)
    # Only a native sidecar is an init container that is asked how it does.
    alive = not init or container.get("restartPolicy") == "Always"
    for key in (*_PROBES, "lifecycle"):
        if key in container and not alive:
            said = "Forbidden: must not be set for init containers without restartPolicy=Always"
            yield cause(f"{where}.{key}", said, "FieldValueForbidden")
    for key in _PROBES:
        if key in container:
            yield from _probe(container[key], f"{where}.{key}", ready=key == "readinessProbe")
    for hook in ("postStart", "preStop"):
        if hook in (container.get("lifecycle") or {}):
            yield from _handler(container["lifecycle"][hook], f"{where}.lifecycle.{hook}")
    yield from _mounts(container, where, volumes)
    yield from _resources(container.get("resources") or {}, f"{where}.resources")
    yield from _environment(container.get("env") or (), where)


def _container_name(container: Object, where: str) -> Iterator[Object]:
    name = container.get("name", "")
    if not name:
        yield required(f"{where}.name")
    elif not is_label(name):
        yield cause(f"{where}.name", f'Invalid value: "{name}": a lowercase RFC 1123 label must consist of lower case '
                                     "alphanumeric characters or '-'")  # fmt: skip


def _environment(variables: Any, where: str) -> Iterator[Object]:
    for index, variable in enumerate(variables):
        if not variable.get("name"):
            yield required(f"{where}.env[{index}].name")
        if variable.get("value") and variable.get("valueFrom"):
            said = 'Invalid value: "": may not be specified when `value` is not empty'
            yield cause(f"{where}.env[{index}].valueFrom", said)


def _probe(probe: Object, where: str, *, ready: bool) -> Iterator[Object]:
    yield from _handler(probe, where)
    for key in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        if probe.get(key, 0) < 0:
            yield cause(f"{where}.{key}", f"Invalid value: {probe[key]}: must be greater than or equal to 0")
    if not ready and probe.get("successThreshold", 1) != 1:
        yield cause(f"{where}.successThreshold", f"Invalid value: {probe['successThreshold']}: must be 1")


def _handler(action: Object, where: str) -> Iterator[Object]:
    given = [key for key in _HANDLERS if key in action]
    if not given:
        yield required(where, "must specify a handler type")
    for extra in given[1:]:
        yield cause(f"{where}.{extra}", "Forbidden: may not specify more than 1 handler type", "FieldValueForbidden")


def _mounts(container: Object, where: str, volumes: set[str]) -> Iterator[Object]:
    paths: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        field = f"{where}.volumeMounts[{index}]"
        if mount.get("name", "") not in volumes:
            yield cause(f"{field}.name", f'Not found: "{mount.get("name", "")}"', "FieldValueNotFound")
        if mount.get("mountPath", "") in paths:
            yield cause(f"{field}.mountPath", f'Invalid value: "{mount["mountPath"]}": must be unique')
        paths.add(mount.get("mountPath", ""))


def _resources(resources: Object, where: str) -> Iterator[Object]:
    limits = resources.get("limits") or {}
    for key, value in (resources.get("requests") or {}).items():
        if key in limits and quantity(value) > quantity(limits[key]):
            yield cause(f"{where}.requests", f'Invalid value: "{value}": must be less than or equal to {key} limit of '
                                             f"{limits[key]}")  # fmt: skip


_UNITS = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
          "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60}  # fmt: skip


def quantity(value: Any) -> float:
    """A resource.Quantity as a number."""
    text = str(value)
    unit = text.lstrip("+-0123456789.eE") if not text.endswith("E") else "E"
    return float(text.removesuffix(unit)) * _UNITS[unit]


def _ports(spec: Object, path: str) -> Iterator[Object]:
    taken: set[tuple[object, ...]] = set()
    for index, container in enumerate(spec.get("containers") or ()):
        for at, port in enumerate(container.get("ports") or ()):
            field = f"{path}.containers[{index}].ports[{at}]"
            if not 1 <= port.get("containerPort", 0) <= 65535:
                said = f"Invalid value: {port.get('containerPort')}: must be between 1 and 65535, inclusive"
                yield cause(f"{field}.containerPort", said)
            if name := port.get("name"):
                yield from _port_name(name, f"{field}.name")
            key = (port.get("hostIP", ""), port.get("hostPort"), port.get("protocol"))
            if port.get("hostPort") and key in taken:
                yield cause(f"{field}.hostPort", f"Duplicate value: {port['hostPort']}", "FieldValueDuplicate")
            taken.add(key)


def _port_name(name: str, field: str) -> Iterator[Object]:
    if len(name) > 15 or not any(each.isalpha() for each in name) or "--" in name:
        yield cause(field, f'Invalid value: "{name}": must be no more than 15 characters, with a letter')
    else:
        yield from dns_1035("a" + name, field)


def _volumes(volumes: Any, path: str) -> Iterator[Object]:
    names: set[str] = set()
    for index, volume in enumerate(volumes):
        name = volume.get("name", "")
        if not is_label(name):
            yield cause(f"{path}.volumes[{index}].name", f'Invalid value: "{name}": must be a DNS-1123 label')
        if name in names:
            yield cause(f"{path}.volumes[{index}].name", f'Duplicate value: "{name}"', "FieldValueDuplicate")
        names.add(name)
        if len(set(volume) - {"name"}) > _SOURCES_AT_MOST:
            yield cause(f"{path}.volumes[{index}]", "Forbidden: may not specify more than 1 volume type",
                        "FieldValueForbidden")  # fmt: skip
        for at, source in enumerate((volume.get("projected") or {}).get("sources") or ()):
            yield from _token(source.get("serviceAccountToken"), f"{path}.volumes[{index}].projected.sources[{at}]")


def _token(token: Object | None, where: str) -> Iterator[Object]:
    if token is None:
        return
    if token.get("expirationSeconds", 3600) < 600:
        said = f"Invalid value: {token['expirationSeconds']}: may not specify a duration less than 10 minutes"
        yield cause(f"{where}.serviceAccountToken.expirationSeconds", said)
    if not token.get("path"):
        yield required(f"{where}.serviceAccountToken.path")


def _security(spec: Object, path: str) -> Iterator[Object]:
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        try:
            ipaddress.ip_address(alias.get("ip", ""))
        except ValueError:
            said = f'Invalid value: "{alias.get("ip")}": must be a valid IP address'
            yield cause(f"{path}.hostAliases[{index}].ip", said)
    for key in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(key) or ()):
            context = container.get("securityContext") or {}
            where = f"{path}.{key}[{index}].securityContext"
            if context.get("privileged") and context.get("allowPrivilegeEscalation") is False:
                yield cause(
                    where, "Invalid value: cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
                )


def changed_pod(new: Object, old: Object) -> Iterator[Object]:
    """Causes of a 422 in an update: next to everything in a pod's spec is fixed."""
    ours, before = deepcopy(new["spec"]), deepcopy(old["spec"])
    for spec in (ours, before):
        for key in ("initContainers", "containers"):
            for container in spec.get(key) or ():
                container.pop("image", None)
        for key in ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"):
            spec.pop(key, None)
    if not before.get("nodeName"):
        before.pop("nodeName", None)
        ours.pop("nodeName", None)  # the binding of a pod, which a real cluster does by a subresource
    if ours != before:
        yield cause("spec", "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
                    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
                    "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was "
                    "previously negative)", "FieldValueForbidden")  # fmt: skip
