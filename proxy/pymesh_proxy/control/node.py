"""Who this proxy is, read from what the pod tells it: the environment and the downward-API file of labels."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pymesh.errors import ConfigError
from pymesh.identity import Identity
from pymesh.names import CLUSTER_ID, TRUST_DOMAIN, USER_AGENT, NodeId
from pymesh.peer_metadata import Peer, peer_of

# Kubernetes keeps all labels and annotations of an object below 256 KiB.
MAX_LABELS_BYTES = 256 * 1024

_LABEL = re.compile(r'([A-Za-z0-9._/-]+)="((?:[^"\\]|\\.)*)"')
_REQUIRED = ("POD_NAME", "POD_NAMESPACE", "INSTANCE_IP", "SERVICE_ACCOUNT")


@dataclass(frozen=True, slots=True)
class Node:
    """This proxy, as it introduces itself to pilot and citadel.

    Attributes:
        kind: "sidecar" or "router".
        pod, namespace, ip, service_account: as Kubernetes knows them.
        workload: the workload that the pod belongs to; the pod's own name where nobody said.
        cluster_id: the Kubernetes cluster.
        trust_domain: the SPIFFE trust domain.
        labels: the pod's labels.
        user_agent: "pymesh-proxy", or "envoy" where the agent speaks for an Envoy.
    """

    pod: str
    namespace: str
    ip: str
    service_account: str
    workload: str
    cluster_id: str = CLUSTER_ID
    trust_domain: str = TRUST_DOMAIN
    kind: str = "sidecar"
    user_agent: str = USER_AGENT
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """`sidecar~10.244.0.7~reviews-v1-0.default~default.svc.cluster.local`."""
        return str(NodeId(self.kind, self.ip, self.pod, self.namespace))

    @property
    def cluster(self) -> str:
        """`reviews-v1.default`: workload and namespace."""
        return f"{self.workload}.{self.namespace}"

    @property
    def identity(self) -> Identity:
        """The SPIFFE identity that this proxy asks citadel for."""
        return Identity(self.trust_domain, self.namespace, self.service_account)

    @property
    def peer(self) -> Peer:
        """The workload beside this proxy, as metrics name it."""
        return peer_of(self.workload, self.namespace, self.labels, self.cluster_id)

    @property
    def metadata(self) -> dict[str, str | list[str] | dict[str, str]]:
        """Node metadata, by Istio's names."""
        return {
            "NAME": self.pod,
            "NAMESPACE": self.namespace,
            "SERVICE_ACCOUNT": self.service_account,
            "WORKLOAD_NAME": self.workload,
            "CLUSTER_ID": self.cluster_id,
            "INSTANCE_IPS": [self.ip],
            "LABELS": dict(self.labels),
        }


def node_from_environment(
    environ: Mapping[str, str], labels_file: Path | None = None, *, kind: str = "sidecar"
) -> Node:
    """The node that `environ` describes: POD_NAME, POD_NAMESPACE, INSTANCE_IP and SERVICE_ACCOUNT are needed;
    WORKLOAD_NAME, CLUSTER_ID and TRUST_DOMAIN have defaults.

    `labels_file` is the pod's labels as the downward API writes them, a `key="value"` a line. A file that does not
    exist means no labels.

    Raises:
        ConfigError: a variable is missing or malformed, or the file is there and cannot be read.
    """
    missing = [name for name in _REQUIRED if not environ.get(name)]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} not set: the injector gives the sidecar container its pod's name, namespace, "
            "address and service account by the downward API; outside a pod, set them by hand",
            path="environment",
        )
    node = Node(
        kind=kind,
        pod=environ["POD_NAME"],
        namespace=environ["POD_NAMESPACE"],
        ip=environ["INSTANCE_IP"],
        service_account=environ["SERVICE_ACCOUNT"],
        workload=environ.get("WORKLOAD_NAME") or environ["POD_NAME"],
        cluster_id=environ.get("CLUSTER_ID") or CLUSTER_ID,
        trust_domain=environ.get("TRUST_DOMAIN") or TRUST_DOMAIN,
        labels=_labels(labels_file) if labels_file else {},
    )
    try:
        Identity.parse(str(node.identity))
    except ValueError as error:
        raise ConfigError(str(error), path="environment (TRUST_DOMAIN, POD_NAMESPACE, SERVICE_ACCOUNT)") from error
    return node


def _labels(file: Path) -> dict[str, str]:
    """The labels in a downward-API file."""
    try:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(MAX_LABELS_BYTES + 1)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the pod's labels: {error}", path=str(file)) from error
    if len(text) > MAX_LABELS_BYTES:
        raise ConfigError(f"more than {MAX_LABELS_BYTES} bytes of labels", path=str(file))
    labels: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = _LABEL.fullmatch(line.strip())
        if match is None:
            raise ConfigError(f'{line!r} is not of the form key="value"', path=f"{file}:{number}")
        labels[match[1]] = re.sub(r"\\(.)", r"\1", match[2])
    return labels
