"""What is applied to a cluster, rendered offline by kubectl, and its parts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.support.repository import ROOT

DEPLOY = ROOT / "deploy"
KUBECTL = Path(sys.executable).with_name("kubectl")

Document = dict[str, Any]


def rendered(folder: Path) -> list[Document]:
    """What kubectl makes of a kustomization, without a cluster and without the network."""
    done = subprocess.run([str(KUBECTL), "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return list(yaml.safe_load_all(done.stdout))


def canonical(documents: list[Document]) -> list[str]:
    """Equal for the same objects in whatever order."""
    return sorted(json.dumps(document, sort_keys=True) for document in documents)


def of_kind(documents: list[Document], kind: str) -> dict[str, Document]:
    """The objects of a kind, by name."""
    return {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}


def pod_of(deployment: Document) -> Document:
    """The spec of its pods."""
    return dict(deployment["spec"]["template"]["spec"])


def container_of(deployment: Document) -> Document:
    """The only container of its pods."""
    [container] = pod_of(deployment)["containers"]
    return dict(container)
