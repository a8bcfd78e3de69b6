"""The certificates of a gateway's servers: Kubernetes Secrets → xDS Secrets, for the pods that may have them. Pure.

A server names its Secret, which is one of the namespace that the gateway's pods are in. It travels as
`kubernetes://<name>`: chain and key; what its clients' certificates have to lead to is `kubernetes://<name>-cacert`,
from `ca.crt` of the same Secret or from a Secret of that name.

Source: istio.io/docs/tasks/traffic-management/ingress/secure-ingress, "Key formats".
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from pymesh.names import CA_SECRET_OWN, CA_SECRET_PLUGGED, SDS_KUBERNETES
from pymesh.resources.kubernetes import Secret
from pymesh.resources.resource import Key, Resource, holds
from pymesh_controlplane.pilot.gateways import TERMINATED, Offer
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.node import Node

CA_SUFFIX: Final = "-cacert"
# Keys of a Secret: of type kubernetes.io/tls, and as Istio also reads them.
CHAIN: Final = ("tls.crt", "cert")
KEY: Final = ("tls.key", "key")
ROOTS: Final = ("ca.crt", "cacert")
# Secrets that no gateway gets, whatever a Gateway says and whatever they hold: those with the key of the mesh's CA.
NEVER: Final = frozenset({CA_SECRET_PLUGGED, CA_SECRET_OWN})


class Wanted(NamedTuple):
    """A secret that a server names, as the proxy asks for it."""

    credential: str
    roots: bool

    @property
    def name(self) -> str:
        """`kubernetes://bookinfo-cert` or `kubernetes://bookinfo-cert-cacert`."""
        return f"{SDS_KUBERNETES}{self.credential}{CA_SUFFIX if self.roots else ''}"


def wanted(offer: Offer) -> tuple[Wanted, ...]:
    """The secrets of a server, its certificate first."""
    tls = offer.server.tls
    if tls is None or tls.credential_name is None or tls.mode not in TERMINATED:
        return ()
    own = Wanted(tls.credential_name, roots=False)
    return (own, Wanted(tls.credential_name, roots=True)) if tls.mode == "MUTUAL" else (own,)


def secrets(node: Node, offers: Iterable[Offer], world: World) -> Iterator[secret_pb2.Secret]:
    """The secrets that `node` is to have and that exist.

    Only for a pod that is known, under the account that it has (which the caller of pilot has proved): another program
    of the namespace could otherwise ask in the gateway's name. Nor for one with a sidecar, which is no gateway whatever
    it says: a Gateway without a selector asks for no labels.
    """
    workload = world.workload_at(node.addresses)
    if (
        workload is None
        or workload.mesh
        or (workload.namespace, workload.service_account) != (node.namespace, node.service_account)
    ):
        return
    for item in dict.fromkeys(item for offer in offers for item in wanted(offer)):
        message = _secret(item, node.namespace, world)
        if message is not None:
            yield message


def find(item: Wanted, namespace: str, world: World) -> Resource[Secret] | None:
    """The Secret that `item` is in, whatever it holds; None if there is none, or none that a gateway may have."""
    names = [f"{item.credential}{CA_SUFFIX}", item.credential] if item.roots else [item.credential]
    for name in names:
        if name in NEVER:
            continue
        resource = world.resources.get(Key("Secret", namespace, name))
        if resource is not None and holds(resource, Secret):
            return resource
    return None


def readable(resource: Resource[Secret]) -> dict[str, bytes]:
    """What a Secret holds; nothing if it cannot be read, which galley says of it."""
    try:
        return resource.value.content()
    except ValueError:
        return {}


def pick(content: dict[str, bytes], keys: Iterable[str]) -> bytes | None:
    """What stands under the first of `keys` that is there."""
    return next((content[key] for key in keys if key in content), None)


def _secret(item: Wanted, namespace: str, world: World) -> secret_pb2.Secret | None:
    resource = find(item, namespace, world)
    if resource is None:
        return None
    content = readable(resource)
    message = secret_pb2.Secret(name=item.name)
    if item.roots:
        roots = pick(content, ROOTS)
        if roots is None:
            return None
        message.validation_context.trusted_ca.inline_bytes = roots
        return message
    chain, key = pick(content, CHAIN), pick(content, KEY)
    if chain is None or key is None:
        return None
    message.tls_certificate.certificate_chain.inline_bytes = chain
    message.tls_certificate.private_key.inline_bytes = key
    return message
