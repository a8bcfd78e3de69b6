"""A local mesh from the outside: started, asked, ended."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from pymesh import names
from pymesh.errors import MeshError
from pymesh.resources.resource import Key
from pymesh_controlplane.cli.client import Client
from pymesh_controlplane.injector.containers import AGENT, ENVOY, PROXY
from pymesh_controlplane.local import network, processes, state, system
from pymesh_controlplane.local.launch import Launch
from pymesh_controlplane.local.texts import NOWHERE, Text, as_text

if TYPE_CHECKING:
    from pymesh_controlplane.cli.target import Answers

# Seconds until the supervisor answers; making the network takes a tenth of one.
SUPERVISOR_TIMEOUT: Final = 15.0
# Seconds until everything that was applied is ready, unless the person says otherwise.
READY_TIMEOUT: Final = 120.0
_POLL: Final = 0.05
# Containers that are the mesh's, beside an app's; where they are no init containers, the first.
SIDECARS: Final = frozenset({PROXY, AGENT, ENVOY})

Update = Callable[[str], None]
Expected = tuple[tuple[str, str, str], Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Pilot:
    """What one replica of pilot says: what it has in force (`/debug/configz`), and of its proxies (`/debug/syncz`)."""

    name: str
    config: Mapping[str, Any]
    proxies: Sequence[Mapping[str, Any]]


def check_machine() -> None:
    """Whether a local mesh can run here at all.

    Raises:
        MeshError: not root, not Linux, or a program is missing; the text says what to do.
    """
    if sys.platform != "linux":
        raise MeshError("a local mesh needs Linux: its pods are network namespaces")
    if os.geteuid() != 0:
        raise MeshError("root is needed: pods are network namespaces; try again with sudo")
    network.check_programs(os.environ.get("PATH", ""))


@dataclass(frozen=True, slots=True)
class LocalMesh:
    """The mesh of a name, whether it runs or not."""

    name: str

    @property
    def place(self) -> state.State:
        """Where its state is."""
        return state.named(self.name)

    @property
    def client(self) -> Client:
        """For its supervisor."""
        return Client(self.place)

    def start(
        self,
        texts: Sequence[Text],
        *,
        namespace: str = "default",
        without: Iterable[str] = (),
        warn: Update = lambda _: None,
    ) -> int:
        """Start the supervisor and apply `texts`; the supervisor's process number. What cannot start leaves nothing.

        `warn` is told what is in force and probably not meant.

        Raises:
            MeshError: the mesh runs already, cannot run here, or `texts` are refused.
        """
        check_machine()
        components = system.components(without)
        place = self.place
        if state.supervisor(place) is not None:
            raise MeshError(f"mesh {self.name} runs: pymesh apply -f changes it, pymesh down ends it")
        if state.exists(place):
            state.destroy(place)  # what a killed supervisor has left
        state.create(place)
        try:
            pid = self._spawn(components)
            self.apply(texts, namespace, warn)
        except BaseException:
            state.destroy(place)
            raise
        return pid

    def _spawn(self, components: Sequence[str]) -> int:
        command = [sys.executable, "-m", "pymesh_controlplane.local", "--mesh", self.name]
        with self.place.log.open("wb") as log:
            process = subprocess.Popen(
                [*command, "--components", ",".join(components)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the command, which then ends the supervisor in good order
                cwd="/",
            )
        deadline = time.monotonic() + SUPERVISOR_TIMEOUT
        while time.monotonic() < deadline:
            if process.poll() is not None:
                lines = self.place.log.read_text(errors="replace").strip().splitlines()
                raise MeshError(f"the supervisor ended: {lines[-1] if lines else 'without a word'}")
            if self.place.socket.exists():
                # A child that outlives this process: nobody here will wait for it.
                process.returncode = 0
                return process.pid
            time.sleep(_POLL)
        raise MeshError(f"the supervisor does not answer within {SUPERVISOR_TIMEOUT:g} s; see {self.place.log}")

    def wait(self, update: Update, timeout: float = READY_TIMEOUT) -> None:
        """Wait until everything that was applied runs and is ready; `update` is told what is waited for.

        Raises:
            MeshError: it is not within `timeout` seconds, or the supervisor has ended.
        """
        deadline = time.monotonic() + timeout
        while True:
            answer = self.client.get("/readyz")
            if answer["ready"]:
                return
            update(_summary(answer["waiting"]))
            if time.monotonic() >= deadline:
                waiting = "\n  ".join(answer["waiting"])
                raise MeshError(
                    f"not ready within {timeout:g} s; it keeps running, and waits for:\n  {waiting}\n"
                    "pymesh ps and pymesh logs POD show more, pymesh down ends it"
                )
            time.sleep(_POLL)

    def ways_in(self) -> list[str]:
        """Where the machine reaches the pods that have ports of it: `ingressgateway: 127.0.0.1:8080 (port 8080)`."""
        return [
            f"{row['name']}: {address} (port {port})"
            for row in self.rows()
            for address, port in row["host_ports"].items()
        ]

    def apply(
        self,
        texts: Sequence[Text],
        namespace: str = "default",
        warn: Update = lambda _: None,
        *,
        force: bool = False,
        expected: Sequence[Expected] = (),
    ) -> list[tuple[str, str]]:
        """Put manifests in force: what was done to which resource. `warn` is told what is probably not meant.

        Args:
            force: even if something else in force becomes wrong.
            expected: objects, by kind, namespace and name, that must still be what they were; None: not there.

        Raises:
            Changed: one of `expected` is something else by now; nothing was applied.
            MeshError: they are refused, all of them; the text has every reason.
        """
        body = {**_request(texts, namespace), "force": force, "expected": list(expected)}
        answer = self.client.post("/apply", body)
        for warning in answer["warnings"]:
            warn(warning)
        return [(title(*key), outcome) for key, outcome in answer["results"]]

    def validate(self, texts: Sequence[Text], namespace: str = "default") -> list[dict[str, Any]]:
        """What is wrong with manifests next to what is in force; nothing is changed (`Problem.as_json`)."""
        problems: list[dict[str, Any]] = self.client.post("/validate", _request(texts, namespace))["problems"]
        return problems

    def delete(
        self, keys: Iterable[tuple[str, str, str]], *, force: bool = False, expected: Sequence[Expected] = ()
    ) -> list[tuple[str, str]]:
        """Take resources out of force, by kind, namespace and name; what was done to which.

        Raises:
            Changed: one of `expected` (as in `apply`) is something else by now; nothing was deleted.
            MeshError: others, which would stay, name one of them, and there is no `force`; nothing was deleted.
        """
        answer = self.client.post("/delete", {"keys": list(keys), "force": force, "expected": list(expected)})
        return [(title(*key), outcome) for key, outcome in answer["results"]]

    def rows(self) -> list[dict[str, Any]]:
        """The lines of `pymesh ps`."""
        items: list[dict[str, Any]] = self.client.get("/pods")["items"]
        return items

    def find_pod(self, name: str, namespace: str) -> dict[str, Any]:
        """The row of a pod, by its own name or by that of its Deployment; an empty `namespace` is any.

        Raises:
            MeshError: there is none.
        """
        rows = [row for row in self.rows() if namespace in {"", row["namespace"]}]
        for wanted in ("name", "owner"):
            found = [row for row in rows if row[wanted] == name]
            if len({row["namespace"] for row in found}) > 1:
                raise MeshError(f"{name} is in several namespaces; say which with -n")
            if found:
                return max(found, key=lambda row: bool(row["is_ready"]))
        there = ", ".join(f"{row['namespace']}/{row['name']}" for row in rows) or "none"
        raise MeshError(f"no pod {name}; there are: {there}")

    def launch(self, row: Mapping[str, Any], container: str, command: Sequence[str]) -> Launch:
        """How to run `command` in a container, by default the pod's first.

        Raises:
            MeshError: there is no such container, or it does not run.
        """
        container = container_of(row, container)
        path = f"/pods/{row['namespace']}/{row['name']}/containers/{container}"
        launch = Launch.from_json(json.dumps(self.client.get(path)).encode())
        return replace(launch, argv=list(command))

    def run(self, pod: str, namespace: str, command: Sequence[str], container: str = "") -> str:
        """What `command` prints in a pod.

        Raises:
            MeshError: it fails; the text has what it wrote to standard error.
        """
        done = processes.run(self.launch(self.find_pod(pod, namespace), container, command))
        if done.returncode:
            raise MeshError(f"{' '.join(command)} in {pod}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode(errors="replace")

    # --- what commands need of any mesh: see `target.Mesh` ---

    @property
    def namespace(self) -> str:
        """Where a person means who names none."""
        return "default"

    def objects(self, kinds: Collection[str], namespace: str = "") -> list[dict[str, Any]]:
        """The objects of these kinds."""
        return [
            item
            for item in self.client.get("/objects")["items"]
            if item["kind"] in kinds and namespace in {"", item["metadata"].get("namespace", "")}
        ]

    def pods(self) -> dict[str, str]:
        """Names of pods by address."""
        return {row["ip"]: row["name"] for row in self.rows() if row["ip"]}

    def telemetry(self, page: str, query: Mapping[str, object]) -> Any:
        """A page of the collector."""
        return self.client.get(f"/telemetry/{page}?{urlencode(query)}")

    def pilots(self) -> list[Pilot]:
        """The one that there is."""
        return [Pilot("pilot", self.client.get("/configz"), self.client.get("/syncz"))]

    def authorities(self) -> list[Any]:
        """What the one citadel says."""
        return [self.client.get("/ca")]

    def rotate(self, step: str) -> Any:
        """Have it take a step."""
        return self.client.post(f"/ca/{step}", None)

    def sidecars(self, path: str) -> "Answers":
        """What every proxy's admin port answers; here all of them do."""
        from pymesh_controlplane.cli.target import Answers

        url = f"http://127.0.0.1:{names.PORT_ADMIN}{path}"
        found = []
        for row in self.rows():
            if PROXY not in row["pids"]:
                continue
            pod, namespace = str(row["name"]), str(row["namespace"])
            text = self.run(pod, namespace, ["curl", "-sSf", "--max-time", "5", url], PROXY)
            try:
                found.append((namespace, pod, json.loads(text)))
            except ValueError as error:
                raise MeshError(f"the sidecar of {pod} answers what is not JSON: {error}") from None
        return Answers(found)

    def put(self, documents: Mapping[Key, dict[str, Any]], expected: Sequence[Expected]) -> dict[Key, dict[str, Any]]:
        """Put objects in force, all or none."""
        texts = [Text(f"{key}", str(NOWHERE), as_text(document)) for key, document in documents.items()]
        self.apply(texts, expected=expected)
        return dict(documents)

    def remove(self, key: Key, expected: Sequence[Expected]) -> None:
        """Take one out of force."""
        self.delete([key], expected=expected)

    def down(self) -> bool:
        """End the mesh and remove all that is of it; whether there was anything.

        Raises:
            MeshError: something could not be removed.
        """
        there = state.exists(self.place)
        if there:
            state.destroy(self.place)
        return there


def _request(texts: Sequence[Text], namespace: str) -> dict[str, Any]:
    documents = [{"name": text.name, "directory": text.directory, "text": text.text} for text in texts]
    return {"namespace": namespace, "texts": documents}


def container_of(row: Mapping[str, Any], name: str) -> str:
    """The container called `name` of a pod, by default the first of its app, or of what there is.

    Raises:
        MeshError: there is no such container.
    """
    known = [*row["container_names"], *row["init_container_names"]]
    if not name and row["container_names"]:
        return str(next((own for own in row["container_names"] if own not in SIDECARS), row["container_names"][0]))
    if name not in known:
        raise MeshError(f"pod {row['name']} has no container {name}; there are: {', '.join(known) or 'none'}")
    return name


def title(kind: str, namespace: str, name: str) -> str:
    """How a person is told of a resource: `deployment/reviews-v1 (bookinfo)`."""
    return f"{kind.lower()}/{name} ({namespace})" if namespace else f"{kind.lower()}/{name}"


def _summary(waiting: Sequence[str]) -> str:
    more = f" (and {len(waiting) - 1} more)" if len(waiting) > 1 else ""
    return f"{waiting[0]}{more}" if waiting else ""
