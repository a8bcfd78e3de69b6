"""The last answers of the policy service, for as long as it is away: bounded, the least recently used go first."""

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Final

from pymesh_proxy.filters.authz import Answer
from pymesh_proxy.filters.base import RequestContext

# Answers kept, over all rules of a policy service. An allowance is some 100 bytes, a denial what the service said.
MAX_ANSWERS: Final = 4096
# Bytes of headers and body of a denial; a longer one is remembered without them.
MAX_ANSWER_BYTES: Final = 1024
# Characters of an attribute's value that are kept as they are; of longer ones, a digest is.
MAX_VALUE: Final = 256

# An attribute of a request, as `by` names them.
Attribute = Callable[[RequestContext], str]
Key = tuple[str, ...]

_HEADER: Final = re.compile(r"request\.headers\[([!#$%&'*+.^_`|~0-9A-Za-z-]+)\]")
_ATTRIBUTES: Final[dict[str, Attribute]] = {
    "source.principal": lambda context: context.record.facts.peer,
    "source.address": lambda context: context.record.facts.remote.rpartition(":")[0],
    "request.method": lambda context: context.record.method,
    "request.host": lambda context: context.request.authority.decode("latin-1"),
    "request.path": lambda context: context.request.path.partition(b"?")[0].decode("latin-1"),
}


def attribute(name: str) -> Attribute:
    """The attribute called `name`: `source.principal`, `request.path`, `request.headers[x]` ...

    Raises:
        ValueError: there is none of this name.
    """
    header = _HEADER.fullmatch(name)
    if header is not None:
        wanted = header[1].lower().encode()
        return lambda context: (context.request.get(wanted) or b"").decode("latin-1")
    if name not in _ATTRIBUTES:
        raise ValueError(f"{name!r} is no attribute; there are {', '.join(_ATTRIBUTES)} and request.headers[NAME]")
    return _ATTRIBUTES[name]


class Remembered:
    """Answers by rule and key."""

    def __init__(self, most: int = MAX_ANSWERS) -> None:
        self._most = most
        self._answers: OrderedDict[tuple[str, Key], Answer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def put(self, rule: str, key: Key, answer: Answer) -> None:
        """Remember the answer to the last question about `rule` and `key`."""
        if len(answer.body) + sum(len(name) + len(value) for name, value in answer.headers) > MAX_ANSWER_BYTES:
            answer = replace(answer, body=b"", headers=())
        self._answers[rule, key] = answer
        self._answers.move_to_end((rule, key))
        if len(self._answers) > self._most:
            self._answers.popitem(last=False)

    def get(self, rule: str, key: Key) -> Answer | None:
        """The last answer; None where there was none, or where it was too long ago."""
        found = self._answers.get((rule, key))
        if found is not None:
            self._answers.move_to_end((rule, key))
        return found


def key_of(context: RequestContext, by: tuple[Attribute, ...]) -> Key:
    """What `by` distinguishes requests by."""
    return tuple([_short(read(context)) for read in by])


def _short(value: str) -> str:
    return value if len(value) <= MAX_VALUE else sha256(value.encode("utf-8", "surrogateescape")).hexdigest()
