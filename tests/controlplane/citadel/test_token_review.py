"""Tokens put before an API server: whose they are, and what becomes of a caller when nobody can tell."""

import logging
from secrets import token_hex
from typing import Any

import pytest
from lightkube import AsyncClient
from lightkube.models.core_v1 import Container, PodSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Pod, ServiceAccount

from pymesh_controlplane.citadel import token_review
from pymesh_controlplane.citadel.attestation import (
    MAX_TOKEN_LENGTH,
    AttestationUnavailableError,
    UnauthenticatedError,
)
from pymesh_controlplane.citadel.token_review import TokenReviewer, attested_by
from pymesh_controlplane.kube.client import connect
from pymesh_controlplane.metrics import Metrics
from tests.controlplane.citadel.support import REVIEWS
from tests.support.kubernetes.server import ApiServer

AUTHENTICATED: dict[str, Any] = {
    "authenticated": True,
    "audiences": ["istio-ca"],
    "user": {"username": "system:serviceaccount:default:reviews"},
}


@pytest.fixture
async def pod(client: AsyncClient) -> str:
    """The name of a pod of the account `reviews`."""
    await client.apply(ServiceAccount(metadata=ObjectMeta(name="reviews", namespace="default")), field_manager="test")
    spec = PodSpec(serviceAccountName="reviews", nodeName="node-1", containers=[Container("app", image="app")])
    name = f"reviews-{token_hex(4)}"
    await client.create(Pod(metadata=ObjectMeta(name=name, namespace="default"), spec=spec))
    return name


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def reviewer(client: AsyncClient, metrics: Metrics) -> TokenReviewer:
    return TokenReviewer(client, "cluster.local", metrics)


async def test_a_projected_token_proves_its_account_and_tells_its_pod(
    api: ApiServer, reviewer: TokenReviewer, pod: str, metrics: Metrics
) -> None:
    """Pod, its uid and its node are for the audit."""
    attested = await reviewer.verify(api.account_token("default", "reviews", audiences=["istio-ca"], pod=pod))
    assert attested.identity == REVIEWS
    name, _, rest = attested.pod.partition("/")
    uid, _, node = rest.partition("@")
    assert (name, node) == (pod, "node-1")
    assert len(uid) == 36
    assert metrics.counted("citadel_server_token_reviews", "authenticated") == 1


async def test_a_token_for_somebody_else_or_nobody_is_refused(
    api: ApiServer, reviewer: TokenReviewer, pod: str, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """And no token, nor what is left of one, is told on."""
    caplog.set_level(logging.DEBUG)
    good = api.account_token("default", "reviews", audiences=["istio-ca"], pod=pod)
    for token in (
        api.account_token("default", "reviews"),
        api.account_token("default", "reviews", audiences=["vault"]),
        good[:-6] + "AAAAAA",
        "x.y.z",
        "x" * (MAX_TOKEN_LENGTH + 1),
    ):
        with pytest.raises(UnauthenticatedError) as caught:
            await reviewer.verify(token)
        assert token not in str(caught.value) + caplog.text
    assert metrics.counted("citadel_server_token_reviews", "refused") == 4


async def test_the_token_of_a_pod_that_is_gone_proves_nothing_more(
    api: ApiServer, client: AsyncClient, reviewer: TokenReviewer, pod: str
) -> None:
    token = api.account_token("default", "reviews", audiences=["istio-ca"], pod=pod)
    await client.delete(Pod, pod, namespace="default", grace_period=0)
    with pytest.raises(UnauthenticatedError):
        await reviewer.verify(token)


async def test_without_an_api_server_nobody_can_tell(api: ApiServer, metrics: Metrics, pod: str) -> None:
    """That is no verdict on the token: the caller is to try again."""
    token = api.account_token("default", "reviews", audiences=["istio-ca"], pod=pod)
    client = connect(api.kubeconfig())
    reviewer = TokenReviewer(client, "cluster.local", metrics)
    api.stop()
    try:
        with pytest.raises(AttestationUnavailableError, match="the API server cannot be asked"):
            await reviewer.verify(token)
    finally:
        api.start()
    assert (await reviewer.verify(token)).identity == REVIEWS
    await client.close()
    assert metrics.counted("citadel_server_token_reviews", "unavailable") == 1


async def test_who_must_not_ask_cannot_tell_either(api: ApiServer, metrics: Metrics, pod: str) -> None:
    """Its account lacks the right: no reason to refuse everybody for good."""
    token = api.account_token("default", "reviews", audiences=["istio-ca"], pod=pod)
    client = connect(api.kubeconfig(api.account_token("default", "reviews")))
    with pytest.raises(AttestationUnavailableError, match=r"tokenreviews.* is forbidden.*\(403\)"):
        await TokenReviewer(client, "cluster.local", metrics).verify(token)
    await client.close()


async def test_too_many_callers_are_told_to_come_again(
    reviewer: TokenReviewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_review, "MAX_WAITING", 0)
    with pytest.raises(AttestationUnavailableError, match="too many callers"):
        await reviewer.verify("x.y.z")


def test_what_a_review_says_is_read_strictly() -> None:
    assert attested_by(AUTHENTICATED, "cluster.local").identity == REVIEWS


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"authenticated": False, "error": "token has expired"}, "token has expired"),
        ({"authenticated": "true"}, "does not know it"),
        ({"audiences": None}, "not made for the audience istio-ca"),
        ({"audiences": ["https://kubernetes.default.svc"]}, "not made for the audience istio-ca"),
        ({"user": None}, "not a service account's"),
        ({"user": {"username": "system:node:node-1"}}, "not a service account's"),
        ({"user": {"username": "system:serviceaccount:default"}}, "not a service account's"),
        ({"user": {"username": "x:system:serviceaccount:default:reviews"}}, "not a service account's"),
        ({"user": {"username": "system:serviceaccount:a/b:reviews"}}, "not a service account's"),
        ({"user": {"username": "system:serviceaccount:default:a:b"}}, "not a service account's"),
    ],
)
def test_whatever_else_a_review_says_proves_nothing(change: dict[str, Any], sentence: str) -> None:
    """A server that knows nothing of audiences says yes to any token, and nothing of audiences."""
    with pytest.raises(UnauthenticatedError, match=sentence):
        attested_by({**AUTHENTICATED, **change}, "cluster.local")
