"""The certificate client: obtains this workload's certificate from citadel and renews it at half of its life."""

from pathlib import Path

from pymesh_proxy.control.channel import Channel
from pymesh_proxy.control.node import Node
from pymesh_proxy.control.secrets import SecretStore


class CertificateClient:
    """Publishes `default` (certificate and key) and `ROOTCA` (the root file's content) in `store` until cancelled."""

    def __init__(self, channel: Channel, node: Node, store: SecretStore, *, roots_file: Path) -> None:
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """Whether there is a certificate that has not expired."""
        raise NotImplementedError

    @property
    def waiting_for(self) -> str:
        """One sentence on what is still awaited before `ready`; empty when ready."""
        raise NotImplementedError

    async def run(self) -> None:
        """Obtain and renew; ends only by cancellation."""
        raise NotImplementedError
