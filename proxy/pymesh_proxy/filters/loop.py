"""The loop over the filters of a connection manager: who is asked when, and what becomes of a request whose filter
fails. Pure.

A filter that raises costs the one request that it failed on, which is answered with 500 and names it, never the others.
"""

import logging
from collections.abc import Awaitable, Sequence
from typing import TypeAlias

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.errors import Flag, ProxyError, failure
from pymesh_proxy.filters.base import HttpFilter, RequestContext, Verdict
from pymesh_proxy.telemetry.metrics import HttpStats
from pymesh_proxy.telemetry.record import RequestRecord

log = logging.getLogger("pymesh.filters")

Filters: TypeAlias = Sequence[HttpFilter]


def on_request(
    filters: Filters, context: RequestContext, stats: HttpStats, first: int = 0
) -> tuple[Verdict | Awaitable[Verdict], int]:
    """Ask the filters from number `first`, in order, until one does not let the request pass: its word and its number.

    None if all let it pass; an awaitable from one that has to ask somebody: `answer_of` has its answer, and the loop
    goes on behind it.

    Raises:
        ProxyError: a filter failed.
    """
    for index in range(first, len(filters)):
        hook = filters[index].on_request
        if hook is None:
            continue
        try:
            verdict = hook(context)
        except Exception as error:
            raise _failed(filters[index], error, context.record, stats) from error
        if verdict is not None:
            return verdict, index
    return None, len(filters)


async def answer_of(item: HttpFilter, verdict: Awaitable[Verdict], record: RequestRecord, stats: HttpStats) -> Verdict:
    """What a filter says that had to ask. Raises ProxyError if it failed."""
    try:
        return await verdict
    except Exception as error:
        raise _failed(item, error, record, stats) from error


def on_response(filters: Filters, context: RequestContext, head: Head, stats: HttpStats) -> None:
    """Show the response's head to the filters, in reverse. Raises ProxyError if one failed."""
    for item in reversed(filters):
        if item.on_response is None:
            continue
        try:
            item.on_response(context, head)
        except Exception as error:
            raise _failed(item, error, context.record, stats) from error


def on_complete(filters: Filters, record: RequestRecord, stats: HttpStats) -> None:
    """Show the finished record to all filters. One that fails is counted; there is no request any more to fail."""
    for item in filters:
        if item.on_complete is None:
            continue
        try:
            item.on_complete(record)
        except Exception as error:  # noqa: BLE001 - as above: a filter is somebody else's code
            _failed(item, error, record, stats)


def _failed(item: HttpFilter, error: Exception, record: RequestRecord, stats: HttpStats) -> ProxyError:
    """What becomes of the request: the filter's own ProxyError, or 500 for a fault in the filter."""
    if isinstance(error, ProxyError):
        return error
    stats.filter_errors += 1
    log.error("filter %s failed on %s %s", item.name, record.method, record.path, exc_info=error)
    return failure(Flag.LOCAL_RESET, f"filter_failed{{{item.name}}}")
