"""`ApiServer`: a Kubernetes API server for tests, which keeps the real protocol. It runs in a thread of its own.

    with ApiServer() as api:
        subprocess.run([KUBECTL, "--kubeconfig", api.kubeconfig(), "get", "namespaces"])
        api.cut()       # every connection ends
        api.compact()   # watches that come back are told 410 Gone

What it holds outlives `stop` and `start`, on the same port, as etcd's content outlives an API server's restart.
"""

import base64
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from starlette.requests import HTTPConnection

from tests.support.certificates import Authority
from tests.support.kubernetes import bootstrap, tls
from tests.support.kubernetes.app import Api
from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.controllers import Controllers
from tests.support.kubernetes.errors import Object, unauthorized
from tests.support.kubernetes.listening import Listening
from tests.support.kubernetes.requests import ANONYMOUS, User
from tests.support.kubernetes.reviews import Reviews
from tests.support.kubernetes.tokens import LASTS, RefusedError, Tokens

ADMIN = User("kubernetes-admin", ("system:masters", "system:authenticated"))


class ApiServer:
    """One API server with its state. `port` is drawn at the first start, and kept."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="api-server-")
        self.folder = Path(self._folder.name)
        self.host, self.port = host, port
        self.authority = Authority("kubernetes")
        self.cluster = Cluster()
        # Bearer tokens that are nobody's service account.
        self.tokens: dict[str, User] = {}
        self.admin_token = self.token_for(ADMIN)
        self.service_tokens = Tokens(self.cluster)
        self._files = tls.serving(self.authority, self.folder, () if host == "127.0.0.1" else (host,))
        self._listening: Listening | None = None
        Controllers(self.cluster, self.authority.root.decode())
        bootstrap.populate(self.cluster)

    def token_for(self, user: User) -> str:
        """A static bearer token."""
        token = secrets.token_urlsafe(24)
        self.tokens[token] = user
        return token

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://{self.host}:{self.port}"

    def start(self) -> Self:
        """Listen. Returns when connections are accepted."""
        reviews = Reviews(self.cluster, self.service_tokens, self.tokens)
        app = Api(self.cluster, self._user_of, self.service_tokens, reviews)
        self._listening = Listening(app, tls.context(self._files), self.host, self.port)
        self._listening.start()
        self.port = self._listening.port
        return self

    def stop(self) -> None:
        """Stop listening, and end all connections. What is stored stays."""
        if self._listening:
            self._listening.stop()
            self._listening = None

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What a test does to it, or looks at, beside the protocol.

    def cut(self) -> None:
        """End every connection."""
        self._running().cut()

    def compact(self) -> None:
        """Forget the history of changes: who comes back with an older revision is told 410."""
        self._running().call(self.cluster.store.compact)

    def route(self, namespace: str, service: str, port: int, to: tuple[str, int]) -> None:
        """Let calls of webhooks at a Service's port reach a process that listens elsewhere."""
        self.cluster.routes[(namespace, service, port)] = to

    def forward(self, namespace: str, pod: str, port: int, to: tuple[str, int]) -> None:
        """Let port-forwards into a pod reach a process that listens elsewhere."""
        self.cluster.forwards[(namespace, pod, port)] = to

    def objects(self, group: str, plural: str, namespace: str = "") -> list[Object]:
        """What is stored of a kind."""
        found: list[Object] = self._running().call(lambda: self.cluster.store.all((group, plural), namespace))
        return found

    def account_token(
        self, namespace: str, account: str, *, audiences: Sequence[str] = (), pod: str = "", seconds: int = LASTS
    ) -> str:
        """A service account's token, as a kubelet projects it; for the API server itself where no audience is given."""
        spec: Object = {"audiences": list(audiences), "expirationSeconds": seconds}
        if pod:
            spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": pod}
        answer = self._running().call(lambda: self.service_tokens.request(namespace, account, {"spec": spec}))
        return str(answer["status"]["token"])

    def kubeconfig(self, token: str = "", *, namespace: str = "default", name: str = "test") -> Path:
        """A kubeconfig file for a bearer token; the administrator's without one."""
        user = {"token": token or self.admin_token}
        return self._write_kubeconfig(user, namespace, name)

    def certificate_kubeconfig(self, user: str, groups: tuple[str, ...] = (), *, name: str = "certificate") -> Path:
        """A kubeconfig file with a client certificate for a user."""
        issued = self.authority.issue(common_name=user, organizations=groups)
        encoded = {"client-certificate-data": issued.chain, "client-key-data": issued.key}
        return self._write_kubeconfig(
            {key: base64.b64encode(value).decode() for key, value in encoded.items()}, "default", name
        )

    def _write_kubeconfig(self, user: Mapping[str, Any], namespace: str, name: str) -> Path:
        authority = base64.b64encode(self.authority.root).decode()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": name, "user": dict(user)}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
            "current-context": name,
        }
        path = self.folder / f"{name}-{secrets.token_hex(4)}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path

    def _running(self) -> Listening:
        assert self._listening, "the API server is not running"
        return self._listening

    def _user_of(self, request: HTTPConnection) -> User:
        header = request.headers.get("authorization", "")
        if header:
            scheme, _, token = header.partition(" ")
            if scheme.lower() != "bearer":
                raise unauthorized()
            if token in self.tokens:
                return self.tokens[token]
            try:
                return self.service_tokens.believe(token).user
            except RefusedError:
                raise unauthorized() from None
        client = (request.client.host, request.client.port) if request.client else ("", 0)
        certificate = self._running().peers.get(client)
        return tls.owner(certificate) if certificate else ANONYMOUS
