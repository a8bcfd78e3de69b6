"""What a request asks of its own way, in headers of Envoy's: its timeouts, and when it is tried again. Pure.

Only internal requests get as far as this with such headers; from all others they were taken before (`trust.py`). They
are for this proxy and go no further, as in Envoy. What makes no sense in them is not heard.

Source: https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter#http-headers-consumed
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.routing import Forward, RetryPolicy
from pymesh_proxy.upstream.retry import CONDITIONS, GRPC_CONDITIONS, MAX_RETRIES, least_status, telling

_TIMEOUT: Final = b"x-envoy-upstream-rq-timeout-ms"
_TRY_TIMEOUT: Final = b"x-envoy-upstream-rq-per-try-timeout-ms"
_RETRY_ON: Final = b"x-envoy-retry-on"
_RETRY_GRPC_ON: Final = b"x-envoy-retry-grpc-on"
_MAX_RETRIES: Final = b"x-envoy-max-retries"
_STATUS_CODES: Final = b"x-envoy-retriable-status-codes"
_HEADER_NAMES: Final = b"x-envoy-retriable-header-names"

# What is asked of Envoy's router, and not done here (docs/support.md).
_NOT_DONE: Final = frozenset(
    {
        b"x-envoy-hedge-on-per-try-timeout",
        b"x-envoy-upstream-alt-stat-name",
        b"x-envoy-upstream-rq-timeout-alt-response",
    }
)
# The headers that ask for something.
OVERRIDES: Final = _NOT_DONE | {
    _TIMEOUT, _TRY_TIMEOUT, _RETRY_ON, _RETRY_GRPC_ON, _MAX_RETRIES, _STATUS_CODES, _HEADER_NAMES,
}  # fmt: skip
# Each is looked for in every response; whoever asks for more is heard as far as this.
MAX_HEADER_NAMES: Final = 16
_NUMBER: Final = re.compile(rb"[0-9]{1,9}")
_HTTP_CONDITIONS: Final = CONDITIONS.keys() - GRPC_CONDITIONS


def overridden(action: Forward, request: Head) -> Forward:
    """`action` as `request` wants it, whose headers of this kind are gone afterwards."""
    timeout = action.timeout
    milliseconds = _number(request, _TIMEOUT)
    if milliseconds is not None:
        timeout = milliseconds / 1000 or None
    retry = _retry(action.retry, request)
    if retry is not None and timeout is not None and (retry.per_try_timeout or 0.0) >= timeout:
        retry = replace(retry, per_try_timeout=None)
    request.remove_all(OVERRIDES)
    return replace(action, timeout=timeout, retry=retry)


def _retry(policy: RetryPolicy | None, request: Head) -> RetryPolicy | None:
    on = _words(request, _RETRY_ON) & _HTTP_CONDITIONS | _words(request, _RETRY_GRPC_ON) & GRPC_CONDITIONS
    most, try_timeout = _number(request, _MAX_RETRIES), _number(request, _TRY_TIMEOUT)
    if policy is None:
        if not on and try_timeout is None:
            return None
        policy = RetryPolicy(frozenset(), attempts=1 if on else 0)
    elif on and not policy.on:
        policy = replace(policy, attempts=max(policy.attempts, 1))
    codes = frozenset(int(word) for word in _words(request, _STATUS_CODES) if word.isdecimal() and len(word) <= 3)
    names = [word.encode("latin-1").lower() for word in sorted(_words(request, _HEADER_NAMES))[:MAX_HEADER_NAMES]]
    on |= policy.on
    codes |= policy.status_codes
    return replace(
        policy,
        on=on,
        attempts=policy.attempts if most is None or not on else min(most, MAX_RETRIES),
        per_try_timeout=policy.per_try_timeout if try_timeout is None else try_timeout / 1000 or None,
        status_codes=codes,
        response_headers=(*policy.response_headers, *(_has(name) for name in names)),
        least_status=least_status(on, codes),
        telling=telling(on),
    )


def _has(name: bytes) -> Callable[[Head], bool]:
    return lambda head: head.has(name)


def _number(request: Head, name: bytes) -> int | None:
    value = request.get(name)
    return int(value) if value is not None and _NUMBER.fullmatch(value) else None


def _words(request: Head, name: bytes) -> frozenset[str]:
    value = request.get(name)
    if value is None:
        return frozenset()
    return frozenset(word.strip() for word in value.decode("latin-1").split(",") if word.strip())
