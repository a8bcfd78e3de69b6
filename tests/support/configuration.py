"""Resources put in force at once, as no proxy does that serves."""

from collections.abc import Iterable, Mapping

from google.protobuf.message import Message

from pymesh.steps import whole
from pymesh_proxy.config.model import Snapshot
from pymesh_proxy.config.resource import encode
from pymesh_proxy.config.snapshot import Configuration


def apply(
    configuration: Configuration, type_url: str, added: Mapping[str, Message], removed: Iterable[str] = ()
) -> Snapshot:
    """Put what was added or changed, by name, and what is gone, in force.

    Raises:
        ConfigError: with `resource` and `path`, the first of what is refused; nothing new is in force.
    """
    encoded = {name: encode(message) for name, message in added.items()}
    before = configuration._state
    for error in whole(configuration.staging(type_url, encoded, removed)).values():
        configuration._state = before
        raise error
    snapshot = whole(configuration.publishing())
    whole(configuration.clearing())
    return snapshot
