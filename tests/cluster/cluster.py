"""A real cluster, as its user drives it: kubectl and pymesh as commands, and pods to do things from inside."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymesh import names
from tests.support.repository import ROOT
from tests.support.waiting import eventually_sync

SYSTEM = names.SYSTEM_NAMESPACE
BIN = Path(sys.executable).parent
MANIFESTS = Path(__file__).parent / "manifests"
LOAD = Path(__file__).with_name("load.py").read_text()

# Seconds for a command; for pods to come or go on nodes that may have other things to do.
COMMAND = 60.0
PODS = 180.0

# Images by their variable, and as manifests name them.
IMAGES = {
    "PYMESH_PROXY_IMAGE": "pymesh-proxy:0.1.0",
    "PYMESH_CONTROLPLANE_IMAGE": "pymesh-controlplane:0.1.0",
    "PYMESH_SAMPLES_IMAGE": "pymesh-samples:0.1.0",
}

Document = dict[str, Any]


def image(variable: str) -> str:
    """The image that a variable of the environment names, by default that of `make images`."""
    return os.environ.get(variable) or IMAGES[variable]


def install_options() -> list[str]:
    """What tells `pymesh install` of the images: registry and tag, which both images have in common."""
    found = set()
    for variable in ("PYMESH_PROXY_IMAGE", "PYMESH_CONTROLPLANE_IMAGE"):
        name = IMAGES[variable].partition(":")[0]
        parts = re.fullmatch(rf"(?:(.+)/)?{name}:([\w.-]+)", image(variable))
        assert parts, f"{variable}={image(variable)} is not of the form [REGISTRY/]{name}:TAG"
        found.add((parts[1] or "", parts[2]))
    [(registry, tag)] = found
    return [*(["--image-registry", registry] if registry else []), "--tag", tag]


def run(*command: str, text: str = "", timeout: float = COMMAND) -> subprocess.CompletedProcess[str]:
    """Run a command; whatever becomes of it."""
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=timeout)


def checked(*command: str, text: str = "", timeout: float = COMMAND) -> str:
    """What a command says that has to succeed."""
    done = run(*command, text=text, timeout=timeout)
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def kubectl(*arguments: str, text: str = "", timeout: float = COMMAND) -> str:
    """What kubectl says; it has to succeed."""
    return checked(str(BIN / "kubectl"), *arguments, text=text, timeout=timeout)


def refused(*arguments: str, text: str = "") -> str:
    """Why kubectl fails; it has to."""
    done = run(str(BIN / "kubectl"), *arguments, text=text)
    assert done.returncode != 0, f"kubectl {' '.join(arguments)} should have failed:\n{done.stdout}"
    return done.stderr


def pymesh(*arguments: str, timeout: float = COMMAND) -> str:
    """What pymesh says; it has to succeed."""
    return checked(str(BIN / "pymesh"), *arguments, timeout=timeout)


def get(*arguments: str) -> Any:
    """An object, or a list of them."""
    found = json.loads(kubectl("get", *arguments, "-o", "json"))
    return found["items"] if found.get("kind") == "List" else found


def apply(*sources: str | Path) -> str:
    """Apply manifests: texts, files and folders, with the images that the environment names."""
    texts = []
    for source in sources:
        files = sorted(source.glob("*.yaml")) if isinstance(source, Path) and source.is_dir() else [source]
        texts += [file.read_text() if isinstance(file, Path) else file for file in files]
    return kubectl("apply", "-f", "-", text=with_images("\n---\n".join(texts)))


def with_images(text: str) -> str:
    """`text` with the images that the environment names."""
    for variable, name in IMAGES.items():
        text = text.replace(name, image(variable))
    return text


def sample(name: str) -> Path:
    """The folder of a sample."""
    return ROOT / "deploy" / "samples" / name


def rolled_out(namespace: str, *workloads: str) -> None:
    """Wait for the rollout of workloads (`deployment/x`, `daemonset/y`), by default of all of a namespace."""
    everything = [
        f"{item['kind'].lower()}/{item['metadata']['name']}"
        for item in get("deployments,daemonsets,statefulsets", "-n", namespace)
    ]
    for workload in workloads or everything:
        done = run(
            str(BIN / "kubectl"), "-n", namespace, "rollout", "status", workload, f"--timeout={PODS:g}s",
            timeout=PODS + COMMAND,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{picture(namespace)}"


def picture(namespace: str) -> str:
    """What there is to know of a namespace where something does not come about."""
    arguments = [
        ("get", "pods", "-o", "wide"),
        ("get", "events", "--field-selector", "type=Warning", "--sort-by", ".lastTimestamp"),
    ]
    return "\n".join(run(str(BIN / "kubectl"), "-n", namespace, *each).stdout for each in arguments)


def pods(namespace: str, selector: str) -> list[Document]:
    """Pods that are not on their way out."""
    return [pod for pod in get("pods", "-n", namespace, "-l", selector) if "deletionTimestamp" not in pod["metadata"]]


def is_ready(pod: Document) -> bool:
    """Whether a pod takes traffic."""
    conditions = pod["status"].get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def execute(namespace: str, pod: str, *command: str, timeout: float = COMMAND) -> subprocess.CompletedProcess[str]:
    """Run a command in the app's container of a pod."""
    return run(
        str(BIN / "kubectl"), "-n", namespace, "exec", pod, "-c", "app", "--", *command, timeout=timeout
    )  # fmt: skip


def curl(namespace: str, pod: str, url: str, *options: str) -> tuple[int, str]:
    """Status and body of an answer to a pod; status 0 if there was none."""
    done = execute(namespace, pod, "curl", "-sS", "--max-time", "10", "-w", "\n%{http_code}", *options, url)
    body, _, status = done.stdout.rpartition("\n")
    return int(status) if status.isdecimal() else 0, body or done.stderr


def curl_json(namespace: str, pod: str, url: str, *options: str) -> Any:
    """What a pod is answered, as soon as it is answered well."""

    def answer() -> Any:
        status, body = curl(namespace, pod, url, *options)
        assert status == 200, f"{status} {body}"
        return json.loads(body)

    return eventually_sync(answer, what=url, timeout=COMMAND, interval=1)


class Load:
    """Requests to one URL, without a pause, from inside a pod; what came of them is known at the end."""

    def __init__(self, namespace: str, pod: str, url: str, workers: int) -> None:
        command = [str(BIN / "kubectl"), "-n", namespace, "exec", "-i", pod, "-c", "app", "--"]
        self._process = subprocess.Popen(
            [*command, "python3", "-u", "-c", LOAD, url, str(workers)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "first answer\n", self._process.communicate(timeout=COMMAND)

    def end(self) -> Document:
        """End it: how many answers of which status and version, and the failures."""
        told, complaints = self._process.communicate("end\n", timeout=COMMAND)
        assert self._process.returncode == 0, complaints
        found: Document = json.loads(told)
        return found

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def load(namespace: str, pod: str, url: str, workers: int = 4) -> Iterator[Load]:
    """Requests while the block runs; none of them may fail."""
    running = Load(namespace, pod, url, workers)
    try:
        yield running
        found = running.end()
    finally:
        running.kill()
    assert found["failures"] == [], found
    assert set(found["statuses"]) == {"200"}, found
    assert found["statuses"]["200"] > 20, found
