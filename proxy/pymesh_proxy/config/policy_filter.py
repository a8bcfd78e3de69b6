"""The filter that asks the policy service: a TypedStruct of our own → PolicyFilter.

    type_url: type.googleapis.com/pymesh.policy.v1alpha1.Policy
    value:
      cluster: outbound|9091||policy.pymesh-system.svc.cluster.local
      timeout: 0.2s                                 # the longest that a request waits for the service
      rules:
      - name: ConcurrencyLimit bookinfo/reviews
        kind: slots                                 # or check
        max: 100                                    # with slots only
        failure_mode: LAST_DECISION                 # OPEN, CLOSED
        otherwise: CLOSED                           # OPEN; for LAST_DECISION without one
        by: [source.principal]                      # with check only: what answers are remembered by

Unknown keys are refused, like unknown fields of a message.
"""

import re
from collections.abc import Mapping
from typing import Final

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from xds.type.v3.typed_struct_pb2 import TypedStruct

from pymesh.errors import ConfigError
from pymesh.policy_api import FILTER, FILTER_TYPE, MAX_RULES
from pymesh.xds.check import join
from pymesh_proxy.filters.base import HttpFilter
from pymesh_proxy.filters.policy import CheckSettings, PolicyFilter, PolicySettings
from pymesh_proxy.filters.remembered import attribute
from pymesh_proxy.filters.slots import Mode, SlotSettings

# Seconds, where the configuration does not say.
DEFAULT_TIMEOUT: Final = 0.2
# Seconds: a request that waits longer for a policy answer is worse off than without one.
MAX_TIMEOUT: Final = 60.0
# Slots travel as 32-bit numbers.
MAX_SLOTS: Final = 2**31 - 1

_DURATION: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,9})?s")


def policy_filter(message: Message, path: str) -> HttpFilter:
    """The filter in a TypedStruct.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    assert isinstance(message, TypedStruct)
    if message.type_url != FILTER_TYPE:
        problem = f"the type {message.type_url!r} is not supported in a TypedStruct; {FILTER_TYPE} is"
        raise ConfigError(problem, path=join(path, "type_url"))
    here = join(path, "value")
    fields = _fields(message.value, here, {"cluster", "rules"}, {"timeout"})
    found = PolicyFilter(
        PolicySettings(
            cluster=_text(fields["cluster"], join(here, "cluster")),
            timeout=_timeout(fields.get("timeout"), join(here, "timeout")),
            rules=_rules(fields["rules"], join(here, "rules")),
        )
    )
    return HttpFilter(FILTER, found.on_request, on_complete=found.on_complete, connect=found.connect)


def _rules(value: Value, path: str) -> tuple[SlotSettings | CheckSettings, ...]:
    rules = []
    names: set[str] = set()
    for here, item in _items(value, path):
        rule = _rule(item, here)
        if rule.name in names:
            raise ConfigError(f"the rule {rule.name!r} is given twice", path=join(here, "name"))
        names.add(rule.name)
        rules.append(rule)
    if not 0 < len(rules) <= MAX_RULES:
        raise ConfigError(f"there must be 1 to {MAX_RULES} rules", path=path)
    return tuple(rules)


def _rule(value: Value, path: str) -> SlotSettings | CheckSettings:
    if value.WhichOneof("kind") != "struct_value":
        raise ConfigError("must be an object", path=path)
    kind = _word(value.struct_value.fields.get("kind"), ("slots", "check"), join(path, "kind"))
    required = {"name", "kind", "failure_mode", "otherwise"}
    if kind == "slots":
        fields = _fields(value.struct_value, path, required | {"max"}, {"by"})
        if "by" in fields and any(_items(fields["by"], join(path, "by"))):
            raise ConfigError("goes with kind `check` only", path=join(path, "by"))
    else:
        fields = _fields(value.struct_value, path, required, {"by"})
    name = _text(fields["name"], join(path, "name"))
    if "," in name:  # rule names travel in a list separated by commas
        raise ConfigError("must not hold a comma", path=join(path, "name"))
    mode = Mode(_word(fields["failure_mode"], [mode.value for mode in Mode], join(path, "failure_mode")))
    otherwise = Mode(_word(fields["otherwise"], ("OPEN", "CLOSED"), join(path, "otherwise")))
    if kind == "slots":
        return SlotSettings(name, _count(fields["max"], join(path, "max")), mode, otherwise)
    by = []
    for here, item in _items(fields["by"], join(path, "by")) if "by" in fields else ():
        try:
            by.append(attribute(_text(item, here)))
        except ValueError as error:
            raise ConfigError(str(error), path=here) from error
    return CheckSettings(name, mode, otherwise, tuple(by))


def _fields(value: Struct, path: str, required: set[str], optional: set[str]) -> Mapping[str, Value]:
    """The fields of an object, none missing, none unknown."""
    fields = value.fields
    for key in sorted(fields.keys() - required - optional):
        raise ConfigError("this field is not supported; see docs/support.md", path=join(path, key))
    for key in sorted(required - fields.keys()):
        raise ConfigError("is required", path=join(path, key))
    return fields


def _items(value: Value, path: str) -> list[tuple[str, Value]]:
    if value.WhichOneof("kind") != "list_value":
        raise ConfigError("must be a list", path=path)
    return [(f"{path}[{index}]", item) for index, item in enumerate(value.list_value.values)]


def _text(value: Value, path: str) -> str:
    if value.WhichOneof("kind") != "string_value" or not value.string_value:
        raise ConfigError("must be a text that is not empty", path=path)
    return value.string_value


def _word(value: Value | None, words: "tuple[str, ...] | list[str]", path: str) -> str:
    if value is None:
        raise ConfigError("is required", path=path)
    if value.string_value not in words:
        raise ConfigError(f"must be one of {', '.join(words)}", path=path)
    return value.string_value


def _count(value: Value, path: str) -> int:
    number = value.number_value
    if value.WhichOneof("kind") != "number_value" or number != number // 1 or not 0 <= number <= MAX_SLOTS:
        raise ConfigError(f"must be a whole number from 0 to {MAX_SLOTS}", path=path)
    return int(number)


def _timeout(value: Value | None, path: str) -> float:
    if value is None:
        return DEFAULT_TIMEOUT
    text = value.string_value
    if not _DURATION.fullmatch(text) or not 0 < float(text[:-1]) <= MAX_TIMEOUT:
        raise ConfigError(f"must be a duration above 0, at most {MAX_TIMEOUT:g} s, as in 0.2s", path=path)
    return float(text[:-1])
