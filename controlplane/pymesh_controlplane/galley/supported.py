"""What a proxy would refuse of the messages that pilot makes of a resource."""

from collections.abc import Iterable

from google.protobuf.message import Message

from pymesh.errors import ConfigError
from pymesh.xds.check import check


def unsupported(messages: Iterable[Message]) -> list[str]:
    """Why the proxy would refuse `messages`, one sentence for each that it would."""
    found = []
    for message in messages:
        try:
            check(message)
        except ConfigError as error:
            found.append(f"the proxy does not support what this becomes: {error}")
    return found
