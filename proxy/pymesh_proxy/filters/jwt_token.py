"""Tokens (JWT): a JWS in compact form whose payload is claims, parsed by one strict grammar. Sans-IO.

Nothing is verified here. What a token itself says of keys (`jwk`, `jku`, `x5u`, `x5c`) is never used.

Source: RFC 7515 (JWS), RFC 7519 (JWT), RFC 8725; words and order of the checks as in Envoy 1.40 (compared by
tests/conformance/test_jwt.py, which lists where this is stricter)
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pymesh.jwks import ALGORITHMS, base64url, strict_json

# Bytes. Tokens have 0.5 to 2 KiB, with the groups of a large company 8.
MAX_TOKEN: Final = 16 * 1024
_MAX_TIME: Final = float(2**63)  # seconds; no more than an integer of 64 bits, as in Envoy
# Envoy knows these and finds no key for them, as long as its key sets have none; neither have ours.
_SYMMETRIC: Final = frozenset({"HS256", "HS384", "HS512"})


class Status(Enum):
    """The outcome of verifying a token, in Envoy's words where it has some."""

    OK = "OK"
    MISSING = "Jwt is missing"
    NOT_YET_VALID = "Jwt not yet valid"
    EXPIRED = "Jwt is expired"
    BAD_FORMAT = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
    TOO_LONG = "Jwt is too long"
    HEADER_BASE64 = "Jwt header is an invalid Base64url encoded"
    HEADER_JSON = "Jwt header is an invalid JSON"
    HEADER_ALG = "Jwt header [alg] field is required and must be a string"
    HEADER_ALG_UNKNOWN = "Jwt header [alg] is not supported"
    HEADER_KID = "Jwt header [kid] field is not a string"
    HEADER_CRIT = "Jwt header [crit] is not supported"
    PAYLOAD_BASE64 = "Jwt payload is an invalid Base64url encoded"
    PAYLOAD_JSON = "Jwt payload is an invalid JSON"
    PAYLOAD_ISS = "Jwt payload [iss] field is not a string"
    PAYLOAD_SUB = "Jwt payload [sub] field is not a string"
    PAYLOAD_IAT = "Jwt payload [iat] field is not an integer"
    PAYLOAD_IAT_RANGE = "Jwt payload [iat] field is not a positive 64 bit integer"
    PAYLOAD_NBF = "Jwt payload [nbf] field is not an integer"
    PAYLOAD_NBF_RANGE = "Jwt payload [nbf] field is not a positive 64 bit integer"
    PAYLOAD_EXP = "Jwt payload [exp] field is not an integer"
    PAYLOAD_EXP_RANGE = "Jwt payload [exp] field is not a positive 64 bit integer"
    PAYLOAD_JTI = "Jwt payload [jti] field is not a string"
    PAYLOAD_AUD = "Jwt payload [aud] field is not a string or string list"
    SIGNATURE_BASE64 = "Jwt signature is an invalid Base64url encoded"
    ED25519_LENGTH = "Jwt ED25519 signature is wrong length"
    UNKNOWN_ISSUER = "Jwt issuer is not configured"
    AUDIENCE = "Audiences in Jwt are not allowed"
    FAILED = "Jwt verification fails"
    NO_MATCHING_KEY = "Jwks doesn't have key to match kid or alg from Jwt"


class JwtError(Exception):
    """The token is malformed; `status` says how."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.value)
        self.status = status


@dataclass(frozen=True, slots=True)
class Jwt:
    """A token, parsed and not verified.

    Attributes:
        header, claims: objects of JSON.
        kid: the id of the key that signed it; empty if it names none.
        issuer, subject: of the claims; empty if it has none.
        audiences: `aud`, whether it is one or a list.
        expires, not_before, issued: Unix time, seconds; None where it does not say.
        payload: the claims as they are written in the token, base64url.
        signed, signature: the bytes that were signed, and their signature.
    """

    header: dict[str, object]
    algorithm: str
    kid: str
    claims: dict[str, object]
    issuer: str
    subject: str
    audiences: tuple[str, ...]
    expires: float | None
    not_before: float | None
    issued: float | None
    payload: bytes
    signed: bytes
    signature: bytes


def parse(token: bytes) -> Jwt:
    """The parsed token.

    Raises:
        JwtError: it is malformed, or longer than MAX_TOKEN.
    """
    if len(token) > MAX_TOKEN:
        raise JwtError(Status.TOO_LONG)
    parts = token.split(b".")
    if len(parts) != 3 or not all(parts):
        raise JwtError(Status.BAD_FORMAT)
    head, payload, tail = parts
    header = _object(head, Status.HEADER_BASE64, Status.HEADER_JSON)
    algorithm, kid = _key(header)
    claims = _object(payload, Status.PAYLOAD_BASE64, Status.PAYLOAD_JSON)
    issuer = _text(claims, "iss", Status.PAYLOAD_ISS)
    subject = _text(claims, "sub", Status.PAYLOAD_SUB)
    issued = _time(claims, "iat", Status.PAYLOAD_IAT, Status.PAYLOAD_IAT_RANGE)
    not_before = _time(claims, "nbf", Status.PAYLOAD_NBF, Status.PAYLOAD_NBF_RANGE)
    expires = _time(claims, "exp", Status.PAYLOAD_EXP, Status.PAYLOAD_EXP_RANGE)
    _text(claims, "jti", Status.PAYLOAD_JTI)
    audiences = _audiences(claims)
    signature = _decoded(tail, Status.SIGNATURE_BASE64)
    signed = token[: len(head) + 1 + len(payload)]
    return Jwt(
        header, algorithm, kid, claims, issuer, subject, audiences, expires, not_before, issued, payload, signed,
        signature,
    )  # fmt: skip


def _key(header: dict[str, object]) -> tuple[str, str]:
    """The algorithm and the id of the key."""
    algorithm, kid = header.get("alg"), header.get("kid", "")
    if not isinstance(algorithm, str):
        raise JwtError(Status.HEADER_ALG)
    if algorithm not in ALGORITHMS and algorithm not in _SYMMETRIC:
        raise JwtError(Status.HEADER_ALG_UNKNOWN)
    if not isinstance(kid, str):
        raise JwtError(Status.HEADER_KID)
    if "crit" in header:  # RFC 7515 4.1.11: whoever does not know what it names must not go on
        raise JwtError(Status.HEADER_CRIT)
    return algorithm, kid


def _object(text: bytes, base64_status: Status, json_status: Status) -> dict[str, object]:
    data = _decoded(text, base64_status)
    try:
        return strict_json(data)
    except ValueError:
        raise JwtError(json_status) from None


def _decoded(text: bytes, status: Status) -> bytes:
    try:
        return base64url(text)
    except ValueError:
        raise JwtError(status) from None


def _text(claims: dict[str, object], name: str, status: Status) -> str:
    found = claims.get(name, "")
    if not isinstance(found, str):
        raise JwtError(status)
    return found


def _time(claims: dict[str, object], name: str, wrong: Status, out_of_range: Status) -> float | None:
    """A NumericDate (RFC 7519 section 2): seconds, perhaps with a fraction."""
    if name not in claims:
        return None
    found = claims[name]
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise JwtError(wrong)
    if not 0 <= found < _MAX_TIME or math.isnan(found):
        raise JwtError(out_of_range)
    return float(found)


def _audiences(claims: dict[str, object]) -> tuple[str, ...]:
    found = claims.get("aud", [])
    if isinstance(found, str):
        return (found,)
    if not isinstance(found, list):
        raise JwtError(Status.PAYLOAD_AUD)
    texts = tuple(item for item in found if isinstance(item, str))
    if len(texts) != len(found):
        raise JwtError(Status.PAYLOAD_AUD)
    return texts
