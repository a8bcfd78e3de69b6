"""Which Kubernetes it is."""

from collections.abc import Mapping
from typing import Any

from lightkube import AsyncClient
from lightkube.core.generic_client import BasicRequest

from pymesh_controlplane.kube.asking import ask
from pymesh_controlplane.kube.client import transport


async def version(client: AsyncClient) -> Mapping[str, object]:
    """What the API server says of its version: `major`, `minor`, `gitVersion` and more.

    Raises:
        KubernetesError: it does not answer.
    """
    return await ask(_version(client))


async def _version(client: AsyncClient) -> Mapping[str, object]:
    sender: Any = transport(client)
    request = sender.build_adapter_request(BasicRequest(method="GET", url="/version", response_type=None))
    response = await sender.send(request)
    sender.raise_for_status(response)
    found = response.json()
    if not isinstance(found, dict):
        raise ValueError("a version is an object")
    return found
