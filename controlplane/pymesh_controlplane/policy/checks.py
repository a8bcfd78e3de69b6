"""Yes or no: a check against the rate limits in force, and its answer as Envoy takes it. Pure: time is an argument.

Source: envoy.service.auth.v3 (external_auth.proto, attribute_context.proto).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeAlias

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse, DeniedHttpResponse, OkHttpResponse
from envoy.type.v3.http_status_pb2 import HttpStatus, StatusCode
from google.protobuf.json_format import MessageToDict
from google.rpc.status_pb2 import Status

from pymesh import policy_answers, policy_api, policy_attributes
from pymesh_controlplane.policy.buckets import NANOSECONDS, Buckets
from pymesh_controlplane.policy.rules import Rate, Rules

# google.rpc.Code; Envoy takes any but OK for a refusal, and tells it to callers that speak gRPC.
_RESOURCE_EXHAUSTED: Final = 8


@dataclass(frozen=True, slots=True)
class Decision:
    """What is decided about one request.

    Attributes:
        rules: those that were asked about, are in force and are about such a request.
        refused_by: the one that refuses it, with the longest wait; "" if none does.
        wait: seconds until the same request would be let in.
        would_refuse: those that would have refused it if they were not on a dry run.
    """

    rules: tuple[str, ...]
    refused_by: str = ""
    wait: float = 0.0
    would_refuse: tuple[str, ...] = ()


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
        found = ((name, key_of(self.buckets[name].rate.by, attributes)) for name in asked if name in self.buckets)
        keys = {name: key for name, key in found if key is not None}
        waits = {name: wait for name, key in keys.items() if (wait := self.buckets[name].wait(key, now))}
        would = tuple(name for name in waits if self.rules.by_name[name].dry_run)
        longest = max((name for name in waits if name not in would), key=waits.__getitem__, default="")
        if longest:
            return Decision(tuple(keys), longest, waits[longest] / NANOSECONDS, would)
        for name, key in keys.items():
            if name not in waits:
                self.buckets[name].take(key, now)
        return Decision(tuple(keys), would_refuse=would)


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


def key_of(by: Sequence[str], attributes: AttributeContext) -> tuple[str, ...] | None:
    """The values of the attributes `by`, in their order; "" for what a request does not have.

    None if a path template among them does not match: then the rule is not about this request.
    """
    found = tuple([_reader(name)(attributes) for name in by])
    return None if None in found else found  # type: ignore[return-value]  # there is none


def path_of(about: AttributeContext) -> str:
    """The request's path without its query."""
    return about.request.http.path.partition("?")[0]


def claims_of(about: AttributeContext) -> Mapping[str, object]:
    """The claims of the JWT that the proxy has verified; empty without one."""
    metadata = about.metadata_context.filter_metadata
    if policy_attributes.JWT_METADATA not in metadata:
        return {}
    found = MessageToDict(metadata[policy_attributes.JWT_METADATA]).get(policy_attributes.JWT_PAYLOAD)
    return found if isinstance(found, dict) else {}


Reader: TypeAlias = Callable[[AttributeContext], str | None]

_READERS: Final[Mapping[str, Reader]] = {
    "source.principal": lambda about: about.source.principal,
    "source.namespace": lambda about: policy_attributes.namespace_of(about.source.principal),
    "source.serviceAccount": lambda about: policy_attributes.account_of(about.source.principal),
    "source.address": lambda about: about.source.address.socket_address.address,
    "request.method": lambda about: about.request.http.method,
    "request.host": lambda about: about.request.http.host.lower(),
    "request.path": path_of,
    "request.auth.principal": lambda about: policy_attributes.auth_principal_of(claims_of(about)),
}


# There are as many as rules have attributes, which galley has checked.
@lru_cache(maxsize=4096)
def _reader(name: str) -> Reader:
    """What reads the attribute called `name`."""
    named = policy_attributes.parse(name)
    if (template := named.template) is not None:
        return lambda about: template.of(path_of(about))
    if named.kind == "request.headers":
        return lambda about: about.request.http.headers.get(named.header, "")
    if named.kind == "request.auth.claims":
        return lambda about: policy_attributes.claim_of(claims_of(about), named.claim)
    return _READERS[named.kind]


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
            "would_refuse": list(decision.would_refuse),
        }
    )
    if not decision.refused_by:
        response.ok_response.CopyFrom(OkHttpResponse())
        return response
    limit, rule = limits[0], decision.refused_by
    assert isinstance(limit, Rate)
    sentence = policy_answers.rate_sentence(
        rule, limit.requests, limit.period, burst=limit.burst, by=limit.by, wait=decision.wait
    )
    fields = policy_answers.rate_fields(rule, limit.requests, limit.period, decision.wait)
    return _refusal(
        response, StatusCode.TooManyRequests, _RESOURCE_EXHAUSTED, rule=rule, sentence=sentence, fields=fields
    )


def _refusal(
    response: CheckResponse,
    status: int,
    code: int,
    *,
    rule: str,
    sentence: str,
    fields: policy_answers.Fields,
) -> CheckResponse:
    """`response` as the refusal by `rule`: `status` for callers of HTTP, `code` (google.rpc.Code) for those of gRPC."""
    response.status.CopyFrom(Status(code=code, message=sentence))
    more = (
        ("proxy-status", f'pymesh; error=http_request_denied; details="{rule}"'),
        ("content-type", "text/plain; charset=utf-8"),
    )
    response.denied_response.CopyFrom(
        DeniedHttpResponse(
            status=_status(status),
            headers=[HeaderValueOption(header=HeaderValue(key=key, value=value)) for key, value in (*fields, *more)],
            body=f"{sentence}\n",
        )
    )
    return response


def _status(code: int) -> HttpStatus:
    """An open enum: any status that HTTP has can travel."""
    found = HttpStatus()
    found.code = code  # type: ignore[assignment]  # the stubs know it as a closed one
    return found
