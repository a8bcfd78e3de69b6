"""What sidecars and the policy service say to each other: names, and the messages of the slot leases.

Questions with a yes or no go to `envoy.service.auth.v3.Authorization/Check`, which every proxy knows. "At most 100 at
once" cannot be asked there, since that service never hears of a request's end. So a sidecar holds *slots*: it keeps one
stream `pymesh.policy.v1alpha1.LeaseService/Hold`, on which it says for every rule what it holds and would like to have,
and is told what it may have. As many requests of a rule as the sidecar has slots may be in its app.

The protocol, in full:

- All numbers are absolute, so that a repeated message does no harm.
- A sidecar applies responses in the order of their arrival, and in each only grants for rules that it has named in
  every request that was `heard` and in those since: what was decided before a rule left and came back is void. Every
  later request carries in `seen` the `nonce` of the last one that it applied, and in `held` what it may still use: the
  grant, or what is in use if that is more.
- A grant above `held` is usable at once. One below asks slots back: the sidecar lets in no more than the grant, lowers
  `held` as its requests end, and sends a request when it does.
- A grant below what was wanted is a refusal of the rest, unless slots are `coming`: then others have been asked for
  slots that they do not use, and requests wait a moment for those.
- The service counts for each sidecar the most of what it reported as `held` and of what it was granted since `seen`.
  The sum over all sidecars never exceeds the limit.
- A request goes out at least every HEARTBEAT seconds, and is answered each time (one response may answer several);
  when a grant changes the service also answers unasked. A sidecar that is not answered takes the service for away; a
  service that hears nothing for SILENCE seconds ends the stream.
- A sidecar that half-closes its stream gives its slots back. Where a stream breaks, the service keeps them aside for
  RETURN_GRACE seconds, in which the sidecar can come back (the same node id) and report what is in use.

Rates are leased on the same stream, as stocks of *tokens*: each request that is let in spends one, and they come back
with time and not with the end of requests.

- `held` is the stock, `wanted` the stock that the sidecar would like to have, and `used` how many it has spent on this
  stream. A grant is a stock, too, as of the report whose `used` it repeats: what the sidecar has spent since is gone.
- What is out counts against the rule's burst, so that in no time more is let in than burst and rate allow, however the
  load is spread; tokens that lie idle are asked back like slots. A sidecar that vanishes takes its stock with it, and
  so does one that names the rule no more.
- `share` is the part of the rate, in millionths, that the sidecar may go by while the service is away; `retry_after`
  says when there will be a token again where there is none.

A grant with a `problem` is no decision: the service does not know the rule yet, or it is not this sidecar's to ask
about. It stays so until a response without; then the rule's failure mode decides. A rule that was deleted is leased on
for LINGER seconds, in which sidecars hear of it.

Where the service has several replicas, each names itself in its responses, and a sidecar says in its requests whose
grants it holds: whoever it comes to knows then from whose part of the rule that was.

There is no published API like it, so the messages are built here from their descriptors, as protoc would have.
"""

from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory
from google.protobuf.message import DecodeError, Message

PACKAGE: Final = "pymesh.policy.v1alpha1"
SERVICE: Final = f"{PACKAGE}.LeaseService"
METHOD: Final = "Hold"
PATH: Final = f"/{SERVICE}/{METHOD}"

CHECK_SERVICE: Final = "envoy.service.auth.v3.Authorization"
CHECK_METHOD: Final = "Check"
CHECK_PATH: Final = f"/{CHECK_SERVICE}/{CHECK_METHOD}"
# Key of `context_extensions` in a Check: the names of the rules that are asked about, separated by commas. A check
# without rules is allowed: so a sidecar asks whether the service is back.
RULES_EXTENSION: Final = "pymesh.rules"
# Key of `context_extensions` in a Check: set to "tell" by a sidecar that does itself what a rule's failure mode says
# where a check in Python has failed; then such rules are listed as undecided. Anybody else is answered by that mode.
UNDECIDED_EXTENSION: Final = "pymesh.undecided"
TELL: Final = "tell"
# Key of `dynamic_metadata` in the answer: a Struct with rule, epoch, valid_for, valid_uses and attributes;
# `rules` has the last three for each rule whose answer may be used again, `would_refuse` those on a dry run, and
# `undecided` those that have failed, with the reason. `rates` has for each rate where it stands for this request's
# `by`, so that a sidecar can go on with it while nobody can be asked: `requests` in `period` seconds, `burst` at once,
# the number of `sidecars` that may ask about it, and `full_in`, the seconds until all of the burst is there again.
ANSWER_METADATA: Final = "pymesh.policy"

# The HTTP filter of pymesh-proxy (a TypedStruct), and the type that it says it is.
FILTER: Final = "pymesh.filters.http.policy"
FILTER_TYPE: Final = f"type.googleapis.com/{PACKAGE}.Policy"

# Seconds between two requests of a sidecar on its stream, at most.
HEARTBEAT: Final = 1.0
# Seconds without a request after which the service takes a sidecar for gone. Some heartbeats: busy machines are late.
SILENCE: Final = 5.0
# Seconds that the slots of a broken stream are kept for the sidecar's return: a reconnect takes a fraction of that.
RETURN_GRACE: Final = 2.0
# Seconds that a deleted rule is leased on: pilot and the sidecars need a fraction of that to hear of it.
LINGER: Final = 5.0
# Seconds of traffic that a sidecar's stock of tokens is meant to last: what it asks for, and how often.
RATE_LEASE: Final = 0.5
# The whole of a rate, where parts of it are told.
WHOLE_SHARE: Final = 1_000_000
# Rules in one message. A service has a handful; more are taken for a mistake.
MAX_RULES: Final = 256
# Characters of a rule's name, or a replica's: kind, namespace and name of a rule have 334 at most. The service keeps
# the last report of each sidecar, and repeats the names in its answers.
MAX_NAME: Final = 512


@dataclass(frozen=True, slots=True)
class Demand:
    """What a sidecar says about one rule.

    Attributes:
        rule: named as in its filter, `ConcurrencyLimit bookinfo/reviews`.
        held: slots that it may use now, and does not exceed; of a rate, tokens in stock.
        in_use: its requests in the app; 0 for a rate.
        wanted: slots that it would like to have: in use, and those that callers wait for or were lately refused for.
        used: of a rate: tokens spent on this stream.
    """

    rule: str
    held: int
    in_use: int
    wanted: int
    used: int = 0


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """A sidecar's report, each time on all rules of its filter.

    Attributes:
        node: its xDS node id.
        seen: nonce of the last response that it applied; 0 before the first.
        replica: who granted what it holds: the `replica` of the last response, on whatever stream.
    """

    node: str
    demands: tuple[Demand, ...] = ()
    seen: int = 0
    replica: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a sidecar may have of one rule.

    Attributes:
        slots: slots, or tokens, of this sidecar.
        limit: slots of all sidecars together; of a rate, requests in a period.
        valid_for: seconds that the service keeps the slots for it after the stream broke.
        problem: why this is no decision, for people; empty if it is one.
        coming: idle slots that others have been asked for, and that may be granted next.
        used: of a rate: the tokens that the sidecar had spent when this was decided.
        share: of a rate: the sidecar's part of it, in millionths (WHOLE_SHARE).
        retry_after: of a rate: seconds until there is a token again; 0 if there is one.
    """

    rule: str
    slots: int
    limit: int
    valid_for: float = 0.0
    problem: str = ""
    coming: int = 0
    used: int = 0
    share: int = 0
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class LeaseResponse:
    """The grants for the rules that the sidecar named.

    Attributes:
        epoch: names the set of rules by which they were decided.
        nonce: grows by one with every response of a stream, from 1.
        heard: how many requests of the stream had been heard when they were decided.
        replica: who has decided, where the service has several replicas.
    """

    epoch: str
    grants: tuple[Grant, ...] = ()
    nonce: int = 0
    heard: int = 0
    replica: str = ""


def encode_request(request: LeaseRequest) -> bytes:
    """`request` as it travels."""
    message = _REQUEST(node=request.node, seen=request.seen, replica=request.replica)
    for demand in request.demands:
        message.demands.add(
            rule=demand.rule, held=demand.held, in_use=demand.in_use, wanted=demand.wanted, used=demand.used
        )
    return bytes(message.SerializeToString())


def decode_request(data: bytes) -> LeaseRequest:
    """The request in `data`.

    Raises:
        ValueError: `data` is no such message, has more than MAX_RULES demands, two for one rule, or a name of more than
            MAX_NAME characters.
    """
    message = _decode(_REQUEST, data)
    demands = tuple(Demand(each.rule, each.held, each.in_use, each.wanted, each.used) for each in message.demands)
    _check_names([demand.rule for demand in demands], message.replica)
    return LeaseRequest(message.node, demands, message.seen, message.replica)


def encode_response(response: LeaseResponse) -> bytes:
    """`response` as it travels; its durations with a precision of a millisecond."""
    message = _RESPONSE(epoch=response.epoch, nonce=response.nonce, heard=response.heard, replica=response.replica)
    for grant in response.grants:
        added = message.grants.add(
            rule=grant.rule,
            slots=grant.slots,
            limit=grant.limit,
            problem=grant.problem,
            coming=grant.coming,
            used=grant.used,
            share=grant.share,
        )
        added.valid_for.FromMilliseconds(round(grant.valid_for * 1000))
        if grant.retry_after:
            added.retry_after.FromMilliseconds(round(grant.retry_after * 1000))
    return bytes(message.SerializeToString())


def decode_response(data: bytes) -> LeaseResponse:
    """The response in `data`.

    Raises:
        ValueError: `data` is no such message, has more than MAX_RULES grants, two for one rule, or a name of more than
            MAX_NAME characters.
    """
    message = _decode(_RESPONSE, data)
    grants = tuple(
        Grant(
            each.rule,
            each.slots,
            each.limit,
            each.valid_for.ToMilliseconds() / 1000,
            each.problem,
            each.coming,
            each.used,
            each.share,
            each.retry_after.ToMilliseconds() / 1000,
        )
        for each in message.grants
    )
    _check_names([grant.rule for grant in grants], message.replica)
    return LeaseResponse(message.epoch, grants, message.nonce, message.heard, message.replica)


# The type checker knows no fields of classes that are made at run time; what passes here leaves as a dataclass.
def _decode(kind: type[Message], data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise ValueError(f"not a message of {SERVICE}: {error}") from error


def _check_names(rules: list[str], replica: str) -> None:
    if len(rules) > MAX_RULES:
        raise ValueError(f"{len(rules)} rules in one message of {SERVICE}; {MAX_RULES} are allowed")
    if len(set(rules)) < len(rules):
        raise ValueError(f"a rule twice in one message of {SERVICE}")
    if any(len(name) > MAX_NAME for name in (*rules, replica)):
        raise ValueError(f"a name of more than {MAX_NAME} characters in a message of {SERVICE}")


def _message_classes() -> tuple[type[Any], type[Any]]:
    kind = descriptor_pb2.FieldDescriptorProto
    text, number, total = kind.TYPE_STRING, kind.TYPE_UINT32, kind.TYPE_UINT64
    layout: dict[str, dict[str, int | str]] = {
        "Demand": {"rule": text, "held": number, "in_use": number, "wanted": number, "used": total},
        "LeaseRequest": {"node": text, "demands": f".{PACKAGE}.Demand", "seen": total, "replica": text},
        "Grant": {
            "rule": text,
            "slots": number,
            "limit": number,
            "valid_for": ".google.protobuf.Duration",
            "problem": text,
            "coming": number,
            "used": total,
            "share": number,
            "retry_after": ".google.protobuf.Duration",
        },
        "LeaseResponse": {
            "epoch": text,
            "grants": f".{PACKAGE}.Grant",
            "nonce": total,
            "heard": total,
            "replica": text,
        },
    }
    file = descriptor_pb2.FileDescriptorProto(
        name="pymesh/policy/v1alpha1/lease.proto",
        package=PACKAGE,
        syntax="proto3",
        dependency=["google/protobuf/duration.proto"],
    )
    for name, fields in layout.items():
        message = file.message_type.add(name=name)
        for tag, (field_name, of) in enumerate(fields.items(), start=1):
            label = kind.LABEL_REPEATED if field_name in {"demands", "grants"} else kind.LABEL_OPTIONAL
            added = descriptor_pb2.FieldDescriptorProto(name=field_name, number=tag, label=label)
            if isinstance(of, str):
                added.type, added.type_name = kind.TYPE_MESSAGE, of
            else:
                added.type = kind.Type.ValueType(of)
            message.field.append(added)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(duration_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    request, response = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in ("LeaseRequest", "LeaseResponse")
    )
    return request, response


_REQUEST, _RESPONSE = _message_classes()
