"""A whole mesh for a test: what an operator would do with the `pymesh` command, in Python."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pymesh_controlplane.local.network import NAMESPACES

PYMESH = str(Path(sys.executable).with_name("pymesh"))
# Seconds: far more than any single command takes, so that a hang is a failure and not a stuck run.
PATIENCE = 60.0


class Mesh:
    """A mesh named `name`, up for as long as the `with` block runs; `without` some parts, separated by commas."""

    def __init__(self, name: str, *manifests: Path, without: str = "") -> None:
        self.name = name
        self._without = without
        self._manifests = manifests

    def __enter__(self) -> Self:
        self.run("down", check=False)
        self.run(
            "up", "--without", self._without, *[argument for path in self._manifests for argument in ("-f", str(path))]
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.run("down")

    def run(self, *arguments: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """`pymesh ARGUMENTS`; with `check`, a failing command fails the test with what it printed."""
        command, *rest = arguments
        done = subprocess.run(
            [PYMESH, command, "--mesh", self.name, *rest], capture_output=True, text=True, input=stdin, timeout=PATIENCE
        )
        assert not check or done.returncode == 0, f"pymesh {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    def apply(self, manifest: str) -> None:
        """Put the YAML in `manifest` in force."""
        self.run("apply", "-f", "-", stdin=manifest)

    def delete(self, manifest: str) -> None:
        """Take what the YAML in `manifest` names out of force."""
        self.run("delete", "-f", "-", stdin=manifest)

    def pods(self) -> list[dict[str, Any]]:
        """What `pymesh ps` shows."""
        found: list[dict[str, Any]] = json.loads(self.run("ps", "-o", "json").stdout)
        return found

    def pod(self, workload: str) -> dict[str, Any]:
        """The first pod whose name begins with `workload`."""
        return next(pod for pod in self.pods() if pod["name"].startswith(workload))

    def exec(self, pod: str, *command: str, container: str = "", namespace: str = "default") -> str:
        """What `command` prints in `pod`; its failure fails the test."""
        return self.run("exec", "-n", namespace, *_container(container), pod, "--", *command).stdout

    def curl(self, pod: str, *arguments: str, namespace: str = "default") -> subprocess.CompletedProcess[str]:
        """`curl -s` in `pod`, whatever becomes of it."""
        return self.run("exec", "-n", namespace, pod, "--", "curl", "-s", "-m", "10", *arguments, check=False)

    def status_of(self, pod: str, url: str, *arguments: str) -> str:
        """The status of a GET from `pod`; `000` where the connection was cut."""
        return self.curl(pod, "-o", "/dev/null", "-w", "%{http_code}", *arguments, url).stdout

    def admin(self, pod: str, path: str, *arguments: str, container: str = "pymesh-proxy") -> str:
        """A page of the admin port of `pod`'s sidecar."""
        return self.exec(pod, "curl", "-s", *arguments, f"127.0.0.1:15000{path}", container=container)

    def requests(self, pod: str, request_id: str) -> list[dict[str, Any]]:
        """What `pod`'s sidecar has recorded of one request."""
        found: list[dict[str, Any]] = json.loads(self.admin(pod, f"/requests?id={request_id}"))
        return found

    def namespace_of(self, pod: str) -> str:
        """The network namespace of a pod, for `ip netns exec`."""
        prefix = f"pymesh-{self.name}-{pod}"
        return next(path.name for path in NAMESPACES.iterdir() if path.name.startswith(prefix))

    def in_pod(self, pod: str, *command: str) -> str:
        """Run a command of the host, as root, in the network of `pod`: for what no container may do."""
        return subprocess.run(
            ["ip", "netns", "exec", self.namespace_of(pod), *command], check=True, capture_output=True, text=True
        ).stdout

    def pids(self, pod: str) -> Sequence[int]:
        """Every process in the network namespace of `pod`."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.namespace_of(pod)], check=True, capture_output=True, text=True
        ).stdout
        return [int(pid) for pid in listed.split()]


def _container(name: str) -> tuple[str, ...]:
    return ("-c", name) if name else ()
