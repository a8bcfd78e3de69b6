"""Header changes of table, virtual host and route, folded into one `HeaderMutation` when configuration is compiled.

Envoy evaluates level by level: the route's first, then the virtual host's, then the table's, so that the table has the
last word; `most_specific_header_mutations_wins` turns that around. At each level it first removes, then adds in the
order given. Names do not affect each other, so the operations on one name can be folded beforehand into what they come
to: its removal, its replacement, a value if it is absent, and values that are appended, applied in that order.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from envoy.config.core.v3.base_pb2 import HeaderValueOption

from pymesh.errors import ConfigError
from pymesh.names import FRAMING_HEADERS
from pymesh_proxy.config.fields import header_value
from pymesh_proxy.routing import NO_CHANGES, HeaderMutation

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class Level:
    """The operations of one level: names to remove, then (action, name, value) in order."""

    remove: tuple[bytes, ...]
    add: tuple[tuple[int, bytes, bytes], ...]


def level(options: Iterable[HeaderValueOption], remove: Iterable[str], path_add: str, path_remove: str) -> Level:
    """One level's operations; the paths are those of the two fields.

    Raises:
        ConfigError: a name is not one or must not be changed, or a value holds control characters or substitutions.
    """
    added = []
    for index, option in enumerate(options):
        here = f"{path_add}[{index}].header"
        name = _name(option.header.key, f"{here}.key")
        value = _value(option.header.value, f"{here}.value")
        if value or option.keep_empty_value:
            added.append((option.append_action, name, value))
    removed = tuple(_name(name, f"{path_remove}[{index}]") for index, name in enumerate(remove))
    return Level(removed, tuple(added))


def fold(levels: Sequence[Level]) -> HeaderMutation:
    """What `levels`, applied one after the other, come to."""
    names: dict[bytes, _Name] = {}
    for one in levels:
        for name in one.remove:
            names.setdefault(name, _Name()).clear()
        for action, name, value in one.add:
            names.setdefault(name, _Name()).apply(action, value)
    changes = HeaderMutation(
        remove=tuple(name for name, state in names.items() if state.cleared and not state.values),
        set=tuple((name, state.values[0]) for name, state in names.items() if state.cleared and state.values),
        set_if_absent=tuple((name, state.if_absent) for name, state in names.items() if state.if_absent is not None),
        add=tuple((name, value) for name, state in names.items() for value in state.values[int(state.cleared) :]),
    )
    return NO_CHANGES if changes == NO_CHANGES else changes  # by identity, nothing is nothing to do


@dataclass(slots=True)
class _Name:
    """What has become of one header so far: whether what came with the message is gone, and what was put there."""

    cleared: bool = False
    if_absent: bytes | None = None
    values: list[bytes] = field(default_factory=list)

    def clear(self) -> None:
        self.cleared, self.if_absent, self.values = True, None, []

    def apply(self, action: int, value: bytes) -> None:
        if action == HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD:
            self.clear()
            self.values.append(value)
        elif action == HeaderValueOption.APPEND_IF_EXISTS_OR_ADD or (self.cleared and not self.values):
            self.values.append(value)
        elif not self.values and self.if_absent is None:  # ADD_IF_ABSENT, and only the message will tell
            self.if_absent = value


def _name(text: str, path: str) -> bytes:
    name = text.lower()
    if name.startswith(":") or name == "host":
        raise ConfigError(f"{name!r} must not be changed; host_rewrite_literal changes the host", path=path)
    if name in FRAMING_HEADERS:
        raise ConfigError(f"{name!r} must not be changed: it says where a message or its connection ends", path=path)
    if not _TOKEN.fullmatch(name):
        raise ConfigError(f"{text!r} is not a header name", path=path)
    return name.encode()


def _value(text: str, path: str) -> bytes:
    plain = header_value(text, path).replace("%%", "")
    if "%" in plain:
        raise ConfigError("command operators are not supported; write `%%` for a percent sign", path=path)
    return text.replace("%%", "%").encode()
