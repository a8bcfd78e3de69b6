"""When a sidecar starts and ends beside its app. Pure.

As a native sidecar (Kubernetes 1.29: an init container that stays) it stands behind the redirect and before the app's
own init containers, which so have their network, and it ends when the app has. Where the cluster has none of these it
is the first container: its postStart hook holds the app back until it is ready, and its preStop hook holds the end of
the sidecar back until the app's sockets are gone.
"""

from typing import Final

from pymesh_controlplane.injector.probes import DEFAULT_GRACE
from pymesh_controlplane.injector.shape import Manifest, named_items

# How often, a second apart, a native sidecar may say that it is not ready before it is started anew.
_STARTUP_FAILURES: Final = 600
# Seconds that a sidecar has, of the pod's grace period, to finish after its hook: its own drain time and the last
# reports. What is left of a shorter period goes to the app.
_OWN_END: Final = 8


def place(spec: Manifest, added: dict[str, list[Manifest]], *, native: bool) -> None:
    """Put the containers and volumes of `added` in their places in `spec`, which is changed, and `added` with it."""
    sidecars = added.pop("containers")
    if native:
        added["initContainers"] += [_native(container) for container in sidecars]
        order = [*added["initContainers"], *named_items(spec, "initContainers")]
    else:
        added["containers"] = _held(sidecars, spec.get("terminationGracePeriodSeconds"))
        # Behind the app's own: there is no sidecar yet that their traffic could be led to.
        order = [*named_items(spec, "initContainers"), *added["initContainers"]]
        spec["containers"] = [*added["containers"], *named_items(spec, "containers")]
    spec["initContainers"] = order
    spec["volumes"] = [*named_items(spec, "volumes"), *added["volumes"]]


def _native(container: Manifest) -> Manifest:
    """`container` as one that stays. Its preStop hook runs when the pod's end begins, long before its own."""
    result = {**container, "restartPolicy": "Always"}
    if "readinessProbe" in container:
        once = {key: value for key, value in container["readinessProbe"].items() if key != "initialDelaySeconds"}
        result["startupProbe"] = {**once, "periodSeconds": 1, "failureThreshold": _STARTUP_FAILURES}
    if _is_ours(container):
        result["lifecycle"] = {"preStop": _exec("pymesh-proxy", "drain")}
    return result


def _held(containers: list[Manifest], grace: object) -> list[Manifest]:
    """`containers` as ordinary ones before the app's. The last of ours waits for the others."""
    seconds = grace if isinstance(grace, int) and not isinstance(grace, bool) else DEFAULT_GRACE
    patience = str(max(seconds - _OWN_END, 0))
    hooks = {
        "postStart": _exec("pymesh-proxy", "wait"),
        "preStop": _exec("pymesh-proxy", "drain", "--until-app-ends", patience),
    }
    # An Envoy has no hook of its own, and its agent waits for it: it has to be started first.
    ordered = sorted(containers, key=_is_ours)
    return [{**container, "lifecycle": hooks} if _is_ours(container) else container for container in ordered]


def _is_ours(container: Manifest) -> bool:
    return bool(container["command"][0] == "pymesh-proxy")


def _exec(*command: str) -> Manifest:
    return {"exec": {"command": list(command)}}
