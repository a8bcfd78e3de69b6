"""Who the proxy is, from environment and labels file."""

from pathlib import Path

import pytest

from pymesh.errors import ConfigError
from pymesh_proxy.control.node import MAX_LABELS_BYTES, node_from_environment

ENVIRONMENT = {
    "POD_NAME": "reviews-v1-0",
    "POD_NAMESPACE": "shop",
    "INSTANCE_IP": "10.244.0.7",
    "SERVICE_ACCOUNT": "reviews",
    "WORKLOAD_NAME": "reviews-v1",
    "CLUSTER_ID": "local",
    "TRUST_DOMAIN": "example.org",
}


def test_everything_given(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.write_text('app="reviews"\nversion="v1"\n\nexample.org/quote="say \\"hi\\" \\\\"\n')
    node = node_from_environment(ENVIRONMENT, labels)
    assert node.id == "sidecar~10.244.0.7~reviews-v1-0.shop~shop.svc.cluster.local"
    assert node.cluster == "reviews-v1.shop"
    assert str(node.identity) == "spiffe://example.org/ns/shop/sa/reviews"
    assert node.metadata == {
        "NAME": "reviews-v1-0",
        "NAMESPACE": "shop",
        "SERVICE_ACCOUNT": "reviews",
        "WORKLOAD_NAME": "reviews-v1",
        "CLUSTER_ID": "local",
        "INSTANCE_IPS": ["10.244.0.7"],
        "LABELS": {"app": "reviews", "version": "v1", "example.org/quote": 'say "hi" \\'},
    }


def test_what_may_be_missing(tmp_path: Path) -> None:
    needed = {name: ENVIRONMENT[name] for name in ("POD_NAME", "POD_NAMESPACE", "INSTANCE_IP", "SERVICE_ACCOUNT")}
    node = node_from_environment(needed, tmp_path / "absent", kind="router")
    assert (node.workload, node.cluster_id, node.trust_domain) == ("reviews-v1-0", "Kubernetes", "cluster.local")
    assert node.id.startswith("router~")
    assert node.labels == {}


def test_what_must_be_there() -> None:
    with pytest.raises(ConfigError, match="INSTANCE_IP, SERVICE_ACCOUNT not set"):
        node_from_environment({"POD_NAME": "a", "POD_NAMESPACE": "b", "INSTANCE_IP": ""})
    with pytest.raises(ConfigError, match="spiffe://"):
        node_from_environment(ENVIRONMENT | {"SERVICE_ACCOUNT": "a/b"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [(b"app=reviews", "not of the form"), (b"\xff", "cannot read"), (b"a" * (MAX_LABELS_BYTES + 1), "bytes of labels")],
)
def test_a_labels_file_that_is_none(tmp_path: Path, text: bytes, problem: str) -> None:
    (tmp_path / "labels").write_bytes(text)
    with pytest.raises(ConfigError, match=problem) as error:
        node_from_environment(ENVIRONMENT, tmp_path / "labels")
    assert str(tmp_path) in str(error.value)
