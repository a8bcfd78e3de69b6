"""The mesh's own workload: the control plane, as the manifests that a cluster would get, and where its files are."""

from collections.abc import Iterable
from typing import Any, Final

from pymesh import names
from pymesh.errors import MeshError
from pymesh_controlplane.local.state import State
from pymesh_controlplane.options import COMPONENTS

CONTROL_PLANE: Final = "pymesh-controlplane"
ROOT_CONFIG_MAP: Final = "istio-ca-root-cert"
ROOT_FILE: Final = "root-cert.pem"
SERVICE: Final = "pilot"

Document = dict[str, Any]


def components(without: Iterable[str]) -> list[str]:
    """The components to run, all but `without`.

    Raises:
        MeshError: one of `without` does not exist, or nothing is left.
    """
    left_out = set(without)
    unknown = sorted(left_out.difference(COMPONENTS))
    if unknown:
        raise MeshError(f"--without {unknown[0]}: there is no such component; there are {', '.join(COMPONENTS)}")
    rest = [name for name in COMPONENTS if name not in left_out]
    if not rest:
        raise MeshError("--without leaves no component to run")
    return rest


def manifests(state: State, running: list[str]) -> list[Document]:
    """Namespace, account, Service and Pod of the control plane with the components `running`."""
    namespace = names.SYSTEM_NAMESPACE
    metadata = {"name": CONTROL_PLANE, "namespace": namespace}
    ports = {"xds": names.PORT_XDS_PLAINTEXT, "xds-tls": names.PORT_XDS_TLS, "http": names.PORT_PILOT_HTTP}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": SERVICE, "namespace": namespace},
            "spec": {
                "selector": {"app": CONTROL_PLANE},
                "ports": [{"name": f"tcp-{name}", "port": port} for name, port in ports.items()],
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**metadata, "labels": {"app": CONTROL_PLANE, "sidecar.istio.io/inject": "false"}},
            "spec": _pod_spec(state, running),
        },
    ]


def _pod_spec(state: State, running: list[str]) -> Document:
    home = "/var/lib/pymesh"
    command = [CONTROL_PLANE, "--components", ",".join(running), "--config-dir", f"{home}/config"]
    if "citadel" in running:
        command += ["--ca-dir", f"{home}/citadel", "--jwks", f"{home}/tokens/jwks.json"]
        command += ["--root-cert-out", f"{home}/shared/{ROOT_FILE}"]
    # The token key lies beside its public half, and is nothing to the control plane.
    directories = {"config": state.config, "citadel": state.citadel, "shared": state.shared}
    jwks = {"name": "jwks", "mountPath": f"{home}/tokens/jwks.json", "readOnly": True}
    return {
        "serviceAccountName": CONTROL_PLANE,
        "terminationGracePeriodSeconds": 5,
        "containers": [
            {
                "name": CONTROL_PLANE,
                "command": command,
                "securityContext": {"runAsUser": names.PROXY_UID, "runAsGroup": names.PROXY_UID},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": names.PORT_PILOT_HTTP}, "periodSeconds": 1},
                "volumeMounts": [
                    *(
                        {"name": name, "mountPath": f"{home}/{name}", "readOnly": name == "config"}
                        for name in directories
                    ),
                    jwks,
                ],
            }
        ],
        "volumes": [
            *({"name": name, "hostPath": {"path": str(path)}} for name, path in directories.items()),
            {"name": "jwks", "hostPath": {"path": str(state.tokens / "jwks.json"), "type": "File"}},
        ],
    }
