"""Yes or no: a check against the rate limits in force, and its answer as Envoy takes it. Pure: time is an argument.

Source: envoy.service.auth.v3 (external_auth.proto, attribute_context.proto).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse, DeniedHttpResponse, OkHttpResponse
from envoy.type.v3.http_status_pb2 import HttpStatus, StatusCode
from google.rpc.status_pb2 import Status

from pymesh import policy_api
from pymesh_controlplane.policy.buckets import NANOSECONDS, Buckets
from pymesh_controlplane.policy.rules import Rate, Rules

# google.rpc.Code; Envoy takes any but OK for a refusal.
_RESOURCE_EXHAUSTED: Final = 8

_PER: Final = {1: "a second", 60: "a minute", 3600: "an hour", 86_400: "a day"}


@dataclass(frozen=True, slots=True)
class Decision:
    """What is decided about one request.

    Attributes:
        rules: those that were asked about and are in force.
        refused_by: the one that refuses it, with the longest wait; "" if none does.
        wait: seconds until the same request would be let in.
    """

    rules: tuple[str, ...]
    refused_by: str = ""
    wait: float = 0.0


@dataclass(slots=True)
class Limits:
    """The rate limits in force and what was spent of them."""

    rules: Rules = field(default_factory=Rules)
    buckets: dict[str, Buckets] = field(default_factory=dict)

    def put(self, rules: Rules, now: int) -> None:
        """Go by other rules; what was spent of those that stay is not forgotten. `now` in nanoseconds."""
        rates = {name: rule.limit for name, rule in rules.by_name.items() if isinstance(rule.limit, Rate)}
        self.rules = rules
        self.buckets = {name: self.buckets.get(name) or Buckets(rate) for name, rate in rates.items()}
        for name, bucket in self.buckets.items():
            if bucket.rate != rates[name]:
                bucket.change(rates[name], now)

    def decide(self, asked: Sequence[str], attributes: AttributeContext, now: int) -> Decision:
        """Spend one request of all rules that are `asked` about, or, if one of them refuses, of none."""
        keys = {name: key_of(self.buckets[name].rate.by, attributes) for name in asked if name in self.buckets}
        waits = {name: self.buckets[name].wait(key, now) for name, key in keys.items()}
        longest = max(waits, key=waits.__getitem__, default="")
        if longest and waits[longest]:
            return Decision(tuple(keys), longest, waits[longest] / NANOSECONDS)
        for name, key in keys.items():
            self.buckets[name].take(key, now)
        return Decision(tuple(keys))


def asked_rules(attributes: AttributeContext) -> tuple[str, ...]:
    """The names of the rules that a check is about. It may be about none: so a sidecar asks whether we are back.

    Raises:
        ValueError: there are more than MAX_RULES.
    """
    text = attributes.context_extensions.get(policy_api.RULES_EXTENSION, "")
    found = tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))
    if len(found) > policy_api.MAX_RULES:
        raise ValueError(f"the check names {len(found)} rules; {policy_api.MAX_RULES} are allowed")
    return found


def key_of(by: Sequence[str], attributes: AttributeContext) -> tuple[str, ...]:
    """The values of the attributes `by`, in their order; "" for what a request does not have."""
    return tuple(_value(name, attributes) for name in by)


def _value(name: str, attributes: AttributeContext) -> str:
    request = attributes.request.http
    if name.startswith("request.headers["):
        headers: Mapping[str, str] = request.headers
        return headers.get(name[len("request.headers[") : -1].lower(), "")
    values = {
        "source.principal": attributes.source.principal,
        "source.address": attributes.source.address.socket_address.address,
        "request.method": request.method,
        "request.host": request.host.lower(),
        "request.path": request.path.partition("?")[0],
    }
    return values[name]


def answer(decision: Decision, rules: Rules) -> CheckResponse:
    """The decision in the words of the API, with what a sidecar needs to remember it."""
    named = (decision.refused_by,) if decision.refused_by else decision.rules
    limits = [rules.by_name[name].limit for name in named]
    by = dict.fromkeys(attribute for limit in limits if isinstance(limit, Rate) for attribute in limit.by)
    response = CheckResponse()
    response.dynamic_metadata.get_or_create_struct(policy_api.ANSWER_METADATA).update(
        {
            "rule": ",".join(named),
            "epoch": rules.epoch,
            # An answer holds for the request that was asked about, and for no other: nothing is to be reused yet.
            "valid_for": "0s",
            "valid_uses": 0,
            "attributes": list(by),
        }
    )
    if not decision.refused_by:
        response.ok_response.CopyFrom(OkHttpResponse())
        return response
    wait = max(1, -int(-decision.wait // 1))
    sentence = f"{decision.refused_by}: {_in_words(limits[0])}; try again in {wait} s"
    response.status.CopyFrom(Status(code=_RESOURCE_EXHAUSTED, message=sentence))
    response.denied_response.CopyFrom(
        DeniedHttpResponse(
            status=HttpStatus(code=StatusCode.TooManyRequests),
            headers=[
                HeaderValueOption(header=HeaderValue(key=key, value=value))
                for key, value in (
                    ("retry-after", str(wait)),
                    ("proxy-status", f'pymesh; error=http_request_denied; details="{decision.refused_by}"'),
                    ("content-type", "text/plain; charset=utf-8"),
                )
            ],
            body=f"{sentence}\n",
        )
    )
    return response


def _in_words(limit: object) -> str:
    if not isinstance(limit, Rate):
        return "no more requests now"
    burst = f", {limit.burst} at once" if limit.burst != limit.requests else ""
    apart = f" for each {', '.join(limit.by)}" if limit.by else ""
    return f"{limit.requests} {_PER[limit.period]}{burst}{apart}"
