"""Probes and hooks of an app, led through its sidecar. Pure.

A kubelet asks without mutual TLS, which a STRICT pod refuses, and a TCP probe would only find the sidecar's port open.
So HTTP, TCP and gRPC probes, and HTTP hooks, become requests to the sidecar's port 15020, which asks the app. Source:
Istio, "Health Checking of Istio Services". Left as they are: exec probes; those that name a `host`, since they are
about something else than this pod; those of the sidecar's own ports.

A hook behind the sidecar can be called by whoever reaches the pod, as without a mesh: a kubelet cannot be told from
another caller. Where that is too much, write an exec hook.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pymesh.app_probes import (
    DEFAULT_TIMEOUT,
    HOOKS,
    MAX_BYTES,
    OWN_PORTS,
    PROBES,
    VARIABLE,
    is_probe_path,
    parse,
    probe_path,
    read_probe,
)
from pymesh.errors import ConfigError
from pymesh_controlplane.injector.shape import Manifest, mapping, named_items

_CHECKS: Final = ("httpGet", "tcpSocket", "grpc")
# Kubernetes' default for terminationGracePeriodSeconds; a hook has as long as that.
DEFAULT_GRACE: Final = 30


@dataclass(frozen=True, slots=True)
class _Place:
    """A probe or hook: its own mapping, the container it belongs to, and where both stand below the pod."""

    owner: Manifest
    container: Manifest
    field: str
    where: str

    @property
    def path(self) -> str:
        return probe_path(self.container["name"], self.field)

    def replace(self, action: Manifest) -> None:
        """Ask by `action` from now on. YAML's anchors may have several containers share a probe: no other changes."""
        changed = {**{key: value for key, value in self.owner.items() if key not in _CHECKS}, **action}
        if self.field in PROBES:
            self.container[self.field] = changed
        else:
            self.container["lifecycle"] = {**self.container["lifecycle"], self.field: changed}


def rewrite(spec: Manifest, port: int, *, native: bool) -> str:
    """Point the probes and hooks in `spec`, which is changed, at `port`; the sidecar's variable, empty for none.

    Args:
        native: whether the sidecar is a native one, so that it runs before the app's init containers.

    Raises:
        ConfigError: a probe is malformed or names a port that its container does not have.
    """
    originals: dict[str, Manifest] = {}
    grace = spec.get("terminationGracePeriodSeconds")
    for place in _places(spec, ("initContainers", "containers") if native else ("containers",)):
        original = _original(place, port)
        if original is None:
            continue
        timeout = (grace or DEFAULT_GRACE) if place.field in HOOKS else place.owner.get("timeoutSeconds")
        originals[place.path] = original | ({} if timeout in (None, DEFAULT_TIMEOUT) else {"timeoutSeconds": timeout})
        # What the sidecar would not take is refused here.
        read_probe(originals[place.path], place.where)
        if not is_probe_path(place.path):
            raise ConfigError(
                "its container's name is not one: lower case letters, digits and dashes", path=place.where
            )
        place.replace({"httpGet": {"path": place.path, "port": port}})
    text = json.dumps(originals, separators=(",", ":"), sort_keys=True) if originals else ""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"the pod's probes take more than {MAX_BYTES} bytes", path="spec.containers")
    return text


def restore(spec: Manifest, sidecars: list[Manifest]) -> None:
    """Put back in `spec`, which is changed, what `sidecars` of an earlier injection were to ask.

    Raises:
        ConfigError: their variable cannot be read.
    """
    for sidecar in sidecars:
        for index, variable in enumerate(sidecar.get("env") or []):
            if not isinstance(variable, dict) or variable.get("name") != VARIABLE:
                continue
            try:
                parse(str(variable.get("value")))
            except ConfigError as error:
                raise error.at(f"env[{index}] of container {sidecar['name']}") from None
            _put_back(spec, json.loads(variable["value"]))


def _put_back(spec: Manifest, originals: dict[str, Manifest]) -> None:
    for place in _places(spec, ("initContainers", "containers")):
        original = originals.get(place.path)
        if original is None or mapping(place.owner, "httpGet").get("path") != place.path:
            continue
        place.replace({check: value for check, value in original.items() if check in _CHECKS})


def _places(spec: Manifest, groups: Sequence[str]) -> Iterator[_Place]:
    """Every probe and hook of the containers of `groups` that run as long as the pod."""
    for group in groups:
        for index, container in enumerate(named_items(spec, group)):
            if group == "initContainers" and container.get("restartPolicy") != "Always":
                continue
            here = f"spec.{group}[{index}]"
            for field in PROBES:
                if container.get(field) is not None:
                    yield _Place(mapping(container, field, path=f"{here}."), container, field, f"{here}.{field}")
            hooks = mapping(container, "lifecycle", path=f"{here}.")
            for field in HOOKS:
                if hooks.get(field) is not None:
                    where = f"{here}.lifecycle"
                    yield _Place(mapping(hooks, field, path=f"{where}."), container, field, f"{where}.{field}")


def _original(place: _Place, status_port: int) -> Manifest | None:
    """What is to be asked, its port as a number; None where that is not the sidecar's to ask."""
    # Kubernetes knows tcpSocket hooks and never runs them.
    checks = ("httpGet",) if place.field in HOOKS else _CHECKS
    check = next((check for check in checks if place.owner.get(check) is not None), None)
    if check is None:
        return None
    action = dict(mapping(place.owner, check, path=f"{place.where}."))
    if action.get("host"):
        return None
    action.pop("host", None)
    action["port"] = _port(action.get("port"), place.container, f"{place.where}.{check}.port")
    if action["port"] in (*OWN_PORTS, status_port):
        return None
    # A pod has the same variable before an API server has written out what goes without saying, and after.
    said = {name: value for name, value in action.items() if value not in (None, [], "")}
    if check == "httpGet":
        said = {"path": "/", **said}
        if said.get("scheme") == "HTTP":
            del said["scheme"]
    return {check: said}


def _port(port: object, container: Manifest, where: str) -> object:
    """The number behind a port, as a kubelet finds it: by name among the container's own, else as a numeral."""
    if not isinstance(port, str):
        return port
    ports = container.get("ports")
    for known in ports if isinstance(ports, list) else []:
        if isinstance(known, dict) and known.get("name") == port:
            return known.get("containerPort")
    if port.isascii() and port.isdecimal() and len(port) <= 5:
        return int(port)
    raise ConfigError(f"container {container['name']} has no port of the name {port!r}", path=where)
