"""The mesh's own workloads, as the manifests that a cluster would get, and where their files are.

pilot and citadel share a pod. policy and telemetry have one each, with an account and a Service of their own: they get
their certificate from citadel as every workload does, and sidecars find them as they find every service.
"""

import posixpath
from collections.abc import Iterable
from typing import Any, Final

from pymesh import names
from pymesh.errors import MeshError
from pymesh_controlplane.injector import scraping
from pymesh_controlplane.injector.containers import TOKEN_LIFETIME_SECONDS
from pymesh_controlplane.local.gateways import GATEWAYS, NEEDED
from pymesh_controlplane.local.state import State
from pymesh_controlplane.options import LOCAL_COMPONENTS, ON_MESH_PORT

SERVICE: Final = "pilot"
# What `pymesh up` runs of its own accord, and what `--without` may name.
PARTS: Final = (*LOCAL_COMPONENTS, *GATEWAYS)

_HOME: Final = "/var/lib/pymesh"
# Where the parts find what they watch.
CONFIG_MOUNT: Final = f"{_HOME}/config"

Document = dict[str, Any]


def components(without: Iterable[str]) -> list[str]:
    """The parts to run, all but `without`; no gateways where there is nobody to tell them what to do.

    Raises:
        MeshError: one of `without` does not exist, or nothing is left.
    """
    left_out = set(without)
    unknown = sorted(left_out.difference(PARTS))
    if unknown:
        raise MeshError(f"--without {unknown[0]}: there is no such component; there are {', '.join(PARTS)}")
    if left_out & NEEDED:
        left_out.update(GATEWAYS)
    rest = [name for name in PARTS if name not in left_out]
    if not rest:
        raise MeshError("--without leaves no component to run")
    return rest


def manifests(state: State, running: list[str]) -> list[Document]:
    """The system namespace, and account, Service and Pod of each part of `running`."""
    found: list[Document] = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": names.SYSTEM_NAMESPACE}}]
    together = [name for name in running if name in LOCAL_COMPONENTS and name not in ON_MESH_PORT]
    if together:
        found += _control_plane(state, together)
    for name in running:
        if name in ON_MESH_PORT:
            found += _on_mesh_port(state, name)
    return found


def _control_plane(state: State, running: list[str]) -> list[Document]:
    ports = {"xds": names.PORT_XDS_PLAINTEXT, "xds-tls": names.PORT_XDS_TLS, "http": names.PORT_PILOT_HTTP}
    command = [names.CONTROL_PLANE, "--components", ",".join(running), "--config-dir", CONFIG_MOUNT]
    directories = {"config": state.config, "citadel": state.citadel, "shared": state.shared}
    if "pilot" in running:
        command += ["--state-dir", f"{_HOME}/last-good"]
        directories["last-good"] = state.last_good("pilot")
    if "citadel" in running:
        command += ["--ca-dir", f"{_HOME}/citadel", "--jwks", f"{_HOME}/tokens/jwks.json"]
        command += ["--root-cert-out", f"{_HOME}/shared/{names.ROOT_FILE}"]
        command += ["--known-pods-only"] if "pilot" in running else []
    # The token key lies beside its public half, and is nothing to the control plane.
    jwks = {"name": "jwks", "mountPath": f"{_HOME}/tokens/jwks.json", "readOnly": True}
    mounts = [{"name": name, "mountPath": f"{_HOME}/{name}", "readOnly": name == "config"} for name in directories]
    volumes: list[Document] = [{"name": name, "hostPath": {"path": str(path)}} for name, path in directories.items()]
    volumes.append({"name": "jwks", "hostPath": {"path": str(state.tokens / "jwks.json"), "type": "File"}})
    return [
        _account(names.CONTROL_PLANE),
        _service(SERVICE, names.CONTROL_PLANE, {f"tcp-{name}": port for name, port in ports.items()}),
        _pod(names.CONTROL_PLANE, {}, _container(names.CONTROL_PLANE, command, [*mounts, jwks]), volumes),
    ]


def _on_mesh_port(state: State, name: str) -> list[Document]:
    command = [names.CONTROL_PLANE, "--components", name]
    token = {"path": "istio-token", "audience": names.TOKEN_AUDIENCE, "expirationSeconds": TOKEN_LIFETIME_SECONDS}
    volumes: list[Document] = [
        {"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": "istiod-ca-cert", "configMap": {"name": names.ROOT_CONFIG_MAP}},
    ]
    mounts: list[Document] = [
        {"name": "istio-token", "mountPath": posixpath.dirname(names.TOKEN_PATH), "readOnly": True},
        {"name": "istiod-ca-cert", "mountPath": posixpath.dirname(names.ROOT_CERT_PATH), "readOnly": True},
    ]
    if name == "policy":
        command += ["--config-dir", CONFIG_MOUNT, "--state-dir", f"{_HOME}/last-good"]
        # All of the configuration but the Secrets: they are none of its business.
        directories = {
            "applied": ("config/applied", state.applied),
            "observed": ("config/observed", state.observed),
            "last-good": ("last-good", state.last_good(name)),
        }
        for of, (below, path) in directories.items():
            volumes.append({"name": of, "hostPath": {"path": str(path)}})
            mounts.append({"name": of, "mountPath": f"{_HOME}/{below}", "readOnly": of != "last-good"})
    # There is no sidecar, and there is mutual TLS: the process ends it itself.
    labels = {names.LABEL_TLS_MODE: "istio"}
    ports = {f"grpc-{name}": names.PORT_MESH_GRPC, "http-pages": names.PORT_PILOT_HTTP}
    pod = _pod(name, labels, _container(name, command, mounts), volumes)
    return [_account(name), _service(name, name, ports), _plain_pages(name), pod]


def _account(name: str) -> Document:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata(name)}


def _service(name: str, app: str, ports: dict[str, int]) -> Document:
    listed = [{"name": port_name, "port": port} for port_name, port in ports.items()]
    spec = {"selector": {"app": app}, "ports": listed}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(name), "spec": spec}


def _plain_pages(name: str) -> Document:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": _metadata(name),
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "mtls": {"mode": "STRICT"},
            "portLevelMtls": {str(names.PORT_PILOT_HTTP): {"mode": "DISABLE"}},
        },
    }


def _container(name: str, command: list[str], mounts: list[Document]) -> Document:
    return {
        "name": name,
        "command": command,
        "securityContext": {"runAsUser": names.PROXY_UID, "runAsGroup": names.PROXY_UID},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": names.PORT_PILOT_HTTP}, "periodSeconds": 1},
        "volumeMounts": mounts,
    }


def _pod(name: str, labels: dict[str, str], container: Document, volumes: list[Document]) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **_metadata(name),
            "labels": {"app": name, "sidecar.istio.io/inject": "false", **labels},
            "annotations": scraping.of_control_plane(),
        },
        "spec": {
            "serviceAccountName": name,
            "terminationGracePeriodSeconds": 5,
            "containers": [container],
            "volumes": volumes,
        },
    }


def _metadata(name: str) -> Document:
    return {"name": name, "namespace": names.SYSTEM_NAMESPACE}
