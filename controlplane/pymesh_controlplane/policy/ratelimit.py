"""Envoy's global rate limits (envoy.service.ratelimit.v3): which RateLimits a question is about, and the answer. Pure.

The domain is the full name of a Service, and its RateLimits are asked. Each descriptor goes to those whose `by` names
exactly the keys of its entries, and its values are what is counted apart:

    domain: reviews.default.svc.cluster.local
    rate_limits: [{actions: [{request_headers: {header_name: x-user, descriptor_key: "request.headers[x-user]"}}]}]

`remote_address`, which Envoy's action of that name writes, is source.address; a path is sent as it is (`:path`), and a
path template in `by` is matched against it. An entry `generic_key` names one RateLimit, and alone is for one without
`by`. A descriptor that goes to none is let in, as by the reference implementation (github.com/envoyproxy/ratelimit).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from envoy.config.core.v3.base_pb2 import HeaderValue
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse

from pymesh import policy_answers, policy_attributes
from pymesh_controlplane.policy.buckets import NANOSECONDS, Spend
from pymesh_controlplane.policy.checks import Limits
from pymesh_controlplane.policy.rules import Rate, Rule, Rules

SERVICE: Final = "envoy.service.ratelimit.v3.RateLimitService"
METHOD: Final = "ShouldRateLimit"

# Descriptors of one request, and entries of one descriptor: Envoy's routes have a few.
MAX_DESCRIPTORS: Final = 64
MAX_ENTRIES: Final = 16
# Seconds that callers are told to wait while nobody can count.
AWAY: Final = 1.0

_RULE: Final = "generic_key"
_ALIASES: Final = {"remote_address": "source.address"}
_UNITS: Final = {
    1: RateLimitResponse.RateLimit.SECOND,
    60: RateLimitResponse.RateLimit.MINUTE,
    3600: RateLimitResponse.RateLimit.HOUR,
    86_400: RateLimitResponse.RateLimit.DAY,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What one descriptor asks: so many `hits` of a rule, counted by `key`."""

    descriptor: int
    rule: Rule
    rate: Rate
    key: tuple[str, ...]
    hits: int


@dataclass(frozen=True, slots=True)
class Told:
    """What is decided: by rule that refuses, the seconds until it would not; and those on a dry run that would."""

    asked: tuple[Asked, ...]
    waits: Mapping[int, float] = field(default_factory=dict)  # by place in `asked`
    would_refuse: frozenset[str] = frozenset()
    left: tuple[int, ...] = ()  # of each in `asked`, afterwards
    undecided: frozenset[int] = frozenset()  # places in `asked` whose rule could not be asked, for `why`
    why: str = ""


def asked_by(request: RateLimitRequest, rules: Rules) -> tuple[Asked, ...]:
    """What a request asks.

    Raises:
        ValueError: it has too many descriptors or entries, or none.
    """
    if not 0 < len(request.descriptors) <= MAX_DESCRIPTORS:
        raise ValueError(f"there are {len(request.descriptors)} descriptors; there must be 1 to {MAX_DESCRIPTORS}")
    here = [
        (rule, rule.limit)
        for rule in rules.by_name.values()
        if request.domain in rule.hosts and isinstance(rule.limit, Rate)
    ]
    found: list[Asked] = []
    for index, descriptor in enumerate(request.descriptors):
        if len(descriptor.entries) > MAX_ENTRIES:
            raise ValueError(f"descriptors[{index}] has {len(descriptor.entries)} entries; {MAX_ENTRIES} are allowed")
        hits = descriptor.hits_addend.value if descriptor.HasField("hits_addend") else request.hits_addend or 1
        entries = {_named(entry.key): entry.value for entry in descriptor.entries}
        found += [Asked(index, rule, rate, key, hits) for rule, rate, key in _for(entries, here)]
    return tuple(found)


def decide(asked: tuple[Asked, ...], limits: Limits, now: int) -> Told:
    """Spend what is asked, or nothing of it if one rule refuses. `now` in nanoseconds."""
    buckets = [limits.buckets[one.rule.name] for one in asked]
    waits = [bucket.wait(one.key, now, one.hits) if one.hits else 0 for bucket, one in zip(buckets, asked, strict=True)]
    told = told_of(asked, waits)
    for one, bucket, wait in zip(asked, buckets, waits, strict=True):
        if not wait and not told.waits:
            bucket.take(one.key, now, one.hits)
    left = tuple(max(0, bucket.left(one.key, now)) for bucket, one in zip(buckets, asked, strict=True))
    return replace(told, left=left)


def wanted(asked: tuple[Asked, ...]) -> list[Spend]:
    """What is to be spent, in the same order."""
    return [Spend(one.rule.name, one.rate, one.key, one.hits, one.rule.dry_run) for one in asked]


def told_of(asked: tuple[Asked, ...], waits: Sequence[int], left: tuple[int, ...] = ()) -> Told:
    """What comes of the nanoseconds that each has to wait for what it wants."""
    waiting = [(place, one.rule, wait) for place, (one, wait) in enumerate(zip(asked, waits, strict=True)) if wait]
    would = frozenset(rule.name for _, rule, _ in waiting if rule.dry_run)
    return Told(asked, {place: wait / NANOSECONDS for place, rule, wait in waiting if not rule.dry_run}, would, left)


def undecided(asked: tuple[Asked, ...], why: str) -> Told:
    """Nobody could count: what each rule's failure mode says. There are no last decisions here, so `otherwise` does."""
    modes = [one.rule.otherwise if one.rule.failure_mode == "LastDecision" else one.rule.failure_mode for one in asked]
    closed = [place for place, (one, mode) in enumerate(zip(asked, modes, strict=True)) if mode == "Closed"]
    would = frozenset(asked[place].rule.name for place in closed if asked[place].rule.dry_run)
    waits = {place: AWAY for place in closed if not asked[place].rule.dry_run}
    return Told(asked, waits, would, (0,) * len(asked), frozenset(range(len(asked))), why)


def answer(told: Told, descriptors: int) -> RateLimitResponse:
    """The decision in the words of the API: a status for each descriptor, that of the rule with the longest wait."""
    response = RateLimitResponse(overall_code=RateLimitResponse.OK)
    for _ in range(descriptors):
        response.statuses.add(code=RateLimitResponse.OK)
    for place, one in enumerate(told.asked):
        status, wait = response.statuses[one.descriptor], told.waits.get(place, 0.0)
        if status.HasField("current_limit") and wait <= status.duration_until_reset.ToMilliseconds() / 1000:
            continue
        status.code = RateLimitResponse.OVER_LIMIT if wait else RateLimitResponse.OK
        limit = status.current_limit
        limit.name, limit.requests_per_unit, limit.unit = one.rule.name, one.rate.requests, _UNITS[one.rate.period]
        status.limit_remaining = min(told.left[place], 2**32 - 1)
        status.duration_until_reset.FromMilliseconds(round(wait * 1000))
    if told.waits:
        place = max(told.waits, key=told.waits.__getitem__)
        one, wait = told.asked[place], told.waits[place]
        response.overall_code = RateLimitResponse.OVER_LIMIT
        fields = policy_answers.rate_fields(one.rule.name, one.rate.requests, one.rate.period, wait)
        response.response_headers_to_add.extend(HeaderValue(key=key, value=value) for key, value in fields)
        sentence = (
            f"{one.rule.name}: {told.why}"
            if told.why
            else policy_answers.rate_sentence(
                one.rule.name, one.rate.requests, one.rate.period, burst=one.rate.burst, by=one.rate.by, wait=wait
            )
        )
        response.raw_body = f"{sentence}\n".encode()
    return response


def _named(key: str) -> str:
    """The attribute that the key of an entry names, header names in small letters; other keys as they are."""
    key = _ALIASES.get(key, key)
    return key.lower() if key.startswith("request.headers[") else key


def _for(
    entries: Mapping[str, str], rules: Sequence[tuple[Rule, Rate]]
) -> Iterator[tuple[Rule, Rate, tuple[str, ...]]]:
    """The rules that a descriptor with these entries is for, and what they count it by."""
    only = entries.get(_RULE)
    names = entries.keys() - {_RULE}
    for rule, rate in rules:
        if only is not None and rule.name.rpartition("/")[2] != only:
            continue
        if names != {_named(name) for name in rate.by} or not entries:
            continue
        if (key := _key(rate, entries)) is not None:
            yield rule, rate, key


def _key(rate: Rate, entries: Mapping[str, str]) -> tuple[str, ...] | None:
    """What `rate` counts these entries by; None if a path template of it does not match."""
    found: list[str] = []
    for name in rate.by:
        if (value := _value(name, entries[_named(name)])) is None:
            return None
        found.append(value)
    return tuple(found)


def _value(attribute: str, sent: str) -> str | None:
    named = policy_attributes.parse(attribute)
    if named.template is not None:
        return named.template.of(sent.partition("?")[0])
    return sent.partition("?")[0] if named.kind == "request.path" else sent
