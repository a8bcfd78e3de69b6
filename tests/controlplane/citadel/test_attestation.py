"""Who is believed, and who is not."""

import json
import logging
import re
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pymesh.errors import ConfigError
from pymesh.identity import Identity
from pymesh_controlplane.citadel.attestation import (
    MAX_TOKEN_LENGTH,
    NEW_POD,
    TOKEN_LEEWAY,
    AttestationUnavailableError,
    Attested,
    Authenticator,
    TlsPeer,
    TokenVerifier,
    UnauthenticatedError,
)
from pymesh_controlplane.metrics import Metrics
from tests.controlplane.citadel.support import REVIEWS, Tokens

PEER = TlsPeer("10.244.0.7:40000")
# What the tokens of the tests prove.
PROVED = Attested(REVIEWS, "reviews-v1-0")


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    """An issuer whose key is in the JWKS file."""
    issuer = Tokens(tmp_path)
    issuer.publish()
    return issuer


@pytest.fixture
def metrics() -> Metrics:
    """What is counted."""
    return Metrics()


@pytest.fixture
def verifier(tokens: Tokens, metrics: Metrics) -> TokenVerifier:
    """What believes `tokens`."""
    return TokenVerifier(tokens.jwks, "cluster.local", metrics)


async def refusal(verifier: TokenVerifier, token: str) -> str:
    """The sentence with which `token` is refused; it must not repeat the token."""
    with pytest.raises(UnauthenticatedError) as caught:
        await verifier.verify(token)
    assert not token or token not in str(caught.value)
    return str(caught.value)


async def test_a_good_token_proves_its_service_account(verifier: TokenVerifier, tokens: Tokens) -> None:
    """And the trust domain is the mesh's."""
    assert await verifier.verify(tokens.token()) == PROVED


async def test_a_token_ends_with_the_pod_that_it_is_bound_to(tokens: Tokens, metrics: Metrics) -> None:
    """As a Kubernetes API server has it: also where another pod has the name by now."""
    pods, now = {("default", "reviews-v1-0", "5d04")}, time.time()
    clock = [now]
    verifier = TokenVerifier(
        tokens.jwks, "cluster.local", metrics, is_pod=lambda *pod: pod in pods, clock=lambda: clock[0]
    )
    token = tokens.token()
    assert await verifier.verify(token) == PROVED
    pods.clear()
    with pytest.raises(AttestationUnavailableError, match=r"default/reviews-v1-0 is not known yet: try again"):
        await verifier.verify(token)  # it may have been started just now
    clock[0] = now + NEW_POD + 1
    gone = r"pod default/reviews-v1-0, to which it is bound, is gone"
    assert re.search(gone, await refusal(verifier, token))
    pods.add(("default", "reviews-v1-0", "another uid"))
    assert re.search(gone, await refusal(verifier, token))
    unbound = {"namespace": "default", "serviceaccount": {"name": "reviews"}}
    assert "bound to no pod" in await refusal(verifier, tokens.token(**{"kubernetes.io": unbound}))


async def test_an_audience_may_stand_alone_or_among_others(verifier: TokenVerifier, tokens: Tokens) -> None:
    """RFC 7519 section 4.1.3: a string or a list."""
    assert await verifier.verify(tokens.token(aud="istio-ca")) == PROVED
    assert await verifier.verify(tokens.token(aud=["other", "istio-ca"])) == PROVED


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"aud": ["kubernetes"]}, "Audience doesn't match"),
        ({"aud": None}, '"aud" claim'),
        ({"iss": "https://evil.example"}, "Invalid issuer"),
        ({"iss": None}, '"iss" claim'),
        ({"exp": int(time.time()) - TOKEN_LEEWAY - 60}, "expired"),
        ({"exp": None}, '"exp" claim'),
        ({"nbf": int(time.time()) + 600}, "not yet valid"),
        ({"sub": None}, '"sub" claim'),
        ({"sub": "system:serviceaccount:default:admin"}, "disagree"),
        ({"kubernetes.io": None}, "names no service account"),
        ({"kubernetes.io": "default"}, "names no service account"),
        ({"kubernetes.io": {"namespace": "default"}}, "names no service account"),
        ({"kubernetes.io": {"namespace": ["default"], "serviceaccount": {"name": "reviews"}}}, "not a namespace"),
        ({"kubernetes.io": {"namespace": "a/ns/b", "serviceaccount": {"name": "reviews"}}}, "not a namespace"),
        ({"kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "../admin"}}}, "is not a name"),
        ({"kubernetes.io": {"namespace": "default", "serviceaccount": {}}}, "is not a name"),
    ],
)
async def test_a_token_that_says_the_wrong_thing_is_refused(
    verifier: TokenVerifier, tokens: Tokens, changes: dict[str, object], sentence: str
) -> None:
    """Each claim that matters."""
    assert sentence in await refusal(verifier, tokens.token(**changes))


async def test_a_token_of_another_key_is_refused(verifier: TokenVerifier, tmp_path: Path) -> None:
    """Under the name of ours, under its own, and under none."""
    stranger = Tokens(tmp_path, kid="one")
    assert "Signature verification failed" in await refusal(verifier, stranger.token())
    stranger.kid = "two"
    assert "not in the mesh's JWKS" in await refusal(verifier, stranger.token())
    nameless = jwt.encode(stranger.claims(), stranger.key, algorithm="ES256")
    assert "Signature verification failed" in await refusal(verifier, nameless)


async def test_the_algorithm_is_ours_to_choose(verifier: TokenVerifier, tokens: Tokens) -> None:
    """RFC 8725 section 3.1: neither `none`, nor the public key taken for a shared secret."""
    none = jwt.encode(tokens.claims(), None, algorithm="none", headers={"kid": "one"})
    assert "token is refused" in await refusal(verifier, none)
    public = tokens.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    confused = jwt.encode(tokens.claims(), public, algorithm="HS256", headers={"kid": "one"})
    assert "alg value is not allowed" in await refusal(verifier, confused)


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "é.é.é", "\0", "x" * MAX_TOKEN_LENGTH])
async def test_garbage_is_refused(verifier: TokenVerifier, token: str) -> None:
    """And nothing else is raised."""
    assert "token is refused" in await refusal(verifier, token)


async def test_a_giant_token_is_refused_unread(verifier: TokenVerifier) -> None:
    """By its length alone."""
    assert "more than 16384" in await refusal(verifier, "x" * (MAX_TOKEN_LENGTH + 1))


async def test_a_rotated_key_is_taken_without_a_restart(
    verifier: TokenVerifier, tokens: Tokens, tmp_path: Path
) -> None:
    """First both keys stand in the file, then only the new one."""
    new = Tokens(tmp_path, kid="two")
    tokens.publish(new)
    assert await verifier.verify(new.token()) == await verifier.verify(tokens.token()) == PROVED
    new.publish()
    assert await verifier.verify(new.token()) == PROVED
    await refusal(verifier, tokens.token())


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"keys": {}}', b'{"keys": []}', b'{"keys": [1]}', b"x" * 300_000]
)
async def test_a_broken_key_file_leaves_the_old_keys_in_force(
    verifier: TokenVerifier, tokens: Tokens, metrics: Metrics, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the log and one count, not one for every call; and the repaired file is taken."""
    tokens.jwks.write_bytes(content)
    with caplog.at_level(logging.ERROR):
        assert await verifier.verify(tokens.token()) == await verifier.verify(tokens.token()) == PROVED
    assert len(caplog.records) == 1
    assert "the keys read before stay in force" in caplog.text
    assert metrics.counted("citadel_server_jwks_reload_errors") == 1
    new = Tokens(tokens.folder, kid="two")
    new.publish()
    assert await verifier.verify(new.token()) == PROVED


async def test_a_key_file_that_is_gone_leaves_the_old_keys_in_force(
    verifier: TokenVerifier, tokens: Tokens, metrics: Metrics
) -> None:
    """As while someone replaces it by hand."""
    tokens.jwks.unlink()
    assert await verifier.verify(tokens.token()) == await verifier.verify(tokens.token()) == PROVED
    assert metrics.counted("citadel_server_jwks_reload_errors") == 1


def test_no_start_without_keys(tmp_path: Path, metrics: Metrics) -> None:
    """Missing; no keys; only a private one, which has no business there."""
    path = tmp_path / "jwks.json"
    with pytest.raises(ConfigError, match=r"jwks\.json: cannot be read: No such file"):
        TokenVerifier(path, "cluster.local", metrics)
    path.write_text('{"keys": []}')
    with pytest.raises(ConfigError, match="holds no public key for ES256"):
        TokenVerifier(path, "cluster.local", metrics)
    private = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(Tokens(tmp_path).key))
    path.write_text(json.dumps({"keys": [{**private, "kid": "one"}]}))
    with pytest.raises(ConfigError, match="holds no public key for ES256"):
        TokenVerifier(path, "cluster.local", metrics)


@pytest.fixture
def authenticator(verifier: TokenVerifier) -> Authenticator:
    """The decision as a whole."""
    return Authenticator(verifier, "cluster.local")


async def test_a_caller_shows_a_token_or_a_certificate(authenticator: Authenticator, tokens: Tokens) -> None:
    """And the proof is remembered for the audit."""
    by_token = await authenticator.authenticate([("authorization", f"Bearer {tokens.token()}")], PEER)
    assert (by_token.identity, by_token.proof, by_token.pod) == (REVIEWS, "token", "reviews-v1-0")
    assert by_token.address == "10.244.0.7:40000"
    by_certificate = await authenticator.authenticate([], TlsPeer("a", (str(REVIEWS),)))
    assert (by_certificate.identity, by_certificate.proof) == (REVIEWS, "certificate")


async def test_a_bad_token_is_not_mended_by_a_good_certificate(authenticator: Authenticator) -> None:
    """Whoever sends one means it."""
    with pytest.raises(UnauthenticatedError, match="token is refused"):
        await authenticator.authenticate([("authorization", "Bearer a.b.c")], TlsPeer("a", (str(REVIEWS),)))


@pytest.mark.parametrize(
    ("metadata", "uris", "sentence"),
    [
        ([], None, "send a token"),
        ([("authorization", "Basic YTpi")], None, "not of the form"),
        ([("authorization", "Bearer")], None, "not of the form"),
        ([("authorization", "")], None, "not of the form"),
        ([("authorization", "Bearer a"), ("authorization", "Bearer b")], None, "more than one"),
        ([], (), "has 0 URI names"),
        ([], (str(REVIEWS), str(REVIEWS)), "has 2 URI names"),
        ([], ("https://example.com",), "not of the form spiffe://"),
        ([], (str(Identity("other", "default", "reviews")),), "trust domain other"),
    ],
)
async def test_everybody_else_is_refused(
    authenticator: Authenticator, metadata: list[tuple[str, str]], uris: tuple[str, ...] | None, sentence: str
) -> None:
    """With what is missing."""
    with pytest.raises(UnauthenticatedError, match=sentence):
        await authenticator.authenticate(metadata, TlsPeer("a", uris))
