"""What the API server holds our webhooks against: the mesh's root in every entry of both webhook configurations.

Nothing else of them is written: the manifests say the rest, `failurePolicy` too, so that whoever applies them again
finds nothing changed, and takes nothing back.

RBAC: list, watch and patch of mutatingwebhookconfigurations pymesh-injector, validatingwebhookconfigurations
pymesh-galley.
"""

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from lightkube import AsyncClient
from lightkube.resources.admissionregistration_v1 import MutatingWebhookConfiguration, ValidatingWebhookConfiguration
from lightkube.types import PatchType

from pymesh_controlplane.kube import trim
from pymesh_controlplane.kube.reflector import Reflector
from pymesh_controlplane.kube.replica import Name, Object
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.written_back.keeper import Keeper, Write

INJECTOR: Final = "pymesh-injector"
GALLEY: Final = "pymesh-galley"


def current(configuration: Object, bundle: str) -> dict[str, Any] | None:
    """What a webhook configuration lacks, as a patch (RFC 7386) of the version that was seen; None if nothing.

    Args:
        bundle: the root certificates, PEM.
    """
    encoded = base64.b64encode(bundle.encode()).decode()
    before = configuration.get("webhooks") or []
    after = [{**entry, "clientConfig": {**entry["clientConfig"], "caBundle": encoded}} for entry in before]
    if after == before:
        return None
    return {"metadata": {"resourceVersion": configuration["metadata"]["resourceVersion"]}, "webhooks": after}


def keeper(client: AsyncClient, bundle: Callable[[], str], metrics: Metrics) -> Keeper:
    """Keeps what `bundle` answers in both configurations."""

    def watch(changed: Callable[[], None]) -> Sequence[Reflector]:
        return tuple(
            Reflector(
                client,
                kind,
                fields=f"metadata.name={name}",
                trim=trim.authored(trim.everything),
                notify=changed,
                metrics=metrics,
            )
            for kind, name in ((MutatingWebhookConfiguration, INJECTOR), (ValidatingWebhookConfiguration, GALLEY))
        )

    def due(reflectors: Sequence[Reflector]) -> Iterator[Write]:
        injector, galley = (reflector.objects for reflector in reflectors)
        if (found := injector.get(Name("", INJECTOR))) and (patch := current(found, bundle())):
            yield _write(client, MutatingWebhookConfiguration, INJECTOR, patch, found)
        if (found := galley.get(Name("", GALLEY))) and (patch := current(found, bundle())):
            yield _write(client, ValidatingWebhookConfiguration, GALLEY, patch, found)

    return Keeper("webhook configurations", watch, due, metrics)


def _write(
    client: AsyncClient,
    kind: type[MutatingWebhookConfiguration | ValidatingWebhookConfiguration],
    name: str,
    patch: dict[str, Any],
    found: Object,
) -> Write:
    return Write(
        f"{kind.__name__} {name}",
        lambda: client.patch(kind, name, patch, patch_type=PatchType.MERGE),
        found=found,
    )
