"""What the API server holds our webhooks against: the mesh's root in every entry of both webhook configurations.

A manifest may let everything pass galley as long as it cannot be asked (`failurePolicy: Ignore`), so that a mesh can be
installed together with its resources; once the root is there and galley answers, nothing passes it unseen any more.

RBAC: list, watch and patch of mutatingwebhookconfigurations pymesh-injector, validatingwebhookconfigurations
pymesh-galley.
"""

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from lightkube import AsyncClient
from lightkube.resources.admissionregistration_v1 import MutatingWebhookConfiguration, ValidatingWebhookConfiguration
from lightkube.types import PatchType

from pymesh_controlplane.kube.reflector import Reflector
from pymesh_controlplane.kube.replica import Name, Object
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.written_back.keeper import Keeper, Write

INJECTOR: Final = "pymesh-injector"
GALLEY: Final = "pymesh-galley"


def current(configuration: Object, bundle: str, *, fail: bool) -> dict[str, Any] | None:
    """What a webhook configuration lacks, as a patch (RFC 7386) of the version that was seen; None if nothing.

    Args:
        bundle: the root certificates, PEM.
        fail: whether what the webhook cannot be asked about is to be refused, where the bundle is in place.
    """
    encoded = base64.b64encode(bundle.encode()).decode()
    before = configuration.get("webhooks") or []
    after = [{**entry, "clientConfig": {**entry["clientConfig"], "caBundle": encoded}} for entry in before]
    if after == before and fail:
        after = [{**entry, "failurePolicy": "Fail"} for entry in before]
    if after == before:
        return None
    return {"metadata": {"resourceVersion": configuration["metadata"]["resourceVersion"]}, "webhooks": after}


def keeper(client: AsyncClient, bundle: str, serving: Callable[[], bool], metrics: Metrics) -> Keeper:
    """Keeps `bundle` in both configurations; `serving` tells whether the webhooks answer."""

    def watch(changed: Callable[[], None]) -> Sequence[Reflector]:
        return tuple(
            Reflector(client, kind, fields=f"metadata.name={name}", notify=changed, metrics=metrics)
            for kind, name in ((MutatingWebhookConfiguration, INJECTOR), (ValidatingWebhookConfiguration, GALLEY))
        )

    def due(reflectors: Sequence[Reflector]) -> Iterator[Write]:
        injector, galley = (reflector.objects for reflector in reflectors)
        if (found := injector.get(Name("", INJECTOR))) and (patch := current(found, bundle, fail=False)):
            yield _write(client, MutatingWebhookConfiguration, INJECTOR, patch)
        if (found := galley.get(Name("", GALLEY))) and (patch := current(found, bundle, fail=serving())):
            yield _write(client, ValidatingWebhookConfiguration, GALLEY, patch)

    return Keeper("webhook configurations", watch, due, metrics)


def _write(
    client: AsyncClient,
    kind: type[MutatingWebhookConfiguration | ValidatingWebhookConfiguration],
    name: str,
    patch: dict[str, Any],
) -> Write:
    return Write(f"{kind.__name__} {name}", lambda: client.patch(kind, name, patch, patch_type=PatchType.MERGE))
