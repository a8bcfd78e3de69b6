"""The shape of a head: the names of its fields, in their order. Sans-IO.

Messages on a connection differ in their paths, ids, cookies and lengths, but one client sends the same names in the
same order nearly every time, and so does a server. What the names alone decide is therefore found out once for a shape
and not for every head: where each field is, whether the names are well-formed, whether a proxy has anything to do.

A reader of heads keeps the shape of the last one and asks first whether the next has it, too: whether its lines begin
as they should. That costs a quarter of taking them apart (see `shape_of`). A head of another shape costs both.

A shape holds names and no values; those that are kept are few and small (`_KEPT`), so memory is bounded whatever comes.
"""

import re
from functools import lru_cache
from operator import getitem
from typing import Final

# Connection-specific fields (RFC 9110 7.6.1, and Proxy-Connection, which RFC 9112 C.2.2 says never to forward).
HOP_BY_HOP: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade"})
# Fields that decide where a message ends and what becomes of its connection.
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"connection"})

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:")
# What may stand in a line besides its CRLF (RFC 9110 5.5) is mapped to itself, anything else to something else.
_CLEAN: Final = bytes(byte if byte == 9 or (byte >= 32 and byte != 127) else byte ^ 1 for byte in range(256))

# Shapes that are remembered, and how large they may be: 3 MB if somebody does his worst. A proxy sees tens of them.
_KEPT: Final = 128
_MAX_KEPT_NAMES: Final = 40
_MAX_KEPT_BYTES: Final = 1024


class Shape:
    """The names of a head's fields. Made by `shape_of`, and by `without`.

    Attributes:
        names: in lower case, in their order.
        prefixes: as a client spells them, each with its colon; empty where heads are not to be compared with it.
        spans: where each prefix stands in its line.
        where: the place of each name among the lines, the first one if it is repeated.
        repeated: names that are there more than once, in the order in which their second field comes.
        framing: whether one of the fields has to do with framing or persistence.
        envoy: whether one of the fields is of Envoy's, `x-envoy-…`.
        hop_by_hop: whether one of the fields is meant for one connection only.
        underscored: whether a name has an underscore.
        small: whether it is small enough to be remembered.
    """

    __slots__ = (
        "_asked", "envoy", "framing", "hop_by_hop", "names", "prefixes", "repeated", "small", "spans", "underscored",
        "where",
    )  # fmt: skip

    def __init__(self, names: tuple[bytes, ...], prefixes: tuple[bytes, ...] = ()) -> None:
        self.names = names
        self.prefixes = prefixes
        self.spans = tuple([slice(0, len(prefix)) for prefix in prefixes])
        self.small = len(names) <= _MAX_KEPT_NAMES and sum(map(len, names)) <= _MAX_KEPT_BYTES
        self.where: dict[bytes, int] = {}
        repeated: dict[bytes, None] = {}
        for place, name in enumerate(names):
            if self.where.setdefault(name, place) != place:
                repeated[name] = None
        self.repeated = tuple(repeated)
        self.framing = not _FRAMING.isdisjoint(self.where)
        self.envoy = any(name.startswith(b"x-envoy-") for name in names)
        self.hop_by_hop = not HOP_BY_HOP.isdisjoint(self.where)
        self.underscored = b"_" in b"".join(names)
        self._asked: dict[frozenset[bytes], bool] = {}

    def has_any(self, names: frozenset[bytes]) -> bool:
        """Whether it has one of `names`: a constant of the code, so that the answer is worth keeping."""
        found = self._asked.get(names)
        if found is None:
            found = self._asked[names] = not names.isdisjoint(self.where)
        return found


NO_FIELDS: Final = Shape(())
_kept: dict[tuple[bytes, ...], Shape] = {}


def shape_of(lines: list[bytes], like: Shape = NO_FIELDS) -> Shape | None:
    """The shape of a head with these field lines (without their CRLF), which is perhaps `like`.

    None if one of them is not `name:value` as RFC 9112 section 5 has it: then no line of the head must be believed.
    """
    if not lines:
        return NO_FIELDS
    # One translation looks at every byte. For ten lines of 445 bytes, in ns: this and what comes before it 330, the
    # comparison 380; instead of that `find` and slices 1,250. One pattern over the whole head 880, and 1,400 more to
    # know its names; a pattern with a group for each name that a proxy asks for 2,000.
    text = b"".join(lines)
    if text.translate(_CLEAN) != text:
        return None
    prefixes = like.prefixes
    if len(lines) == len(prefixes) and tuple(map(getitem, lines, like.spans)) == prefixes:
        return like
    # Without a colon `find` says -1, and nothing is no name.
    spelled = tuple([line[: line.find(b":") + 1] for line in lines])
    return _kept.get(spelled) or _new_shape(spelled)


def _new_shape(spelled: tuple[bytes, ...]) -> Shape | None:
    for name in spelled:
        if _NAME.fullmatch(name) is None:
            return None
    names = tuple([name[:-1].lower() for name in spelled])
    shape = Shape(names, spelled)
    if not shape.small:
        return Shape(names)
    if len(_kept) >= _KEPT:
        _kept.clear()
    _kept[spelled] = shape
    return shape


def without(shape: Shape, names: frozenset[bytes]) -> tuple[tuple[int, ...], Shape]:
    """Which lines of a head with `shape` have one of `names`, the last of them first, and the shape of the others."""
    places = tuple([place for place, name in enumerate(shape.names) if name in names])
    if not places:
        return (), shape
    return places[::-1], Shape(tuple([name for name in shape.names if name not in names]))


# For small shapes. (A large one would be kept by it.)
known_without = lru_cache(maxsize=_KEPT)(without)
