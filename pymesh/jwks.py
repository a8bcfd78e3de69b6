"""Key sets (JWKS): which keys may verify tokens, by which algorithms, and the verifying itself.

One reader for three: the sidecar verifies with the keys, galley refuses sets that cannot be used, and pilot passes on
only keys that can. Only public keys for signatures: a set with a private or a symmetric key in it is a secret that
somebody has published. `cryptography` is loaded with the first key, so whoever has none does not carry it.

Source: RFC 7517 (JWK), RFC 7518 (JWA), RFC 8037 (EdDSA), RFC 8725 (best current practices)
"""

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from pymesh.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

# Bytes. The sets of the large identity providers have 2 to 20 KiB, certificates included.
MAX_BYTES: Final = 256 * 1024
# A token that names no key is tried with each that fits, 0.03 ms (RSA) to 0.6 ms (P-521): providers publish two to ten.
MAX_KEYS: Final = 32
# Bits of an RSA modulus: below, RFC 7518 3.3 forbids it; above, one signature costs a millisecond and more.
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
# Bits of an RSA exponent, as in BoringSSL: everybody's has 17, and a long one makes verifying as slow as signing.
MAX_EXPONENT_BITS: Final = 33
# Levels of nesting in any JSON here, as in Envoy: claims have two or three.
MAX_DEPTH: Final = 100

# Base64url without padding, in its one form: bits of the last character that mean nothing are zero (RFC 4648 3.5).
_BASE64URL: Final = re.compile(
    rb"(?:[A-Za-z0-9_-]{4})*+(?:[A-Za-z0-9_-][AQgw]|[A-Za-z0-9_-]{2}[AEIMQUYcgkosw048])?", re.ASCII
)
# Members that only a private key has (RFC 7518 6.2.2, 6.3.2).
_PRIVATE: Final = ("d", "p", "q", "dp", "dq", "qi", "oth")
_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
# Curve → its one algorithm, bytes of a coordinate (RFC 7518 3.4).
_CURVES: Final[Mapping[str, tuple[str, int]]] = {
    "P-256": ("ES256", 32),
    "P-384": ("ES384", 48),
    "P-521": ("ES512", 66),
}
# All that a signature may be made with. There is no `none` and nothing with a shared secret among them.
ALGORITHMS: Final = _RSA | {algorithm for algorithm, _ in _CURVES.values()} | {"EdDSA"}

# A set by which no token is good, for an issuer whose keys are not known: proxies refuse one without keys. Its only
# key is base64url(SHA-256("no key of this issuer is known yet")), which is no point of the curve: nothing fits.
NOBODYS_KEYS: Final = (
    '{"keys":[{"alg":"EdDSA","crv":"Ed25519","kid":"no-key-of-this-issuer-is-known-yet","kty":"OKP",'
    '"x":"XRblXoCUiZPB6he7k1Rt2BfnElaprjVq6Jf3oSKvoM4"}]}'
)

Verify = Callable[[str, bytes, bytes], bool]


class Jwk(NamedTuple):
    """A public key.

    Attributes:
        kid: its id; empty if it has none.
        algorithms: those that it may be used with; just one if the key names it (`alg`).
        members: its public members, for `KeySet.encoded`.
        verify: (algorithm, signature, signed bytes) → whether the signature is good.
    """

    kid: str
    algorithms: frozenset[str]
    members: Mapping[str, str]
    verify: Verify


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of a set that can be used, and why others cannot.

    Attributes:
        ignored: keys for other purposes or of kinds that are not known, which RFC 7517 section 5 has us pass over.
        refused: keys that are wrong, or that nobody but their owner should have.
    """

    keys: tuple[Jwk, ...] = ()
    ignored: tuple[ConfigError, ...] = ()
    refused: tuple[ConfigError, ...] = ()

    def encoded(self) -> str:
        """A set of the keys of use alone, with their public members alone: the same text for the same keys."""
        return json.dumps({"keys": [dict(key.members) for key in self.keys]}, separators=(",", ":"), sort_keys=True)


class _IgnoredError(ValueError):
    """A key that is of no use here, and does no harm."""


def key_set(text: str | bytes) -> KeySet:
    """The keys of a JWKS.

    Raises:
        ConfigError: `text` is no JWKS, or larger than MAX_BYTES or MAX_KEYS.
    """
    data = text.encode() if isinstance(text, str) else text
    if len(data) > MAX_BYTES:
        raise ConfigError(f"a key set of {len(data)} bytes: {MAX_BYTES} at most")
    try:
        value = strict_json(data)
    except ValueError as error:
        raise ConfigError(f'a key set is an object of JSON, {{"keys": [...]}}: {error}') from None
    found = value.get("keys")
    if not isinstance(found, list):
        raise ConfigError("a key set has a list of keys", path="keys")
    if len(found) > MAX_KEYS:
        raise ConfigError(f"{len(found)} keys: {MAX_KEYS} at most", path="keys")
    keys: list[Jwk] = []
    ignored: list[ConfigError] = []
    refused: list[ConfigError] = []
    for index, member in enumerate(found):
        try:
            keys.append(_jwk(member))
        except _IgnoredError as error:
            ignored.append(ConfigError(str(error), path=f"keys[{index}]"))
        except ValueError as error:
            refused.append(ConfigError(str(error), path=f"keys[{index}]"))
    return KeySet(tuple(keys), tuple(ignored), tuple(refused))


def strict_json(data: bytes) -> dict[str, object]:
    """An object of JSON that every reader understands alike (RFC 8259, RFC 7493): no name twice, no NaN, no half of a
    surrogate pair, no number beyond a double's, no more than MAX_DEPTH levels.

    Raises:
        ValueError: it is not that; with the reason.
    """
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole
        )
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and _is_deep(value):
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    if b"\\u" in data:
        json.dumps(value, ensure_ascii=False).encode()  # raises where a surrogate stands alone
    return value


def base64url(text: bytes) -> bytes:
    """The bytes that `text` stands for (RFC 7515 section 2): no padding, no white space, one form only.

    Raises:
        ValueError: it is not that.
    """
    if _BASE64URL.fullmatch(text) is None:
        raise ValueError("not base64url without padding")
    return base64.b64decode(text + b"=" * (-len(text) % 4), b"-_")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise ValueError("a number is out of range")
    return number


def _whole(text: str) -> int:
    if len(text) > 309:  # digits of the largest double
        raise ValueError("a number is out of range")
    return int(text)


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        level = [value for values in inner for value in values]
        if not level:
            return False
    return True


# --- One key -------------------------------------------------------------------------------------------------------


def _jwk(value: object) -> Jwk:
    if not isinstance(value, dict):
        raise ValueError("a key is an object")
    kind = _text(value, "kty")
    if kind == "oct" or "k" in value:
        raise ValueError(
            "a symmetric key: whoever can verify with it can sign with it too. Have the issuer sign with a key pair, "
            "and withdraw this key"
        )
    if any(name in value for name in _PRIVATE):
        raise ValueError("a private key: publish only its public half, and replace it, as it is known by now")
    if value.get("use", "sig") != "sig":
        raise _IgnoredError("it is not for signatures (use)")
    operations = value.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise _IgnoredError("it is not for verifying (key_ops)")
    kid = _text(value, "kid", "")
    known = {"kty": kind, "kid": kid} if kid else {"kty": kind}
    match kind:
        case "RSA":
            possible, verify, members = _rsa(value)
        case "EC":
            possible, verify, members = _ec(value)
        case "OKP":
            possible, verify, members = _okp(value)
        case _:
            raise _IgnoredError(f"keys of kind {kind!r} are not known; RSA, EC and OKP are")
    algorithm = _text(value, "alg", "")
    if not algorithm:
        return Jwk(kid, possible, {**known, **members}, verify)
    if algorithm not in possible:
        raise _IgnoredError(f"the algorithm {algorithm!r} is none for this key; {', '.join(sorted(possible))} are")
    return Jwk(kid, frozenset((algorithm,)), {**known, **members, "alg": algorithm}, verify)


def _rsa(value: Mapping[str, object]) -> tuple[frozenset[str], Verify, dict[str, str]]:
    from cryptography.hazmat.primitives.asymmetric import rsa

    modulus, exponent = _number(value, "n"), _number(value, "e")
    if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
        raise ValueError(
            f"an RSA key of {modulus.bit_length()} bits: {MIN_RSA_BITS} to {MAX_RSA_BITS} are needed (RFC 7518 3.3)"
        )
    if exponent.bit_length() > MAX_EXPONENT_BITS:
        raise ValueError(f"an exponent (e) of {exponent.bit_length()} bits: {MAX_EXPONENT_BITS} at most")
    key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    members = {"n": _text(value, "n"), "e": _text(value, "e")}
    return _RSA, lambda algorithm, signature, signed: _rsa_signed(key, algorithm, signature, signed), members


def _ec(value: Mapping[str, object]) -> tuple[frozenset[str], Verify, dict[str, str]]:
    from cryptography.hazmat.primitives.asymmetric import ec

    name = _text(value, "crv")
    if name not in _CURVES:
        raise _IgnoredError(f"the curve {name!r} is not known; {', '.join(_CURVES)} are")
    algorithm, size = _CURVES[name]
    curves: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
    try:
        key = ec.EllipticCurvePublicNumbers(_number(value, "x"), _number(value, "y"), curves[name]).public_key()
    except ValueError as error:
        raise ValueError(f"x and y are no point of {name}: {error}") from None
    members = {"crv": name, "x": _text(value, "x"), "y": _text(value, "y")}
    return (
        frozenset((algorithm,)),
        lambda algorithm, signature, signed: _ec_signed(key, algorithm, size, signature, signed),
        members,
    )


def _okp(value: Mapping[str, object]) -> tuple[frozenset[str], Verify, dict[str, str]]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    name = _text(value, "crv")
    if name != "Ed25519":
        raise _IgnoredError(f"the curve {name!r} is not known; Ed25519 is")
    key = Ed25519PublicKey.from_public_bytes(_bytes(value, "x"))
    members = {"crv": name, "x": _text(value, "x")}
    return frozenset(("EdDSA",)), lambda _, signature, signed: _ed25519_signed(key, signature, signed), members


def _text(value: Mapping[str, object], name: str, default: str | None = None) -> str:
    found = value.get(name, default)
    if not isinstance(found, str):
        raise ValueError(f"'{name}' is missing" if found is None else f"'{name}' is not text")
    return found


def _bytes(value: Mapping[str, object], name: str) -> bytes:
    try:
        return base64url(_text(value, name).encode())
    except ValueError as error:
        raise ValueError(f"'{name}': {error}") from None


def _number(value: Mapping[str, object], name: str) -> int:
    return int.from_bytes(_bytes(value, name), "big")


# --- Verifying -----------------------------------------------------------------------------------------------------


def _rsa_signed(key: "RSAPublicKey", algorithm: str, signature: bytes, signed: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import padding

    digest = _digest(algorithm)
    # RFC 7518 3.5: the salt of PS256 and its like is as long as the hash.
    scheme = (
        padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
        if algorithm.startswith("PS")
        else padding.PKCS1v15()
    )
    try:
        key.verify(signature, signed, scheme, digest)
    except InvalidSignature:
        return False
    return True


def _ec_signed(key: "EllipticCurvePublicKey", algorithm: str, size: int, signature: bytes, signed: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    if len(signature) != 2 * size:  # RFC 7518 3.4: both numbers, each as long as the curve's
        return False
    numbers = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
    try:
        key.verify(encode_dss_signature(*numbers), signed, ec.ECDSA(_digest(algorithm)))
    except InvalidSignature:
        return False
    return True


def _digest(algorithm: str) -> "HashAlgorithm":
    """The hash of an algorithm, which is in its name."""
    from cryptography.hazmat.primitives import hashes

    known: dict[str, HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
    return known[algorithm[-3:]]


def _ed25519_signed(key: "Ed25519PublicKey", signature: bytes, signed: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True
