"""What `pymesh check` finds wrong in a cluster, told from what its API server and the mesh's own pods say. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from pymesh import names
from pymesh.errors import ConfigError
from pymesh_controlplane.cli import readiness
from pymesh_controlplane.cli.cluster import has_proxy, state_of
from pymesh_controlplane.cli.mesh import Pilot
from pymesh_controlplane.cli.readiness import is_ready
from pymesh_controlplane.cli.status import merged, problems_of
from pymesh_controlplane.injector.containers import PROXY, InjectionConfig
from pymesh_controlplane.injector.inject import LABEL_NAMESPACE, decide
from pymesh_controlplane.injector.settings import ANNOTATION_STATUS
from pymesh_controlplane.injector.webhook import SYSTEM_NAMESPACES
from pymesh_controlplane.pilot.model import Protocol
from pymesh_controlplane.pilot.world import protocol_of
from pymesh_controlplane.wording import listed

# What the manifests use is in Kubernetes without a feature gate from here on: preStop's `sleep` (KEP-3960, beta) last.
OLDEST: Final = (1, 30)
# How long before its end a certificate is spoken of: those that renew themselves have done it by then.
SOON: Final = timedelta(days=30)
# The webhook's certificate is renewed at half of its life, which is a day.
SOON_SERVING: Final = timedelta(hours=1)
# Of many of a kind, how many are named.
NAMED: Final = 5
# Of what pilot says of the configuration, how much is told: the rest is for `pymesh status`.
TOLD: Final = 20

_POLICY: Final = "policy"
STORE: Final = "policy-store"  # the Secret that names the store of several replicas of it
_ENFORCE: Final = "pod-security.kubernetes.io/enforce"
_REVISION: Final = "istio.io/rev"
_LABEL_POD: Final = "sidecar.istio.io/inject"
_POD_SAYS_YES: Final = f'{_LABEL_POD}: "true"'
_ANNOTATION_IMAGE: Final = "sidecar.istio.io/proxyImage"

Severity = Literal["error", "warning", "note"]
Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that stands in the way. `about` is what it is of, `remedy` what to do."""

    severity: Severity
    about: str
    problem: str
    remedy: str

    def as_json(self) -> dict[str, str]:
        """For programs."""
        return {"severity": self.severity, "about": self.about, "problem": self.problem, "remedy": self.remedy}


def version(found: Object) -> Iterator[Finding]:
    """Whether the cluster is new enough (`/version`)."""
    digits = ["".join(c for c in str(found.get(part, "")) if c.isdigit()) for part in ("major", "minor")]
    if all(digits) and tuple(map(int, digits)) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        remedy = f"upgrade the cluster: pymesh needs Kubernetes {oldest} or newer"
        yield Finding("error", "Kubernetes", f"is {found.get('gitVersion', '.'.join(digits))}", remedy)


def permissions(missing: Sequence[str], purpose: str) -> Iterator[Finding]:
    """What whoever asks may not do, as `create deployments.apps in pymesh-system`."""
    if missing:
        yield Finding(
            "error",
            "permissions",
            f"you may not {_some(missing)}",
            f"{purpose}: ask whoever may to do it, or to bind you a role that allows this (cluster-admin does)",
        )


def components(deployments: Sequence[Object], pods: Sequence[Object], limits: int = 0) -> Iterator[Finding]:
    """Whether the mesh's own Deployments, in its own namespace, are there, wanted and ready.

    Args:
        deployments: of that namespace.
        pods: likewise.
        limits: how many RateLimits and ConcurrencyLimits there are: nobody but `policy` counts for them.
    """
    found = {item["metadata"]["name"]: item for item in deployments}
    if names.CONTROL_PLANE not in found:
        yield Finding(
            "error", "installation", f"there is no Deployment {names.CONTROL_PLANE}", "pymesh install installs it"
        )
    if limits and _POLICY not in found:
        problem = f"there is no Deployment {_POLICY}, and {_unlimited(limits)}"
        yield Finding("error", "installation", problem, f"pymesh install --only {_POLICY} adds it")
    for name, deployment in sorted(found.items()):
        if readiness.is_off(deployment):
            needed = name == names.CONTROL_PLANE or (name == _POLICY and limits)
            consequence = f", and {_unlimited(limits)}" if name == _POLICY and limits else ""
            yield Finding(
                "error" if needed else "warning",
                f"Deployment {name}",
                f"is scaled to 0{consequence}",
                readiness.scale_up(name),
            )
        elif why := readiness.deployment_waits(deployment, pods):
            some = (deployment.get("status") or {}).get("availableReplicas", 0)
            remedy = f"kubectl -n {names.SYSTEM_NAMESPACE} logs deployment/{name}, and describe, say more"
            severity: Severity = "warning" if some else "error"
            yield Finding(severity, f"Deployment {name}", f"is not ready: {why.removeprefix(f'{name}: ')}", remedy)


def without_store(deployments: Sequence[Object]) -> Iterator[Finding]:
    """Whether several replicas of `policy` are wanted, of which no Secret names the store."""
    for item in deployments:
        if item["metadata"]["name"] == _POLICY and (number := item["spec"].get("replicas", 1)) > 1:
            problem = f"has {number} replicas and no store: every limit holds for each of them alone"
            remedy = f"name a Redis in Secret {names.SYSTEM_NAMESPACE}/{STORE}, or have one replica"
            yield Finding("error", f"Deployment {_POLICY}", problem, remedy)


def _unlimited(limits: int) -> str:
    kinds = "limit that is" if limits == 1 else "limits that are"
    return f"nobody counts for the {limits} {kinds} in force: their failure mode decides"


def crds(missing: Sequence[str]) -> Iterator[Finding]:
    """Kinds of the mesh that the cluster does not have."""
    if missing:
        remedy = "the control plane's leader makes Istio's where they are missing, pymesh install applies pymesh's own"
        yield Finding("error", "CRDs", f"the cluster does not have the kinds {', '.join(sorted(missing))}", remedy)


def webhooks(name: str, configuration: Object | None) -> Iterator[Finding]:
    """Whether the API server asks the mesh's webhooks, and can trust them."""
    if configuration is None:
        consequence = "no pod gets a sidecar" if "injector" in name else "nobody refuses what is wrong"
        yield Finding("error", name, f"is not there: {consequence}", "pymesh install applies it")
        return
    without = [
        str(webhook["name"])
        for webhook in configuration.get("webhooks") or []
        if not (webhook.get("clientConfig") or {}).get("caBundle")
    ]
    if without:
        remedy = f"the control plane's leader writes it: see the log of deployment/{names.CONTROL_PLANE}"
        yield Finding("error", name, f"has no caBundle, so the API server trusts nobody: {_some(without)}", remedy)


def others(configurations: Iterable[Object], namespaces: Iterable[Object]) -> Iterator[Finding]:
    """Whether an Istio in the same cluster injects the same pods: a mistake where it does, and else good to know."""
    labelled = [
        item["metadata"]["name"]
        for item in namespaces
        if (item["metadata"].get("labels") or {}).get(LABEL_NAMESPACE) == "enabled"
    ]
    for item in configurations:
        own = item["metadata"]["name"]
        webhooks = [] if own == "pymesh-injector" else item.get("webhooks") or []
        by_namespace = any(map(_injects_by_namespace, webhooks))
        by_pod = any(map(_injects_by_pod, webhooks))
        if not by_namespace and not by_pod:
            continue
        whom = [f"in namespaces with {LABEL_NAMESPACE}=enabled"] if by_namespace else []
        whom += [f"with {_POD_SAYS_YES} in namespaces that say nothing"] if by_pod else []
        twice = by_namespace and labelled
        where = f", which {_some(labelled)} would" if twice else ""
        yield Finding(
            "error" if twice else "warning",
            f"MutatingWebhookConfiguration {own}",
            f"also injects pods {', and those '.join(whom)}: both meshes would, and they get two sidecars{where}",
            f"keep namespaces for pymesh that Istio's webhooks pass over: label them {_REVISION}=pymesh and not "
            f"{LABEL_NAMESPACE}, and their pods {_POD_SAYS_YES}",
        )


def _injects_by_namespace(webhook: Object) -> bool:
    """Whether a webhook is asked about pods because of the namespace's label that pymesh reads."""
    selector, enabled = webhook.get("namespaceSelector") or {}, {LABEL_NAMESPACE: "enabled"}
    return _asks_for(selector, LABEL_NAMESPACE, "enabled") and _selects(selector, enabled)


def _injects_by_pod(webhook: Object) -> bool:
    """Whether a webhook is asked about pods because of their own label that pymesh reads."""
    selector, yes = webhook.get("objectSelector") or {}, {_LABEL_POD: "true"}
    unlabelled = _selects(webhook.get("namespaceSelector") or {}, {})
    return unlabelled and _asks_for(selector, _LABEL_POD, "true") and _selects(selector, yes)


def _asks_for(selector: Object, key: str, value: str) -> bool:
    """Whether a selector names this label, as an injector's does; one that is open to everything is somebody else's."""
    rules = selector.get("matchExpressions") or []
    return (selector.get("matchLabels") or {}).get(key) == value or any(
        rule.get("key") == key and rule.get("operator") == "In" and value in (rule.get("values") or ())
        for rule in rules
    )


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a selector (meta/v1 LabelSelector) takes what has these labels."""
    if not (selector.get("matchLabels") or {}).items() <= labels.items():
        return False
    for rule in selector.get("matchExpressions") or []:
        there, values = labels.get(rule["key"]), rule.get("values") or ()
        taken = {
            "In": there in values,
            "NotIn": there not in values,
            "Exists": there is not None,
            "DoesNotExist": there is None,
        }
        if not taken.get(rule["operator"], False):
            return False
    return True


def namespaces(found: Iterable[Object]) -> Iterator[Finding]:
    """Labels of namespaces that do not do what they look like."""
    for item in found:
        name, labels = item["metadata"]["name"], item["metadata"].get("labels") or {}
        about, wish = f"Namespace {name}", labels.get(LABEL_NAMESPACE)
        if wish not in {None, "enabled", "disabled"}:
            remedy = f"kubectl label --overwrite namespace {name} {LABEL_NAMESPACE}=enabled"
            yield Finding("warning", about, f"has {LABEL_NAMESPACE}={wish}, which means nothing", remedy)
        if wish == "enabled" and name in SYSTEM_NAMESPACES:
            remedy = f"kubectl label namespace {name} {LABEL_NAMESPACE}-"
            yield Finding("warning", about, f"has {LABEL_NAMESPACE}=enabled, and is never injected", remedy)
        if _REVISION in labels:
            remedy = (
                f"for pymesh, give pods the label {_POD_SAYS_YES}; or, without an Istio in the cluster, "
                f"kubectl label namespace {name} {_REVISION}- {LABEL_NAMESPACE}=enabled"
            )
            yield Finding("note", about, f"has {_REVISION}, by which an Istio injects; pymesh does not read it", remedy)
        level = labels.get(_ENFORCE)
        if wish == "enabled" and level in {"baseline", "restricted"}:
            remedy = f"kubectl label --overwrite namespace {name} {_ENFORCE}=privileged"
            problem = f"has {_ENFORCE}={level}, which refuses pymesh-init (NET_ADMIN, NET_RAW): no pod can start"
            yield Finding("error", about, problem, remedy)


def sidecars(pods: Iterable[Object], labels: Mapping[str, Mapping[str, str]], image: str) -> Iterator[Finding]:
    """Pods that should have a sidecar and have none, have one that is not ready, or one of another version.

    Args:
        pods: of all namespaces.
        labels: of the namespaces, by name.
        image: of the sidecars that injector adds now; empty if that is not known.
    """
    without: dict[str, list[str]] = {}
    outdated: dict[str, list[str]] = {}
    for pod in pods:
        metadata, phase = pod["metadata"], (pod.get("status") or {}).get("phase")
        namespace, name = metadata["namespace"], metadata["name"]
        if phase not in {"Running", "Pending"} or metadata.get("deletionTimestamp"):
            continue
        if _is_wanted(pod, labels.get(namespace, {})):
            without.setdefault(namespace, []).append(name)
        found = _proxy_of(pod)
        if found and image and found != image and _ANNOTATION_IMAGE not in (metadata.get("annotations") or {}):
            outdated.setdefault(namespace, []).append(f"{name} ({found})")
        if found and namespace != names.SYSTEM_NAMESPACE and (why := _sidecar_trouble(pod)):
            what = f"kubectl -n {namespace} logs {name} -c {PROXY}, and describe pod {name}, say more"
            yield Finding("error", f"Pod {namespace}/{name}", f"its sidecar is not ready: {why}", what)
    for namespace, some in sorted(without.items()):
        problem = f"pods without a sidecar, though they should have one: {_some(some)}"
        remedy = f"they are older than the label: kubectl -n {namespace} rollout restart deployment"
        yield Finding("warning", f"Namespace {namespace}", problem, remedy)
    for namespace, some in sorted(outdated.items()):
        problem = f"sidecars of another version than {image}: {_some(some)}"
        remedy = f"kubectl -n {namespace} rollout restart deployment (statefulset, daemonset)"
        yield Finding("warning", f"Namespace {namespace}", problem, remedy)


def short_of_pods(deployments: Iterable[Object], in_mesh: Collection[str]) -> Iterator[Finding]:
    """Deployments in the namespaces `in_mesh` for which the cluster makes fewer pods than they want."""
    for item in deployments:
        metadata, status = item["metadata"], item.get("status") or {}
        wanted, there = item["spec"].get("replicas", 1), status.get("replicas", 0)
        seen = status.get("observedGeneration", 0) >= metadata.get("generation", 0)
        if metadata["namespace"] not in in_mesh or not seen or there >= wanted:
            continue
        why = "".join(
            f": {condition.get('message')}"
            for condition in status.get("conditions") or []
            if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True"
        )
        namespace, name = metadata["namespace"], metadata["name"]
        remedy = (
            f"its ReplicaSet tries again ever more rarely after an outage; kubectl -n {namespace} rollout restart "
            f"deployment/{name} tries now"
        )
        problem = f"{there} of {wanted} pods have been made{why}"
        yield Finding("warning" if there else "error", f"Deployment {namespace}/{name}", problem, remedy)


def acknowledgements(pilots: Sequence[Pilot], pods: Iterable[Object]) -> Iterator[Finding]:
    """Proxies that have refused or not taken what pilot has for them, or are not connected; and what pilot refused."""
    proxies = merged(pilots)
    for proxy in proxies:
        about = f"proxy {proxy['proxy']}"
        states = {kind: state for kind, state in proxy["types"].items() if state["status"] in {"NACKED", "STALE"}}
        for kind, state in states.items():
            if state["status"] == "NACKED":
                remedy = "pymesh status shows it; this is a fault of the mesh, or the sidecar is of another version"
                yield Finding("error", about, f"has refused its {kind}: {state['error']}", remedy)
        if any(state["status"] == "STALE" for state in states.values()):
            yield Finding(
                "warning", about, "has not taken the newest yet", "if pymesh check still says so, see its log"
            )
    connected = {proxy["proxy"] for proxy in proxies}
    lost = [
        name
        for pod in pods
        if has_proxy(pod) and is_ready(pod)
        if (name := f"{pod['metadata']['name']}.{pod['metadata']['namespace']}") not in connected
    ]
    if lost and pilots:
        remedy = (
            "their logs say why: DNS, NetworkPolicies to pymesh-system port 15012, or a certificate that is not taken"
        )
        yield Finding("warning", "pilot", f"proxies that are ready and not connected: {_some(lost)}", remedy)
    yield from _configuration(problems_of(pilots))


def _configuration(problems: Iterable[Object]) -> Iterator[Finding]:
    """What pilot has refused or finds odd: each sentence once, with the fields that it is said of."""
    fields: dict[tuple[str, str, str], list[str]] = {}
    for problem in problems:
        same = (str(problem["severity"]), str(problem["resource"]), str(problem["sentence"]))
        fields.setdefault(same, []).append(str(problem["path"]))
    told = list(fields.items())
    for (severity, resource, sentence), paths in told[:TOLD]:
        where = list(dict.fromkeys(filter(None, paths)))
        problem_text = f"{_some(where)}: {sentence}" if where else sentence
        text = f"not in force: {problem_text}" if severity == "error" else problem_text
        yield Finding("warning", resource or "configuration", text, "pymesh status shows it, and where it was read")
    if len(told) > TOLD:
        text = f"pilot has {len(told) - TOLD} more to say of what it reads"
        yield Finding("warning", "configuration", text, "pymesh status shows all of it")


def services(found: Iterable[Object], in_mesh: Iterable[str]) -> Iterator[Finding]:
    """Ports that do not say what is spoken on them, of Services in the namespaces `in_mesh`."""
    inside, silent = set(in_mesh), []
    for item in found:
        metadata, spec = item["metadata"], item.get("spec") or {}
        if metadata["namespace"] not in inside or not spec.get("selector"):
            continue
        for port in spec.get("ports") or []:
            said = protocol_of(port.get("name") or "", port.get("appProtocol"), port["port"])
            if port.get("protocol", "TCP") == "TCP" and said is Protocol.AUTO:
                silent.append(f"{metadata['namespace']}/{metadata['name']} {port.get('name') or port['port']}")
    if silent:
        yield Finding(
            "note",
            "Services",
            f"ports that do not say what is spoken on them: {_some(silent)}",
            "it is found out for each connection; appProtocol (http, tcp, https ...) or a name like http-web says it",
        )


def certificate(about: str, ends: datetime, now: datetime, soon: timedelta, remedy: str) -> Iterator[Finding]:
    """Whether a certificate has ended, or does soon."""
    if ends <= now:
        yield Finding("error", about, f"has expired at {ends:%Y-%m-%d %H:%M} UTC", remedy)
    elif ends - now < soon:
        yield Finding("warning", about, f"expires at {ends:%Y-%m-%d %H:%M} UTC", remedy)


def _is_wanted(pod: Object, labels: Mapping[str, str]) -> bool:
    """Whether a pod has no sidecar and the injector would give it one now."""
    namespace = pod["metadata"]["namespace"]
    if namespace in SYSTEM_NAMESPACES or ANNOTATION_STATUS in (pod["metadata"].get("annotations") or {}):
        return False
    try:
        return decide(dict(pod), InjectionConfig(), labels).inject
    except ConfigError:
        return False  # the API server refuses such pods, and a label that is none is spoken of elsewhere


def _proxy_of(pod: Object) -> str:
    """The image of a pod's proxy; empty if it has none."""
    spec = pod.get("spec") or {}
    containers = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    return next((str(item.get("image", "")) for item in containers if item.get("name") == PROXY), "")


def _sidecar_trouble(pod: Object) -> str:
    """Why a pod's sidecar does not run or is not ready; empty if it is, or has just begun."""
    status = pod.get("status") or {}
    for item in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        if item["name"] == PROXY and not item.get("ready") and "running" in (item.get("state") or {}):
            return "it runs, and its readiness probe fails"
        if item["name"] in {PROXY, "pymesh-init"} and (item.get("state") or {}).get("waiting"):
            reason = state_of(pod)
            return reason if reason != "Pending, not ready" else ""
    return ""


def _some(items: Sequence[str]) -> str:
    return listed(items, NAMED)
