"""What a route does with a request: forward, redirect or answer. Compiled from envoy.config.route.v3."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from envoy.config.route.v3.route_components_pb2 import (
    DirectResponseAction,
    HeaderMatcher,
    RedirectAction,
    RouteAction,
    RouteMatch,
)
from envoy.config.route.v3.route_components_pb2 import (
    RetryPolicy as RetryPolicyMessage,
)
from envoy.config.route.v3.route_components_pb2 import (
    Route as RouteMessage,
)

from pymesh.errors import ConfigError
from pymesh.xds.check import join
from pymesh_proxy.config import matchers, patterns
from pymesh_proxy.config.fields import data, number, one_of, positive, required, timeout
from pymesh_proxy.config.hash_policy import hash_policy
from pymesh_proxy.routing import Action, DirectResponse, Forward, Redirect, RetryPolicy, without_port
from pymesh_proxy.upstream.retry import MAX_RETRIES, least_status, parse_retry_on, telling

Rewrite = Callable[[bytes], bytes]

# Envoy's default for RouteConfiguration.max_direct_response_body_size_bytes.
MAX_DIRECT_RESPONSE_BYTES: Final = 4096
DEFAULT_ROUTE_TIMEOUT: Final = 15.0
# RetryPolicy.RetryBackOff: the maximum is ten times the base where it is not given.
_DEFAULT_RETRY_BASE: Final = 0.025
_MAX_WEIGHT_SUM: Final = 2**32 - 1

_REDIRECT_STATUS: Final = {
    RedirectAction.MOVED_PERMANENTLY: 301,
    RedirectAction.FOUND: 302,
    RedirectAction.SEE_OTHER: 303,
    RedirectAction.TEMPORARY_REDIRECT: 307,
    RedirectAction.PERMANENT_REDIRECT: 308,
}


@dataclass(frozen=True, slots=True)
class ActionContext:
    """What an action is compiled against.

    Attributes:
        default_retry: the virtual host's policy, for routes without their own.
        max_body: bytes that a direct response may have.
        cluster_exists: whether a request may be sent to this cluster.
        attempt_count, attempt_count_in_response: what the virtual host says of x-envoy-attempt-count.
    """

    default_retry: RetryPolicy | None
    max_body: int
    cluster_exists: Callable[[str], bool]
    attempt_count: bool = False
    attempt_count_in_response: bool = False


def action(route: RouteMessage, context: ActionContext, path: str) -> Action:
    """The action of `route`.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    which = one_of(route, "action", path)
    here = join(path, which)
    if which == "redirect":
        return redirect(route.redirect, route.match, here)
    if which == "direct_response":
        return direct_response(route.direct_response, context.max_body, here)
    return forward(route.route, route.match, context, here)


def forward(message: RouteAction, match: RouteMatch, context: ActionContext, path: str) -> Forward:
    """envoy RouteAction."""
    rewrites = [name for name in ("prefix_rewrite", "regex_rewrite") if _is_set(message, name)]
    if len(rewrites) == 2:
        raise ConfigError("cannot be given together with prefix_rewrite", path=join(path, "regex_rewrite"))
    rewrite: Rewrite | None = None
    if rewrites == ["prefix_rewrite"]:
        rewrite = prefix_rewrite(match, message.prefix_rewrite, join(path, "prefix_rewrite"))
    elif rewrites == ["regex_rewrite"]:
        rewrite = patterns.substitution(message.regex_rewrite, join(path, "regex_rewrite"))
    host = message.host_rewrite_literal
    upgrades = {
        config.upgrade_type.lower(): not config.HasField("enabled") or config.enabled.value
        for config in message.upgrade_configs
    }
    retry = context.default_retry
    if message.HasField("retry_policy"):
        retry = retry_policy(message.retry_policy, join(path, "retry_policy"))
    whole = timeout(message, "timeout", DEFAULT_ROUTE_TIMEOUT, path)
    if retry is not None and retry.per_try_timeout is not None and whole is not None and retry.per_try_timeout >= whole:
        retry = replace(retry, per_try_timeout=None)  # as in Envoy: it has no effect, nor is it told to the upstream
    return Forward(
        clusters=_clusters(message, context.cluster_exists, path),
        timeout=whole,
        idle_timeout=timeout(message, "idle_timeout", None, path),
        retry=retry,
        rewrite=rewrite,
        host_rewrite=_host(host, join(path, "host_rewrite_literal")) if host else None,
        auto_host_rewrite=message.auto_host_rewrite.value,
        attempt_count=context.attempt_count,
        attempt_count_in_response=context.attempt_count_in_response,
        upgrades=upgrades,
        hash_policy=hash_policy(message.hash_policy, join(path, "hash_policy")),
    )


def _clusters(message: RouteAction, exists: Callable[[str], bool], path: str) -> tuple[tuple[str, int], ...]:
    which = one_of(message, "cluster_specifier", path)
    if which == "cluster":
        return ((_cluster(message.cluster, exists, join(path, "cluster")), 1),)
    here = join(path, "weighted_clusters.clusters")
    weights = [
        (_cluster(choice.name, exists, f"{here}[{index}].name"), choice.weight.value)
        for index, choice in enumerate(message.weighted_clusters.clusters)
    ]
    total = sum(weight for _, weight in weights)
    if not 0 < total <= _MAX_WEIGHT_SUM:
        raise ConfigError(f"the sum of the weights is {total}; it must be between 1 and {_MAX_WEIGHT_SUM}", path=here)
    stated = number(message.weighted_clusters, "total_weight", total)
    if stated != total:
        raise ConfigError(
            f"the weights add up to {total}, not {stated}", path=join(path, "weighted_clusters.total_weight")
        )
    return tuple(choice for choice in weights if choice[1])


def _cluster(name: str, exists: Callable[[str], bool], path: str) -> str:
    if not exists(required(name, path)):
        raise ConfigError(f"there is no cluster {name!r}", path=path)
    return name


def retry_policy(message: RetryPolicyMessage, path: str) -> RetryPolicy:
    """envoy RetryPolicy. A policy with no `retry_on` retries nothing, as in Envoy."""
    try:
        names = parse_retry_on(message.retry_on)
    except ValueError as error:
        raise ConfigError(str(error), path=join(path, "retry_on")) from error
    attempts = number(message, "num_retries", 1)
    if attempts > MAX_RETRIES:
        raise ConfigError(f"more than {MAX_RETRIES} retries are not supported", path=join(path, "num_retries"))
    here = join(path, "retry_back_off")
    back_off = message.retry_back_off
    base = positive(back_off, "base_interval", _DEFAULT_RETRY_BASE, here)
    maximum = positive(back_off, "max_interval", 10 * base, here)
    if maximum < base:
        raise ConfigError("is less than base_interval", path=join(here, "max_interval"))
    for index, predicate in enumerate(message.retry_host_predicate):
        one_of(predicate, "config_type", f"{path}.retry_host_predicate[{index}]")
    return RetryPolicy(
        on=names,
        attempts=attempts if names else 0,
        per_try_timeout=timeout(message, "per_try_timeout", None, path),
        status_codes=frozenset(message.retriable_status_codes),
        base_interval=base,
        max_interval=maximum,
        response_headers=_header_matchers(message.retriable_headers, join(path, "retriable_headers")),
        request_headers=_header_matchers(message.retriable_request_headers, join(path, "retriable_request_headers")),
        least_status=least_status(names, frozenset(message.retriable_status_codes)),
        telling=telling(names),
    )


def _header_matchers(messages: Iterable[HeaderMatcher], path: str) -> tuple[matchers.HeadMatch, ...]:
    return tuple(matchers.header(message, f"{path}[{index}]") for index, message in enumerate(messages))


def prefix_rewrite(match: RouteMatch, replacement: str, path: str) -> Rewrite:
    """Replaces what the route's path matcher matched: the prefix, or the whole path for the other kinds."""
    new = _path(replacement, path)
    which = match.WhichOneof("path_specifier")
    if which not in {"prefix", "path_separated_prefix"}:
        return lambda _: new
    length = len(getattr(match, which).encode())
    return lambda old: new + old[length:]


def redirect(message: RedirectAction, match: RouteMatch, path: str) -> Redirect:
    """envoy RedirectAction; the Location is put together as Envoy does (Http::Utility::newUri)."""
    scheme = b"https" if message.https_redirect else message.scheme_redirect.lower().encode()
    host = _host(message.host_redirect, join(path, "host_redirect")) if message.host_redirect else b""
    if message.port_redirect > 65_535:
        raise ConfigError(f"{message.port_redirect} is not a port", path=join(path, "port_redirect"))
    port = b":%d" % message.port_redirect if message.port_redirect else b""
    new_target = _redirect_target(message, match, path)
    strip_query = message.strip_query

    def location(old_scheme: bytes, authority: bytes, target: bytes) -> bytes:
        new_scheme = scheme or old_scheme
        new_host = host or _redirect_host(authority, old_scheme, new_scheme, drop_port=bool(port))
        old_path, mark, query = target.partition(b"?")
        new_path = new_target(old_path)
        if mark and not strip_query and b"?" not in new_path:
            new_path += mark + query
        return new_scheme + b"://" + new_host + port + new_path

    return Redirect(_REDIRECT_STATUS[message.response_code], location)


def _redirect_target(message: RedirectAction, match: RouteMatch, path: str) -> Rewrite:
    match message.WhichOneof("path_rewrite_specifier"):
        case "path_redirect":
            new = _path(message.path_redirect, join(path, "path_redirect"), query=True)
            return lambda _: new
        case "prefix_rewrite":
            return prefix_rewrite(match, message.prefix_rewrite, join(path, "prefix_rewrite"))
        case "regex_rewrite":
            return patterns.substitution(message.regex_rewrite, join(path, "regex_rewrite"))
        case _:
            return lambda old: old


def _redirect_host(authority: bytes, old_scheme: bytes, new_scheme: bytes, *, drop_port: bool) -> bytes:
    """The request's own host, without a port that is replaced or that was the default of the scheme left behind."""
    host = without_port(authority)
    port = authority[len(host) :]
    if old_scheme != new_scheme:
        drop_port = drop_port or (old_scheme, port) in {(b"http", b":80"), (b"https", b":443")}
    return host if drop_port else authority


def direct_response(message: DirectResponseAction, max_body: int, path: str) -> DirectResponse:
    """envoy DirectResponseAction."""
    if not 200 <= message.status <= 599:
        raise ConfigError(f"{message.status} is not a final HTTP status", path=join(path, "status"))
    body = data(message.body, join(path, "body")) if message.HasField("body") else b""
    if len(body) > max_body:
        problem = f"the body has {len(body)} bytes; max_direct_response_body_size_bytes allows {max_body}"
        raise ConfigError(problem, path=join(path, "body"))
    return DirectResponse(message.status, body)


def _is_set(message: RouteAction, name: str) -> bool:
    return any(descriptor.name == name for descriptor, _ in message.ListFields())


def _path(text: str, path: str, *, query: bool = False) -> bytes:
    """A path to put into a start line or a Location: printable ASCII without spaces, and no query unless allowed."""
    encoded = text.encode()
    if any(not 0x21 <= byte <= 0x7E for byte in encoded):
        raise ConfigError("a path holds printable ASCII only; write others percent-encoded", path=path)
    if b"#" in encoded or (b"?" in encoded and not query):
        raise ConfigError("must be a path, without a query or fragment", path=path)
    return encoded


def _host(text: str, path: str) -> bytes:
    encoded = text.encode()
    if any(not 0x21 <= byte <= 0x7E or byte in b"/?#@" for byte in encoded):
        raise ConfigError(f"{text!r} is not a host", path=path)
    return encoded
