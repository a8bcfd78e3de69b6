"""Yes or no: a check against the rate limits in force, and its answer as Envoy takes it. Pure: time is an argument.

Source: envoy.service.auth.v3 (external_auth.proto, attribute_context.proto).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from typing import Final, TypeAlias

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse, DeniedHttpResponse, OkHttpResponse
from envoy.type.v3.http_status_pb2 import HttpStatus, StatusCode
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from google.rpc.status_pb2 import Status

from pymesh import policy_answers, policy_api, policy_attributes
from pymesh.checks import Request, Verdict
from pymesh.xds import filter_names
from pymesh_controlplane.policy.buckets import NANOSECONDS, Buckets, Spend, Spent, full_in
from pymesh_controlplane.policy.rules import Code, Memory, Rate, Rules

# google.rpc.Code; Envoy takes any but OK for a refusal, and tells it to callers that speak gRPC.
_PERMISSION_DENIED, _RESOURCE_EXHAUSTED, _UNAVAILABLE, _UNAUTHENTICATED = 7, 8, 14, 16
_CODES: Final = {401: _UNAUTHENTICATED, 429: _RESOURCE_EXHAUSTED, 503: _UNAVAILABLE}
# Seconds that a refusal by a rate is remembered at most.
REFUSED_FOR: Final = 1.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What is decided about one request.

    Attributes:
        rules: those that were asked about, are in force and are about such a request.
        refused_by: the one that refuses it, with the longest wait; "" if none does.
        wait: seconds until the same request would be let in.
        would_refuse: those that would have refused it if they were not on a dry run.
        verdict: what a check in Python says to whom it refuses.
        undecided: checks in Python that have failed, and rates whose store is away, and how, where that is told and not
            decided here.
        memories: how answers may be used again, by rule.
        spent: what came of it at each rate that was spent, and at the one that refuses.
        rates: those, as they were then. The rules may have changed since the request was asked about.
    """

    rules: tuple[str, ...]
    refused_by: str = ""
    wait: float = 0.0
    would_refuse: tuple[str, ...] = ()
    verdict: Verdict | None = None
    undecided: Mapping[str, str] = field(default_factory=dict)
    memories: Mapping[str, Memory] = field(default_factory=dict)
    spent: Mapping[str, Spent] = field(default_factory=dict)
    rates: Mapping[str, Rate] = field(default_factory=dict)


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

    def decide(self, asked: Sequence[str], attributes: AttributeContext, now: int, *, spend: bool = True) -> Decision:
        """Spend one request of all rates that are `asked` about, or, if one of them refuses, of none.

        Without `spend` it is only told what would be.
        """
        wanted = self.wanted(asked, attributes)
        spent = [Spent(self.buckets[one.rule].wait(one.key, now), 0) for one in wanted]
        if spend and not any(each.wait and not one.dry_run for one, each in zip(wanted, spent, strict=True)):
            for place, one in enumerate(wanted):
                if not spent[place].wait:
                    spent[place] = Spent(0, self.buckets[one.rule].take(one.key, now))
        return of_rates(wanted, spent)

    def wanted(self, asked: Sequence[str], attributes: AttributeContext) -> list[Spend]:
        """What is to be spent, of those rates that are `asked` about, are in force and are about such a request."""
        found: list[Spend] = []
        for name in asked:
            if (bucket := self.buckets.get(name)) is None:
                continue
            if (key := key_of(bucket.rate.by, attributes)) is not None:
                found.append(Spend(name, bucket.rate, key, dry_run=self.rules.by_name[name].dry_run))
        return found


def of_rates(wanted: Sequence[Spend], spent: Sequence[Spent]) -> Decision:
    """What comes of it that each has to wait for what it wants, or not."""
    names = tuple(one.rule for one in wanted)
    waiting = [(each.wait, one) for each, one in zip(spent, wanted, strict=True) if each.wait]
    would = tuple(one.rule for _, one in waiting if one.dry_run)
    refusing = [(wait, one) for wait, one in waiting if not one.dry_run]
    by_rule = dict(zip(names, spent, strict=True))
    if not refusing:
        return Decision(names, would_refuse=would, spent=by_rule, rates={one.rule: one.rate for one in wanted})
    wait, longest = max(refusing, key=itemgetter(0))
    seconds = wait / NANOSECONDS
    # Nothing changes for this key until then; but others must not be told for long by rules that have changed.
    memory = Memory(min(seconds, REFUSED_FOR), None, longest.rate.by)
    told = {longest.rule: by_rule[longest.rule]}  # of the others nothing was spent, and nothing is said
    memories, rates = {longest.rule: memory}, {longest.rule: longest.rate}
    return Decision(names, longest.rule, seconds, would, memories=memories, spent=told, rates=rates)


def request_of(attributes: AttributeContext) -> Request:
    """The request as a check in Python sees it."""
    http = attributes.request.http
    path, _, query = http.path.partition("?")
    return Request(
        principal=attributes.source.principal,
        address=attributes.source.address.socket_address.address,
        method=http.method,
        host=http.host.lower(),
        path=path,
        query=query,
        headers={name: value for name, value in http.headers.items() if not name.startswith(":")},
        claims=claims_of(attributes),
        id=http.id,
    )


def of_python(said: Mapping[str, Verdict | str], rules: Rules, *, tell: bool) -> Decision:
    """What checks in Python have `said` of a request, by rule; a text is why there is no verdict, as of any rule.

    Those that have failed are listed, if the caller wants to be told (`tell`); otherwise the failure mode decides, and
    `otherwise` for LastDecision, since nothing is remembered here.
    """
    would: list[str] = []
    undecided: dict[str, str] = {}
    memories: dict[str, Memory] = {}
    for name, answered in said.items():
        rule, verdict = rules.by_name[name], answered
        if isinstance(verdict, str):
            undecided[name] = verdict
            mode = rule.otherwise if rule.failure_mode == "LastDecision" else rule.failure_mode
            if tell or mode == "Open":
                continue
            verdict = Verdict(False, 503, "it could not decide")
        elif isinstance(rule.limit, Code) and (memory := _memory(verdict, rule.limit)) is not None:
            memories[name] = memory
        if verdict.allowed:
            continue
        if not rule.dry_run:
            kept = {name: memories[name]} if name in memories else {}
            return Decision(tuple(said), name, 0.0, tuple(would), verdict, undecided, kept)
        would.append(name)
    return Decision(tuple(said), "", 0.0, tuple(would), None, undecided, memories)


def both(python: Decision, rates: Decision) -> Decision:
    """One decision of two; no check in Python has refused."""
    return Decision(
        (*rates.rules, *python.rules),
        rates.refused_by,
        rates.wait,
        (*rates.would_refuse, *python.would_refuse),
        rates.verdict,
        {**python.undecided, **rates.undecided},
        rates.memories if rates.refused_by else {**python.memories, **rates.memories},
        rates.spent,
        rates.rates,
    )


def _memory(verdict: Verdict, limit: Code) -> Memory | None:
    """How the answer of a check may be used again: as it says itself, else as its rule says."""
    rule = limit.memory or Memory(0.0, None, ())
    if verdict.by is None and limit.memory is None:
        return None  # nobody has said what answers are told apart by
    found = Memory(
        rule.seconds if verdict.seconds is None else verdict.seconds,
        rule.uses if verdict.uses is None else verdict.uses,
        rule.by if verdict.by is None else verdict.by,
    )
    return found if found.seconds else None


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
    found: list[str] = []
    for name in by:
        if (value := _reader(name)(attributes)) is None:
            return None
        found.append(value)
    return tuple(found)


def path_of(about: AttributeContext) -> str:
    """The request's path without its query."""
    return about.request.http.path.partition("?")[0]


def claims_of(about: AttributeContext) -> Mapping[str, object]:
    """The claims of the JWT that the proxy has verified; empty without one."""
    metadata = about.metadata_context.filter_metadata
    if filter_names.HTTP_JWT_AUTHN not in metadata:
        return {}
    found = MessageToDict(metadata[filter_names.HTTP_JWT_AUTHN]).get(filter_names.JWT_PAYLOAD)
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


def answer(decision: Decision, rules: Rules, *, for_grpc: bool = False) -> CheckResponse:
    """The decision in the words of the API, with what a sidecar needs to remember it.

    Envoy tells callers that speak gRPC what it makes of the HTTP status, and of 429 that is UNAVAILABLE. `for_grpc`: it
    is one of those, and the right status is given to it as a header field.
    """
    refused_by = decision.refused_by
    named = (refused_by,) if refused_by else decision.rules
    response = CheckResponse()
    about = response.dynamic_metadata.get_or_create_struct(policy_api.ANSWER_METADATA)
    about.update({"rule": ",".join(named), "epoch": rules.epoch, **_of_all(named, decision.memories)})
    about.update({"would_refuse": list(decision.would_refuse)})
    if decision.memories:
        about.update({"rules": {name: _described(memory) for name, memory in decision.memories.items()}})
    if decision.undecided:
        about.update({"undecided": dict(decision.undecided)})
    if decision.spent:
        _tell_levels(about, decision, rules)
    if not refused_by:
        response.ok_response.CopyFrom(OkHttpResponse())
        return response
    if decision.verdict is not None:
        status = decision.verdict.status
        sentence = f"{refused_by}: {decision.verdict.reason or 'denied'}"
        code = _CODES.get(status, _PERMISSION_DENIED)
        return _refusal(
            response, status, code, rule=refused_by, sentence=sentence, fields=_of_grpc(code, for_grpc=for_grpc)
        )
    rate = decision.rates[refused_by]
    sentence = policy_answers.rate_sentence(
        refused_by, rate.requests, rate.period, burst=rate.burst, by=rate.by, wait=decision.wait
    )
    fields = policy_answers.rate_fields(refused_by, rate.requests, rate.period, decision.wait)
    fields += _of_grpc(_RESOURCE_EXHAUSTED, for_grpc=for_grpc)
    return _refusal(
        response, StatusCode.TooManyRequests, _RESOURCE_EXHAUSTED, rule=refused_by, sentence=sentence, fields=fields
    )


def _of_grpc(code: int, *, for_grpc: bool) -> policy_answers.Fields:
    return (("grpc-status", str(code)),) if for_grpc else ()


def speaks_grpc(attributes: AttributeContext) -> bool:
    """Whether the request is gRPC's."""
    return attributes.request.http.headers.get("content-type", "").partition("+")[0] == "application/grpc"


# What a Struct takes, as far as it is used here.
_Value: TypeAlias = str | float | list[str]


def _of_all(names: Sequence[str], memories: Mapping[str, Memory]) -> dict[str, _Value]:
    """How the answer as a whole may be used again: as far as that of each rule."""
    found = [memories.get(name, Memory(0.0, 0, ())) for name in names] or [Memory(0.0, 0, ())]
    uses = [memory.uses for memory in found if memory.uses is not None]
    by = dict.fromkeys(name for memory in found for name in memory.by)
    return _described(Memory(min(memory.seconds for memory in found), min(uses, default=None), tuple(by)))


def _described(memory: Memory) -> dict[str, _Value]:
    uses: dict[str, _Value] = {} if memory.uses is None else {"valid_uses": memory.uses}
    return {"valid_for": f"{memory.seconds:.9g}s", "attributes": list(memory.by), **uses}


def _tell_levels(about: Struct, decision: Decision, rules: Rules) -> None:
    """Where the rates stand, and what a sidecar needs to go on with them while it cannot ask (policy_api)."""
    levels = about.get_or_create_struct("rates").fields
    for name, each in decision.spent.items():
        rate = decision.rates[name]
        level = levels[name].struct_value.fields
        level["requests"].number_value = rate.requests
        level["period"].number_value = rate.period
        level["burst"].number_value = rate.burst
        level["sidecars"].number_value = max(1, len(rules.pods.get(name, ())))
        level["full_in"].number_value = full_in(rate, each)


def _refusal(
    response: CheckResponse,
    status: int,
    code: int,
    *,
    rule: str,
    sentence: str,
    fields: policy_answers.Fields = (),
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
