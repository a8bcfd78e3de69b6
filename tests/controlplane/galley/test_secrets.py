"""What galley says of certificates, and never what they hold."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pymesh_controlplane.galley.check import check
from tests.controlplane.galley.certificates import AUTHORITY, OTHER, WEB, secret, tls_secret
from tests.controlplane.pilot.worlds import world_of

NOW = datetime.now(UTC)
ENCRYPTED = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
)


def findings(text: str, now: datetime | None = NOW) -> list[str]:
    world = world_of(text)
    problems = check(world.resources.values(), world, now=now)
    key = base64.b64encode(WEB.key).decode()
    assert not any(key[:20] in str(item) or "PRIVATE KEY-----\n" in str(item) for item in problems)
    return [f"{item.severity.value} {item.path}: {item.sentence}" for item in problems]


def test_a_certificate_and_its_key() -> None:
    assert findings(tls_secret(WEB, roots=AUTHORITY.root)) == []
    assert findings(secret(values={"password": b"\xff not text"})) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (secret(kind="kubernetes.io/tls", values={"tls.crt": WEB.chain}), "data: a Secret of type kubernetes.io/tls"),
        (
            secret(values={"tls.crt": WEB.chain, "tls.key": OTHER.key}),
            "data.tls.key: is not the key of the first certificate",
        ),
        (secret(values={"tls.crt": b"hello", "tls.key": WEB.key}), "data.tls.crt: is not a certificate in PEM"),
        (secret(values={"tls.crt": WEB.chain, "tls.key": b"hello"}), "data.tls.key: is not a private key in PEM"),
        (secret(values={"tls.crt": WEB.chain, "tls.key": ENCRYPTED}), "data.tls.key: the key is encrypted"),
        (secret(values={"cert": WEB.chain, "key": OTHER.key}), "data.key: is not the key"),
        (secret(values={"ca.crt": b"hello"}), "data.ca.crt: is not a certificate in PEM"),
        (secret().replace("data: {}", "data: {tls.crt: 'a b?'}"), "data.tls.crt: is not base64"),
        (
            secret().replace("data: {}", "stringData: {tls.crt: hello, tls.key: there}"),
            "stringData.tls.crt: is not a certificate",
        ),
    ],
)
def test_what_is_refused(text: str, expected: str) -> None:
    assert findings(text)[0].startswith(f"error {expected}")


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        (timedelta(days=50), "expires on"),
        (timedelta(days=61), "expired on"),
        (timedelta(days=-1), "is valid only from"),
    ],
)
def test_the_life_of_a_certificate_is_told(later: timedelta, expected: str) -> None:
    (found,) = findings(tls_secret(WEB), NOW + later)
    assert found.startswith("warning data.tls.crt: the certificate of (no subject)")
    assert expected in found
    assert findings(tls_secret(WEB), None) == []
