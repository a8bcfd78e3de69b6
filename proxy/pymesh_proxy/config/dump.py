"""The resources in force as `/config_dump` shows them, in the shape of Envoy's answer; private keys left out.

Source: envoy.admin.v3.ConfigDump
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, cast

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from pymesh.steps import Steps
from pymesh.xds import types
from pymesh_proxy.config.resource import KINDS

REDACTED: Final = "[redacted]"

# Type URL -> name of Envoy's section, and the word for one resource in it.
_SECTIONS: Final = {
    types.CLUSTER: ("ClustersConfigDump", "cluster"),
    types.LISTENER: ("ListenersConfigDump", "listener"),
    types.ROUTE: ("RoutesConfigDump", "route_config"),
    types.ENDPOINT: ("EndpointsConfigDump", "endpoint_config"),
}


def dumping(
    encoded: Callable[[str], Mapping[str, bytes]], is_static: Callable[[str, str], bool]
) -> Steps[dict[str, object]]:
    """`{"configs": [...]}`, one section for each type, static resources and dynamic ones apart; a step a resource.

    Args:
        encoded: the resources of one type, by name.
        is_static: whether the resource (type URL, name) comes from the bootstrap file.
    """
    configs = []
    for type_url, (section, word) in _SECTIONS.items():
        found = encoded(type_url)
        static = {name for name in found if is_static(type_url, name)}
        section_data: dict[str, object] = {"@type": f"{types.PREFIX}envoy.admin.v3.{section}"}
        for kind, names in (("static", static), ("dynamic", found.keys() - static)):
            section_data[f"{kind}_{word}s"] = yield from _resources(found, sorted(names), type_url, word)
        configs.append(section_data)
    return {"configs": configs}


def _resources(encoded: Mapping[str, bytes], names: Iterable[str], type_url: str, word: str) -> Steps[list[object]]:
    found: list[object] = []
    for name in names:
        message = KINDS[type_url].FromString(encoded[name])
        found.append({word: {"@type": type_url, **as_data(message)}})
        yield
    return found


def as_data(message: Message) -> dict[str, object]:
    """`message` as protobuf's JSON has it, field names as in the schema, without private keys."""
    return cast("dict[str, object]", _redact(MessageToDict(message, preserving_proto_field_name=True)))


def _redact(data: object) -> object:
    if isinstance(data, dict):
        return {key: REDACTED if key == "private_key" else _redact(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_redact(item) for item in data]
    return data
