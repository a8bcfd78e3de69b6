"""Istio's PeerAuthentication: which connections a workload accepts.

Source: istio.io/docs/reference/config/security/peer_authentication, release 1.27.
"""

from typing import Literal

from pymesh.resources.fields import Block, ObjectMeta, Port
from pymesh.resources.istio.common import WorkloadSelector


class MutualTLS(Block, frozen=True):
    """Whether the sidecar demands mutual TLS."""

    mode: Literal["UNSET", "DISABLE", "PERMISSIVE", "STRICT"] = "UNSET"


class PeerAuthenticationSpec(Block, frozen=True):
    """security.istio.io PeerAuthentication. The ports are those of the workload, not of its services."""

    selector: WorkloadSelector | None = None
    mtls: MutualTLS | None = None
    port_level_mtls: dict[Port, MutualTLS] = {}


class PeerAuthentication(Block, frozen=True):
    """Which connections a workload accepts."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()
    status: object | None = None
