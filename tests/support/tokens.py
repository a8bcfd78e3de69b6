"""Keys and tokens for tests: well-formed ones, and any that an attacker would make."""

import base64
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

_HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_SIZES = {"P-256": 32, "P-384": 48, "P-521": 66}


def b64(data: bytes | str | int) -> str:
    """base64url without padding; a number as its bytes."""
    if isinstance(data, int):
        data = data.to_bytes((data.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data.encode() if isinstance(data, str) else data).rstrip(b"=").decode()


@dataclass(frozen=True)
class Key:
    """A key pair: its public half as a JWK, how it signs, and its public half as PEM."""

    jwk: Mapping[str, object]
    sign: Callable[[str, bytes], bytes]
    pem: bytes

    def public(self, **more: object) -> dict[str, object]:
        """The JWK with `more` members, or without those that are None."""
        return {name: value for name, value in {**self.jwk, **more}.items() if value is not None}

    def token(self, claims: object, alg: str, kid: str | None = None, **header: object) -> str:
        """A token of this key."""
        head = {"alg": alg, "typ": "JWT", **({} if kid is None else {"kid": kid}), **header}
        return self.signed(json.dumps(head), claims if isinstance(claims, str) else json.dumps(claims), alg)

    def signed(self, header: str, payload: str, alg: str) -> str:
        """A token of any header and payload, signed with `alg`, whatever the header says."""
        text = f"{b64(header)}.{b64(payload)}"
        return f"{text}.{b64(self.sign(alg, text.encode()))}"


def rsa_key(bits: int = 2048) -> Key:
    private = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    numbers = private.public_key().public_numbers()

    def sign(alg: str, data: bytes) -> bytes:
        digest = _HASHES[alg[2:]]
        if alg.startswith("PS"):
            return private.sign(data, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
        return private.sign(data, padding.PKCS1v15(), digest)

    return Key({"kty": "RSA", "n": b64(numbers.n), "e": b64(numbers.e)}, sign, _pem(private.public_key()))


def ec_key(curve: str = "P-256") -> Key:
    kind = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}[curve]
    private, size = ec.generate_private_key(kind), _SIZES[curve]
    numbers = private.public_key().public_numbers()

    def sign(alg: str, data: bytes) -> bytes:
        first, second = decode_dss_signature(private.sign(data, ec.ECDSA(_HASHES[alg[2:]])))
        return first.to_bytes(size, "big") + second.to_bytes(size, "big")

    x, y = (b64(number.to_bytes(size, "big")) for number in (numbers.x, numbers.y))
    return Key({"kty": "EC", "crv": curve, "x": x, "y": y}, sign, _pem(private.public_key()))


def ed25519_key() -> Key:
    private = Ed25519PrivateKey.generate()
    raw = private.public_key().public_bytes_raw()
    return Key(
        {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)},
        lambda _, data: private.sign(data),
        _pem(private.public_key()),
    )


def hmac_key(secret: bytes) -> Key:
    """What an attacker signs with who hopes that a public key is taken for a secret."""
    return Key({}, lambda alg, data: hmac.new(secret, data, f"sha{alg[2:]}").digest(), b"")


def jwks(*keys: Mapping[str, object]) -> str:
    return json.dumps({"keys": list(keys)})


def _pem(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]  # whichever kind it is
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded
