"""Stands for an identity provider: has a key, tells its public half, and signs tokens.

    python3 docs/examples/jwt/issuer.py jwks
    python3 docs/examples/jwt/issuer.py token sub=ann aud=hello groups=readers,writers

The key is kept in the file that $ISSUER_KEY names, and made if there is none.
"""

import json
import os
import sys
import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

ISSUER = "https://issuer.test"
LIFETIME = 3600  # seconds


def key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in the file `path`."""
    if not path.exists():
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.touch(mode=0o600)
        path.write_bytes(pem)
    found = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(found, ec.EllipticCurvePrivateKey)
    return found


def jwks(own: ec.EllipticCurvePrivateKey) -> str:
    """The key's public half."""
    public = jwt.algorithms.ECAlgorithm.to_jwk(own.public_key(), as_dict=True)
    return json.dumps({"keys": [{**public, "kid": "one", "use": "sig", "alg": "ES256"}]})


def token(own: ec.EllipticCurvePrivateKey, claims: dict[str, str]) -> str:
    """A token with `claims`; those with a comma are lists, `exp` is seconds from now."""
    more: dict[str, object] = {name: value.split(",") if "," in value else value for name, value in claims.items()}
    more["exp"] = int(time.time()) + int(claims.get("exp", LIFETIME))
    return jwt.encode({"iss": ISSUER, **more}, own, "ES256", {"kid": "one"})


if __name__ == "__main__":
    signing = key(Path(os.environ["ISSUER_KEY"]))
    if sys.argv[1] == "jwks":
        print(jwks(signing))
    else:
        print(token(signing, dict(word.split("=", 1) for word in sys.argv[2:])))
