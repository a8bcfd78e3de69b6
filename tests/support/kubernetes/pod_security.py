"""The Pod Security Standards, baseline and restricted, as far as manifests of a mesh touch them.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from collections.abc import Callable, Iterator
from typing import Any

from tests.support.kubernetes.errors import Object

_BASELINE_CAPABILITIES = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}  # fmt: skip
_RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret", "image",
}  # fmt: skip
_SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}  # fmt: skip


def violations(spec: Object, level: str) -> Iterator[str]:
    """What a pod's spec breaks of a level, one sentence a rule."""
    if level in ("baseline", "restricted"):
        yield from _baseline(spec, restricted=level == "restricted")
    if level == "restricted":
        yield from _restricted(spec)


def _containers(spec: Object) -> Iterator[tuple[str, Object]]:
    for key in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(key) or ():
            yield container.get("name", ""), container.get("securityContext") or {}


def _bad(spec: Object, wrong: Callable[[Object], Any]) -> str:
    """The containers that break a rule, as apiserver lists them; "" if none does."""
    names = [f'"{name}"' for name, context in _containers(spec) if wrong(context)]
    if not names:
        return ""
    return f"container {names[0]}" if len(names) == 1 else f"containers {', '.join(names)}"


def _baseline(spec: Object, *, restricted: bool) -> Iterator[str]:
    hosts = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    if hosts:
        yield f"host namespaces ({', '.join(f'{key}=true' for key in hosts)})"
    if who := _bad(spec, lambda context: context.get("privileged")):
        yield f"privileged ({who} must not set securityContext.privileged=true)"

    def added(context: Object) -> set[str]:
        return set((context.get("capabilities") or {}).get("add") or ()) - _BASELINE_CAPABILITIES

    if not restricted and (who := _bad(spec, added)):
        more = ", ".join(
            f'"{each}"' for each in sorted({each for _, context in _containers(spec) for each in added(context)})
        )
        yield f"non-default capabilities ({who} must not include {more} in securityContext.capabilities.add)"
    volumes = [f'"{each["name"]}"' for each in spec.get("volumes") or () if "hostPath" in each]
    if volumes:
        yield f"hostPath volumes (volume {', '.join(volumes)})"
    ports = {port["hostPort"] for container in spec.get("containers") or () for port in container.get("ports") or ()
             if port.get("hostPort")}  # fmt: skip
    if ports:
        yield f"hostPort (uses hostPorts {', '.join(str(port) for port in sorted(ports))})"
    sysctls = [each["name"] for each in (spec.get("securityContext") or {}).get("sysctls") or ()]
    if unsafe := [each for each in sysctls if each not in _SAFE_SYSCTLS]:
        yield f"forbidden sysctls ({', '.join(unsafe)})"


def _restricted(spec: Object) -> Iterator[str]:
    pod = spec.get("securityContext") or {}
    if who := _bad(spec, lambda context: context.get("allowPrivilegeEscalation") is not False):
        yield f"allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"
    capabilities: list[str] = []
    if who := _bad(spec, lambda context: "ALL" not in ((context.get("capabilities") or {}).get("drop") or ())):
        capabilities.append(f'{who} must set securityContext.capabilities.drop=["ALL"]')

    def more(context: Object) -> set[str]:
        return set((context.get("capabilities") or {}).get("add") or ()) - {"NET_BIND_SERVICE"}

    if who := _bad(spec, more):
        names = ", ".join(
            f'"{each}"' for each in sorted({each for _, context in _containers(spec) for each in more(context)})
        )
        capabilities.append(f"{who} must not include {names} in securityContext.capabilities.add")
    if capabilities:
        yield f"unrestricted capabilities ({'; '.join(capabilities)})"
    volumes = [f'"{each["name"]}"' for each in spec.get("volumes") or () if not set(each) & _RESTRICTED_VOLUMES]
    if volumes:
        yield f"restricted volume types (volumes {', '.join(volumes)} use restricted volume types)"
    if who := _bad(spec, lambda context: context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True):
        yield f"runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"
    if who := _bad(spec, lambda context: context.get("runAsUser") == 0):
        yield f"runAsUser=0 ({who} must not set runAsUser=0)"
    if pod.get("runAsUser") == 0:
        yield "runAsUser=0 (pod must not set runAsUser=0)"

    def unconfined(context: Object) -> bool:
        profile = context.get("seccompProfile") or pod.get("seccompProfile") or {}
        return profile.get("type") not in ("RuntimeDefault", "Localhost")

    if who := _bad(spec, unconfined):
        wanted = '"RuntimeDefault" or "Localhost"'
        yield f"seccompProfile (pod or {who} must set securityContext.seccompProfile.type to {wanted})"
