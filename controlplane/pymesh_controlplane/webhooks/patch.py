"""What turns one JSON value into another: a JSON Patch (RFC 6902), as small as a person would write it. Pure."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

Operation: TypeAlias = Mapping[str, object]


def patch(before: object, after: object) -> list[Operation]:
    """The operations that make `after` of `before`, in their order; none if they are equal.

    Lists whose items have names of their own (containers, volumes, variables) are changed item by item, so that what
    others have in them stays where it is; any other list that differs is replaced.
    """
    return list(_differences(before, after, ""))


def _differences(before: object, after: object, path: str) -> Iterator[Operation]:
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _of_objects(before, after, path)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _of_lists(before, after, path)
    elif not same(before, after):
        yield {"op": "replace", "path": path, "value": after}


def _of_objects(before: Mapping[str, object], after: Mapping[str, object], path: str) -> Iterator[Operation]:
    for name in before:
        if name not in after:
            yield {"op": "remove", "path": f"{path}/{_escaped(name)}"}
    for name, value in after.items():
        here = f"{path}/{_escaped(name)}"
        if name in before:
            yield from _differences(before[name], value, here)
        else:
            yield {"op": "add", "path": here, "value": value}


def _of_lists(before: list[object], after: list[object], path: str) -> Iterator[Operation]:
    if same(before, after):
        return
    old, new = _by_name(before), _by_name(after)
    if old is None or new is None or [name for name in old if name in new] != [name for name in new if name in old]:
        yield {"op": "replace", "path": path, "value": after}
        return
    for index, name in reversed(list(enumerate(old))):
        if name not in new:
            yield {"op": "remove", "path": f"{path}/{index}"}
    # What is left stands in the order of `after`, so each index is the final one once all before it are in place.
    for index, (name, value) in enumerate(new.items()):
        if name in old:
            yield from _differences(old[name], value, f"{path}/{index}")
        else:
            yield {"op": "add", "path": f"{path}/{index}", "value": value}


def _by_name(items: list[object]) -> dict[str, object] | None:
    """The items by their names; None if not each has one of its own."""
    found: dict[str, object] = {}
    for item in items:
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or name in found:
            return None
        found[name] = item
    return found


def same(one: object, other: object) -> bool:
    """Whether two values are the same JSON: unlike for Python, true is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _escaped(name: str) -> str:
    """A member's name in a JSON Pointer (RFC 6901, section 3)."""
    return name.replace("~", "~0").replace("/", "~1")
