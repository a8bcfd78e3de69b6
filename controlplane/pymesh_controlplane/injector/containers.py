"""The containers and volumes that a pod gets: Kubernetes objects as plain dicts, in one place. Pure.

What the paths and variables mean is stated in ARCHITECTURE.md, "In the pod".
"""

import posixpath
from dataclasses import dataclass
from typing import Final

from pymesh import names
from pymesh.app_probes import VARIABLE
from pymesh_controlplane.injector.settings import SidecarSettings
from pymesh_controlplane.injector.shape import Manifest

INIT: Final = "pymesh-init"
PROXY: Final = "pymesh-proxy"
AGENT: Final = "pymesh-agent"
ENVOY: Final = "envoy"

ENVOY_BOOTSTRAP: Final = "/etc/pymesh/envoy/bootstrap.json"
# The one place where pymesh-init can write: iptables of the legacy kind keeps its lock there.
_RUN: Final = "/run/pymesh"

DEFAULT_PROXY_IMAGE: Final = "pymesh-proxy:0.1.0"

# A projected token is renewed by the kubelet at 80 % of its life; Istio asks for the same twelve hours.
TOKEN_LIFETIME_SECONDS: Final = 43_200

# A sidecar rests below 50 MB; what it needs beyond that grows with configuration and connections. One event loop
# cannot use more than one core.
DEFAULT_RESOURCES: Final = {
    ("requests", "cpu"): "50m",
    ("requests", "memory"): "64Mi",
    ("limits", "cpu"): "1",
    ("limits", "memory"): "512Mi",
}


@dataclass(frozen=True, slots=True)
class InjectionConfig:
    """What is the same for every pod of a mesh.

    Attributes:
        discovery: `host:port` of pilot and citadel over TLS.
        proxy_image: image with pymesh-proxy and pymesh-init on its PATH.
        envoy_image: image with `envoy` on its PATH, for pods that ask for one.
        log_level: the sidecar's, one of `settings.LOG_LEVELS`.
        inject_by_default: whether a pod gets a sidecar when neither its namespace nor the pod says anything.
        native_sidecars: whether every node has init containers that stay (a kubelet of 1.29).
    """

    discovery: str = f"pilot.{names.SYSTEM_NAMESPACE}.svc:{names.PORT_XDS_TLS}"
    proxy_image: str = DEFAULT_PROXY_IMAGE
    envoy_image: str = "envoyproxy/envoy:v1.40.0"
    cluster_id: str = "Kubernetes"
    trust_domain: str = names.TRUST_DOMAIN
    log_level: str = "info"
    inject_by_default: bool = False
    native_sidecars: bool = True


def init_container(settings: SidecarSettings, config: InjectionConfig) -> Manifest:
    """`pymesh-init`: installs the redirect, then ends. Its options are those of Istio's istio-iptables."""
    command = ["pymesh-init", "-p", str(names.PORT_OUTBOUND)]
    if settings.proxy == "envoy":
        command += ["-z", str(names.PORT_INBOUND)]
    command += ["-u", str(names.PROXY_UID), "-m", "REDIRECT"]
    command += ["-i", _joined(settings.include_outbound_ranges)]
    for option, values in (
        ("-x", settings.exclude_outbound_ranges),
        ("-q", settings.include_outbound_ports),
        ("-o", settings.exclude_outbound_ports),
    ):
        if values:
            command += [option, _joined(values)]
    command += ["-b", _joined(settings.include_inbound_ports), "-d", _joined(settings.exclude_inbound_ports)]
    return {
        "name": INIT,
        "image": settings.image or config.proxy_image,
        "command": command,
        "env": [{"name": "XTABLES_LOCKFILE", "value": f"{_RUN}/xtables.lock"}],
        "resources": _resources(settings),
        "securityContext": {
            **_restricted(),
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
        },
        "volumeMounts": [_mount("pymesh-run", _RUN)],
    }


def sidecar_containers(
    settings: SidecarSettings, config: InjectionConfig, workload: str, app_probes: str = ""
) -> list[Manifest]:
    """What runs beside the app: `pymesh-proxy`, or its agent and a real Envoy. `app_probes` it asks (`probes`)."""
    log_level = settings.log_level or config.log_level
    base: Manifest = {
        "image": settings.image or config.proxy_image,
        "env": _environment(config, workload) + ([{"name": VARIABLE, "value": app_probes}] if app_probes else []),
        "resources": _resources(settings),
        "securityContext": _unprivileged(),
    }
    options = ["--discovery", config.discovery, "--status-port", str(settings.status_port), "--log-level", log_level]
    observed = _observed(settings)
    if settings.proxy == "pymesh":
        command = ["pymesh-proxy", "--listen", str(names.PORT_OUTBOUND), *options]
        return [{"name": PROXY, **base, "command": command, **observed, "volumeMounts": _identity_mounts()}]
    agent = ["pymesh-proxy", "--agent", "--envoy-bootstrap", ENVOY_BOOTSTRAP, *options]
    sockets = _mount("workload-socket", posixpath.dirname(names.SDS_SOCKET_PATH))
    bootstrap = _mount("envoy-bootstrap", posixpath.dirname(ENVOY_BOOTSTRAP))
    return [
        {"name": AGENT, **base, "command": agent, "volumeMounts": [*_identity_mounts(), sockets, bootstrap]},
        {
            "name": ENVOY,
            "image": config.envoy_image,
            "command": _envoy_command(log_level),
            "resources": _resources(settings),
            "securityContext": _unprivileged(),
            **observed,
            "volumeMounts": [{**sockets, "readOnly": True}, {**bootstrap, "readOnly": True}],
        },
    ]


def gateway_pod(config: InjectionConfig, workload: str, ports: list[Manifest]) -> Manifest:
    """`containers` and `volumes` of a gateway's pod: a proxy without an app, which binds what it is sent."""
    settings = SidecarSettings()
    observed = _observed(settings)
    container: Manifest = {
        "name": PROXY,
        "image": config.proxy_image,
        "command": ["pymesh-proxy", "--gateway", "--discovery", config.discovery, "--log-level", config.log_level],
        "env": _environment(config, workload),
        "resources": _resources(settings),
        "securityContext": _unprivileged(),
        **observed,
        "ports": [*ports, *observed["ports"]],
        "volumeMounts": _identity_mounts(),
    }
    return {"containers": [container], "volumes": _identity_volumes()}


def volumes(settings: SidecarSettings) -> list[Manifest]:
    """The volumes behind the mounts of the containers."""
    result = [*_identity_volumes(), {"name": "pymesh-run", "emptyDir": {}}]
    if settings.proxy == "envoy":
        result += [{"name": "workload-socket", "emptyDir": {}}, {"name": "envoy-bootstrap", "emptyDir": {}}]
    return result


def _identity_volumes() -> list[Manifest]:
    token = {"path": "istio-token", "audience": names.TOKEN_AUDIENCE, "expirationSeconds": TOKEN_LIFETIME_SECONDS}
    labels = {"path": posixpath.basename(names.POD_LABELS_PATH), "fieldRef": {"fieldPath": "metadata.labels"}}
    return [
        {"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": "istiod-ca-cert", "configMap": {"name": names.ROOT_CONFIG_MAP}},
        {"name": "istio-podinfo", "downwardAPI": {"items": [labels]}},
    ]


def _environment(config: InjectionConfig, workload: str) -> list[Manifest]:
    fields = (
        ("POD_NAME", "metadata.name"),
        ("POD_NAMESPACE", "metadata.namespace"),
        ("INSTANCE_IP", "status.podIP"),
        ("SERVICE_ACCOUNT", "spec.serviceAccountName"),
    )
    return [
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields),
        {"name": "WORKLOAD_NAME", "value": workload},
        {"name": "CLUSTER_ID", "value": config.cluster_id},
        {"name": "TRUST_DOMAIN", "value": config.trust_domain},
    ]


def _identity_mounts() -> list[Manifest]:
    return [
        {**_mount("istio-token", posixpath.dirname(names.TOKEN_PATH)), "readOnly": True},
        {**_mount("istiod-ca-cert", posixpath.dirname(names.ROOT_CERT_PATH)), "readOnly": True},
        {**_mount("istio-podinfo", posixpath.dirname(names.POD_LABELS_PATH)), "readOnly": True},
    ]


def _mount(volume: str, path: str) -> Manifest:
    return {"name": volume, "mountPath": path}


def _observed(settings: SidecarSettings) -> Manifest:
    """How the outside sees a proxy: its metrics port, and the probe that holds traffic back until it has a config."""
    probe = {
        "httpGet": {"path": "/healthz/ready", "port": names.PORT_READINESS},
        "periodSeconds": 1,
        "timeoutSeconds": 3,
        "failureThreshold": 5,
        **settings.readiness,
    }
    port = {"name": "http-envoy-prom", "containerPort": names.PORT_METRICS, "protocol": "TCP"}
    return {"ports": [port], "readinessProbe": probe}


def _envoy_command(log_level: str) -> list[str]:
    envoy = f"envoy -c {ENVOY_BOOTSTRAP} --disable-hot-restart --concurrency 1 --log-level {log_level}"
    # The agent writes the file once it has an identity; without the wait Envoy would exit and be restarted until then.
    return ["/bin/sh", "-c", f"until [ -s {ENVOY_BOOTSTRAP} ]; do sleep 0.1; done; exec {envoy}"]


def _restricted() -> Manifest:
    """What Kubernetes' Restricted profile asks for, but for user and capabilities."""
    return {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _unprivileged() -> Manifest:
    return {
        **_restricted(),
        "runAsUser": names.PROXY_UID,
        "runAsGroup": names.PROXY_UID,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _resources(settings: SidecarSettings) -> Manifest:
    """As in Istio, a pod that says anything about its sidecar's resources says everything."""
    result: Manifest = {}
    wanted = DEFAULT_RESOURCES if settings.resources is None else settings.resources
    for (kind, what), quantity in wanted.items():
        result.setdefault(kind, {})[what] = quantity
    return result


def _joined(values: tuple[str, ...]) -> str:
    return ",".join(values)
