"""xDS messages from YAML, as a person would write them, checked like the ones that arrive."""

from typing import Final, TypeVar

from google.protobuf.message import Message

from pymesh.xds.check import check
from pymesh.xds.decode import from_data
from pymesh.xds.text import parse

M = TypeVar("M", bound=Message)

HCM: Final = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER: Final = (
    "{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}"
)


def message(kind: type[M], text: str) -> M:
    """The message that `text` describes; raises ConfigError where it holds something unsupported."""
    found = from_data(parse(text, "test.yaml").data, kind)
    check(found)
    return found
