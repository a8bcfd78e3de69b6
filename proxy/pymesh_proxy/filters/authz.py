"""Questions to an external authorization service, and what its answers mean: envoy.service.auth.v3, pure.

Questions are filled as Envoy fills them, answers are taken as Envoy takes them (tests/conformance compares both), with
one exception: an answer that would change the framing or the target of the request is not carried out but refused, as
Envoy does with `validate_mutations`.
"""

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

from envoy.config.core.v3.address_pb2 import Address
from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Value

from pymesh import policy_answers, policy_attributes
from pymesh.names import FRAMING_HEADERS
from pymesh.policy_api import ANSWER_METADATA
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.filters.base import RequestContext
from pymesh_proxy.filters.bucket import Level

# Whether a request header (lower case) is shown to the service.
HeaderFilter = Callable[[bytes], bool]
Pairs = tuple[tuple[bytes, bytes], ...]

_FRAMING: Final = frozenset(name.encode() for name in FRAMING_HEADERS) | {b"host"}
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_FORBIDDEN: Final = 403
# Seconds; nobody means to remember an answer for longer than a day, and infinity is no number of them.
_LONGEST: Final = 86_401.0
# Requests, or sidecars; more do not travel elsewhere either (config/policy_filter.py).
_MOST: Final = 2.0**31
# Statuses that an answer of ours can have; what is below begins another message.
_STATUSES: Final = range(200, 600)


@dataclass(frozen=True, slots=True)
class Memory:
    """How an answer may be used again: for `valid_for` seconds, for `uses` requests in all, by these attributes."""

    valid_for: float
    uses: int
    attributes: tuple[str, ...]


class AnswerError(Exception):
    """An answer that cannot be carried out; the text says what is wrong with it."""


class Ours(NamedTuple):
    """What only a policy service of ours says: see pymesh.policy_api.ANSWER_METADATA.

    Attributes:
        rule: the one that decided.
        would_refuse: rules that would have refused the request, but are on a dry run.
        epoch: the set of rules that the answer was given by.
        memories: how it may be remembered, by rule.
        rates: where each rate stands that was spent, or that refuses.
        undecided: rules that it says nothing about, and why.
    """

    rule: str = ""
    would_refuse: tuple[str, ...] = ()
    epoch: str = ""
    memories: Mapping[str, Memory] = MappingProxyType({})
    undecided: Mapping[str, str] = MappingProxyType({})
    rates: Mapping[str, Level] = MappingProxyType({})


NOT_OURS: Final = Ours()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service decided.

    Attributes:
        allowed: the request may go on. Otherwise `status`, `headers` and `body` are what it is answered with.
        error: the service says that it could not decide.
        set, append, remove: changes to the request's headers; what is appended goes behind what is there, if anything.
        for_response: changes to the response's headers, if the request goes on: (append_action, name, value).
        grpc_status: what a caller that speaks gRPC is told.
        metadata: all that it says to other filters.
        ours: what it says about rules; nothing where another kind of service answered.
    """

    allowed: bool
    error: bool = False
    status: int = 200
    headers: Pairs = ()
    body: bytes = b""
    set: Pairs = ()
    append: Pairs = ()
    remove: tuple[bytes, ...] = ()
    for_response: tuple[tuple[int, bytes, bytes], ...] = ()
    grpc_status: int | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    ours: Ours = NOT_OURS

    @property
    def changes_headers(self) -> bool:
        """Whether anything but the decision is asked for, if the request goes on."""
        return bool(self.set or self.append or self.remove or self.for_response)

    def change(self, request: Head) -> None:
        """Make the changes to the request's headers."""
        for name in self.remove:
            request.remove(name)
        for name, value in self.set:
            request.set(name, value)
        for name, value in self.append:
            present = request.get(name)
            if present is not None:
                request.set(name, b"%b,%b" % (present, value))

    def change_response(self, response: Head) -> None:
        """Make the changes to the response's headers."""
        for action, name, value in self.for_response:
            if action == HeaderValueOption.APPEND_IF_EXISTS_OR_ADD:
                response.add(name, value)
            elif action == HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD or response.has(name) is (
                action == HeaderValueOption.OVERWRITE_IF_EXISTS
            ):
                response.set(name, value)


def read_answer(data: bytes, *, metadata: bool = False) -> Answer:
    """The answer in a CheckResponse, with its `metadata` if that is wanted.

    Raises:
        AnswerError: it is none, or asks for what must not be done.
    """
    try:
        message = CheckResponse.FromString(data)
    except DecodeError as error:
        raise AnswerError(f"not a CheckResponse: {error}") from error
    ours = _ours(message)
    if message.HasField("error_response"):
        return _error(message, ours)
    if message.status.code:
        return _denial(message, ours)
    return _allowance(message, ours, metadata=metadata)


def _error(message: CheckResponse, ours: Ours) -> Answer:
    said = message.error_response
    status = said.status.code
    return Answer(
        False,
        error=True,
        status=status if status in _STATUSES else 0,
        headers=_pairs(said.headers),
        body=said.body.encode(),
        ours=ours,
    )


def _denial(message: CheckResponse, ours: Ours) -> Answer:
    said = message.denied_response
    status = said.status.code
    return Answer(
        False,
        status=status if status in _STATUSES else _FORBIDDEN,
        headers=_pairs(said.headers),
        body=said.body.encode(),
        grpc_status=message.status.code,
        ours=ours,
    )


def _allowance(message: CheckResponse, ours: Ours, *, metadata: bool) -> Answer:
    said = message.ok_response
    if said.query_parameters_to_set or said.query_parameters_to_remove:
        raise AnswerError("changes to query parameters are not supported")
    added = said.response_headers_to_add
    try:
        told = MessageToDict(message.dynamic_metadata) if metadata else {}
    except ValueError as error:  # numbers that JSON does not have
        raise AnswerError(f"its metadata: {error}") from error
    return Answer(
        True,
        set=_pairs(option for option in said.headers if not option.append.value),
        append=_pairs(option for option in said.headers if option.append.value),
        remove=tuple(_name(name) for name in said.headers_to_remove),
        for_response=tuple(
            (_action(option), name, value) for option, (name, value) in zip(added, _pairs(added), strict=True)
        ),
        metadata=told,
        ours=ours,
    )


def _ours(message: CheckResponse) -> Ours:
    if ANSWER_METADATA not in message.dynamic_metadata.fields:
        return NOT_OURS
    said = message.dynamic_metadata.fields[ANSWER_METADATA].struct_value.fields
    memories = {}
    for name, value in said["rules"].struct_value.fields.items():
        about = value.struct_value.fields
        attributes = tuple(each.string_value for each in about["attributes"].list_value.values)
        if all(map(_known, attributes)):  # what a newer service tells requests apart by, we do not remember
            uses = _uses(about["valid_uses"].number_value) if "valid_uses" in about else sys.maxsize
            memories[name] = Memory(_seconds(about["valid_for"].string_value), uses, attributes)
    would_refuse = tuple(each.string_value for each in said["would_refuse"].list_value.values)
    undecided = {name: value.string_value for name, value in said["undecided"].struct_value.fields.items()}
    rates = {name: _level(value.struct_value.fields) for name, value in said["rates"].struct_value.fields.items()}
    return Ours(said["rule"].string_value, would_refuse, said["epoch"].string_value, memories, undecided, rates)


@lru_cache(maxsize=256)
def _known(attribute: str) -> bool:
    try:
        policy_attributes.parse(attribute)
    except ValueError:
        return False
    return True


def _seconds(text: str) -> float:
    """A duration as JSON has it: `1.5s`."""
    try:
        found = float(text.removesuffix("s"))
    except ValueError:
        found = -1.0
    if not 0 <= found < _LONGEST or not text.endswith("s"):
        raise AnswerError(f"{text!r} is not how long an answer may be remembered")
    return found


def _uses(number: float) -> int:
    if not 0 <= number < math.inf:
        raise AnswerError(f"{number:g} is not how often an answer may be used")
    return int(number)


def _level(said: Mapping[str, Value]) -> Level:
    """Where a rate stands. What is missing is 0, as everywhere in protobuf."""
    requests, period, burst, sidecars, full_in = (said[name].number_value for name in Level._fields)
    if not (period in policy_answers.PER and all(1 <= n < _MOST for n in (requests, burst, sidecars))):
        raise AnswerError(f"{burst:g} at once of {requests:g} in {period:g} s for {sidecars:g} sidecars are no rate")
    if not 0 <= full_in < _MOST * period:  # so long the largest burst takes at the lowest rate
        raise AnswerError(f"{full_in:g} s until it is all there again are no rate")
    return Level(int(requests), int(period), int(burst), int(sidecars), full_in)


def question(
    context: RequestContext,
    extensions: Mapping[str, str],
    shown: HeaderFilter | None = None,
    namespaces: Iterable[str] = (),
) -> bytes:
    """A CheckRequest about the request.

    `shown` says which of its headers the service may see, all by default; `namespaces` of which filters it sees the
    dynamic metadata.
    """
    record, request = context.record, context.request
    facts = record.facts
    message = CheckRequest()
    attributes = message.attributes
    _address(attributes.source.address, facts.remote)
    attributes.source.principal = facts.peer
    _address(attributes.destination.address, facts.original or facts.local)
    attributes.destination.principal = facts.own
    attributes.request.time.FromMicroseconds(round(record.wall * 1e6))
    http = attributes.request.http
    http.id = record.request_id
    http.method = record.method
    http.path = _text(request.path)
    http.host = _text(request.authority)
    http.scheme = _text(request.get(b"x-forwarded-proto") or b"http")
    http.protocol = record.protocol
    for name, value in _headers(request).items():
        if shown is None or shown(name):
            http.headers[_text(name)] = _text(value)
    for key, text in extensions.items():
        attributes.context_extensions[key] = text
    attributes.metadata_context.SetInParent()
    for namespace in namespaces:
        if namespace in record.metadata:
            ParseDict(dict(record.metadata[namespace]), attributes.metadata_context.filter_metadata[namespace])
    attributes.route_metadata_context.SetInParent()
    return message.SerializeToString()


def _headers(request: Head) -> dict[bytes, bytes]:
    """The headers as HTTP/2 would have them, repeated ones joined by a comma without a blank, as Envoy joins them."""
    found = {
        b":method": request.method,
        b":path": request.path,
        b":authority": request.authority,
        b":scheme": request.get(b"x-forwarded-proto") or b"http",
    }
    for name, raw in request.items():
        key, value = name.lower(), raw.strip(b" \t")
        if key != b"host":
            found[key] = value if key not in found else b"%b,%b" % (found[key], value)
    return found


def _address(message: Address, address: str) -> None:
    host, _, port = address.rpartition(":")
    message.socket_address.address = host.strip("[]")
    message.socket_address.port_value = int(port) if port.isdecimal() else 0


def _text(value: bytes) -> str:
    """A protobuf string is UTF-8; what is none is shown as Envoy shows it, with `!` for each byte in question."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("ascii", "replace").replace("\ufffd", "!")


def _pairs(options: Iterable[HeaderValueOption]) -> Pairs:
    return tuple((_name(option.header.key), _value(option)) for option in options)


def _action(option: HeaderValueOption) -> int:
    """What is to be done with a response header; the older `append` counts where it is given."""
    if not option.HasField("append"):
        return option.append_action
    return (
        HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
        if option.append.value
        else HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    )


def _name(text: str) -> bytes:
    name = text.lower().encode()
    if not _NAME.fullmatch(text):
        raise AnswerError(f"{text!r} is not the name of a header")
    if name in _FRAMING:
        raise AnswerError(f"the header {text!r} must not be changed")
    return name


def _value(option: HeaderValueOption) -> bytes:
    value = option.header.raw_value.decode("latin-1") or option.header.value
    if not _VALUE.fullmatch(value):
        raise AnswerError(f"the value of the header {option.header.key!r} holds control characters")
    return value.encode("latin-1") if option.header.raw_value else value.encode()
