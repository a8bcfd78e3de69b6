"""What a proxy says of the workload beside it, and what is believed of the one at the other end. Pure.

The facts travel as in Istio: on requests in two headers (`x-envoy-peer-metadata` is a base64 `google.protobuf.Struct`
with a part of the sender's node metadata), to the caller in the metadata of endpoints (`istio.workload`) and clusters
(`istio.services`). Source: istio/proxy extensions/common/metadata_object.cc, istio pilot/pkg/networking/util.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from pymesh import names
from pymesh.identity import Identity

HEADER: Final = "x-envoy-peer-metadata"
HEADER_ID: Final = "x-envoy-peer-metadata-id"

UNKNOWN_VALUE: Final = "unknown"
# The canonical revision of a workload that names none.
LATEST: Final = "latest"

# Bytes of the header that are looked at. Ours and Istio's have some hundreds; Istio 1.5 sent all labels of the pod.
MAX_HEADER_BYTES: Final = 8 * 1024
# Characters of one value: a Kubernetes name has up to 253, a label's value up to 63.
MAX_VALUE: Final = 253


class Peer(NamedTuple):
    """One end of a request, by the words of Istio's metric labels; "unknown" where it is not known.

    Attributes:
        workload: what made the pod, as in a Deployment's name.
        namespace: of the workload.
        app, version: the labels of these names.
        canonical_service, canonical_revision: see `canonical_service` and `canonical_revision` below.
        cluster: the Kubernetes cluster.
    """

    workload: str = UNKNOWN_VALUE
    namespace: str = UNKNOWN_VALUE
    app: str = UNKNOWN_VALUE
    version: str = UNKNOWN_VALUE
    canonical_service: str = UNKNOWN_VALUE
    canonical_revision: str = UNKNOWN_VALUE
    cluster: str = UNKNOWN_VALUE


UNKNOWN: Final = Peer()


class ServiceFacts(NamedTuple):
    """The service that a request was for: `reviews.default.svc.cluster.local`, `reviews`, `default`."""

    host: str = UNKNOWN_VALUE
    name: str = UNKNOWN_VALUE
    namespace: str = UNKNOWN_VALUE


NO_SERVICE: Final = ServiceFacts()


def canonical_service(labels: Mapping[str, str], workload: str) -> str:
    """The service that a workload counts to, whichever Kubernetes services select it."""
    return (
        labels.get(names.LABEL_CANONICAL_NAME) or labels.get("app.kubernetes.io/name") or labels.get("app") or workload
    )


def canonical_revision(labels: Mapping[str, str]) -> str:
    """Its revision, by the same rule."""
    return (
        labels.get(names.LABEL_CANONICAL_REVISION)
        or labels.get("app.kubernetes.io/version")
        or labels.get("version")
        or LATEST
    )


def peer_of(workload: str, namespace: str, labels: Mapping[str, str], cluster: str) -> Peer:
    """The facts of a workload whose pods have `labels`. Empty strings stand for what is not known."""
    return Peer(
        workload=workload or UNKNOWN_VALUE,
        namespace=namespace or UNKNOWN_VALUE,
        app=labels.get("app") or UNKNOWN_VALUE,
        version=labels.get("version") or UNKNOWN_VALUE,
        canonical_service=canonical_service(labels, workload) or UNKNOWN_VALUE,
        canonical_revision=canonical_revision(labels),
        cluster=cluster or UNKNOWN_VALUE,
    )


def outsider(identity: str) -> Peer:
    """What a proven SPIFFE `identity` alone says of a peer that sent no metadata: its namespace, if even that."""
    namespace = _namespace_of(identity)
    return UNKNOWN._replace(namespace=namespace) if namespace else UNKNOWN


# --- Node metadata, and the header made of it ----------------------------------------------------------------------


def peer_of_struct(metadata: Struct) -> Peer:
    """The facts in node metadata (`WORKLOAD_NAME`, `NAMESPACE`, `CLUSTER_ID`, `LABELS`); what else it holds is passed
    over.

    Raises:
        ValueError: a value is longer than any name in Kubernetes, or not fit to be shown.
    """
    facts = _strings(metadata)
    labels = _strings(metadata.fields["LABELS"].struct_value) if "LABELS" in metadata.fields else {}
    return peer_of(facts.get("WORKLOAD_NAME", ""), facts.get("NAMESPACE", ""), labels, facts.get("CLUSTER_ID", ""))


def header_of(peer: Peer, pod: str) -> str:
    """The value of `x-envoy-peer-metadata` by which a proxy beside `pod` introduces itself."""
    labels = {
        names.LABEL_CANONICAL_NAME: peer.canonical_service,
        names.LABEL_CANONICAL_REVISION: peer.canonical_revision,
        "app": peer.app,
        "version": peer.version,
    }
    message = Struct()
    for key, value in (
        ("NAME", pod),
        ("NAMESPACE", peer.namespace),
        ("WORKLOAD_NAME", peer.workload),
        ("CLUSTER_ID", peer.cluster),
    ):
        if value and value != UNKNOWN_VALUE:
            message.fields[key].string_value = value
    for key, value in labels.items():
        if value != UNKNOWN_VALUE:
            message.fields["LABELS"].struct_value.fields[key].string_value = value
    return base64.b64encode(message.SerializeToString(deterministic=True)).decode("ascii")


def peer_of_header(value: bytes, identity: str) -> Peer:
    """Whom a peer that has proved the SPIFFE `identity` says it is, in the value of `x-envoy-peer-metadata`.

    The namespace is part of the identity, so what contradicts it is not believed.

    Raises:
        ValueError: it is no metadata, too long, or not from where it says.
    """
    if len(value) > MAX_HEADER_BYTES:
        raise ValueError(f"{len(value)} bytes of peer metadata, more than {MAX_HEADER_BYTES}")
    try:
        peer = peer_of_struct(Struct.FromString(base64.b64decode(value, validate=True)))
    except (binascii.Error, DecodeError) as error:
        raise ValueError(f"no peer metadata: {error}") from error
    if peer.namespace != _namespace_of(identity):
        raise ValueError(f"metadata of a workload in namespace {peer.namespace!r} from {identity or 'nobody known'}")
    return peer


# --- Metadata of endpoints -----------------------------------------------------------------------------------------


def workload_metadata(peer: Peer) -> str:
    """`reviews-v1;default;reviews;v1;Kubernetes`, the endpoint's metadata `istio.workload`. `latest` is left out."""
    revision = "" if peer.canonical_revision == LATEST else peer.canonical_revision
    parts = (peer.workload, peer.namespace, peer.canonical_service, revision, peer.cluster)
    return ";".join("" if part == UNKNOWN_VALUE else part for part in parts)


def peer_of_endpoint(workload: str, labels: Mapping[str, str]) -> Peer:
    """The facts in an endpoint's metadata: `istio.workload`, and the labels `app` and `version` where they are sent.

    Without a workload nothing is known.
    """
    parts = workload.split(";")
    if len(parts) < 5 or not parts[0]:
        return UNKNOWN
    name, namespace, service, revision, cluster = parts[:5]
    own = {names.LABEL_CANONICAL_NAME: service, names.LABEL_CANONICAL_REVISION: revision or LATEST}
    return peer_of(name, namespace, {**labels, **own}, cluster)


def _namespace_of(identity: str) -> str:
    try:
        return Identity.parse(identity).namespace
    except ValueError:
        return ""


def _strings(message: Struct) -> dict[str, str]:
    """The strings among the fields of `message`."""
    found = {key: value.string_value for key, value in message.fields.items() if value.HasField("string_value")}
    for key, value in found.items():
        if len(value) > MAX_VALUE or not value.isprintable():
            raise ValueError(f"a value of {key[:64]!r} in peer metadata that is no name: {value[:64]!r}")
    return found
