"""How much one message to a proxy may hold, and what is left out so that it never holds more. Pure.

A proxy refuses a message that is too large unread, ends the stream, and comes back to be sent the same again: nothing
new reaches any sidecar that the resource is for. So what no message can carry is not sent. The proxy keeps the version
that it has, if it has one, and is served everything else.
"""

from collections.abc import Iterable
from typing import Final

from pymesh.grpc.framing import MAX_MESSAGE_BYTES
from pymesh_controlplane.pilot.subscription import Changes, Resource, Resources

# Bytes of a message beside its resources: type, version, nonce, who sends it.
_FRAME: Final = 1_024
# Bytes beside a resource's name and content: its type's name (less than 100), its version, lengths.
_WRAPPING: Final = 192
# Bytes of all resources of a message: what pymesh's own proxy takes. Envoy takes more.
MAX_CONTENT: Final = MAX_MESSAGE_BYTES - _FRAME


def size(resource: Resource) -> int:
    """Bytes that a resource takes in a message, at most. Names are ASCII."""
    return _WRAPPING + len(resource.name) + len(resource.body)


def too_large(resources: Resources, most: int, *, whole: bool) -> frozenset[str]:
    """The names of those that no message of `most` bytes can carry; the largest, where it must be one for the `whole`.

    Args:
        whole: all of them go in one message (state of the world).
    """
    total = sum(map(size, resources.values()))
    if total <= most:
        return frozenset()
    if not whole:
        return frozenset(name for name, resource in resources.items() if size(resource) > most)
    out: set[str] = set()
    for resource in sorted(resources.values(), key=lambda resource: (-size(resource), resource.name)):
        if total <= most:
            break
        out.add(resource.name)
        total -= size(resource)
    return frozenset(out)


def without(resources: Resources, out: frozenset[str], accepted: Resources, most: int) -> Resources:
    """`resources` but for those in `out`; in place of these, as far as they fit, what the proxy has `accepted`."""
    found = {name: resource for name, resource in resources.items() if name not in out}
    left = most - sum(map(size, found.values()))
    for name in sorted(out & accepted.keys()):
        left -= size(accepted[name])
        if left >= 0:
            found[name] = accepted[name]
    return found


def first_part(changes: Changes, most: int) -> Changes:
    """As many of `changes` as fit into a message of `most` bytes, by name; at least one. What is gone comes first."""
    removed = _fitting(((name, _WRAPPING + len(name)) for name in sorted(changes.removed)), most)
    left = most - sum(_WRAPPING + len(name) for name in removed)
    changed = _fitting(((name, size(changes.changed[name])) for name in sorted(changes.changed)), left)
    if len(removed) == len(changes.removed) and len(changed) == len(changes.changed):
        return changes
    return Changes({name: changes.changed[name] for name in changed}, frozenset(removed))


def _fitting(sizes: Iterable[tuple[str, int]], most: int) -> list[str]:
    found = []
    for name, bytes_of in sizes:
        if bytes_of > most:
            break
        most -= bytes_of
        found.append(name)
    return found
