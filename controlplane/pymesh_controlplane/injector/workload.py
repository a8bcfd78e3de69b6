"""The name of what made a pod: its Deployment, its CronJob, its other controller, or the pod itself. Pure.

Source: Istio, `GetDeployMetaFromPod`.
"""

import re
from typing import Final

from pymesh.errors import ConfigError
from pymesh_controlplane.injector.shape import Manifest, strings

# A CronJob's Jobs end in the minute that they were made for, counted from 1970: eight digits until 2160.
_OF_CRON_JOB: Final = re.compile(r"(.+)-[0-9]{8,10}")


def workload_of(metadata: Manifest) -> str:
    """Name of what made the pod of this `metadata`.

    Raises:
        ConfigError: its owners are not a list.
    """
    owners = metadata.get("ownerReferences") or []
    if not isinstance(owners, list):
        raise ConfigError("a list belongs here", path="metadata.ownerReferences")
    for owner in owners:
        if isinstance(owner, dict) and owner.get("controller") and owner.get("name"):
            template_hash = strings(metadata, "labels").get("pod-template-hash", "")
            return made_by(str(owner.get("kind")), str(owner["name"]), template_hash)
    # A generated name is not there yet when the pod is injected, and must not make a difference when it is.
    return str(metadata.get("generateName") or metadata.get("name") or "unknown").rstrip("-")


def made_by(kind: str, name: str, template_hash: str = "") -> str:
    """Name of the workload behind the controller of a pod: a ReplicaSet is its Deployment's, a Job its CronJob's.

    Args:
        template_hash: the pod's label `pod-template-hash`, which the names of a Deployment's ReplicaSets end in.
    """
    if kind == "ReplicaSet" and template_hash:
        return name.removesuffix(f"-{template_hash}")
    if kind == "Job" and (cron_job := _OF_CRON_JOB.fullmatch(name)) is not None:
        return cron_job[1]
    return name
