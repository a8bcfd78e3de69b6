"""The pod that a cluster makes of a document: by its controllers, the ServiceAccount admission, and the defaults.

Held once against what a Kubernetes 1.36 sends to a webhook for each of the shapes.
"""

import copy
import json
from pathlib import Path

import yaml

from pymesh_controlplane.injector.shape import Manifest
from tests.support.kubernetes.pod_defaults import pod_spec

SHAPES = sorted((Path(__file__).parent / "shapes").glob("*.yaml"))
# Kubernetes lets no template know what its pods' ReplicaSet is going to be called.
HASH = "7f8c9d6b54"
MINUTE = "29391234"
TOKEN_MOUNT = {
    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    "name": "kube-api-access-x7k2p",
    "readOnly": True,
}
_TOKEN_SOURCES = [
    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
]


def shape(path: Path) -> Manifest:
    """The document in a file."""
    document: Manifest = yaml.safe_load(path.read_text())
    return document


def pod_of(document: Manifest) -> Manifest:
    """The pod that `document` becomes, as its controller asks an API server to make it."""
    kind, name = document["kind"], document["metadata"].get("name")
    if kind == "Pod":
        return copy.deepcopy(document)
    if kind == "CronJob":
        job = document["spec"]["jobTemplate"]["spec"]
        return pod_of({"kind": "Job", "metadata": {"name": f"{name}-{MINUTE}"}, "spec": job})
    if kind == "Deployment":
        return pod_of(_replica_set(document))
    template = copy.deepcopy(document["spec"]["template"])
    metadata = template.setdefault("metadata", {})
    metadata["generateName"] = f"{name}-"
    metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "controller": True}]
    labels = metadata.setdefault("labels", {})
    if kind == "StatefulSet":
        metadata["name"] = f"{name}-0"
        labels["statefulset.kubernetes.io/pod-name"] = f"{name}-0"
        template["spec"] |= {"hostname": f"{name}-0", "subdomain": document["spec"]["serviceName"]}
        claims = [each["metadata"]["name"] for each in document["spec"]["volumeClaimTemplates"]]
        _volumes(template["spec"]).extend(
            {"name": each, "persistentVolumeClaim": {"claimName": f"{each}-{name}-0"}} for each in claims
        )
    elif kind == "Job":
        labels |= {"batch.kubernetes.io/job-name": name, "job-name": name}
    return {"apiVersion": "v1", "kind": "Pod", **template}


def stored(pod: Manifest) -> Manifest:
    """`pod` as an API server stores it: with its account, the token of that in every container, and all defaults."""
    result: Manifest = json.loads(json.dumps(pod))  # shares nothing, as what has come over a wire
    spec = result["spec"]
    spec.setdefault("serviceAccountName", "default")
    if spec.get("automountServiceAccountToken") is not False:
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            mounts = container.setdefault("volumeMounts", [])
            if TOKEN_MOUNT not in mounts:
                mounts.append(dict(TOKEN_MOUNT))
        if all(volume["name"] != TOKEN_MOUNT["name"] for volume in _volumes(spec)):
            volume = {"name": TOKEN_MOUNT["name"], "projected": {"sources": copy.deepcopy(_TOKEN_SOURCES)}}
            _volumes(spec).append(volume)
    pod_spec(spec)
    return result


def _replica_set(deployment: Manifest) -> Manifest:
    made = copy.deepcopy(deployment) | {"kind": "ReplicaSet"}
    made["metadata"]["name"] += f"-{HASH}"
    made["spec"]["template"]["metadata"]["labels"]["pod-template-hash"] = HASH
    return made


def _volumes(spec: Manifest) -> list[Manifest]:
    volumes: list[Manifest] = spec.setdefault("volumes", [])
    return volumes
