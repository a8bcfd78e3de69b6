"""The filter that asks the policy service: a TypedStruct of our own → PolicyFilter.

    type_url: type.googleapis.com/pymesh.policy.v1alpha1.Policy
    value:
      cluster: outbound|9091||policy.pymesh-system.svc.cluster.local
      timeout: 0.05s                                # the longest that a request waits for the service
      rules:
      - name: ConcurrencyLimit bookinfo/reviews
        kind: slots                                 # or rate, or check
        max: 100                                    # with slots only
        requests: 600                               # with rate only: so many in `period`, `burst` at once
        period: 60s
        burst: 100
        failure_mode: LAST_DECISION                 # OPEN, CLOSED
        otherwise: CLOSED                           # OPEN; for LAST_DECISION without one
        by: [source.principal]                      # with check only: what last answers are kept by
        remembered: true                            # with check only: answers may be good for others for long
        dry_run: true                               # count what it would refuse, and let it in

Unknown keys are refused, like unknown fields of a message.
"""

from typing import Final

from google.protobuf.struct_pb2 import Value
from xds.type.v3.typed_struct_pb2 import TypedStruct

from pymesh.errors import ConfigError
from pymesh.policy_api import FILTER, MAX_RULES
from pymesh.xds.check import join
from pymesh_proxy.config import typed_struct
from pymesh_proxy.filters.base import HttpFilter
from pymesh_proxy.filters.policy import CheckSettings, PolicyFilter, PolicySettings
from pymesh_proxy.filters.rates import RateSettings
from pymesh_proxy.filters.remembered import attributes_of
from pymesh_proxy.filters.slots import SlotSettings
from pymesh_proxy.filters.standing import Mode

# Seconds, where the configuration does not say.
DEFAULT_TIMEOUT: Final = 0.05
# Seconds: a second, a minute, an hour, a day.
PERIODS: Final = frozenset({1, 60, 3600, 86_400})
# Slots travel as 32-bit numbers.
MAX_SLOTS: Final = 2**31 - 1


def policy_filter(message: TypedStruct, path: str) -> HttpFilter:
    """The filter in a TypedStruct.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    here = join(path, "value")
    fields = typed_struct.fields(message.value, here, {"cluster", "rules"}, {"timeout"})
    found = PolicyFilter(
        PolicySettings(
            cluster=typed_struct.text(fields["cluster"], join(here, "cluster")),
            timeout=typed_struct.duration(fields.get("timeout"), join(here, "timeout"), DEFAULT_TIMEOUT),
            rules=_rules(fields["rules"], join(here, "rules")),
        )
    )
    on_complete = found.on_complete if found.leases else None
    return HttpFilter(FILTER, found.on_request, on_complete=on_complete, connect=found.connect)


def _rules(value: Value, path: str) -> tuple[SlotSettings | RateSettings | CheckSettings, ...]:
    rules = []
    names: set[str] = set()
    for here, item in typed_struct.items(value, path):
        rule = _rule(item, here)
        if rule.name in names:
            raise ConfigError(f"the rule {rule.name!r} is given twice", path=join(here, "name"))
        names.add(rule.name)
        rules.append(rule)
    if not 0 < len(rules) <= MAX_RULES:
        raise ConfigError(f"there must be 1 to {MAX_RULES} rules", path=path)
    return tuple(rules)


def _rule(value: Value, path: str) -> SlotSettings | RateSettings | CheckSettings:
    if value.WhichOneof("kind") != "struct_value":
        raise ConfigError("must be an object", path=path)
    kind = typed_struct.word(value.struct_value.fields.get("kind"), ("slots", "rate", "check"), join(path, "kind"))
    required = {"name", "kind", "failure_mode", "otherwise"}
    if kind != "check":
        own = {"max"} if kind == "slots" else {"requests", "period", "burst"}
        fields = typed_struct.fields(value.struct_value, path, required | own, {"by", "dry_run"})
        if "by" in fields and any(typed_struct.items(fields["by"], join(path, "by"))):
            raise ConfigError("goes with kind `check` only", path=join(path, "by"))
    else:
        fields = typed_struct.fields(value.struct_value, path, required, {"by", "dry_run", "remembered"})
    name = typed_struct.text(fields["name"], join(path, "name"))
    if "," in name:  # rule names travel in a list separated by commas
        raise ConfigError("must not hold a comma", path=join(path, "name"))
    mode = Mode(typed_struct.word(fields["failure_mode"], [mode.value for mode in Mode], join(path, "failure_mode")))
    otherwise = Mode(typed_struct.word(fields["otherwise"], ("OPEN", "CLOSED"), join(path, "otherwise")))
    dry_run = typed_struct.flag(fields.get("dry_run"), join(path, "dry_run"))
    if kind == "slots":
        return SlotSettings(name, _count(fields["max"], join(path, "max")), mode, otherwise, dry_run)
    if kind == "rate":
        requests, burst = (_count(fields[key], join(path, key)) for key in ("requests", "burst"))
        seconds = typed_struct.duration(fields["period"], join(path, "period"), 0, longest=max(PERIODS))
        if not requests or not burst or seconds not in PERIODS:
            raise ConfigError("must allow one request at least, in 1, 60, 3600 or 86400 s", path=path)
        return RateSettings(name, requests, int(seconds), burst, mode, otherwise, dry_run)
    by = []
    for here, item in typed_struct.items(fields["by"], join(path, "by")) if "by" in fields else ():
        by.append(typed_struct.text(item, here))
        try:
            attributes_of(tuple(by))
        except ValueError as error:
            raise ConfigError(str(error), path=here) from error
    remembered = typed_struct.flag(fields.get("remembered"), join(path, "remembered"))
    return CheckSettings(name, mode, otherwise, attributes_of(tuple(by)), dry_run, remembered)


def _count(value: Value, path: str) -> int:
    number = value.number_value
    if value.WhichOneof("kind") != "number_value" or number != number // 1 or not 0 <= number <= MAX_SLOTS:
        raise ConfigError(f"must be a whole number from 0 to {MAX_SLOTS}", path=path)
    return int(number)
