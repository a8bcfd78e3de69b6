"""A dict that does not grow beyond a number of entries: what was put in first goes first."""

from typing import TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def remember(known: dict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    """Put `value` into `known`, in which there are `most` entries at most."""
    if len(known) >= most:
        del known[next(iter(known))]
    known[key] = value
