"""SDS on a Unix socket: secrets for an Envoy in the same pod (envoy.service.secret.v3.SecretDiscoveryService)."""

from pathlib import Path

from pymesh_proxy.control.secrets import SecretStore


class SdsServer:
    """Serves the store's secrets, and each rotation, to whoever may open the socket."""

    def __init__(self, store: SecretStore, path: Path, *, mode: int = 0o600) -> None:
        raise NotImplementedError

    async def run(self) -> None:
        """Listen until cancelled; the socket file is removed at the end."""
        raise NotImplementedError
