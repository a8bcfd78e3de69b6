"""The Kubernetes API as commands need it: documents in, documents out, and what goes wrong in a person's words.

lightkube reads the kubeconfig, and its adapter brings TLS and credentials to each request. What comes back stays the
document that it is: commands show, compare and send whole objects, whatever their kind.
"""

import json
import ssl
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx2
from lightkube.config.client_adapter import Client, ConnectionParams
from lightkube.core.exceptions import ConfigError as LightkubeConfigError

from pymesh.errors import ConfigError, MeshError, printable
from pymesh.resources.documents import MAX_DEPTH
from pymesh.resources.nesting import cut
from pymesh_controlplane.kube.kubeconfig import Access

# Seconds for a connection, and for an answer: a person waits.
TIMEOUT: Final = httpx2.Timeout(15.0, connect=5.0)
# Objects of one answer to a list; the server has more where there are more.
PAGE: Final = 500
# Objects of one list, so that an API server that never ends is noticed.
MAX_OBJECTS: Final = 100_000
# Levels around an object: a list and its items.
_AROUND: Final = 2
# Who wrote a field, as `kubectl get --show-managed-fields` tells it.
FIELD_MANAGER: Final = "pymesh"

Document = dict[str, Any]


class ApiError(MeshError):
    """The API server is away, or says no. The text says where, what, and what to do.

    Attributes:
        code: HTTP status; 0 where there was no answer.
        said: the server's own sentence.
        causes: what it has against single fields: reason, message, field.
    """

    def __init__(self, text: str, code: int = 0, said: str = "", causes: Sequence[Mapping[str, Any]] = ()) -> None:
        self.code = code
        self.said = said
        self.causes = causes
        super().__init__(text)


class Api:
    """The API server of one context. A context manager: it keeps connections."""

    def __init__(self, access: Access) -> None:
        self.config = access.config
        self.context = access.config.context_name
        self.proxy = access.proxy
        try:
            self._http = Client(access.config, ConnectionParams(timeout=TIMEOUT, proxy=access.proxy))
        except (LightkubeConfigError, OSError, ValueError) as error:  # certificates that are none, or are not there
            raise ConfigError(f"context {self.context} of the kubeconfig cannot be used: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def get(self, path: str, **query: str) -> Document:
        """The document behind `path`.

        Raises:
            ApiError: there is none.
        """
        return self._ask("GET", path, query)

    def find(self, path: str) -> Document | None:
        """The document behind `path`; None if there is none.

        Raises:
            ApiError: it cannot be said.
        """
        try:
            return self.get(path)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def items(self, path: str, **query: str) -> list[Document]:
        """All objects of a list, with the kind and version that a list tells of all of them at once.

        If one of its parts comes too late (410), it is asked for in one, which the server has at any time.

        Raises:
            ApiError: it cannot be had.
        """
        try:
            return self._items(path, {**query, "limit": str(PAGE)})
        except ApiError as error:
            if error.code != 410:
                raise
        return self._items(path, query)

    def _items(self, path: str, query: Mapping[str, str]) -> list[Document]:
        found: list[Document] = []
        more = ""
        while True:
            page = self._ask("GET", path, {**query, **({"continue": more} if more else {})})
            kind = str(page.get("kind", "")).removesuffix("List")
            found += ({"apiVersion": page.get("apiVersion"), "kind": kind, **item} for item in page.get("items") or [])
            more = str((page.get("metadata") or {}).get("continue") or "")
            if not more:
                return found
            if len(found) >= MAX_OBJECTS:
                raise ApiError(f"context {self.context}: more than {MAX_OBJECTS} objects at {path}")

    def create(self, path: str, document: Mapping[str, Any]) -> Document:
        """What became of `document`, which is new.

        Raises:
            ApiError: it is refused; 409 if there is one of that name.
        """
        return self._ask("POST", path, {"fieldManager": FIELD_MANAGER}, document)

    def replace(self, path: str, document: Mapping[str, Any]) -> Document:
        """What became of `document`, in the place of the one whose resourceVersion it has.

        Raises:
            ApiError: it is refused; 409 if that has changed meanwhile.
        """
        return self._ask("PUT", path, {"fieldManager": FIELD_MANAGER}, document)

    def apply(self, path: str, document: Mapping[str, Any], *, force: bool = False) -> Document:
        """What became of the object at `path`, whose fields are now those of `document` and what others had written.

        Fields that FIELD_MANAGER had written and `document` does not have go away (server-side apply).

        Raises:
            ApiError: it is refused; 409, with causes, if another has written one of the fields, unless by `force`.
        """
        query = {"fieldManager": FIELD_MANAGER, "force": str(force).lower(), "fieldValidation": "Strict"}
        return self._ask("PATCH", path, query, document, "application/apply-patch+yaml")

    def delete(self, path: str, *, uid: str, version: str = "") -> None:
        """Delete the object with this uid and, if one is given, resourceVersion; what belongs to it goes after it.

        Raises:
            ApiError: it is not deleted; 409 if it has changed meanwhile.
        """
        preconditions = {"uid": uid, **({"resourceVersion": version} if version else {})}
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": preconditions,
            "propagationPolicy": "Background",
        }
        self._ask("DELETE", path, {}, options)

    def may(self, verb: str, group: str, resource: str, *, namespace: str = "", subresource: str = "") -> bool:
        """Whether whoever asks may do that; an empty namespace is all of them.

        Raises:
            ApiError: it cannot be said.
        """
        what = {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": namespace}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": what},
        }
        answer = self._ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {}, review)
        return bool((answer.get("status") or {}).get("allowed"))

    def authorization(self) -> str:
        """The Authorization header that requests get; empty where a certificate, or nothing, says who asks."""
        request = httpx2.Request("GET", self._http.base_url)
        if self._http.auth is not None:
            try:
                next(self._http.auth.sync_auth_flow(request), None)
            except (LightkubeConfigError, OSError, ValueError, KeyError) as error:
                raise self._no_credentials(error) from None
        return str(request.headers.get("Authorization", ""))

    def tls(self) -> ssl.SSLContext | None:
        """What the connection is secured with, in a new context; None if the server is asked in plaintext."""
        if urlsplit(self.config.cluster.server).scheme != "https":
            return None
        from lightkube.config.client_adapter import verify_cluster

        assert self.config.user is not None, "the kubeconfig's reader puts one there"
        return verify_cluster(self.config.cluster, self.config.user, self.config.abs_file)

    # --- One request ---

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Document:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type}
        try:
            response = self._http.request(method, path, params=dict(query), content=content, headers=headers)
        except (LightkubeConfigError, KeyError) as error:  # a credential plugin that fails, or gives no token
            raise self._no_credentials(error) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            raise ApiError(self._away(error)) from None
        if response.status_code >= 300:
            raise self._refused(response, method, path)
        try:
            document = _decoded(response.content)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ApiError(f"context {self.context}: {self.config.cluster.server} answers what no API server would")
        return document

    def _no_credentials(self, error: Exception) -> ApiError:
        why = f"it gives no {error}" if isinstance(error, KeyError) else printable(str(error))
        return ApiError(f"context {self.context}: there are no credentials: {why}")

    def _away(self, error: Exception) -> str:
        why = printable(str(error)) or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in why:
            what = "is not the one that the kubeconfig knows, or its certificate has expired"
            return f"context {self.context}: the API server {self.config.cluster.server} {what} ({why})"
        if isinstance(error, httpx2.TimeoutException):
            why = (
                f"no answer within {TIMEOUT.connect if isinstance(error, httpx2.ConnectTimeout) else TIMEOUT.read:g} s"
            )
        return (
            f"context {self.context}: the API server {self.config.cluster.server} does not answer ({why}); "
            "is the cluster up, and is this the right --context?"
        )

    def _refused(self, response: httpx2.Response, method: str, path: str) -> ApiError:
        code, said, causes = response.status_code, *_reasons(response)
        if code == 401:
            return ApiError(
                f"context {self.context}: the API server does not take the credentials (401): the token or certificate "
                f"of user {self.config.context.user or '(none)'} has expired, or is of another cluster; log in again",
                code,
                said,
            )
        if code == 403 and "is forbidden" in said:
            return ApiError(f"context {self.context}: not permitted: {said}", code, said)
        if code == 404 and not said:
            said = f"{path} is not there"
        return ApiError(f"context {self.context}: {said or f'{method} {path} was answered {code}'}", code, said, causes)


def _decoded(data: bytes) -> object:
    """What JSON says; of an object that is nested thousands of levels deep, the upper ones, with more than MAX_DEPTH.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(data)
    except RecursionError:
        return json.loads(cut(data, MAX_DEPTH + _AROUND))


def _reasons(response: httpx2.Response) -> tuple[str, list[Document]]:
    """Message and causes of a Status, as the API server says no."""
    try:
        document = response.json()
    except ValueError:
        return "", []
    if not isinstance(document, dict):
        return "", []
    causes = (document.get("details") or {}).get("causes") or []
    return printable(str(document.get("message") or "")), [cause for cause in causes if isinstance(cause, dict)]
