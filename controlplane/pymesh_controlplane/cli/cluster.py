"""A mesh in a Kubernetes cluster from the outside: the same questions as to one of this machine (`target.Mesh`).

Objects are read and changed through the API server. What pilot, the collector and the proxies know they tell callers in
their own pod only, which a port-forward is.
"""

import json
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar
from urllib.parse import urlencode

from pymesh import names
from pymesh.errors import MeshError, printable
from pymesh.resources.resource import Key
from pymesh_controlplane.cli.client import Absent, Changed, Refused
from pymesh_controlplane.cli.mesh import Expected, Pilot
from pymesh_controlplane.cli.readiness import is_ready
from pymesh_controlplane.cli.target import Answers
from pymesh_controlplane.injector.containers import PROXY
from pymesh_controlplane.kube import trim
from pymesh_controlplane.kube.api import Api, ApiError, Document
from pymesh_controlplane.kube.paths import MESH_KINDS, Paths
from pymesh_controlplane.kube.pods import MAX_REASON, PodHttp, opened
from pymesh_controlplane.kube.portforward import BrokenError
from pymesh_controlplane.local.texts import Text

TELEMETRY: Final = "telemetry"
# Seconds that it is believed which pods there are, and are ready: a question whose pod is gone looks again anyway.
FRESH: Final = 5.0
# Pods that are asked at the same time, and of how many at most: each is a connection through the API server.
AT_ONCE: Final = 8
MAX_ASKED: Final = 400
# How often a change is tried anew because something else than what people say of the object has changed: its status.
ATTEMPTS: Final = 5

_T = TypeVar("_T")


class _Silence(NamedTuple):
    """A pod whose proxy was asked in vain."""

    pod: str
    reason: str


class Cluster:
    """The mesh in the cluster that `api` leads to. A context manager: it keeps connections into pods."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.paths = Paths(api)
        self._ready_pods: dict[str, tuple[float, list[str]]] = {}
        self._connections: dict[str, PodHttp] = {}
        self._named: tuple[float, dict[str, str]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._connections.values():
            connection.close()

    @property
    def namespace(self) -> str:
        """Of the context."""
        return self.api.config.namespace

    # --- What people say, and what Kubernetes sees of it ---

    def objects(self, kinds: Collection[str], namespace: str = "") -> list[Document]:
        """The objects of these kinds; of those of the mesh what was written, as pilot reads them."""
        found: list[Document] = []
        for kind in sorted(kinds):
            if path := self.paths.of(kind, namespace):
                found += (_read(item) for item in self.api.items(path))
        return found

    def pods(self) -> dict[str, str]:
        """Names of pods by address; none where they may not be listed, for they are a help and no more."""
        now = time.monotonic()
        if self._named is None or now - self._named[0] > FRESH:
            self._named = (now, self._look_for_names())
        return self._named[1]

    def _look_for_names(self) -> dict[str, str]:
        try:
            # Of pods that have ended others may have the addresses by now.
            found = self.api.items(self.paths.of("Pod"), fieldSelector="status.phase=Running")
        except ApiError as error:
            if error.code != 403:
                raise
            if self._named is None:
                sys.stderr.write(f"addresses are shown without the names of their pods: {error}\n")
            return {}
        addressed = (pod for pod in found if not (pod.get("spec") or {}).get("hostNetwork"))
        return {ip: pod["metadata"]["name"] for pod in addressed if (ip := (pod.get("status") or {}).get("podIP"))}

    def put(self, documents: Mapping[Key, Document], expected: Sequence[Expected]) -> dict[Key, Document]:
        """Put objects in force, each if it is still what it was; if one is not, those before it are taken back."""
        before = {Key(*key): document for key, document in expected}
        for key in documents:
            self._require_unchanged(key, before[key])
        done: dict[Key, Document] = {}
        try:
            for key, document in documents.items():
                done[key] = self._change(key, before[key], document)
        except MeshError as error:
            left = [str(key) for key, document in done.items() if not self._take_back(key, document, before[key])]
            if left:
                raise MeshError(f"{error}; {', '.join(left)} could not be taken back") from None
            raise
        return done

    def remove(self, key: Key, expected: Sequence[Expected]) -> None:
        """Take one out of force."""
        wanted = next(document for name, document in expected if Key(*name) == key)

        def delete(current: Document) -> None:
            metadata = current["metadata"]
            self.api.delete(self._path(key), uid=metadata["uid"], version=metadata["resourceVersion"])

        self._on_current(key, wanted, delete)

    def _take_back(self, key: Key, now: Document, before: Mapping[str, Any] | None) -> bool:
        try:
            if before is None:
                self.remove(key, [(key, now)])
            else:
                self._change(key, now, dict(before))
        except MeshError:
            return False
        return True

    def _change(self, key: Key, expected: Mapping[str, Any] | None, document: Document) -> Document:
        if expected is None:
            try:
                return _read(self.api.create(self._path(Key(key.kind, key.namespace, "")), document))
            except ApiError as error:
                if error.code == 409:
                    raise Changed(f"{key} is there meanwhile, by somebody else; nothing was changed") from None
                raise

        def replace(current: Document) -> Document:
            # Whatever else the object has (owners, finalizers, others' status) stays as it is.
            return _read(self.api.replace(self._path(key), {**current, "spec": document["spec"]}))

        return self._on_current(key, expected, replace)

    def _on_current(self, key: Key, expected: Mapping[str, Any] | None, action: Callable[[Document], _T]) -> _T:
        """Do something with the object as it is, if that says what is `expected`.

        Its resourceVersion is the precondition. It also changes with what the mesh writes back as status; then what
        people say in the object is the same, and it is tried anew.
        """
        for _ in range(ATTEMPTS):
            current = self._require_unchanged(key, expected)
            assert current is not None, "where something is expected, something is there"
            try:
                return action(current)
            except ApiError as error:
                if error.code == 404:
                    raise Changed(f"{key} was deleted by somebody else; nothing was changed") from None
                if error.code != 409:
                    raise
        raise MeshError(f"{key} changes all the time; nothing was changed")

    def _require_unchanged(self, key: Key, expected: Mapping[str, Any] | None) -> Document | None:
        current = self.api.find(self._path(key))
        if (None if current is None else _said(current)) != (None if expected is None else _said(expected)):
            what = "is there meanwhile" if expected is None else "was changed" if current else "was deleted"
            raise Changed(f"{key} {what} by somebody else; nothing was changed")
        return current

    def _path(self, key: Key) -> str:
        path = self.paths.of(key.kind, key.namespace, key.name)
        if not path:
            raise MeshError(f"context {self.api.context}: the cluster has no kind {key.kind}; see pymesh check")
        return path

    def validate(self, texts: Sequence[Text], namespace: str) -> list[Document]:
        """What is wrong with manifests next to what is in force."""
        from pymesh_controlplane.cli.judging import judge_next_to

        return judge_next_to(self.objects, texts, namespace)

    # --- What the mesh's own pods know ---

    def telemetry(self, page: str, query: Mapping[str, object]) -> Any:
        """A page of the collector."""
        path = f"/{page}?{urlencode(query)}"
        return self._of_ready(TELEMETRY, lambda pods: self._page(pods[0], path))

    def pilots(self) -> list[Pilot]:
        """Every replica that is ready."""
        return self._of_ready(names.CONTROL_PLANE, lambda pods: self._each(self._pilot, pods))

    def _pilot(self, pod: str) -> Pilot:
        return Pilot(pod, self._page(pod, "/debug/configz"), self._page(pod, "/debug/syncz"))

    def authorities(self) -> list[Any]:
        """Of every replica that is ready."""
        return self._of_ready(names.CONTROL_PLANE, lambda pods: self._each(lambda pod: self._page(pod, "/ca"), pods))

    def rotate(self, step: str) -> Any:
        """By the newest replica; the others read what it writes."""
        pods = self._look_for(names.CONTROL_PLANE)
        with opened(self.api, names.SYSTEM_NAMESPACE, pods[0], names.PORT_PILOT_HTTP) as connection:
            status, body = connection.post(f"/ca/{step}")
        if status != 200:
            said = printable(body[:MAX_REASON].decode(errors="replace").strip())
            raise Refused(f"context {self.api.context}: {pods[0]} answers {status}: {said}")
        return json.loads(body)

    def sidecars(self, path: str) -> Answers:
        """What every proxy answers: sidecars and gateways, in whatever namespace."""
        running = [pod for pod in self.api.items(self.paths.of("Pod")) if has_proxy(pod)]
        if len(running) > MAX_ASKED:
            raise MeshError(
                f"{len(running)} pods have a proxy, and more than {MAX_ASKED} are not asked one by one: "
                "pymesh install --only telemetry adds a collector that knows of all of them"
            )
        asked = [(pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in running]
        found = self._each(lambda pod: self._ask_sidecar(pod[0], pod[1], path), asked)
        both = zip(asked, found, strict=True)
        documents = [(*pod, answer) for pod, answer in both if not isinstance(answer, _Silence)]
        silences = [answer for answer in found if isinstance(answer, _Silence)]
        return Answers(documents, [each.pod for each in silences], silences[0].reason if silences else "")

    def _ask_sidecar(self, namespace: str, pod: str, path: str) -> Any:
        """What a proxy answers; where it does not, why."""
        connection = PodHttp(self.api, namespace, pod, names.PORT_ADMIN)
        try:
            status, body = connection.get(path)
            if status == 200:
                return json.loads(body)
            reason = f"{status} {printable(body[:MAX_REASON].decode(errors='replace').strip())}".strip()
        except ApiError as error:
            reason = str(error)
        except ValueError:
            reason = "what it answers is not JSON"
        finally:
            connection.close()
        return _Silence(f"{namespace}/{pod}", reason)

    def _of_ready(self, app: str, ask: Callable[[list[str]], _T]) -> _T:
        """What the pods of `app` that are ready say; where one does not answer, what those say that are ready then.

        If these are the same, they are asked again only where a connection broke: who did not answer in time would
        take as long once more.
        """
        pods = self._ready(app)
        try:
            return ask(pods)
        except ApiError as error:
            del self._ready_pods[app]
            if self._ready(app) == pods and not isinstance(error, BrokenError):
                raise
        return ask(self._ready(app))

    def _ready(self, app: str) -> list[str]:
        """The pods of a component that are ready, as they are believed to be."""
        seen, pods = self._ready_pods.get(app, (0.0, []))
        if not pods or time.monotonic() - seen > FRESH:
            pods = self._look_for(app)
            self._ready_pods[app] = (time.monotonic(), pods)
        return pods

    def _look_for(self, app: str) -> list[str]:
        """The pods of a component that are ready, newest first.

        Raises:
            Absent: the mesh has no such component.
            MeshError: none of them is ready.
        """
        found = self.api.items(self.paths.of("Pod", names.SYSTEM_NAMESPACE), labelSelector=f"app={app}")
        where = f"context {self.api.context}: namespace {names.SYSTEM_NAMESPACE}"
        if not found:
            self._require_on(app, where)
            how = "pymesh install installs it" if app == names.CONTROL_PLANE else f"pymesh install --only {app} adds it"
            raise Absent(f"{where} has no {app}: {how}")
        found.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp")), reverse=True)
        ready = [pod["metadata"]["name"] for pod in found if is_ready(pod)]
        if not ready:
            states = "; ".join(f"{pod['metadata']['name']} {state_of(pod)}" for pod in found)
            raise Refused(f"{where}: no pod of {app} is ready ({states}); pymesh check may say more")
        return ready

    def _require_on(self, app: str, where: str) -> None:
        """Tell a component that is there and has no pods from one that is not there.

        Raises:
            Absent: it is scaled to 0.
            Refused: it wants pods, and has none.
        """
        try:
            found = self.api.find(self.paths.of("Deployment", names.SYSTEM_NAMESPACE, app))
        except ApiError as error:
            if error.code != 403:
                raise
            return  # who may not see Deployments is told what the pods say: there are none
        if found is None:
            return
        from pymesh_controlplane.cli import readiness  # here: it reads manifests, and few commands come to this

        if readiness.is_off(found):
            raise Absent(f"{where}: {app} is scaled to 0: {readiness.scale_up(app)}")
        raise Refused(f"{where} has no pod of {readiness.deployment_waits(found, [])}; pymesh check may say more")

    def _page(self, pod: str, path: str) -> Any:
        connection = self._connections.get(pod)
        if connection is None:
            connection = PodHttp(self.api, names.SYSTEM_NAMESPACE, pod, names.PORT_PILOT_HTTP)
            self._connections[pod] = connection
        status, body = connection.get(path)
        if status != 200:
            said = printable(body[:MAX_REASON].decode(errors="replace").strip())
            raise Refused(f"context {self.api.context}: {pod} answers {status} to {path}: {said}")
        try:
            return json.loads(body)
        except ValueError:
            raise MeshError(f"context {self.api.context}: {pod} answers {path} with what is not JSON") from None

    def _each(self, ask: Callable[[Any], _T], whom: Iterable[Any]) -> list[_T]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(ask, whom))


def state_of(pod: Mapping[str, Any]) -> str:
    """Why a pod is not ready, in the words of `kubectl get pods`, with the message where there is one."""
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in {None, "PodInitializing", "ContainerCreating"}:
            # That of a container that ends again and again says only how long it is waited for.
            message = "" if waiting["reason"] == "CrashLoopBackOff" else waiting.get("message") or ""
            return printable(f"{container['name']} {waiting['reason']} {message}".strip())
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return printable(f"{condition.get('reason')} {condition.get('message') or ''}".strip())
    return str(status.get("phase") or "Pending") + ("" if is_ready(pod) else ", not ready")


def has_proxy(pod: Mapping[str, Any]) -> bool:
    """Whether a pod runs a proxy of ours: as a container, or as a native sidecar."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    containers = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    return status.get("phase") == "Running" and any(container.get("name") == PROXY for container in containers)


def _read(document: Document) -> Document:
    """An object as commands work with it: of the mesh's kinds, as pilot reads it."""
    return dict(trim.written(document) if document.get("kind") in MESH_KINDS else trim.everything(document))


def _said(document: Mapping[str, Any]) -> Document:
    """What people say in an object."""
    metadata = document["metadata"]
    return {
        "spec": document.get("spec"),
        "labels": metadata.get("labels") or {},
        "annotations": trim.written(dict(document))["metadata"].get("annotations") or {},
    }
