"""Agent mode: certificates by SDS and a bootstrap file, for a pod whose proxy is a real Envoy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pymesh.names import ROOT_CERT_PATH, SDS_SOCKET_PATH, TOKEN_PATH
from pymesh_proxy.control.channel import Target
from pymesh_proxy.control.node import Node


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What `pymesh-proxy --agent` was asked to do.

    Attributes:
        node: who the pod is.
        discovery: pilot and citadel, `host:port` of 15012.
        bootstrap: where to write Envoy's bootstrap.
        envoy: command line of the Envoy to run and supervise; empty runs none.
    """

    node: Node
    discovery: Target
    bootstrap: Path
    envoy: Sequence[str] = ()
    sds_socket: Path = Path(SDS_SOCKET_PATH)
    token_file: Path = Path(TOKEN_PATH)
    roots_file: Path = Path(ROOT_CERT_PATH)
    admin_port: int = 15000


async def run_agent(options: AgentOptions) -> int:
    """Serve certificates until SIGTERM or SIGINT, or until Envoy ends; the exit status of the process."""
    raise NotImplementedError
