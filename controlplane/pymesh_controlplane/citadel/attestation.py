"""Who is calling: proved by a token of the mesh's runtime or by a certificate of this mesh, and by nothing else.

Tokens are JWTs as Kubernetes projects them into a pod. In a cluster its API server is asked about them
(`token_review`); on one machine (ARCHITECTURE.md, "Local mesh") they are checked here: ES256, audience `istio-ca`, the
service account in the private claim `kubernetes.io`. Certificates were verified against the mesh's root by the TLS
handshake before they are read here.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

import jwt
from jwt.types import Options as JwtOptions

from pymesh import names
from pymesh.errors import ConfigError, MeshError, Position
from pymesh.identity import Identity
from pymesh_controlplane.metrics import Metrics

log = logging.getLogger("pymesh.citadel")

ISSUER: Final = "https://pymesh.local"
ALGORITHMS: Final = ("ES256",)
# Characters. A projected token has about 1,200.
MAX_TOKEN_LENGTH: Final = 16 * 1024
# Bytes, and keys. A rotation has two or three keys of about 200 bytes.
MAX_JWKS_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 64
# Seconds by which the clock of the token's issuer may differ from ours.
TOKEN_LEEWAY: Final = 10
# Seconds after a token was made in which its pod may not be known here yet: a pod is started first and then told of.
NEW_POD: Final = 15

# RFC 1123 labels, as Kubernetes names namespaces; a service account may also hold dots (RFC 1123 subdomain).
NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
ACCOUNT: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)


# Modification time in ns, inode, size: one of them changes whenever a file is written or replaced.
FileState: TypeAlias = tuple[int, int, int]


class UnauthenticatedError(MeshError):
    """The caller has not proved who it is; the text says why, and repeats nothing secret.

    Attributes:
        address: of the caller, once it is known.
    """

    address: str = ""


class AttestationUnavailableError(MeshError):
    """Nobody can tell now who the caller is: a try again later may succeed.

    Attributes:
        address: of the caller, once it is known.
    """

    address: str = ""


@dataclass(frozen=True, slots=True)
class TlsPeer:
    """What the TLS handshake told: where the caller is, and the URI SANs of its verified certificate if it sent one."""

    address: str
    uris: tuple[str, ...] | None = None


class Attested(NamedTuple):
    """What a token proves: an identity; and of which pod it is, where it says so, for the audit."""

    identity: Identity
    pod: str = ""


# Whether there is a pod: its namespace, name and uid. Raises AttestationUnavailableError as long as nobody can tell.
IsPod: TypeAlias = Callable[[str, str, str], bool]


class Tokens(Protocol):
    """Who can tell about tokens."""

    async def verify(self, token: str) -> Attested:
        """What `token` proves.

        Raises:
            UnauthenticatedError: it is not a token of this mesh for this purpose, or not one any more.
            AttestationUnavailableError: nobody can tell now.
        """
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller that has proved its identity."""

    identity: Identity
    proof: Literal["token", "certificate"]
    address: str
    pod: str = ""


class TokenVerifier:
    """Checks tokens against the keys of a JWKS file, which is read again whenever it changes.

    With `is_pod` a token holds only as long as the pod that it is bound to is there.
    """

    def __init__(
        self,
        jwks: Path,
        trust_domain: str,
        metrics: Metrics,
        *,
        issuer: str = ISSUER,
        is_pod: IsPod | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Read the keys.

        Raises:
            ConfigError: `jwks` cannot be read or holds no usable key.
        """
        self._path = jwks
        self._trust_domain = trust_domain
        self._metrics = metrics
        self._issuer = issuer
        self._is_pod = is_pod
        self._clock = clock
        self._seen: FileState | None = _state(jwks)
        self._keys = _load(jwks)

    async def verify(self, token: str) -> Attested:
        """See `Tokens`."""
        if len(token) > MAX_TOKEN_LENGTH:
            raise UnauthenticatedError(f"the token has more than {MAX_TOKEN_LENGTH} characters")
        self._reload()
        options: JwtOptions = {"require": ["exp", "iss", "aud", "sub"]}
        try:
            claims = jwt.decode(
                token,
                self._key(jwt.get_unverified_header(token).get("kid")),
                algorithms=ALGORITHMS,
                audience=names.TOKEN_AUDIENCE,
                issuer=self._issuer,
                leeway=TOKEN_LEEWAY,
                options=options,
            )
        except jwt.PyJWTError as error:
            raise UnauthenticatedError(f"the token is refused: {error}") from error
        identity = self._identity(claims)
        if self._is_pod is not None:
            self._check_pod(identity.namespace, claims, self._is_pod)
        return Attested(identity, _pod(claims))

    def _check_pod(self, namespace: str, claims: Mapping[str, object], is_pod: IsPod) -> None:
        name = _pod(claims)
        if not name:
            raise UnauthenticatedError("the token is refused: it is bound to no pod")
        if is_pod(namespace, name, _pod_uid(claims)):
            return
        made = claims.get("iat")
        if isinstance(made, int | float) and self._clock() - made < NEW_POD:
            raise AttestationUnavailableError(f"pod {namespace}/{name} is not known yet: try again")
        raise UnauthenticatedError(f"the token is refused: pod {namespace}/{name}, to which it is bound, is gone")

    def _key(self, kid: object) -> jwt.PyJWK:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        key = self._keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise UnauthenticatedError("the token is refused: it was signed by a key that is not in the mesh's JWKS")
        return key

    def _identity(self, claims: Mapping[str, object]) -> Identity:
        kubernetes = claims.get("kubernetes.io")
        account = kubernetes.get("serviceaccount") if isinstance(kubernetes, dict) else None
        if not isinstance(kubernetes, dict) or not isinstance(account, dict):
            raise UnauthenticatedError("the token is refused: its claim kubernetes.io names no service account")
        namespace, name = kubernetes.get("namespace"), account.get("name")
        if not isinstance(namespace, str) or not NAMESPACE.fullmatch(namespace):
            raise UnauthenticatedError("the token is refused: its claim kubernetes.io.namespace is not a namespace")
        if not isinstance(name, str) or not ACCOUNT.fullmatch(name):
            raise UnauthenticatedError("the token is refused: kubernetes.io.serviceaccount.name is not a name")
        if claims.get("sub") != f"system:serviceaccount:{namespace}:{name}":
            raise UnauthenticatedError("the token is refused: its subject and its claim kubernetes.io disagree")
        return Identity(self._trust_domain, namespace, name)

    def _reload(self) -> None:
        """Take the file's new content if it changed; if that is of no use, say so once and keep the old keys."""
        seen: FileState | None = None
        try:
            seen = _state(self._path)
            if seen == self._seen:
                return
            self._keys = _load(self._path)
            log.info("token keys read again from %s: %d", self._path, len(self._keys))
        except ConfigError as error:
            if seen != self._seen:
                self._metrics.count("citadel_server_jwks_reload_errors")
                log.error("%s; the keys read before stay in force", error)
        self._seen = seen


class Authenticator:
    """Decides who a caller is, from what it sent with its call and what the TLS handshake told.

    Without `tokens` a certificate is the only proof.
    """

    def __init__(self, tokens: Tokens | None, trust_domain: str) -> None:
        self._tokens = tokens
        self._trust_domain = trust_domain

    async def authenticate(self, metadata: Iterable[tuple[str, str | bytes]], peer: TlsPeer) -> Caller:
        """The caller. A token that is sent must be good, also beside a good certificate.

        Args:
            metadata: the call's metadata, names in lower case.
            peer: the other end of the TLS connection.

        Raises:
            UnauthenticatedError: it proved nothing.
            AttestationUnavailableError: nobody can tell now about the token that it sent.
        """
        sent = [value for name, value in metadata if name == "authorization"]
        if len(sent) > 1:
            raise UnauthenticatedError("more than one authorization header was sent")
        if sent and self._tokens is None:
            raise UnauthenticatedError("no token is taken here: a certificate of this mesh is the proof")
        if sent and self._tokens is not None:
            scheme, _, token = sent[0].partition(" ") if isinstance(sent[0], str) else ("", "", "")
            if scheme.lower() != "bearer" or not token:
                raise UnauthenticatedError("the authorization header is not of the form: Bearer <token>")
            identity, pod = await self._tokens.verify(token)
            return Caller(identity, "token", peer.address, pod)
        if peer.uris is None:
            raise UnauthenticatedError(
                f"send a token (authorization: Bearer ..., audience {names.TOKEN_AUDIENCE}) "
                "or a certificate of this mesh"
            )
        return Caller(self._identity(peer.uris), "certificate", peer.address)

    def _identity(self, uris: tuple[str, ...]) -> Identity:
        if len(uris) != 1:
            raise UnauthenticatedError(f"the certificate has {len(uris)} URI names, and a workload's has exactly one")
        try:
            identity = Identity.parse(uris[0])
        except ValueError as error:
            raise UnauthenticatedError(f"the certificate is refused: {error}") from error
        if identity.trust_domain != self._trust_domain:
            raise UnauthenticatedError(f"the certificate is of trust domain {identity.trust_domain}, not of this mesh")
        return identity


def _pod(claims: Mapping[str, object]) -> str:
    """The pod that a token is bound to, for the audit; "" if it does not say, as Kubernetes names pods."""
    kubernetes = claims["kubernetes.io"]
    pod = kubernetes.get("pod") if isinstance(kubernetes, dict) else None
    name = pod.get("name") if isinstance(pod, dict) else None
    return name if isinstance(name, str) and ACCOUNT.fullmatch(name) else ""


def _pod_uid(claims: Mapping[str, object]) -> str:
    kubernetes = claims["kubernetes.io"]
    pod = kubernetes.get("pod") if isinstance(kubernetes, dict) else None
    return str(pod.get("uid") or "") if isinstance(pod, dict) else ""


def _state(path: Path) -> FileState:
    try:
        status = path.stat()
    except OSError as error:
        raise _refuse(path, f"cannot be read: {error.strerror}") from error
    return status.st_mtime_ns, status.st_ino, status.st_size


def _load(path: Path) -> dict[str, jwt.PyJWK]:
    """The keys by `kid`; only the kinds that may sign a token."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JWKS_BYTES + 1)
    except OSError as error:
        raise _refuse(path, f"cannot be read: {error.strerror}") from error
    if len(content) > MAX_JWKS_BYTES:
        raise _refuse(path, f"has more than {MAX_JWKS_BYTES} bytes: that is no JWKS")
    try:
        document = json.loads(content)
        listed = document["keys"]
        if not isinstance(listed, list) or len(listed) > MAX_KEYS:
            raise _refuse(path, f"its member keys must be a list of at most {MAX_KEYS} keys (RFC 7517 section 5)")
        keys = {
            str(entry.get("kid", "")): jwt.PyJWK(entry, algorithm=ALGORITHMS[0])
            for entry in listed
            if entry.get("kty") == "EC" and entry.get("crv") == "P-256" and "d" not in entry
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, jwt.PyJWTError) as error:
        raise _refuse(path, "is not a JSON Web Key Set (RFC 7517 section 5)") from error
    if not keys:
        raise _refuse(path, "holds no public key for ES256: tokens could not be checked")
    return keys


def _refuse(path: Path, problem: str) -> ConfigError:
    return ConfigError(problem, position=Position(str(path)))
