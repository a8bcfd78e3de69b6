"""Looks at a cluster for `pymesh check`: asks, and hands what is said to `inspection`. What may not be seen is told."""

import base64
import binascii
import ssl
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final, TypeVar

from cryptography import x509

from pymesh import names
from pymesh.errors import MeshError
from pymesh_controlplane.cli import bundle, injection, inspection
from pymesh_controlplane.cli.cluster import Cluster, has_proxy
from pymesh_controlplane.cli.inspection import Finding
from pymesh_controlplane.cli.readiness import is_ready
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.injector.inject import LABEL_NAMESPACE
from pymesh_controlplane.kube.api import Api, ApiError
from pymesh_controlplane.kube.handshake import valid_until
from pymesh_controlplane.kube.paths import KINDS, MESH_KINDS, Paths
from pymesh_controlplane.kube.portforward import forward

WEBHOOKS: Final = {
    "injector": ("MutatingWebhookConfiguration", "pymesh-injector"),
    "galley": ("ValidatingWebhookConfiguration", "pymesh-galley"),
}
LIMITS: Final = ("RateLimit", "ConcurrencyLimit", "Check")
# What it looks like from here when a connection ends before the other side has shown who it is.
_BROKEN_OFF: Final = (ApiError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
_SEE_LOG: Final = f"see the log of deployment/{names.CONTROL_PLANE}"
# What the commands of `pymesh` do in a cluster: verb, group, resource, subresource, namespace.
_OPERATORS: Final = (
    ("list", "", "pods", "", ""),
    ("list", "", "services", "", ""),
    ("list", "", "namespaces", "", ""),
    ("list", "networking.istio.io", "virtualservices", "", ""),
    ("get", "", "pods", "portforward", names.SYSTEM_NAMESPACE),
    ("create", "", "pods", "portforward", names.SYSTEM_NAMESPACE),
)

_T = TypeVar("_T")
Document = dict[str, Any]


def before(api: Api, paths: Paths) -> Iterator[Finding]:
    """What stands in the way of an installation."""
    yield from inspection.version(api.get("/version"))
    needed = dict.fromkeys(
        (verb, KINDS[item["kind"]].group, KINDS[item["kind"]].plural, "", item["metadata"].get("namespace", ""))
        for item in bundle.documents(bundle.PARTS)
        for verb in ("get", "create", "patch")
    )
    yield from inspection.permissions(_missing(api, needed), "pymesh install does that")
    look = _Look(api, paths)
    spaces = look.items("Namespace")
    yield from inspection.others(look.items("MutatingWebhookConfiguration"), spaces)
    yield from inspection.namespaces(spaces)
    yield from look.unseen()


def installed(cluster: Cluster, now: datetime) -> Iterator[Finding]:
    """What is wrong with an installation."""
    api, paths = cluster.api, cluster.paths
    yield from inspection.version(api.get("/version"))
    yield from inspection.permissions(_missing(api, dict.fromkeys(_OPERATORS)), "commands of pymesh do that")
    look = _Look(api, paths)
    deployments = look.items("Deployment", names.SYSTEM_NAMESPACE)
    spaces, pods = look.items("Namespace"), look.items("Pod")
    own = [pod for pod in pods if pod["metadata"]["namespace"] == names.SYSTEM_NAMESPACE]
    if look.seen("Deployment", "Pod"):
        limits = sum(len(look.items(kind)) for kind in LIMITS if paths.version(kind))
        yield from inspection.components(deployments, own, limits)
        for finding in inspection.without_store(deployments):
            if look.find("Secret", names.SYSTEM_NAMESPACE, inspection.STORE) is None and look.seen("Secret"):
                yield finding
        if not any(item["metadata"]["name"] == names.CONTROL_PLANE for item in deployments):
            return  # whatever else is missing follows from that
    yield from inspection.crds([kind for kind in MESH_KINDS if not paths.version(kind)])
    yield from inspection.namespaces(spaces)
    yield from inspection.others(look.items("MutatingWebhookConfiguration"), spaces)
    yield from _webhooks(look, own, now)
    labels = {item["metadata"]["name"]: item["metadata"].get("labels") or {} for item in spaces}
    yield from inspection.sidecars(pods, labels, _proxy_image(deployments))
    inside = {name for name, own_labels in labels.items() if own_labels.get(LABEL_NAMESPACE) == "enabled"}
    inside |= {pod["metadata"]["namespace"] for pod in pods if has_proxy(pod)} - {names.SYSTEM_NAMESPACE}
    yield from inspection.short_of_pods(look.items("Deployment"), inside)
    yield from inspection.services(look.items("Service"), inside)
    yield from _root(look, now)
    if any(is_ready(pod) for pod in _of_control_plane(own)):
        try:
            yield from inspection.acknowledgements(cluster.pilots(), pods)
        except MeshError as error:
            yield Finding("error", "pilot", str(error), _SEE_LOG)
    yield from look.unseen()


def as_far_as_possible(looked: Iterator[Finding]) -> Iterator[Finding]:
    """All of `looked`, and at the end why there is no more of it, where the API server does not say more."""
    try:
        yield from looked
    except ApiError as error:
        yield Finding("error", "API server", str(error), "nothing more could be looked at")


class _Look:
    """Reads what may be read, and remembers what may not."""

    def __init__(self, api: Api, paths: Paths) -> None:
        self.api = api
        self.paths = paths
        self._refused: dict[str, str] = {}

    def items(self, kind: str, namespace: str = "") -> list[Document]:
        """The objects of a kind; none if they may not be seen."""
        return self._or(kind, [], lambda: self.api.items(self.paths.of(kind, namespace)))

    def find(self, kind: str, namespace: str, name: str) -> Document | None:
        """An object; None if it is not there, or may not be seen."""
        return self._or(kind, None, lambda: self.api.find(self.paths.of(kind, namespace, name)))

    def seen(self, *kinds: str) -> bool:
        """Whether all of these could be looked at."""
        return not self._refused.keys() & set(kinds)

    def unseen(self) -> Iterator[Finding]:
        """What could not be looked at."""
        for kind, why in self._refused.items():
            yield Finding("warning", f"{kind}s", f"could not be looked at: {why}", "ask somebody who may to check")

    def _or(self, kind: str, otherwise: _T, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except ApiError as error:
            if error.code != 403:
                raise
            self._refused[kind] = error.said
            return otherwise


def _missing(api: Api, wanted: dict[tuple[str, str, str, str, str], None]) -> list[str]:
    found: dict[tuple[str, str], list[str]] = {}
    for verb, group, resource, subresource, namespace in wanted:
        if not api.may(verb, group, resource, namespace=namespace, subresource=subresource):
            name = f"{resource}{f'.{group}' if group else ''}{f'/{subresource}' if subresource else ''}"
            found.setdefault((name, namespace), []).append(verb)
    return [
        f"{'/'.join(verbs)} {name}{f' in namespace {namespace}' if namespace else ''}"
        for (name, namespace), verbs in found.items()
    ]


def _webhooks(look: _Look, own: list[Document], now: datetime) -> Iterator[Finding]:
    """Whether the two webhooks are there, and whether the API server is right to trust who answers."""
    ready = [pod["metadata"]["name"] for pod in _of_control_plane(own) if is_ready(pod)]
    for service, (kind, name) in WEBHOOKS.items():
        configuration = look.find(kind, "", name)
        if not look.seen(kind):
            continue
        yield from inspection.webhooks(f"{kind} {name}", configuration)
        bundles = {
            bundle_text
            for webhook in (configuration or {}).get("webhooks") or []
            if (bundle_text := (webhook.get("clientConfig") or {}).get("caBundle"))
        }
        for text in bundles:
            for pod in ready:
                yield from _trust(look.api, pod, service, f"{kind} {name}", text, now=now)


def _trust(api: Api, pod: str, service: str, about: str, text: str, *, now: datetime) -> Iterator[Finding]:
    server_name = f"{service}.{names.SYSTEM_NAMESPACE}.svc"
    remedy = f"the control plane's leader keeps it current: {_SEE_LOG}"
    try:
        roots = base64.b64decode(text, validate=True).decode()
        ends = twice(lambda: _shown(api, pod, roots, server_name))
    except _BROKEN_OFF as error:
        yield Finding(
            "warning",
            about,
            f"whether its caBundle fits {pod} could not be looked at, twice: {error}",
            "this is about the way from here into the pod, or a machine that is busy: ask pymesh check again, and if "
            f"it still says so, see the log of pod {pod}",
        )
    except (ssl.SSLError, binascii.Error, UnicodeDecodeError) as error:
        yield Finding(
            "error", about, f"its caBundle does not fit {pod}, which answers as {server_name}: {error}", remedy
        )
    else:
        yield from inspection.certificate(
            f"certificate of {server_name} ({pod})",
            ends,
            now,
            inspection.SOON_SERVING,
            "it is renewed by itself: see the log",
        )


def _shown(api: Api, pod: str, roots: str, server_name: str) -> datetime:
    """When the certificate ends that a pod shows the API server."""
    with forward(api, names.SYSTEM_NAMESPACE, pod, names.PORT_WEBHOOK) as stream:
        return valid_until(stream, roots, server_name)


def twice(look: Callable[[], _T]) -> _T:
    """What `look` sees, at the second attempt if need be: a forward passes three processes, and any may be busy.

    Raises:
        ApiError: it could not be looked at either time.
        ssl.SSLError: the connection ended in the middle, likewise.
    """
    try:
        return look()
    except _BROKEN_OFF:
        return look()


def _root(look: _Look, now: datetime) -> Iterator[Finding]:
    """Whether the mesh's root is where pods read it, and how long it is good for."""
    found = look.find("ConfigMap", names.SYSTEM_NAMESPACE, names.ROOT_CONFIG_MAP)
    if not look.seen("ConfigMap"):
        return
    about = f"ConfigMap {names.ROOT_CONFIG_MAP}"
    text = str(((found or {}).get("data") or {}).get(names.ROOT_FILE, ""))
    remedy = "put a new CA into Secret pymesh-system/cacerts before it ends, and start the control plane anew"
    try:
        roots = x509.load_pem_x509_certificates(text.encode()) if text else []
    except ValueError as error:
        yield Finding("error", about, f"has no certificate that can be read: {error}", _SEE_LOG)
        return
    if not roots:
        yield Finding("error", about, "is not there: no sidecar can trust pilot", _SEE_LOG)
    for root in roots:
        subject = root.subject.rfc4514_string()
        yield from inspection.certificate(f"root {subject}", root.not_valid_after_utc, now, inspection.SOON, remedy)


def _proxy_image(deployments: list[Document]) -> str:
    """Which sidecar the injector adds now; empty if that cannot be said."""
    found = next((item for item in deployments if item["metadata"]["name"] == names.CONTROL_PLANE), None)
    return injection.settings(found, InjectionConfig()).proxy_image if found is not None else ""


def _of_control_plane(pods: list[Document]) -> list[Document]:
    return [pod for pod in pods if (pod["metadata"].get("labels") or {}).get("app") == names.CONTROL_PLANE]
