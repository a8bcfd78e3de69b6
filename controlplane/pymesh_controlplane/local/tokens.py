"""Service account tokens as Kubernetes projects them into pods, signed by a key of the local mesh.

Source: Kubernetes, "Bound service account tokens"; RFC 7519 (JWT), RFC 7517 (JWK), RFC 7518 section 3.4 (ES256).
"""

import base64
import hashlib
import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pymesh.errors import MeshError

ISSUER: Final = "https://pymesh.local"
# Seconds. As the Kubernetes API server: ten minutes is the shortest it grants, a day is plenty here.
MIN_LIFETIME: Final = 600
MAX_LIFETIME: Final = 24 * 3600
# A kubelet renews a token when this share of its life is over.
RENEW_AFTER: Final = 0.8

# Uids of things that have no object of their own here: the same name has the same uid in every mesh.
_UID_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, ISSUER)


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a token speaks for."""

    namespace: str
    service_account: str
    pod: str
    pod_uid: str


class TokenSigner:
    """The signing key: `key.pem` (0600) and its public half as `jwks.json` in a directory of the state."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        numbers = key.public_key().public_numbers()
        members = {"crv": "P-256", "kty": "EC", "x": _base64url(numbers.x), "y": _base64url(numbers.y)}
        # The thumbprint of the key is its name: RFC 7638, section 3.
        digest = hashlib.sha256(json.dumps(members, sort_keys=True, separators=(",", ":")).encode()).digest()
        self.key_id = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        self.jwks: dict[str, Any] = {"keys": [{**members, "kid": self.key_id, "alg": "ES256", "use": "sig"}]}

    @classmethod
    def load_or_create(cls, directory: Path) -> "TokenSigner":
        """The key in `directory`, made if there is none.

        Raises:
            MeshError: the key file is not a P-256 private key.
        """
        path = directory / "key.pem"
        if path.exists():
            try:
                key = serialization.load_pem_private_key(path.read_bytes(), password=None)
            except ValueError as error:
                raise MeshError(f"{path}: not a private key: {error}") from None
            if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
                raise MeshError(f"{path}: tokens are signed with a P-256 key")
            return cls(key)
        signer = cls(ec.generate_private_key(ec.SECP256R1()))
        pem = signer._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        (directory / "jwks.json").write_text(json.dumps(signer.jwks))
        return signer

    def mint(self, subject: Subject, audience: str, lifetime: int, now: int) -> str:
        """A token for `audience`, valid for `lifetime` seconds (kept within the limits) from `now`, a Unix time."""
        lifetime = min(max(lifetime, MIN_LIFETIME), MAX_LIFETIME)
        account = {"name": subject.service_account, "uid": account_uid(subject.namespace, subject.service_account)}
        claims = {
            "iss": ISSUER,
            "aud": [audience],
            "sub": f"system:serviceaccount:{subject.namespace}:{subject.service_account}",
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": {
                "namespace": subject.namespace,
                "pod": {"name": subject.pod, "uid": subject.pod_uid},
                "serviceaccount": account,
            },
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self.key_id})


def renewal_time(lifetime: int, now: float) -> float:
    """When a token that was asked for with `lifetime` at `now` is to be replaced."""
    return now + RENEW_AFTER * min(max(lifetime, MIN_LIFETIME), MAX_LIFETIME)


def account_uid(namespace: str, name: str) -> str:
    """The uid of a service account."""
    return str(uuid.uuid5(_UID_NAMESPACE, f"{namespace}/{name}"))


def _base64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()
