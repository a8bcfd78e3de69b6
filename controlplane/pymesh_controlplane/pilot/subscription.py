"""What one proxy has been sent of one type of resource, and what it said to that. Pure: time is an argument.

Sources: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol, sections "ACK/NACK", "How the client
specifies what resources to return", "Deleting resources", "Incremental xDS".
"""

import hashlib
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

from pymesh.xds import types

# Only of these two does an empty list of names mean "all of them".
WILDCARD_TYPES: Final = frozenset({types.CLUSTER, types.LISTENER})
WILDCARD: Final = "*"


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource as it travels: `body` is the serialized message, `version` a digest of it.

    `needs` is, for a cluster with endpoints from pilot, the name of its endpoint assignment; empty for all others.
    """

    name: str
    version: str
    body: bytes = field(default=b"", repr=False)  # may be a key
    needs: str = ""


Resources = Mapping[str, Resource]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a proxy lacks: resources that are new to it or differ, and names that are gone."""

    changed: Mapping[str, Resource]
    removed: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed)

    @property
    def names(self) -> AbstractSet[str]:
        """Of all of them."""
        return self.changed.keys() | self.removed

    def same_as(self, other: "Changes") -> bool:
        """Whether both lead to the same state."""
        return self.removed == other.removed and versions(self.changed) == versions(other.changed)


@dataclass(frozen=True, slots=True)
class Response:
    """One message to a proxy: all it must contain, for either variant of the protocol."""

    type_url: str
    nonce: str
    version: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()


@dataclass(slots=True)
class Outstanding:
    """A response that the proxy has not answered yet."""

    nonce: str
    version: str
    changes: Changes
    sent_at: float


@dataclass(slots=True)
class Subscription:
    """One type of resource on one stream.

    Attributes:
        wildcard: everything of the type is wanted; `names` then adds nothing.
        accepted: what the proxy has and has not refused.
        outstanding: the update under way; there is never a second one beside it.
        rejected: the changes it refused last. They are not sent again as they are, only once they differ.
        due: names to send even if the proxy seems to have them, because it asked or because its cluster changed.
        reply: an answer is owed even if there is nothing to say.
        version, nonce: of the last response; `acked_version` of the last one accepted.
        sent_at, acked_at, rejected_at: seconds on the caller's clock, None if never.
        error: the reason of the last refusal; empty once a later update was accepted.
    """

    type_url: str
    delta: bool
    wildcard: bool = False
    named: bool = False
    names: set[str] = field(default_factory=set)
    accepted: dict[str, Resource] = field(default_factory=dict)
    outstanding: Outstanding | None = None
    rejected: Changes | None = None
    due: set[str] = field(default_factory=set)
    reply: bool = True
    version: str = ""
    acked_version: str = ""
    nonce: str = ""
    sent_at: float | None = None
    acked_at: float | None = None
    rejected_at: float | None = None
    error: str = ""

    @property
    def full_state(self) -> bool:
        """Whether a response holds everything, so that what is missing from it is gone (state of the world)."""
        return not self.delta and self.type_url in WILDCARD_TYPES

    def set_names(self, names: Iterable[str]) -> None:
        """Take the list of names of a state-of-the-world request, in place of the one before."""
        wanted = set(names)
        # An empty list means everything only as long as no name was ever given on the stream.
        everything = WILDCARD in wanted or (not wanted and not self.named and self.type_url in WILDCARD_TYPES)
        self.named = self.named or bool(wanted)
        wanted.discard(WILDCARD)
        added = wanted - self.names
        if (everything and not self.wildcard) or (added and (self.full_state or self.type_url == types.SECRET)):
            self.reply = True  # also where none of it exists: only an answer without it says so
        self.wildcard, self.names = everything, wanted
        self.due |= added
        self._forget_unwanted()

    def resubscribe(self) -> None:
        """The proxy asks as if for the first time: it is owed everything it names."""
        self.reply = True
        self.accepted.clear()
        self.rejected = None

    def subscribe(self, names: Iterable[str], known: Mapping[str, str] | None = None) -> None:
        """Add the names of a delta request; a name that is asked for again is sent again.

        Args:
            names: to add; `*` is everything.
            known: in the first request of a stream, the versions that the proxy kept from the stream before.
        """
        wanted = set(names)
        if known is not None:
            self.wildcard = not wanted and self.type_url in WILDCARD_TYPES
            self.accepted = {name: Resource(name, version) for name, version in known.items()}
        if WILDCARD in wanted:
            wanted.discard(WILDCARD)
            self.wildcard = self.reply = True
        self.names |= wanted
        self.due |= wanted - set(known or ())
        self._forget_unwanted()

    def unsubscribe(self, names: Iterable[str]) -> None:
        """Drop the names of a delta request."""
        dropped = set(names)
        if WILDCARD in dropped:
            self.wildcard = False
        self.names -= dropped
        if self.wildcard:
            self.due |= dropped - {WILDCARD}  # it still has a claim to them, and must hear of them: Incremental xDS
        self._forget_unwanted()

    def changes(self, resources: Resources, *, keep_removed: bool) -> Changes:
        """What the proxy lacks of `resources`; with `keep_removed` nothing is taken away yet."""
        wanted = resources if self.wildcard else {name: resources[name] for name in self.names if name in resources}
        changed = {
            name: resource
            for name, resource in wanted.items()
            if name in self.due or (held := self.accepted.get(name)) is None or held.version != resource.version
        }
        gone: AbstractSet[str] = frozenset()
        if self.delta or self.full_state:  # otherwise nothing can be taken away
            gone = self.due - resources.keys()
            if not keep_removed:
                gone |= self.accepted.keys() - wanted.keys()
        return Changes(changed, frozenset(gone))

    def reconsider(self, changes: Changes) -> None:
        """Once something else is wanted than what was refused, the refusal is history."""
        if self.rejected is not None and not changes.same_as(self.rejected):
            self.rejected = None

    def worth_sending(self, changes: Changes) -> bool:
        """Whether `changes`, which were reconsidered, have to be sent: not if they are just what the proxy refused."""
        return self.reply or (bool(changes) and self.rejected is None)

    def send(self, changes: Changes, nonce: str, now: float) -> Response:
        """The response that carries `changes`; from here on it is outstanding."""
        after = self._after(changes)
        self.version = digest(after)
        self.nonce = nonce
        self.sent_at = now
        self.outstanding = Outstanding(nonce, self.version, changes, now)
        self.rejected = None
        self.reply = False
        self.due.clear()
        sent = after if self.full_state else changes.changed
        removed = sorted(changes.removed) if self.delta else ()
        return Response(self.type_url, nonce, self.version, tuple(sent[name] for name in sorted(sent)), tuple(removed))

    def acknowledge(self, nonce: str, now: float) -> bool:
        """The proxy took the response `nonce`; False if that is not the one outstanding."""
        if self.outstanding is None or self.outstanding.nonce != nonce:
            return False
        self.accepted = dict(self._after(self.outstanding.changes))
        self.acked_version = self.outstanding.version
        self.acked_at = now
        self.error = ""
        self.outstanding = None
        self._forget_unwanted()
        return True

    def refuse(self, nonce: str, error: str, now: float) -> bool:
        """The proxy refused the response `nonce` because of `error`; False if that is not the one outstanding."""
        if self.outstanding is None or self.outstanding.nonce != nonce:
            return False
        self.rejected = self.outstanding.changes
        # Envoy may have taken the good half of it: whatever is wanted of these names next has to be sent.
        self.due |= self.rejected.changed.keys() | self.rejected.removed
        if not self.wildcard:
            self.due &= self.names
        self.rejected_at = now
        self.error = error
        self.outstanding = None
        return True

    def _after(self, changes: Changes) -> Resources:
        kept = {name: held for name, held in self.accepted.items() if name not in changes.removed}
        return {**kept, **changes.changed}

    def _forget_unwanted(self) -> None:
        """A proxy drops what it unsubscribes from, so none of it counts as accepted."""
        if not self.wildcard:
            for name in self.accepted.keys() - self.names:
                del self.accepted[name]
            self.due &= self.names


def versions(resources: Resources) -> dict[str, str]:
    """Version by name."""
    return {name: resource.version for name, resource in resources.items()}


def digest_of(body: bytes) -> str:
    """The version of one serialized resource."""
    return hashlib.blake2b(body, digest_size=8).hexdigest()


def digest(resources: Resources) -> str:
    """One version for all of `resources`: equal for equal content, whatever the process and its uptime."""
    state = hashlib.blake2b(digest_size=8)
    for name in sorted(resources):
        state.update(f"{name}\0{resources[name].version}\0".encode())
    return state.hexdigest()
