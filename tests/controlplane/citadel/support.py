"""Keys, CSRs and tokens as callers of citadel make them."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa

from pymesh.identity import Identity

REVIEWS = Identity("cluster.local", "default", "reviews")

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | dsa.DSAPrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    """A P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    """PKCS #8."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def csr_for(key: PrivateKey, *names: x509.GeneralName) -> bytes:
    """A CSR (PEM) that asks for `names`."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@dataclass
class Tokens:
    """An issuer of tokens whose keys are in a JWKS file."""

    folder: Path
    kid: str = "one"
    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)

    @property
    def jwks(self) -> Path:
        """The file."""
        return self.folder / "jwks.json"

    def publish(self, *others: "Tokens") -> None:
        """Write the public keys of this issuer, and of `others`, to the file."""
        entries = []
        for issuer in (self, *others):
            entry = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(issuer.key.public_key()))
            entries.append({**entry, "kid": issuer.kid, "alg": "ES256", "use": "sig"})
        self.jwks.write_text(json.dumps({"keys": entries}))

    def claims(self, identity: Identity = REVIEWS) -> dict[str, object]:
        """What a good token says."""
        now = int(time.time())
        return {
            "iss": "https://pymesh.local",
            "aud": ["istio-ca"],
            "sub": f"system:serviceaccount:{identity.namespace}:{identity.service_account}",
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
            "kubernetes.io": {
                "namespace": identity.namespace,
                "pod": {"name": "reviews-v1-0", "uid": "5d04"},
                "serviceaccount": {"name": identity.service_account, "uid": "5d05"},
            },
        }

    def token(self, identity: Identity = REVIEWS, **changes: object) -> str:
        """A token; a change to None leaves the claim out."""
        claims = {**self.claims(identity), **changes}
        return self.sign({name: value for name, value in claims.items() if value is not None})

    def sign(self, claims: Mapping[str, object], algorithm: str = "ES256", **headers: str) -> str:
        """A token with exactly these claims."""
        return jwt.encode(dict(claims), self.key, algorithm=algorithm, headers={"kid": self.kid, **headers})
