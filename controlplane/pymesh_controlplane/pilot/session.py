"""One proxy's stream: requests in, responses out, in an order that never breaks traffic. Pure: time is an argument.

Make before break: clusters and their endpoints are sent first; listeners and routes follow once the proxy has taken
those (Envoy acknowledges clusters only when they are warm, for just this purpose); what is gone is taken away last,
once the proxy has taken the listeners and routes that no longer name it. Source: xDS protocol, "Eventual consistency
considerations".
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final

from pymesh.errors import MeshError
from pymesh.xds import types
from pymesh_controlplane.pilot.bounds import MAX_CONTENT, first_part, size, too_large, without
from pymesh_controlplane.pilot.subscription import WILDCARD_TYPES, Changes, Resources, Response, Subscription

PUSH_ORDER: Final = (types.CLUSTER, types.ENDPOINT, types.LISTENER, types.ROUTE, types.SECRET)
_MADE_FIRST: Final = (types.CLUSTER, types.ENDPOINT)
_MADE_LATER: Final = (types.LISTENER, types.ROUTE)

# Names in all of a type's subscription. A mesh of 5,000 services with four subsets each stays below it.
MAX_NAMES: Final = 50_000
# Seconds that listeners and routes wait for a proxy to take its clusters. Past Envoy's 15 s limit for warming a
# cluster, waiting longer would only keep the rest of the configuration from a proxy that has given up on it.
ACK_PATIENCE: Final = 16.0
# Resources that are gone but kept for a proxy that refuses the listeners or routes which no longer name them.
MAX_KEPT: Final = 1_000
# Characters of a proxy's reason for refusing an update that are kept.
MAX_ERROR_LENGTH: Final = 4_096

# Type URL to the resources that one proxy is to know; none of a type that is not there.
Snapshot = Mapping[str, Resources]


class RequestError(MeshError):
    """A request that no well-behaved client sends; the stream is ended with this text."""


@dataclass(frozen=True, slots=True)
class SotwRequest:
    """A DiscoveryRequest. `error` is None unless the proxy refused the response `nonce`."""

    type_url: str
    nonce: str = ""
    names: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DeltaRequest:
    """A DeltaDiscoveryRequest. `error` is None unless the proxy refused the response `nonce`."""

    type_url: str
    nonce: str = ""
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    known: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None


@dataclass(slots=True)
class Session:
    """The state of one stream. `delta` says which of the two variants it speaks.

    Attributes:
        snapshot: what the proxy is to know; None until pilot knows it.
        changed_at: when the change behind `snapshot` was read.
        expired: requests that answered a response which is not the last one.
        refusals: responses that the proxy refused (NACK).
        most: bytes of resources that one response may hold.
        left_out: by type, the names of resources that are not sent, since they are larger than that.
    """

    delta: bool
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    snapshot: Snapshot | None = None
    changed_at: float | None = None
    expired: int = 0
    refusals: int = 0
    most: int = MAX_CONTENT
    left_out: Mapping[str, frozenset[str]] = field(default_factory=dict)
    _nonce: int = 0
    _concerned: bool = False

    def update(self, snapshot: Snapshot, changed_at: float) -> None:
        """From now on the proxy is to know `snapshot`; an update under way is not disturbed."""
        self.snapshot = snapshot
        self.left_out = {
            kind: too_large(resources, self.most, whole=not self.delta and kind in WILDCARD_TYPES)
            for kind, resources in snapshot.items()
        }
        if self.changed_at is None:
            self.changed_at = changed_at

    def request(self, request: SotwRequest | DeltaRequest, now: float) -> None:
        """Take in what the proxy said. Types that pilot does not serve must be kept away by the caller.

        Raises:
            RequestError: it subscribes to more than MAX_NAMES names.
        """
        subscription = self.subscriptions.get(request.type_url)
        first = subscription is None
        if subscription is None:
            subscription = self.subscriptions[request.type_url] = Subscription(request.type_url, self.delta)
        if isinstance(request, DeltaRequest):
            self._answered(subscription, request.nonce, request.error, now)
            subscription.subscribe(request.subscribe, request.known if first else None)
            subscription.unsubscribe(request.unsubscribe)
        elif first:
            subscription.set_names(request.names)
        elif not request.nonce:
            # Sent before our answer arrived, or by a client that starts anew: either way it is owed all it names.
            subscription.set_names(request.names)
            subscription.resubscribe()
        elif request.nonce != subscription.nonce:
            self.expired += 1  # the client will say it again in its answer to the last response
        else:
            self._answered(subscription, request.nonce, request.error, now)
            subscription.set_names(request.names)
        if len(subscription.names) > MAX_NAMES or len(subscription.accepted) > MAX_NAMES:
            raise RequestError(f"more than {MAX_NAMES} names of {request.type_url} are asked for on one stream")

    def _answered(self, subscription: Subscription, nonce: str, error: str | None, now: float) -> None:
        if not nonce:
            return
        if error is not None:
            if subscription.refuse(nonce, error[:MAX_ERROR_LENGTH], now):
                self.refusals += 1
            elif nonce != subscription.nonce:
                self.expired += 1
        elif not subscription.acknowledge(nonce, now) and nonce != subscription.nonce:
            self.expired += 1

    def responses(self, now: float) -> list[Response]:
        """What is to be sent now, in this order; all of it counts as sent."""
        if self.snapshot is None:
            return []
        sent = []
        for type_url in PUSH_ORDER:
            subscription = self.subscriptions.get(type_url)
            if subscription is None or subscription.outstanding is not None or self._must_wait(type_url, now):
                continue
            all_of_it = self._changes(subscription)
            changes = all_of_it if subscription.full_state else first_part(all_of_it, self.most)
            subscription.reconsider(changes)
            if not subscription.worth_sending(changes):
                continue
            if type_url == types.CLUSTER:
                self._endpoints_again(changes)
            self._nonce += 1
            self._concerned = True
            later = subscription.due & (all_of_it.names - changes.names)  # the rest follows once this is accepted
            sent.append(subscription.send(changes, str(self._nonce), now))
            subscription.due |= later
        return sent

    def deadline(self, now: float) -> float | None:
        """When `responses` is to be asked again even if nothing happens; None: only when something happens."""
        ends = [
            subscription.outstanding.sent_at + ACK_PATIENCE
            for subscription in self._of(_MADE_FIRST)
            if subscription.outstanding is not None
        ]
        return min((end for end in ends if end > now), default=None)

    def converged(self, now: float) -> float | None:
        """Seconds since the change, once, when the proxy has taken it; None before that and if it lacked nothing."""
        if self.changed_at is None or not self.subscriptions or not all(map(self.synced, self.subscriptions)):
            return None
        concerned, seconds = self._concerned, now - self.changed_at
        self.changed_at, self._concerned = None, False
        return seconds if concerned else None

    def synced(self, type_url: str) -> bool:
        """Whether the proxy has accepted everything of `type_url` that it is to know."""
        subscription = self.subscriptions[type_url]
        return (
            self.snapshot is not None
            and subscription.outstanding is None
            and not subscription.reply
            and not self._lacking(subscription, keep_removed=False)
        )

    def _changes(self, subscription: Subscription) -> Changes:
        if subscription.type_url not in _MADE_FIRST:
            return self._lacking(subscription, keep_removed=False)
        resources = (self.snapshot or {}).get(subscription.type_url, {})
        kept = subscription.accepted.keys() - resources.keys()
        if self._may_break() or len(kept) > MAX_KEPT or self._no_room_for(kept, subscription):
            return self._lacking(subscription, keep_removed=False)
        return self._lacking(subscription, keep_removed=True)

    def _lacking(self, subscription: Subscription, *, keep_removed: bool) -> Changes:
        """What the proxy is to know and has not, but for what is too large: there it keeps the version it has."""
        resources = (self.snapshot or {}).get(subscription.type_url, {})
        out = self.left_out.get(subscription.type_url)
        if not out:
            return subscription.changes(resources, keep_removed=keep_removed)
        whole = subscription.full_state
        held = {name: found for name, found in subscription.accepted.items() if name in out}
        # Only where all goes in one message does what is kept take room in it.
        room = self.most if whole else self.most + sum(map(size, [*resources.values(), *held.values()]))
        changes = subscription.changes(without(resources, out, held, room), keep_removed=keep_removed)
        if whole:
            return changes
        # A version that was accepted on a stream before is known by name alone, and never sent again.
        return replace(changes, changed={name: found for name, found in changes.changed.items() if name not in out})

    def _no_room_for(self, kept: AbstractSet[str], subscription: Subscription) -> bool:
        """Whether what is gone does not fit into the one message that holds everything, next to what is there."""
        if not subscription.full_state or not kept:
            return False
        resources = (self.snapshot or {}).get(subscription.type_url, {})
        return sum(map(size, [*resources.values(), *(subscription.accepted[name] for name in kept)])) > self.most

    def _must_wait(self, type_url: str, now: float) -> bool:
        return type_url in _MADE_LATER and any(
            subscription.outstanding is not None and now < subscription.outstanding.sent_at + ACK_PATIENCE
            for subscription in self._of(_MADE_FIRST)
        )

    def _may_break(self) -> bool:
        """Whether no listener and no route in force at the proxy can name what is gone."""
        return all(self.synced(subscription.type_url) for subscription in self._of(_MADE_LATER))

    def _endpoints_again(self, changes: Changes) -> None:
        """A cluster that is built anew waits for its endpoints, even if those are as the proxy had them before."""
        endpoints = self.subscriptions.get(types.ENDPOINT)
        if endpoints is not None:
            endpoints.due |= endpoints.names & {cluster.needs for cluster in changes.changed.values()}

    def _of(self, kinds: tuple[str, ...]) -> list[Subscription]:
        return [self.subscriptions[type_url] for type_url in kinds if type_url in self.subscriptions]
