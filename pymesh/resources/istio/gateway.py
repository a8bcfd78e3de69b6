"""Istio's Gateway: a load balancer at the edge of the mesh.

Source: istio.io/docs/reference/config/networking/gateway, release 1.27.
"""

from typing import Literal

from pymesh.resources.fields import Block, Name, NotYet, ObjectMeta, Port
from pymesh.resources.istio.common import Hosts, Labels, PortProtocol


class GatewayPort(Block, frozen=True):
    """A port that a gateway listens on."""

    number: Port
    name: str
    protocol: PortProtocol
    target_port: NotYet = None


GatewayTLSMode = Literal["PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL"]
TLSProtocol = Literal["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"]


class ServerTLSSettings(Block, frozen=True):
    """How connections to a gateway are secured. The certificate is in a Secret of the gateway pods' namespace."""

    mode: GatewayTLSMode | None = None
    https_redirect: bool = False
    credential_name: Name | None = None
    subject_alt_names: list[str] = []
    min_protocol_version: TLSProtocol = "TLS_AUTO"
    max_protocol_version: TLSProtocol = "TLS_AUTO"
    credential_names: NotYet = None
    server_certificate: NotYet = None
    private_key: NotYet = None
    ca_certificates: NotYet = None
    ca_crl: NotYet = None
    ca_cert_credential_name: NotYet = None
    tls_certificates: NotYet = None
    verify_certificate_spki: NotYet = None
    verify_certificate_hash: NotYet = None
    cipher_suites: NotYet = None


class Server(Block, frozen=True):
    """A port of a gateway and the hosts that it serves."""

    port: GatewayPort
    hosts: Hosts
    tls: ServerTLSSettings | None = None
    bind: NotYet = None
    default_endpoint: NotYet = None
    name: str = ""


class GatewaySpec(Block, frozen=True):
    """networking.istio.io Gateway."""

    servers: list[Server] = []
    selector: Labels = {}


class Gateway(Block, frozen=True):
    """A load balancer at the edge of the mesh."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    spec: GatewaySpec
    status: object | None = None
