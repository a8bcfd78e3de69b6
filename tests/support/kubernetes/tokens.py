"""Tokens of service accounts: made by TokenRequest, believed by authentication and by TokenReview.

They are JWTs as kube-apiserver signs them (pkg/serviceaccount/claims.go): bound to an audience, to an account, and to a
pod; none outlives what it is bound to.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.errors import Object, bad_request, cause, conflict, invalid, not_found
from tests.support.kubernetes.metadata import timestamp
from tests.support.kubernetes.requests import User

ISSUER = "https://kubernetes.default.svc.cluster.local"
_ALGORITHM = "ES256"
# Seconds; what a token lasts where the request does not say, and the least and the most it may.
LASTS, SHORTEST, LONGEST = 3600, 600, 1 << 32
_ACCOUNTS, _PODS = ("", "serviceaccounts"), ("", "pods")
_CREDENTIAL = "authentication.kubernetes.io/credential-id"
_POD_NAME, _POD_UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"


class RefusedError(Exception):
    """A token that is not believed, and why."""


@dataclass(frozen=True, slots=True)
class Believed:
    """Whose a token is, and for which of the audiences that were asked about."""

    user: User
    audiences: tuple[str, ...]


class Tokens:
    """Signs and verifies with one key, for the accounts and pods of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._id = uuid.uuid4().hex

    def request(self, namespace: str, name: str, body: Object) -> Object:
        """POST serviceaccounts/<name>/token.

        Raises:
            ApiError: 400, 404, 409, 422.
        """
        account = self._cluster.store.get(_ACCOUNTS, namespace, name)
        if account is None:
            raise not_found("", "serviceaccounts", name)
        spec = body.get("spec") or {}
        seconds = spec.get("expirationSeconds", LASTS)
        wrong = []
        if seconds < SHORTEST:
            wrong.append(f"Invalid value: {seconds}: may not specify a duration less than 10 minutes")
        if seconds > LONGEST:
            wrong.append(f"Invalid value: {seconds}: may not specify a duration larger than 2^32 seconds")
        if wrong:
            raise invalid("authentication.k8s.io", "TokenRequest", name, [cause("spec.expirationSeconds", wrong[0])])
        audiences = spec.get("audiences") or [ISSUER]
        bound = self._bound(spec.get("boundObjectRef"), namespace, name)
        now = int(self._cluster.clock())
        token = self._signed(account, audiences, now, seconds, bound)
        status = {"token": token, "expirationTimestamp": timestamp(now + seconds)}
        filled: Object = {"audiences": audiences, "expirationSeconds": seconds}
        filled["boundObjectRef"] = spec.get("boundObjectRef")
        meta = {"name": name, "namespace": namespace, "creationTimestamp": timestamp(now)}
        return {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": meta,
                "spec": filled, "status": status}  # fmt: skip

    def _bound(self, reference: Object | None, namespace: str, account: str) -> Object | None:
        """The pod that a token is to be bound to."""
        if reference is None:
            return None
        if (reference.get("kind"), reference.get("apiVersion", "v1")) != ("Pod", "v1"):
            raise bad_request(f"cannot bind token for serviceaccount {account!r} to type {reference.get('kind')!r}")
        pod = self._cluster.store.get(_PODS, namespace, reference.get("name", ""))
        if pod is None:
            raise not_found("", "pods", reference.get("name", ""))
        if pod["spec"].get("serviceAccountName") != account:
            said = f'cannot bind token for serviceaccount "{account}" to pod running with different serviceaccount'
            raise bad_request(f'{said} "{pod["spec"].get("serviceAccountName")}"')
        uid = reference.get("uid")
        if uid and uid != pod["metadata"]["uid"]:
            said = f"the UID in the bound object reference ({uid}) does not match the UID in record. The object might "
            raise conflict("", "Pod", reference["name"], said + "have been deleted and then recreated")
        return pod

    def _signed(self, account: Object, audiences: Sequence[str], now: int, seconds: int, pod: Object | None) -> str:
        meta = account["metadata"]
        kubernetes: Object = {
            "namespace": meta["namespace"],
            "serviceaccount": {"name": meta["name"], "uid": meta["uid"]},
        }
        if pod is not None:
            kubernetes["pod"] = {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
            if node := pod["spec"].get("nodeName"):
                kubernetes["node"] = {"name": node}
        claims = {
            "aud": list(audiences), "exp": now + seconds, "iat": now, "iss": ISSUER, "jti": str(uuid.uuid4()),
            "kubernetes.io": kubernetes, "nbf": now, "sub": f"system:serviceaccount:{meta['namespace']}:{meta['name']}",
        }  # fmt: skip
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM, headers={"kid": self._id})

    def believe(self, token: str, audiences: Sequence[str] = ()) -> Believed:
        """Whose token this is. Without audiences it has to be for the API server itself.

        Raises:
            RefusedError: in apiserver's words.
        """
        wanted = list(audiences) or [ISSUER]
        try:
            claims: dict[str, Any] = jwt.decode(
                token, self._key.public_key(), algorithms=[_ALGORITHM], issuer=ISSUER,
                options={"verify_aud": False, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )  # fmt: skip
        except jwt.InvalidTokenError:
            raise RefusedError("invalid bearer token") from None
        shared = tuple(each for each in wanted if each in claims["aud"])
        if not shared:
            raise RefusedError(
                f"[invalid bearer token, token audiences {_go(claims['aud'])} is invalid for the target audiences "
                f"{_go(wanted)}]"
            )
        if self._cluster.clock() >= claims["exp"]:
            raise RefusedError("[invalid bearer token, service account token has expired]")
        return Believed(self._owner(claims), shared)

    def _owner(self, claims: dict[str, Any]) -> User:
        bound = claims["kubernetes.io"]
        namespace, account = bound["namespace"], bound["serviceaccount"]
        found = self._cluster.store.get(_ACCOUNTS, namespace, account["name"])
        if found is None or found["metadata"]["uid"] != account["uid"]:
            raise RefusedError("[invalid bearer token, service account has been deleted or recreated]")
        extra = {_CREDENTIAL: [f"JTI={claims['jti']}"]}
        if pod := bound.get("pod"):
            there = self._cluster.store.get(_PODS, namespace, pod["name"])
            if there is None or there["metadata"]["uid"] != pod["uid"]:
                raise RefusedError("[invalid bearer token, service account token has been invalidated]")
            extra |= {_POD_NAME: [pod["name"]], _POD_UID: [pod["uid"]]}
        if node := bound.get("node"):
            extra["authentication.kubernetes.io/node-name"] = [node["name"]]
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        return User(claims["sub"], groups, account["uid"], extra)

    def keys(self) -> Object:
        """GET /openid/v1/jwks."""
        key = jwt.get_algorithm_by_name(_ALGORITHM).to_jwk(self._key.public_key(), as_dict=True)
        return {"keys": [key | {"use": "sig", "kid": self._id, "alg": _ALGORITHM}]}


def discovery() -> Object:
    """GET /.well-known/openid-configuration."""
    return {
        "issuer": ISSUER, "jwks_uri": f"{ISSUER}/openid/v1/jwks", "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": [_ALGORITHM],
    }  # fmt: skip


def _go(values: Sequence[str]) -> str:
    """A list of strings as Go's %q prints it."""
    return "[" + " ".join(f'"{value}"' for value in values) + "]"
