"""Remembered answers of the policy service. Each says itself for how long, how often and for which requests (by which
attributes) it may be used again; and it is the last word for those while the service is away, or where a rate goes on
from. Bounded: the least recently used go first. Pure: time is an argument.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from typing import Final

from pymesh import policy_attributes
from pymesh.xds import filter_names
from pymesh_proxy.filters.authz import Answer
from pymesh_proxy.filters.base import RequestContext
from pymesh_proxy.filters.bucket import Bucket

# Answers kept, over all rules of a policy service. An allowance is some 100 bytes, a denial what the service said.
MAX_ANSWERS: Final = 4096
# Bytes of headers and body of a denial; a longer one is remembered without them.
MAX_ANSWER_BYTES: Final = 1024
# Sets of attributes that the answers of one rule are remembered by; those by yet others are not remembered.
MAX_SHAPES: Final = 8
# Characters of an attribute's value that are kept as they are; of longer ones, a digest is, which no value is itself.
MAX_VALUE: Final = 256

# An attribute of a request, as `by` names them; None of a path template that does not match.
Attribute = Callable[[RequestContext], str | None]
Key = tuple[str, ...]


def _path(context: RequestContext) -> str:
    return context.request.path.partition(b"?")[0].decode("latin-1")


def _claims(context: RequestContext) -> Mapping[str, object]:
    """The claims of the JWT that was verified; empty without one."""
    found = context.record.metadata.get(filter_names.HTTP_JWT_AUTHN, {}).get(filter_names.JWT_PAYLOAD)
    return found if isinstance(found, Mapping) else {}


_ATTRIBUTES: Final[dict[str, Attribute]] = {
    "source.principal": lambda context: context.record.facts.peer,
    "source.namespace": lambda context: policy_attributes.namespace_of(context.record.facts.peer),
    "source.serviceAccount": lambda context: policy_attributes.account_of(context.record.facts.peer),
    "source.address": lambda context: context.record.facts.remote.rpartition(":")[0],
    "request.method": lambda context: context.record.method,
    "request.host": lambda context: context.request.authority.decode("latin-1").lower(),
    "request.path": _path,
    "request.auth.principal": lambda context: policy_attributes.auth_principal_of(_claims(context)),
}


def attribute(name: str) -> Attribute:
    """The attribute called `name`: `source.principal`, `request.path`, `request.headers[x]` ...

    Raises:
        ValueError: there is none of this name.
    """
    named = policy_attributes.parse(name)
    if (template := named.template) is not None:
        return lambda context: template.of(_path(context))
    if named.kind == "request.headers":
        wanted = named.header.encode()
        return lambda context: (context.request.get(wanted) or b"").decode("latin-1")
    if named.kind == "request.auth.claims":
        return lambda context: policy_attributes.claim_of(_claims(context), named.claim)
    return _ATTRIBUTES[named.kind]


@dataclass(frozen=True, slots=True)
class Attributes:
    """What answers are told apart by: attributes by name, and what reads each."""

    names: tuple[str, ...] = ()
    read: tuple[Attribute, ...] = field(default=(), compare=False, repr=False)


NO_ATTRIBUTES: Final = Attributes()


@lru_cache(maxsize=256)
def attributes_of(names: tuple[str, ...]) -> Attributes:
    """The attributes called `names`. Raises ValueError where there is none of a name."""
    return Attributes(names, tuple(attribute(name) for name in names))


@dataclass(slots=True)
class Kept:
    """An answer, until when it is good for others, and for how many more of them.

    `lets_in`: it allows, and the rule would have, were it not on a dry run. `bucket`: of a rate that has said where it
    stood.
    """

    answer: Answer
    lets_in: bool
    until: float = 0.0
    uses: int = 0
    bucket: Bucket | None = None


class Remembered:
    """Answers by rule, attributes and their values.

    Attributes:
        epoch: the set of rules that they were given by.
    """

    def __init__(self, most: int = MAX_ANSWERS) -> None:
        self.epoch = ""
        self._most = most
        self._sparse = most // 2  # as long as there are no more, it does not matter yet who was used last
        self._kept: OrderedDict[tuple[str, tuple[str, ...], Key], Kept] = OrderedDict()
        self._shapes: dict[str, dict[tuple[str, ...], Attributes]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def follow(self, epoch: str, *, asked_in: str | None = None) -> bool:
        """The service goes by the rules of `epoch`: what was said by others is forgotten, at once.

        An answer may be late: to a question that was `asked_in` an epoch, while another has been heard of meanwhile. It
        changes nothing then. Returns whether `epoch` is the one in force.
        """
        if epoch == self.epoch:
            return True
        if asked_in is not None and asked_in != self.epoch:
            return False
        self.epoch = epoch
        self._kept.clear()
        self._shapes.clear()
        return True

    def put(self, rule: str, by: Attributes, key: Key, answer: Answer, *, context: RequestContext, now: float) -> None:
        """Remember the answer to the question about a request: by what it says, else by `by`, as the last one."""
        memory = answer.ours.memories.get(rule)
        if len(answer.body) + sum(len(name) + len(value) for name, value in answer.headers) > MAX_ANSWER_BYTES:
            answer = replace(answer, body=b"", headers=())
        level = answer.ours.rates.get(rule)
        lets_in = answer.allowed and rule not in answer.ours.would_refuse
        kept = Kept(answer, lets_in, bucket=None if level is None else level.bucket(now))
        if memory is not None:
            kept.until, kept.uses = now + memory.valid_for, memory.uses - 1  # one of them is this request
            by = attributes_of(memory.attributes)
            found = key_of(context, by.read)
            if found is None:
                return
            key = found
        shapes = self._shapes.setdefault(rule, {})
        if by.names not in shapes and len(shapes) >= MAX_SHAPES:
            return
        shapes[by.names] = by
        place = rule, by.names, key
        self._kept[place] = kept
        self._kept.move_to_end(place)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def fresh(self, rule: str, by: Attributes, key: Key, context: RequestContext, now: float) -> Kept | None:
        """An answer that is still good for this request, which has the `key` by `by`: it is used once more."""
        shapes = self._shapes.get(rule)
        if shapes is None:
            return None
        for names, other in shapes.items():
            values = key if names == by.names else key_of(context, other.read)
            if values is None:
                continue
            place = rule, names, values
            kept = self._kept.get(place)
            if kept is not None and kept.uses > 0 and now < kept.until:
                kept.uses -= 1
                if len(self._kept) > self._sparse:
                    self._kept.move_to_end(place)
                return kept
        return None

    def last(self, rule: str, by: Attributes, key: Key, context: RequestContext) -> Kept | None:
        """The last answer, however old; None where there was none, or where it was too long ago."""
        found = self._kept.get((rule, by.names, key))
        if found is not None:
            self._kept.move_to_end((rule, by.names, key))
            return found
        for names, other in self._shapes.get(rule, {}).items():
            values = key_of(context, other.read)
            if values is not None and (found := self._kept.get((rule, names, values))) is not None:
                return found
        return None


def key_of(context: RequestContext, by: tuple[Attribute, ...]) -> Key | None:
    """What `by` distinguishes requests by; None where a path template in it does not match."""
    found: list[str] = []
    for read in by:
        value = read(context)
        if value is None:
            return None
        found.append(value if len(value) <= MAX_VALUE else _digest(value))
    return tuple(found)


def _digest(value: str) -> str:
    """What stands for a long value, behind a NUL: no header, path or name has one, so that no value is one."""
    return "\0" + sha256(value.encode("utf-8", "surrogateescape")).hexdigest()
