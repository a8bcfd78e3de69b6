"""The injector as a mutating webhook: the pod that a cluster is about to store, and what turns it into one of the mesh.

To be asked is to be told: the API server asks about pods whose namespace or label wants a sidecar, by the selectors of
the webhook, which it holds against the namespace as it is at that moment. Nobody here has to know namespaces, or could
know an older one. What the pod itself says is read here, as everywhere. Pure.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from pymesh import names
from pymesh.errors import ConfigError
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.injector.inject import decide, inject
from pymesh_controlplane.injector.settings import ANNOTATION_INJECT
from pymesh_controlplane.injector.shape import Manifest, mapping, strings
from pymesh_controlplane.webhooks.admission import ALLOWED, Answer, Cause, Request, ReviewError
from pymesh_controlplane.webhooks.patch import patch

# Never injected, whatever selectors a webhook has: what the cluster itself lives on (Istio leaves out the same), and
# what a sidecar waits for.
SYSTEM_NAMESPACES: Final = frozenset({"kube-system", "kube-public", "kube-node-lease", names.SYSTEM_NAMESPACE})

# The first version in which init containers that stay are there without a feature gate.
_NATIVE_SINCE: Final = (1, 29)


def answer(request: Request, config: InjectionConfig) -> Answer:
    """What becomes of a pod that is to be made.

    Raises:
        ReviewError: the review is not about a Pod of v1, or has none.
    """
    if (request.kind.group, request.kind.version, request.kind.kind) != ("", "v1", "Pod"):
        what = f"{request.kind.kind} of {request.kind.api_version}"
        raise ReviewError(f"the injector is asked about Pods of v1, not about {what}: see the webhook's rules")
    if request.operation != "CREATE" or request.sub_resource or request.namespace in SYSTEM_NAMESPACES:
        return ALLOWED
    pod = request.object
    if pod is None:
        raise ReviewError("a review of CREATE has an object")
    config = replace(config, inject_by_default=True)
    try:
        injected = inject(pod, config=config)
        if injected is not pod:
            return Answer(patch=patch(pod, injected))
        if _says_no(pod):
            return ALLOWED
        why = decide(pod, config, {}).reason
        return Answer(warnings=(f"Pod {request.namespace}/{request.called} gets no sidecar: {why}",))
    except ConfigError as error:
        return Answer((Cause(error.path, error.problem),))


def native_sidecars(version: Mapping[str, object], kubelets: Iterable[str]) -> bool:
    """Whether all of a cluster has them: its API server, and its kubelets, which may be three minor versions older.

    Args:
        version: what the API server says at `/version`: major "1", minor "36" or "29+".
        kubelets: what nodes say: "v1.30.4-gke.1". One that cannot be read is taken for old.
    """
    server = _version(f"{version.get('major')}.{version.get('minor')}")
    return all(each >= _NATIVE_SINCE for each in (server, *map(_version, kubelets)))


def kubelets_of(nodes: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """The versions of the kubelets of `nodes`, as the API has them; a node that does not say it yet runs no pods."""
    found = (((node.get("status") or {}).get("nodeInfo") or {}).get("kubeletVersion") for node in nodes)
    return frozenset(str(version) for version in found if version)


def _version(text: str) -> tuple[int, int]:
    found = re.match(r"v?([0-9]{1,4})\.([0-9]{1,4})", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _says_no(pod: Manifest) -> bool:
    """Whether it was the pod's own wish."""
    metadata = mapping(pod, "metadata")
    return any(strings(metadata, place).get(ANNOTATION_INJECT) == "false" for place in ("labels", "annotations"))
