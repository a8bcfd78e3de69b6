"""The API server as an ASGI application: who asks, what for, in which form; then one verb of reads.py or writes.py."""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace

import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tests.support.kubernetes import bodies, discovery, openapi, portforward, rbac, reads, subresources, tables
from tests.support.kubernetes.cluster import Answer, Cluster
from tests.support.kubernetes.errors import (
    ApiError,
    Object,
    bad_request,
    internal,
    method_not_allowed,
    no_such_path,
    not_acceptable,
)
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.registry import subresource_verbs
from tests.support.kubernetes.requests import Asked, Target, User, target
from tests.support.kubernetes.reviews import KINDS, Reviews
from tests.support.kubernetes.tokens import Tokens
from tests.support.kubernetes.tokens import discovery as token_discovery
from tests.support.kubernetes.writes import Write

LOG = logging.getLogger(__name__)
_SERVED = ("application/json", "application/yaml", "application/vnd.kubernetes.protobuf")
_HEALTH = ("/healthz", "/livez", "/readyz")

Form = Mapping[str, str]


class Api:
    """The application. `user_of` tells who sends a request, or raises ApiError."""

    def __init__(
        self, cluster: Cluster, user_of: Callable[[HTTPConnection], User], tokens: Tokens, reviews: Reviews
    ) -> None:
        self._cluster = cluster
        self._user_of = user_of
        self._tokens = tokens
        self._reviews = reviews

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._websocket(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ApiError as error:
            response = _json(error.status(), error.code)
            if "retryAfterSeconds" in error.details:
                response.headers["retry-after"] = str(error.details["retryAfterSeconds"])
        except Exception as error:
            LOG.exception("%s %s", request.method, request.url.path)
            response = _json(internal(str(error)).status(), 500)
        await response(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket: what it may be for is a port-forward, which has to be allowed as get and as create."""
        request = HTTPConnection(scope)
        try:
            user, about = self._user_of(request), target("GET", request.url.path, {})
            if about is None or (about.plural, about.subresource) != ("pods", "portforward"):
                raise no_such_path()
            for asked in (about, replace(about, verb="create")):
                if not rbac.allowed(self._cluster, user, asked):
                    raise rbac.refused(user, asked)
            pod = reads.get(self._cluster.store, self._cluster.registry.get("", "v1", "pods"), about)
            ports = [int(each) for text in request.query_params.getlist("ports") for each in text.split(",")]
            if not ports or not portforward.offered(scope):
                raise bad_request("ports and the protocol v4.channel.k8s.io are required")
        except (ApiError, ValueError) as error:
            refused = error if isinstance(error, ApiError) else bad_request(str(error))
            await _json(refused.status(), refused.code)(scope, receive, send)
            return
        await portforward.serve(self._cluster, pod, ports, receive, send)

    async def _answer(self, request: Request) -> Response:
        user = self._user_of(request)
        query = dict(request.query_params)
        about = target(request.method, request.url.path, query)
        if about is None:
            path, verb = request.url.path, request.method.lower()
            if not rbac.allowed_path(self._cluster, user, verb, path):
                raise rbac.refused_path(user, verb, path)
            return self._page(request)
        if not rbac.allowed(self._cluster, user, about):
            raise rbac.refused(user, about)
        kind = self._cluster.registry.get(about.group, about.version, about.plural)
        _check_verb(kind, about, request.method)
        form = _form(request.headers.get("accept", ""))
        if about.verb == "watch":
            events = await reads.watch(self._cluster.store, kind, about, query)
            return StreamingResponse(_lines(events, kind, form, query), media_type="application/json")
        asked = Asked(about, query, user, request.headers.get("user-agent", ""))
        if about.subresource == "log":
            return Response(subresources.log(self._cluster, kind, asked), media_type="text/plain")
        answer = await self._verb(kind, asked, request)
        response = _json(_formed(answer.body, kind, form, query), answer.code)
        for warning in answer.warnings:
            response.headers.append("warning", f'299 - "{warning.replace(chr(34), chr(92) + chr(34))}"')
        return response

    async def _verb(self, kind: Kind, asked: Asked, request: Request) -> Answer:
        about, store = asked.target, self._cluster.store
        match about.verb:
            case "get" if about.subresource == "scale":
                return Answer(subresources.scale(reads.get(store, kind, about)))
            case "get":
                return Answer(reads.get(store, kind, about))
            case "list":
                return Answer(reads.listed(store, kind, about, asked.query))
        body, media = await request.body(), request.headers.get("content-type", "")
        match about.verb:
            case "create" if about.subresource == "token":
                return Answer(self._tokens.request(about.namespace, about.name, bodies.read(body, media)), 201)
            case "create" if kind.kind in KINDS:
                return Answer(self._reviews.answer(kind, bodies.read(body, media), asked.user, about.namespace), 201)
            case "create":
                return await Write(self._cluster, kind, asked).create(bodies.read(body, media))
            case "update" | "patch" if about.subresource == "scale":
                return await Write(self._cluster, kind, asked).rescale(body, media)
            case "update":
                return await Write(self._cluster, kind, asked).replace(bodies.read(body, media))
            case "patch":
                return await Write(self._cluster, kind, asked).patch(body, media)
        options = bodies.read(body, media) if body else {}
        write = Write(self._cluster, kind, asked, options)
        return await (write.delete(options) if about.verb == "delete" else write.delete_all(options))

    def _page(self, request: Request) -> Response:
        """What is not a resource: discovery, the version, health."""
        if request.method not in ("GET", "HEAD"):
            raise method_not_allowed(request.method)
        registry = self._cluster.registry
        path = request.url.path.rstrip("/")
        accept = request.headers.get("accept", "")
        if path in _HEALTH:
            return Response("ok", media_type="text/plain")
        if path in ("/api", "/apis") and (version := _aggregated(accept)):
            names = [""] if path == "/api" else registry.groups()
            found = discovery.aggregated(registry, names, version)
            media = f"application/json;g=apidiscovery.k8s.io;v={version};as={discovery.AGGREGATED}"
            return Response(msgspec.json.encode(found), media_type=media)
        match path.split("/")[1:]:
            case ["version"]:
                return _json(discovery.VERSION)
            case ["api"]:
                return _json(discovery.core_versions(request.url.netloc))
            case ["apis"]:
                return _json(discovery.groups(registry))
            case ["api", version]:
                return _json(discovery.resources(registry, "", version))
            case ["apis", group]:
                return _json(discovery.group(registry, group))
            case ["apis", group, version]:
                return _json(discovery.resources(registry, group, version))
            case [".well-known", "openid-configuration"]:
                return _json(token_discovery())
            case ["openid", "v1", "jwks"]:
                return _json(self._tokens.keys())
            case ["openapi", "v3"]:
                return _json(openapi.index(registry))
            case ["openapi", "v3", *more]:
                return _json(openapi.document(registry, "/".join(more)))
        raise no_such_path()


def _check_verb(kind: Kind, about: Target, method: str) -> None:
    """Refuse what the kind, or its subresource, does not serve.

    Raises:
        ApiError: 404, 405.
    """
    if about.subresource and about.subresource not in kind.subresources:
        raise no_such_path()
    verbs = subresource_verbs(about.subresource) if about.subresource else kind.verbs
    if about.verb not in verbs:
        raise method_not_allowed(method)


def _json(found: object, code: int = 200) -> Response:
    return Response(msgspec.json.encode(found), code, media_type="application/json")


def _options(clause: str) -> tuple[str, Form]:
    media, *parameters = (part.strip() for part in clause.split(";"))
    return media, dict(part.split("=", 1) for part in parameters if "=" in part)


def _form(accept: str) -> Form:
    """How the client wants its answer: `{}` is plain JSON, `as` says Table or PartialObjectMetadata.

    Raises:
        ApiError: 406.
    """
    for clause in accept.split(",") if accept.strip() else ["*/*"]:
        media, parameters = _options(clause)
        if media in ("application/json", "application/*", "*/*"):
            return parameters if media == "application/json" else {}
    raise not_acceptable(_SERVED[:1])


def _aggregated(accept: str) -> str:
    """The version of aggregated discovery that is accepted; "" for none."""
    for clause in accept.split(","):
        media, parameters = _options(clause)
        if media == "application/json":
            if parameters.get("as") == discovery.AGGREGATED and parameters.get("v") in ("v2", "v2beta1"):
                return parameters["v"]
            if not parameters:
                return ""
    return ""


def _formed(body: Object, kind: Kind, form: Form, query: Mapping[str, str]) -> Object:
    wanted = form.get("as", "")
    is_list = "items" in body and body["kind"].endswith("List")
    if body["kind"] == "Status" or not wanted:
        return body
    include = query.get("includeObject", "Metadata")
    if wanted == "Table":
        items = body["items"] if is_list else [body]
        meta = body["metadata"] if is_list else {"resourceVersion": body["metadata"].get("resourceVersion", "")}
        return tables.table(kind, items, meta, include)
    if wanted == "PartialObjectMetadata":
        return tables.partial(body)
    if wanted == "PartialObjectMetadataList":
        return {"kind": wanted, "apiVersion": "meta.k8s.io/v1", "metadata": body["metadata"],
                "items": [tables.partial(each) for each in body["items"]]}  # fmt: skip
    raise not_acceptable(_SERVED[:1])


async def _lines(
    events: AsyncIterator[Object], kind: Kind, form: Form, query: Mapping[str, str]
) -> AsyncIterator[bytes]:
    first = True
    async for each in events:
        event = each
        if event["type"] not in ("ERROR", "BOOKMARK") and form:
            made = _formed(event["object"], kind, {**form, "as": form.get("as", "").removesuffix("List")}, query)
            if made["kind"] == "Table" and not first:
                made = made | {"columnDefinitions": None}
            event, first = event | {"object": made}, False
        yield msgspec.json.encode(event) + b"\n"
