"""What proxies tell each other of their workloads, and what of it is believed."""

import base64

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from pymesh import peer_metadata
from pymesh.peer_metadata import UNKNOWN, Peer

REVIEWS = Peer("reviews-v1", "default", "reviews", "v1", "reviews", "v1", "Kubernetes")
IDENTITY = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"


def struct(**values: object) -> Struct:
    message = Struct()
    message.update(values)
    return message


def header(message: Struct) -> bytes:
    return base64.b64encode(message.SerializeToString(deterministic=True))


@pytest.mark.parametrize(
    ("labels", "service", "revision"),
    [
        ({}, "reviews-v1", "latest"),
        ({"app": "a", "version": "v"}, "a", "v"),
        ({"app": "a", "app.kubernetes.io/name": "n", "version": "v", "app.kubernetes.io/version": "w"}, "n", "w"),
        (
            {"app": "a", "service.istio.io/canonical-name": "c", "service.istio.io/canonical-revision": "r"},
            "c",
            "r",
        ),
    ],
)
def test_the_canonical_service_comes_from_the_labels_in_istios_order(
    labels: dict[str, str], service: str, revision: str
) -> None:
    peer = peer_metadata.peer_of("reviews-v1", "default", labels, "c1")
    assert (peer.canonical_service, peer.canonical_revision) == (service, revision)
    assert (peer.workload, peer.namespace, peer.cluster) == ("reviews-v1", "default", "c1")
    assert (peer.app, peer.version) == (labels.get("app", "unknown"), labels.get("version", "unknown"))


def test_what_istio_s_envoy_sends_is_understood() -> None:
    """As convertWorkloadMetadataToStruct in istio/proxy writes it."""
    sent = struct(
        NAME="reviews-v1-84-x", NAMESPACE="default", WORKLOAD_NAME="reviews-v1", CLUSTER_ID="Kubernetes",
        OWNER="kubernetes://apis/apps/v1/namespaces/default/deployments/reviews-v1",
        LABELS={
            "app": "reviews", "version": "v1",
            "service.istio.io/canonical-name": "reviews", "service.istio.io/canonical-revision": "v1",
        },
    )  # fmt: skip
    assert peer_metadata.peer_of_header(header(sent), IDENTITY) == REVIEWS
    assert peer_metadata.peer_of_struct(sent) == REVIEWS


def test_the_header_is_the_struct_that_istio_s_envoy_reads() -> None:
    value = peer_metadata.header_of(REVIEWS, "reviews-v1-84-x")
    message = Struct.FromString(base64.b64decode(value, validate=True))
    assert dict(message.fields["LABELS"].struct_value) == {
        "app": "reviews", "version": "v1",
        "service.istio.io/canonical-name": "reviews", "service.istio.io/canonical-revision": "v1",
    }  # fmt: skip
    del message.fields["LABELS"]
    assert dict(message) == {
        "NAME": "reviews-v1-84-x", "NAMESPACE": "default", "WORKLOAD_NAME": "reviews-v1", "CLUSTER_ID": "Kubernetes",
    }  # fmt: skip


names = st.text("abcxyz0189-.", min_size=1, max_size=63).filter(lambda text: text != "unknown")


@given(st.builds(Peer, names, st.just("default"), names, names, names, names, names))
def test_a_header_comes_back_as_it_was(peer: Peer) -> None:
    assert peer_metadata.peer_of_header(peer_metadata.header_of(peer, "pod").encode(), IDENTITY) == peer


@given(st.binary(max_size=300))
def test_other_bytes_are_refused_and_nothing_worse(value: bytes) -> None:
    for text in (value, base64.b64encode(value)):
        try:
            peer = peer_metadata.peer_of_header(text, IDENTITY)
        except ValueError:
            continue
        assert peer.namespace == "default"


@pytest.mark.parametrize(
    ("message", "identity"),
    [
        (struct(NAMESPACE="payments", WORKLOAD_NAME="ledger"), IDENTITY),
        (struct(NAMESPACE="default", WORKLOAD_NAME="reviews-v1"), ""),
        (struct(NAMESPACE="default", WORKLOAD_NAME="reviews-v1"), "spiffe://elsewhere/workload"),
        (struct(WORKLOAD_NAME="reviews-v1"), IDENTITY),
        (struct(NAMESPACE="default", WORKLOAD_NAME="x" * 254), IDENTITY),
        (struct(NAMESPACE="default", WORKLOAD_NAME="a\x1b[2Jb"), IDENTITY),
        (struct(NAMESPACE="default", LABELS={"app": "x" * 9000}), IDENTITY),
    ],
    ids=["another namespace", "no identity", "no workload's", "no namespace", "long", "for a terminal", "longer"],
)
def test_what_the_certificate_does_not_bear_out_is_not_believed(message: Struct, identity: str) -> None:
    with pytest.raises(ValueError, match="metadata"):
        peer_metadata.peer_of_header(header(message), identity)


def test_an_identity_alone_says_the_namespace() -> None:
    assert peer_metadata.outsider(IDENTITY) == Peer(namespace="default")
    assert peer_metadata.outsider("") is UNKNOWN


@pytest.mark.parametrize(
    ("text", "labels", "peer"),
    [
        ("reviews-v1;default;reviews;v1;Kubernetes", {"app": "reviews", "version": "v1"}, REVIEWS),
        ("w;ns;w;;", {}, Peer("w", "ns", "unknown", "unknown", "w", "latest", "unknown")),
        ("w;ns;w;v", {}, UNKNOWN),
        (";ns;w;v;c", {}, UNKNOWN),
        ("", {"app": "reviews"}, UNKNOWN),
    ],
)
def test_the_metadata_of_an_endpoint(text: str, labels: dict[str, str], peer: Peer) -> None:
    assert peer_metadata.peer_of_endpoint(text, labels) == peer


def test_the_metadata_of_an_endpoint_is_istio_s() -> None:
    assert peer_metadata.workload_metadata(REVIEWS) == "reviews-v1;default;reviews;v1;Kubernetes"
    assert peer_metadata.workload_metadata(REVIEWS._replace(canonical_revision="latest")).split(";")[3] == ""
