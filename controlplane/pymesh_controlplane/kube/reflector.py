"""The objects of one kind, kept at hand: listed, watched, and listed again where a watch cannot go on.

What becomes of what the API server sends is decided in `replica`; here is when it is asked, and what is done while it
does not answer.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Final

import httpx2
import msgspec
from lightkube import AsyncClient
from lightkube.core.exceptions import ConfigError as LightkubeError
from lightkube.core.generic_client import ALL_NS, BasicRequest
from lightkube.core.resource import Resource as ApiResource
from lightkube.core.resource import ResourceDef, api_info

from pymesh_controlplane.kube import trim as trims
from pymesh_controlplane.kube.client import transport
from pymesh_controlplane.kube.replica import (
    GONE,
    ExpiredError,
    Name,
    Object,
    Page,
    Reading,
    RefusedError,
    Replica,
    Status,
    Trim,
)
from pymesh_controlplane.metrics import Metrics

_log = logging.getLogger(__name__)

# Objects in one part of a list; as client-go.
PAGE: Final = 500
# Objects of one kind. Beyond it what was there stays: Kubernetes is made for up to 150,000 pods.
MAX_OBJECTS: Final = 200_000
# Bytes of one event. etcd takes 1.5 MiB for an object; managed fields and the JSON around it may double that.
MAX_EVENT: Final = 8 * 1024 * 1024
# Seconds after which the API server is to end a watch, so that watches spread over its replicas; up to twice that. As
# client-go.
WATCH_SECONDS: Final = 300
# Seconds without a word after which a watch is taken for dead and begun anew where it stood. Bookmarks come once a
# minute, give or take a quarter; but not where there is nothing to tell.
SILENCE: Final = 90.0
# Seconds between two attempts: the first, each twice the one before, up to the last; half of it is random.
FIRST_DELAY: Final = 0.5
LAST_DELAY: Final = 30.0
# The same between two looks for a kind that is not installed.
LAST_ABSENT_DELAY: Final = 10.0

# Answers to a watch after which the same watch may be tried again. After any other there is a list first: 504, for one,
# is said of a version that the server has yet to reach, which after a restored backup it never does.
_SAME_AGAIN: Final = frozenset({401, 403, 429, 500, 502, 503})
_NOT_UNDERSTOOD: Final = (ValueError, msgspec.MsgspecError)
_TROUBLE: Final = (httpx2.HTTPError, httpx2.StreamError, LightkubeError, RefusedError, OSError, *_NOT_UNDERSTOOD)


class Reflector:
    """Keeps the objects of a kind.

    Args:
        client: of the API server, from `kube.client.connect`.
        resource: the kind, as lightkube has it. Of several (versions of one kind) the first that is served is taken.
        namespace: only of this one; by default of all.
        labels, fields: selectors, as kubectl takes them: `app=reviews`, `metadata.name=pymesh`.
        trim: what is kept of an object; by default all but its managed fields.
        optional: whether it is no trouble if the kind is not installed: there are then no such objects, until it is.
        notify: called after every change, and when `trouble` or `synced` changes.
        metrics: where lists, events and errors are counted.

    Attributes:
        objects: by name, as trimmed. Whoever keeps it over an `await` takes a copy; the objects never change.
        synced: whether `objects` has been complete once.
        trouble: why it is not up to date; empty if it is.
        forbidden: whether it is that the API server does not let us.
    """

    def __init__(
        self,
        client: AsyncClient,
        resource: type[ApiResource] | tuple[type[ApiResource], ...],
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        trim: Trim = trims.everything,
        optional: bool = False,
        notify: Callable[[], None] = lambda: None,
        metrics: Metrics | None = None,
    ) -> None:
        self._transport = transport(client)
        self._resources = resource if isinstance(resource, tuple) else (resource,)
        self._namespace = namespace
        self._selectors = {"labelSelector": labels or None, "fieldSelector": fields or None}
        self._trim = trim
        self._optional = optional
        self._notify = notify
        self._metrics = metrics
        self._replica = Replica()
        self._backoff = _Backoff()
        self._news = asyncio.Event()
        self._select(self._resources[0])
        self._generation = 0  # counts the changes of `objects`
        self.synced = False
        self.trouble = ""
        self.forbidden = False

    def __str__(self) -> str:
        """What it keeps, as in `pods`, `configmaps in pymesh-system (metadata.name=pymesh)`."""
        info = api_info(self._resources[0])
        group = info.resource.group
        words = [f"{info.plural}.{group}" if group else info.plural]
        if self._namespace is not None:
            words.append(f"in {self._namespace}")
        if chosen := ", ".join(selector for selector in self._selectors.values() if selector):
            words.append(f"({chosen})")
        return " ".join(words)

    @property
    def objects(self) -> Mapping[Name, Object]:
        """The objects, by name."""
        return self._replica.objects

    def waiting(self) -> str:
        """What it waits for, in words for `/ready`; empty once everything has been listed."""
        if self.synced:
            return ""
        return f"{self} of the Kubernetes API" + (f" ({self.trouble})" if self.trouble else "")

    async def changes(self) -> AsyncGenerator[Mapping[Name, Object], None]:
        """`objects`, once they are complete, and again after every change. Who is slow misses the ones in between."""
        seen = 0
        while True:
            if self.synced and self._generation > seen:
                seen = self._generation
                yield self.objects
            else:
                await self._news.wait()

    async def run(self) -> None:
        """Keep the objects, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                if not self._replica.version:
                    await self._list()
                if self._replica.version:
                    if not await self._watch():
                        await self._look_back()
                    # A server that ends every watch at once is not asked for the next one at once.
                    short = loop.time() - began < FIRST_DELAY
                    delay = self._backoff.after_failure() if short else self._backoff.after_success()
                else:
                    delay = min(self._backoff.after_failure(), LAST_ABSENT_DELAY)
            except ExpiredError:
                self._replica.expire()
                delay = self._backoff.after_failure()
            except _TROUBLE as error:
                self._failed(error)
                delay = max(self._backoff.after_failure(), getattr(error, "retry_after", 0.0))
            await asyncio.sleep(delay)

    # --- Asking --------------------------------------------------------------------------------------------------

    async def _list(self) -> None:
        """All objects, in the first of the versions of the kind that is served; none if no one is and none need be."""
        for resource in self._resources:
            self._select(resource)
            try:
                found, version = await self._pages()
            except RefusedError as error:
                if error.code != httpx2.codes.NOT_FOUND:
                    raise
            else:
                self._count("pymesh_kubernetes_lists")
                self._took(self._replica.replace(found, version))
                return
        if not self._optional:
            raise RefusedError(httpx2.codes.NOT_FOUND, "the kind is not installed")
        self._took(self._replica.replace({}, ""))

    async def _pages(self) -> tuple[dict[Name, Object], str]:
        """All parts of a list. If one of them comes too late (410), all in one, which the server has at any time."""
        try:
            return await self._parts(PAGE)
        except ExpiredError:
            return await self._parts(None)

    async def _parts(self, limit: int | None) -> tuple[dict[Name, Object], str]:
        found: dict[Name, Object] = {}
        rest = ""
        while True:
            page = await self._part(limit, rest)
            found |= page.objects
            if len(found) > MAX_OBJECTS:
                raise ValueError(f"there are more than {MAX_OBJECTS}: none of what is new is read")
            if not page.rest:
                return found, page.version
            rest = page.rest

    async def _part(self, limit: int | None, rest: str) -> Page:
        request = self._request(limit=str(limit) if limit else None, **{"continue": rest or None})
        response = await self._send(request, stream=False)
        if response.status_code != httpx2.codes.OK:
            raise _refusal(response)
        # Decoding 500 pods takes some 30 ms.
        return await asyncio.to_thread(self._reading.page, response.content)

    async def _watch(self) -> bool:
        """Take events until the server ends the watch, or falls silent, or is gone; whether it has said anything.

        Raises:
            ExpiredError: it does not know our version any more.
            RefusedError, httpx2.HTTPError: there is no watch.
            ValueError: what it says is not understood.
        """
        seconds = WATCH_SECONDS + random.randrange(WATCH_SECONDS)  # noqa: S311  no secret
        request = self._request(
            watch="true", allowWatchBookmarks="true", resourceVersion=self._replica.version, timeoutSeconds=str(seconds)
        )
        request.timeout = httpx2.Timeout(SILENCE, connect=10.0)
        response = await self._send(request, stream=True)
        heard = False
        try:
            if response.status_code != httpx2.codes.OK:
                await response.aread()
                raise _refusal(response)
            self._took(changed=False)
            async with aclosing(_lines(response)) as lines:
                async for line in lines:
                    heard = True
                    self._take(line)
        except httpx2.TransportError:
            pass  # silent, or cut: the next watch goes on where this one stands
        finally:
            await response.aclose()
        return heard

    async def _look_back(self) -> None:
        """After a watch without a word: list anew if the server is behind us.

        That a kind of which nothing changes is silent is usual. But so is a server that was restored from a backup: it
        takes a watch from a version of later, and says nothing until it gets there.
        """
        now = (await self._part(1, "")).version
        if not now.isdecimal() or not self._replica.version.isdecimal() or int(now) < int(self._replica.version):
            self._replica.expire()

    def _take(self, line: bytes) -> None:
        event = self._reading.event(line)
        self._backoff.after_success()
        self._count("pymesh_kubernetes_events")
        self._took(self._replica.apply(event))
        if len(self.objects) > MAX_OBJECTS:
            raise ValueError(f"there are more than {MAX_OBJECTS}")

    async def _send(self, request: BasicRequest, *, stream: bool) -> httpx2.Response:
        send: Callable[..., Awaitable[httpx2.Response]] = self._transport.send
        return await send(self._transport.build_adapter_request(request), stream=stream)

    def _request(self, **parameters: str | None) -> BasicRequest:
        namespace = self._namespace if self._namespace is not None else self._everywhere
        # What lightkube calls a list has a watch's parameters, too, and is a request in any case.
        return self._transport.prepare_request(
            "list", self._resource, namespace=namespace, params={**self._selectors, **parameters}
        )

    def _select(self, resource: type[ApiResource]) -> None:
        info = api_info(resource)
        kind: ResourceDef = info.resource
        self._resource = resource
        self._everywhere = ALL_NS if "global_list" in info.verbs else None
        self._reading = Reading(kind.api_version, kind.kind, self._trim)

    # --- Telling -------------------------------------------------------------------------------------------------

    def _took(self, changed: bool) -> None:
        first = not self.synced
        news = changed or first or bool(self.trouble)
        self._generation += changed or first
        if self.trouble:
            _log.info("%s: up to date again", self)
        self.synced, self.trouble, self.forbidden = True, "", False
        if news:
            self._tell()

    def _failed(self, error: Exception) -> None:
        self._count("pymesh_kubernetes_errors")
        refused = isinstance(error, RefusedError) and error.code not in _SAME_AGAIN
        if refused or isinstance(error, _NOT_UNDERSTOOD):
            self._replica.expire()
        trouble = _sentence(error)
        self.forbidden = isinstance(error, RefusedError) and error.code == httpx2.codes.FORBIDDEN
        if trouble != self.trouble:
            _log.warning("%s: cannot be kept up to date: %s", self, trouble)
            self.trouble = trouble
            self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
        self._notify()

    def _count(self, name: str) -> None:
        if self._metrics is not None:
            self._metrics.count(name, api_info(self._resource).plural)


class _Backoff:
    """How long to wait before the next attempt, in seconds."""

    def __init__(self) -> None:
        self._next = FIRST_DELAY

    def after_failure(self) -> float:
        delay, self._next = self._next, min(2 * self._next, LAST_DELAY)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311  no secret

    def after_success(self) -> float:
        self._next = FIRST_DELAY
        return 0.0


async def _lines(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    r"""The lines of a watch; what stands behind the last "\n" was cut off and counts for nothing.

    Raises:
        ValueError: one is longer than MAX_EVENT.
    """
    rest = bytearray()
    async for chunk in response.aiter_bytes():
        rest += chunk
        if b"\n" in chunk:
            *whole, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            for line in whole:
                if line:
                    yield line
        if len(rest) > MAX_EVENT:
            raise ValueError(f"an event has more than {MAX_EVENT // 2**20} MiB")


def _refusal(response: httpx2.Response) -> RefusedError | ExpiredError:
    """What an answer says that is not 200."""
    try:
        message = msgspec.json.decode(response.content, type=Status).message
    except msgspec.MsgspecError:
        message = response.reason_phrase
    if response.status_code == GONE:
        return ExpiredError(message)
    after = response.headers.get("retry-after", "")
    seconds = min(float(after), LAST_DELAY) if after.isascii() and after.isdigit() else 0.0
    return RefusedError(response.status_code, message, seconds)


def _sentence(error: Exception) -> str:
    if isinstance(error, RefusedError) and error.code == httpx2.codes.FORBIDDEN:
        return f"{error}: give the ServiceAccount the verbs get, list and watch"
    return f"{type(error).__name__}: {error}" if not isinstance(error, RefusedError) else str(error)
