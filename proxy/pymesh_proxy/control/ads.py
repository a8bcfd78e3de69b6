"""The ADS client without IO: responses in, acknowledgements and subscriptions out, resources to the consumer.

Resources are handed over as they come, so that each response is accepted or refused at once, with the field's path.
What the consumer has taken goes into force with `publish`, and that waits until everything new is complete: clusters
have their endpoints, listeners their routes (make before break). A name that the server does not answer for is given up
after INITIAL_FETCH_TIMEOUT, as in Envoy.

A response may hold thousands of resources, so `receive` is in steps (`pymesh.steps`), to be taken to the end before the
next response: responses come into force in their order, each of them whole.

Nothing that fails takes away what is in force: a refused resource leaves its predecessor, a lost stream leaves all, and
endpoints or routes that the server withdraws stay as long as a cluster or listener refers to them.

What static resources refer to is asked for from the beginning, and followed for good.
"""

import logging
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Protocol

from envoy.config.core.v3.base_pb2 import Node as NodeMessage

from pymesh.errors import ConfigError
from pymesh.steps import Steps
from pymesh.xds import types
from pymesh_proxy.control.resources import CHILDREN, EVERYTHING, LABEL, Interest, Needs, needs
from pymesh_proxy.control.subscription import Dialect, Response, Subscription, read_item

log = logging.getLogger(__name__)

# What is asked for by name, since something refers to it.
_REFERRED_TO = tuple(child for children in CHILDREN.values() for child in children)
# Seconds; Envoy's default for initial_fetch_timeout.
INITIAL_FETCH_TIMEOUT = 15.0
# A refusal names this many mistakes, in this many characters: enough to find them, small enough to log.
MAX_ERRORS_NAMED = 10
MAX_ERROR_LENGTH = 4000


class Consumer(Protocol):
    """Who takes the resources: the proxy's configuration."""

    def apply(
        self, type_url: str, added: Mapping[str, bytes], removed: set[str], version: str
    ) -> Steps[dict[str, ConfigError]]:
        """Take `added`, encoded, in and `removed` out, but not into force yet.

        Returns the errors of what is refused, by name: of these, everything is as it was.
        """

    def publish(self) -> Steps[None]:
        """Put what was applied in force."""


@dataclass(slots=True)
class XdsStats:
    """Counters for the admin port.

    Attributes:
        connected: whether a stream is open and has been answered.
        connects, disconnects: streams opened, streams lost.
        updates: responses accepted whole; rejected: responses refused in whole or part.
        published: how often a new configuration went into force.
        given_up: names for which no answer came in time.
        last_error: why the stream was lost, or what was refused, last; empty once a stream works again.
        last_rejection: what was refused last, kept.
    """

    connected: bool = False
    connects: int = 0
    disconnects: int = 0
    updates: int = 0
    rejected: int = 0
    published: int = 0
    given_up: int = 0
    last_error: str = ""
    last_rejection: str = ""


class Ads:
    """The state of one proxy's discovery. `now` is seconds of any monotonic clock, always the same one."""

    def __init__(
        self,
        dialect: Dialect,
        node: NodeMessage,
        consumer: Consumer,
        stats: XdsStats,
        interest: Interest = EVERYTHING,
    ) -> None:
        self._dialect = dialect
        self._node = node
        self._consumer = consumer
        self._stats = stats
        # In the order in which they are asked for: what is referred to comes before what refers to it.
        self._subs = {
            url: Subscription(url, wildcard=url in interest.everything)
            for url in (types.CLUSTER, types.ENDPOINT, types.LISTENER, types.ROUTE, types.SECRET)
        }
        # What static resources need, by type: they are never gone.
        self._lasting = interest.named
        # By type and name of who needs them, the names of what is needed, by type.
        self._needs: dict[str, dict[str, Needs]] = {parent: {} for parent in CHILDREN}
        self._awaited: dict[tuple[str, str], float] = {}  # (type, name) → since when
        for url, names in interest.named.items():
            self._subs[url].names = set(names)
            self._awaited.update(dict.fromkeys(((url, name) for name in names), 0.0))  # `open` sets the time
        self._staged = False
        self.ready = not self.missing()

    @property
    def method(self) -> str:
        """The gRPC method of the stream."""
        return self._dialect.method

    def missing(self) -> str:
        """What is awaited before all is complete, for people: "clusters, listeners"; empty if nothing."""
        parts = [LABEL[url] for url, sub in self._subs.items() if sub.wildcard and not sub.answered]
        for url in _REFERRED_TO:
            names = [name for (awaited, name) in self._awaited if awaited == url]
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                parts.append(f"{LABEL[url]} of {names[0]}{more}")
        return ", ".join(parts)

    def open(self, now: float) -> list[bytes]:
        """What to send first on a new stream. The time for names still awaited begins anew."""
        for sub in self._subs.values():
            sub.nonce, sub.opened = "", False
        for key in self._awaited:
            self._awaited[key] = now
        requests: list[bytes] = []
        for sub in self._subs.values():
            if sub.wildcard or sub.names:
                requests.append(self._dialect.open(sub, None if requests else self._node))
                sub.opened = True
        return requests

    def receive(self, data: bytes, now: float) -> Steps[list[bytes]]:
        """Deal with a response; what to send in return.

        Raises:
            ConfigError: it is not a response at all, or for a type that was not asked for; the stream is of no use.
        """
        response = yield from self._dialect.decode(data)
        sub = self._subs.get(response.type_url)
        if sub is None or not sub.opened:
            raise ConfigError(f"a response for {response.type_url or 'no type'}, which was not asked for")
        sub.nonce = response.nonce
        sub.answered = True
        errors = yield from self._take(sub, response)
        text = _summary(errors)
        if errors:
            self._stats.rejected += 1
            self._stats.last_error = self._stats.last_rejection = f"{LABEL[sub.type_url]} refused: {text}"
        else:
            self._stats.updates += 1
            sub.version = response.version
        requests = [self._dialect.acknowledge(sub, text)]
        for child in CHILDREN.get(sub.type_url, ()):
            requests += yield from self._follow(sub.type_url, child, now)
        yield from self._publish_if_complete()
        return requests

    def next_deadline(self) -> float | None:
        """When `tick` is due; None while nothing is awaited."""
        return min(self._awaited.values()) + INITIAL_FETCH_TIMEOUT if self._awaited else None

    def tick(self, now: float) -> Steps[None]:
        """Give up on names that were awaited for too long."""
        late = [key for key, since in self._awaited.items() if now >= since + INITIAL_FETCH_TIMEOUT]
        for url, name in late:
            del self._awaited[url, name]
            self._stats.given_up += 1
            self._stats.last_error = f"no answer for {LABEL[url]} of {name} within {INITIAL_FETCH_TIMEOUT:g} s"
        if late:
            yield from self._publish_if_complete()

    def _take(self, sub: Subscription, response: Response) -> Steps[list[ConfigError]]:
        """Hand a response's resources to the consumer; what was refused."""
        errors: list[ConfigError] = []
        added: dict[str, bytes] = {}
        versions: dict[str, str] = {}
        for index, item in enumerate(response.items):
            yield
            try:
                name = yield from read_item(sub.type_url, index, item)
                if name in added:
                    raise ConfigError(f"{name!r} is there twice", path=f"resources[{index}]")
            except ConfigError as error:
                errors.append(error)
                self._awaited.pop((sub.type_url, item.name), None)
                continue
            if sub.wildcard or name in sub.names:
                added[name], versions[name] = item.encoded, item.version
        removed: set[str] = set()
        if sub.wildcard:
            removed = response.removed & sub.held.keys()
            if response.complete and not errors:  # a resource that cannot be read may be any of those held
                removed = sub.held.keys() - added.keys()
        else:
            for name in response.removed:  # it stays in force; should it come back, it has to come in full
                sub.held.pop(name, None)
            if sub.type_url == types.SECRET:
                self._do_without(response, added)
        refused = yield from self._hand_over(sub, added, versions, removed, response.version)
        errors += refused.values()
        for name in added:
            self._awaited.pop((sub.type_url, name), None)
        return errors

    def _do_without(self, response: Response, added: Container[str]) -> None:
        """Wait no longer for secrets that the server has not: one missing certificate must not hold up the others."""
        for url, name in list(self._awaited):
            absent = name in response.removed or (response.complete and name not in added)
            if url == types.SECRET and absent:
                del self._awaited[url, name]
                log.warning("secret %s does not exist: TLS handshakes that need it fail until it does", name)

    def _hand_over(
        self, sub: Subscription, added: dict[str, bytes], versions: dict[str, str], removed: set[str], version: str
    ) -> Steps[dict[str, ConfigError]]:
        """Let the consumer have all of it; what it refuses, by name."""
        if not added and not removed:
            return {}
        refused = yield from self._consumer.apply(sub.type_url, added, removed, version)
        needed = self._needs.get(sub.type_url)
        for name, encoded in added.items():
            if name in refused:
                continue
            self._staged = True
            sub.held[name] = versions[name]
            if needed is not None:
                needed[name] = needs(sub.type_url, encoded)
                yield
        for name in removed - refused.keys():
            self._staged = True
            sub.held.pop(name, None)
            if needed is not None:
                needed.pop(name, None)
        return refused

    def _follow(self, parent: str, child: str, now: float) -> Steps[list[bytes]]:
        """Subscribe to what, of type `child`, the resources of type `parent` refer to now."""
        sub = self._subs[child]
        needed = (some.get(child, ()) for some in self._needs[parent].values())
        wanted: set[str] = set(self._lasting.get(child, ())).union(*needed)
        added, dropped = wanted - sub.names, sub.names - wanted
        if not added and not dropped:
            return []
        sub.names = wanted
        for name in sorted(added):
            self._awaited[sub.type_url, name] = now
        for name in dropped:
            self._awaited.pop((sub.type_url, name), None)
            sub.held.pop(name, None)
        if dropped:
            yield from self._drop(sub, dropped)
        if sub.opened:
            return [self._dialect.change(sub, added, dropped)]
        sub.opened = True
        return [self._dialect.open(sub, None)]

    def _drop(self, sub: Subscription, names: set[str]) -> Steps[None]:
        """Nothing refers to these any more."""
        refused = yield from self._consumer.apply(sub.type_url, {}, names, sub.version)
        self._staged = self._staged or len(refused) < len(names)
        if refused:
            error = next(iter(refused.values()))
            self._stats.last_error = f"{LABEL[sub.type_url]} could not be dropped: {error}"

    def _publish_if_complete(self) -> Steps[None]:
        if self.missing():
            return
        if self._staged:
            yield from self._consumer.publish()
            self._staged = False
            self._stats.published += 1
        self.ready = True


def _summary(errors: list[ConfigError]) -> str:
    """What goes into error_detail."""
    lines = [str(error) for error in errors[:MAX_ERRORS_NAMED]]
    if len(errors) > MAX_ERRORS_NAMED:
        lines.append(f"and {len(errors) - MAX_ERRORS_NAMED} more")
    return "; ".join(lines)[:MAX_ERROR_LENGTH]
