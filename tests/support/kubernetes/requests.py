"""What a request is about: path, verb and query taken apart as apiserver's RequestInfo does."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.support.kubernetes.errors import ApiError, bad_request, method_not_allowed, no_such_path

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get", "HEAD": "get"}
_OF_NAMESPACE = ("status", "finalize")


@dataclass(frozen=True, slots=True)
class User:
    """Who asks (authentication.k8s.io UserInfo)."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, list[str]] = field(default_factory=dict)


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))


@dataclass(frozen=True, slots=True)
class Target:
    """A resource request: which verb on which resource."""

    verb: str
    group: str
    version: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def resource(self) -> str:
        """As RBAC writes it: `pods/log`."""
        return f"{self.plural}/{self.subresource}" if self.subresource else self.plural


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a resource, without its body."""

    target: Target
    query: Mapping[str, str]
    user: User
    # The User-Agent header: who writes, where the query does not say.
    agent: str = ""


def target(method: str, path: str, query: Mapping[str, str]) -> Target | None:
    """The resource that a path names; None if it is none (discovery, /version ...).

    Raises:
        ApiError: 404, 405.
    """
    match path.strip("/").split("/"):
        case ["api", "v1", first, *more]:
            group, version, parts = "", "v1", [first, *more]
        case ["apis", group, version, first, *more]:
            parts = [first, *more]
        case _:
            return None
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 1:
        namespace = parts[1]
        if len(parts) > 2 and parts[2] not in _OF_NAMESPACE:
            parts = parts[2:]
    if len(parts) > 3 or "" in parts:
        raise no_such_path()
    plural, name, subresource = [*parts, "", ""][:3]
    return Target(_verb(method, name, query), group, version, plural, namespace, name or _named(query), subresource)


def _verb(method: str, name: str, query: Mapping[str, str]) -> str:
    if method not in _VERBS:
        raise method_not_allowed(method)
    verb = _VERBS[method]
    if not name and verb == "get":
        return "watch" if flag(query, "watch") else "list"
    if not name and verb == "delete":
        return "deletecollection"
    if (not name) is not (verb == "create"):
        # POST to one object and PUT or PATCH to a collection lead nowhere; POST to a subresource does.
        return verb if name and verb == "create" else _refuse(method)
    return verb


def _refuse(method: str) -> str:
    raise method_not_allowed(method)


def _named(query: Mapping[str, str]) -> str:
    """A list or watch of one object by field selector counts as a request for that name (RBAC's resourceNames)."""
    for term in query.get("fieldSelector", "").split(","):
        path, _, name = term.replace("==", "=").partition("=")
        if path == "metadata.name":
            return name
    return ""


def flag(query: Mapping[str, str], name: str) -> bool:
    """A boolean of a query."""
    return query.get(name, "").lower() in ("1", "true", "t")


def number(query: Mapping[str, str], name: str) -> int:
    """A number of a query; 0 if it is not there.

    Raises:
        ApiError: 400.
    """
    text = query.get(name, "") or "0"
    if not text.isdecimal():
        raise bad_request(f'{name}: invalid value "{text}"')
    return int(text)


def revision(query: Mapping[str, str]) -> int | None:
    """The query's resourceVersion; None if it asks for none.

    Raises:
        ApiError: 422, it is not a number.
    """
    text = query.get("resourceVersion", "")
    if text and not text.isdecimal():
        message = f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        raise ApiError(422, "Invalid", message)
    return int(text) if text else None


def dry_run(query: Mapping[str, str], options: Mapping[str, object]) -> bool:
    """Whether nothing is to be kept.

    Raises:
        ApiError: 400, a word that is not "All".
    """
    asked = query.get("dryRun", "") or next(iter(options.get("dryRun") or []), "")  # type: ignore[call-overload]  # a list
    if asked not in ("", "All"):
        raise bad_request(f'invalid dry run {asked!r}: supported values: "All"')
    return asked == "All"
