"""How the Kubernetes API is reached: from a pod, or with the kubeconfig of a person."""

import os
from pathlib import Path
from typing import Final

import httpx2
from lightkube import AsyncClient, KubeConfig
from lightkube.config.kubeconfig import SERVICE_ACCOUNT
from lightkube.core.exceptions import ConfigError as LightkubeError
from lightkube.core.generic_client import GenericAsyncClient

from pymesh.errors import ConfigError
from pymesh_controlplane.kube import kubeconfig as kubeconfigs
from pymesh_controlplane.kube.kubeconfig import Access

# Who the API server notes down as the author of a field (server-side apply).
FIELD_MANAGER: Final = "pymesh-controlplane"
# Seconds for a connection, and for an answer that is no watch: the API server itself gives up after 60.
TIMEOUT: Final = httpx2.Timeout(60.0, connect=10.0)


def connect(kubeconfig: Path | None, context: str = "", *, field_manager: str = FIELD_MANAGER) -> AsyncClient:
    """A client of the API server; nothing is sent yet.

    The token of a pod is read anew when the API server does not take it any more: kubelet replaces it in its file.

    Args:
        kubeconfig: a kubeconfig file; None: this process runs in a pod of the cluster.
        context: of the file; empty: its current one.
        field_manager: in whose name fields are written.

    Raises:
        ConfigError: there is no such file, context or service account, or something in it cannot be used.
    """
    access = _in_cluster() if kubeconfig is None else kubeconfigs.load([kubeconfig], context)
    try:
        return AsyncClient(config=access.config, timeout=TIMEOUT, field_manager=field_manager, proxy=access.proxy)
    except (LightkubeError, OSError, ValueError) as error:  # certificates that are none, or that cannot be read
        raise ConfigError(f"{kubeconfig or SERVICE_ACCOUNT}: the credentials cannot be used: {error}") from None


def transport(client: AsyncClient) -> GenericAsyncClient:
    """What `client` sends its requests with: same server, credentials and connections, but any request.

    lightkube's own `watch` asks for no bookmarks, waits for ever on a connection that is dead, and takes U+0085 within
    an object for the end of it. The library has no public way to what is below; this is the one place that goes there.
    """
    return client._client


def _in_cluster() -> Access:
    for variable in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        if variable not in os.environ:
            raise ConfigError(f"the environment has no {variable}: is this a pod? Elsewhere, give a --kubeconfig")
    try:
        config = KubeConfig.from_service_account(SERVICE_ACCOUNT).get()
    except (LightkubeError, OSError) as error:
        sentence = f"{SERVICE_ACCOUNT}: {error}: does the pod mount the token of its service account?"
        raise ConfigError(sentence) from None
    assert config is not None, "a service account is one context, and the current one"
    return Access(config, None)
