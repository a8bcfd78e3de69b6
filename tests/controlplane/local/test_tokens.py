"""Tokens: what is in them, who can verify them, and where the key is."""

import stat
from pathlib import Path

import jwt
import pytest

from pymesh.errors import MeshError
from pymesh_controlplane.local.tokens import ISSUER, MAX_LIFETIME, MIN_LIFETIME, Subject, TokenSigner, renewal_time

SUBJECT = Subject("bookinfo", "reviews", "reviews-v1-abcde", "uid-1")


def verified(signer: TokenSigner, token: str) -> dict[str, object]:
    [key] = jwt.PyJWKSet.from_dict(signer.jwks).keys
    options = jwt.types.Options(verify_exp=False, verify_nbf=False, verify_iat=False)
    return jwt.decode(token, key, algorithms=["ES256"], audience="istio-ca", issuer=ISSUER, options=options)


def test_a_token_says_what_kubernetes_says(tmp_path: Path) -> None:
    signer = TokenSigner.load_or_create(tmp_path)
    claims = verified(signer, signer.mint(SUBJECT, "istio-ca", 3600, now=1_000))
    assert claims["sub"] == "system:serviceaccount:bookinfo:reviews"
    assert (claims["iat"], claims["exp"], claims["aud"]) == (1_000, 4_600, ["istio-ca"])
    bound = claims["kubernetes.io"]
    assert isinstance(bound, dict)
    assert (bound["namespace"], bound["pod"]) == ("bookinfo", {"name": "reviews-v1-abcde", "uid": "uid-1"})
    assert bound["serviceaccount"]["name"] == "reviews"


def test_the_lifetime_stays_within_limits(tmp_path: Path) -> None:
    signer = TokenSigner.load_or_create(tmp_path)
    for asked, granted in ((1, MIN_LIFETIME), (10**9, MAX_LIFETIME)):
        assert verified(signer, signer.mint(SUBJECT, "istio-ca", asked, now=0))["exp"] == granted
    assert renewal_time(1000, 100.0) == 900.0


def test_the_key_is_secret_and_kept(tmp_path: Path) -> None:
    signer = TokenSigner.load_or_create(tmp_path)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert TokenSigner.load_or_create(tmp_path).jwks == signer.jwks
    assert b'"d"' not in (tmp_path / "jwks.json").read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(jwt.InvalidSignatureError):
        verified(signer, TokenSigner.load_or_create(other).mint(SUBJECT, "istio-ca", 3600, now=0))


def test_a_corrupt_key_is_told(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("-----BEGIN nothing-----")
    with pytest.raises(MeshError, match=r"key\.pem: not a private key"):
        TokenSigner.load_or_create(tmp_path)
