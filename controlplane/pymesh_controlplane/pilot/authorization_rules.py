"""One rule of an AuthorizationPolicy → one policy of Envoy's RBAC: what may be done (permissions), and by whom
(principals). Pure.

The result is Istio's, message for message, so that whoever knows Istio's configuration knows ours.

Source: istio.io/docs/reference/config/security/authorization-policy and .../conditions; Istio's own translation.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from envoy.config.core.v3 import extension_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2
from envoy.type.matcher.v3 import metadata_pb2, path_pb2, regex_pb2, string_pb2, value_pb2

from pymesh import names
from pymesh.resources.istio.authorization_policy import Action, Condition, Operation, Rule, Source
from pymesh.xds.filter_names import HTTP_JWT_AUTHN, JWT_PAYLOAD
from pymesh_controlplane.pilot.messages import cidr_range, packed, with_wildcard

# What a condition may be about (istio.io/docs/reference/config/security/conditions).
HEADERS: Final = "request.headers"
CLAIMS: Final = "request.auth.claims"
FILTERS: Final = "experimental."
_CLAIM_OF: Final[Mapping[str, str]] = {"request.auth.audiences": "aud", "request.auth.presenter": "azp"}

# The wildcards of a path, as people write them, and as Envoy does.
TEMPLATES: Final[Mapping[str, str]] = {"{**}": "**", "{*}": "*"}

SPIFFE: Final = "spiffe://"
_HTTP_FILTERS: Final = f"{FILTERS}envoy.filters.http."
_ANYTHING: Final = ".+"
# The metacharacters of RE2.
_SPECIAL: Final = re.compile(r"[\\.+*?()|\[\]{}^$]")

_Permission = rbac_pb2.Permission
_Principal = rbac_pb2.Principal
_String = string_pb2.StringMatcher
_Value = value_pb2.ValueMatcher


class Scope(NamedTuple):
    """What the translation of a rule depends on besides the rule.

    Attributes:
        namespace: of the policy; service accounts without a namespace are of this one.
        action: what follows if the rule matches.
        trust_domains: the mesh's own, then its aliases.
        opaque: for opaque connections, not for requests: nothing is known but the two ends.
    """

    namespace: str
    action: Action
    trust_domains: tuple[str, ...]
    opaque: bool = False


def policy(rule: Rule, scope: Scope) -> rbac_pb2.Policy | None:
    """The policy; None if the rule cannot be used for opaque connections.

    These have no attributes of requests. An ALLOW rule that needs one is left out as a whole; any other rule loses just
    these conditions, and so denies too much rather than too little.
    """
    operations = [[*_of_operation(to.operation), *_conditions(rule, _WHAT)] for to in rule.to or ()]
    sources = [[*_of_source(item.source), *_conditions(rule, _WHO)] for item in rule.from_ or ()]
    what = operations or [[*_conditions(rule, _WHAT)]]
    who = sources or [[*_conditions(rule, _WHO)]]
    if scope.opaque:
        if scope.action == "ALLOW" and any(of_requests(clause.key) for clauses in (*what, *who) for clause in clauses):
            return None
        what, who = ([[c for c in clauses if not of_requests(c.key)] for clauses in side] for side in (what, who))
    return rbac_pb2.Policy(
        permissions=[_permission(clauses, scope) for clauses in what],
        principals=[_principal(clauses, scope) for clauses in who],
    )


def of_requests(key: str) -> bool:
    """Whether only a request has the attribute, and no connection."""
    return key in {"hosts", "methods", "paths"} or key.startswith("request.")


def nested(key: str) -> list[str]:
    """`["a", "b"]` for `request.auth.claims[a][b]`, `request.headers[x]`; empty if it is not of that form."""
    inside = key[key.find("[") :] if "[" in key else ""
    if re.fullmatch(r"(\[[^\[\]]+\])+", inside):
        return inside[1:-1].split("][")
    return [inside[1:-1]] if len(inside) > 2 and inside.endswith("]") else []


# --- What a rule says, as clauses: an attribute, and which values it may have, or may not -----------------------------


def _of_operation(operation: Operation) -> Iterator[Condition]:
    yield from _clause("hosts", operation.hosts, operation.not_hosts)
    yield from _clause("methods", operation.methods, operation.not_methods)
    yield from _clause("paths", operation.paths, operation.not_paths)
    yield from _clause("destination.port", operation.ports, operation.not_ports)


def _of_source(source: Source) -> Iterator[Condition]:
    yield from _clause("source.principal", source.principals, source.not_principals)
    yield from _clause("request.auth.principal", source.request_principals, source.not_request_principals)
    yield from _clause("source.serviceAccount", source.service_accounts, source.not_service_accounts)
    yield from _clause("source.namespace", source.namespaces, source.not_namespaces)
    yield from _clause("remote.ip", source.remote_ip_blocks, source.not_remote_ip_blocks)
    yield from _clause("source.ip", source.ip_blocks, source.not_ip_blocks)


def _clause(key: str, values: list[str], not_values: list[str]) -> Iterator[Condition]:
    if values or not_values:
        yield Condition(key=key, values=values, not_values=not_values)


def _conditions(rule: Rule, keys: Sequence[str]) -> Iterator[Condition]:
    return (condition for condition in rule.when if condition.key.startswith(tuple(keys)))


# --- Permissions ------------------------------------------------------------------------------------------------------


def _permission(clauses: Iterable[Condition], scope: Scope) -> rbac_pb2.Permission:
    rules: list[rbac_pb2.Permission] = []
    for clause in clauses:
        if clause.values:
            rules.append(_permission_for(clause.key, clause.values, scope))
        if clause.not_values:
            rules.append(_Permission(not_rule=_permission_for(clause.key, clause.not_values, scope)))
    return _Permission(and_rules=_Permission.Set(rules=rules or [_Permission(any=True)]))


def _permission_for(key: str, values: Sequence[str], scope: Scope) -> rbac_pb2.Permission:
    """The permission that the attribute `key` has one of `values`."""
    if key.startswith(FILTERS):
        if scope.opaque and key.startswith(_HTTP_FILTERS):
            return _Permission(not_rule=_Permission(any=True))  # HTTP filters leave no metadata of connections
        name, _, field = key.removeprefix(FILTERS).removesuffix("]").partition("[")
        return _Permission(metadata=_metadata(name, [field], _one_of([_left_by_filter(value) for value in values])))
    of_value = _OPERATIONS[key]
    return _Permission(or_rules=_Permission.Set(rules=[of_value(value) for value in values]))


def _path(value: str) -> rbac_pb2.Permission:
    if not is_template(value):
        return _Permission(url_path=path_pb2.PathMatcher(path=_string(value)))
    for written, envoys in TEMPLATES.items():
        value = value.replace(written, envoys)
    config = packed(uri_template_match_pb2.UriTemplateMatchConfig(path_template=value))
    return _Permission(uri_template=extension_pb2.TypedExtensionConfig(name="uri-template", typed_config=config))


def is_template(path: str) -> bool:
    """Whether the path has wildcards for whole segments."""
    return any(wildcard in path for wildcard in TEMPLATES)


_OPERATIONS: Final[Mapping[str, Callable[[str], rbac_pb2.Permission]]] = {
    "hosts": lambda value: _Permission(header=_header(":authority", value, ignore_case=True)),
    "methods": lambda value: _Permission(header=_header(":method", value)),
    "paths": _path,
    "destination.ip": lambda value: _Permission(destination_ip=cidr_range(value)),
    "destination.port": lambda value: _Permission(destination_port=int(value)),
    "connection.sni": lambda value: _Permission(requested_server_name=_string(value)),
}
_WHAT: Final = ("destination.", "connection.", FILTERS)
_WHO: Final = ("source.", "remote.", "request.")


# --- Principals -------------------------------------------------------------------------------------------------------


def _principal(clauses: Iterable[Condition], scope: Scope) -> rbac_pb2.Principal:
    ids: list[rbac_pb2.Principal] = []
    for clause in clauses:
        if clause.values:
            ids.append(_principal_with(clause.key, clause.values, scope))
        if clause.not_values:
            ids.append(_Principal(not_id=_principal_with(clause.key, clause.not_values, scope)))
    return _Principal(and_ids=_Principal.Set(ids=ids or [_Principal(any=True)]))


def _principal_with(key: str, values: Sequence[str], scope: Scope) -> rbac_pb2.Principal:
    """The principal that has one of `values` as the attribute `key`."""
    if key in _CLAIM_OF or key.startswith(CLAIMS):
        claim = [_CLAIM_OF[key]] if key in _CLAIM_OF else nested(key)
        return _Principal(metadata=_claim(claim, _or_in_a_list(_one_of([_text(value) for value in values]))))
    if key == "request.auth.principal":
        found = [_token_of(value) for value in values]
        return found[0] if len(found) == 1 else _Principal(or_ids=_Principal.Set(ids=found))
    return _Principal(or_ids=_Principal.Set(ids=[*_identifiers(key, values, scope)]))


def _identifiers(key: str, values: Sequence[str], scope: Scope) -> Iterator[rbac_pb2.Principal]:
    if key == "source.principal":
        values = [name for value in values for name in in_trust_domains(value, scope.trust_domains)]
    for value in values:
        if key == "source.ip":
            yield _Principal(direct_remote_ip=cidr_range(value))
        elif key == "remote.ip":
            yield _Principal(remote_ip=cidr_range(value))
        elif key.startswith(HEADERS):
            yield _Principal(header=_header(nested(key)[0], value))
        else:
            authenticated = _Principal.Authenticated(principal_name=_NAMES[key](value, scope))
            yield _Principal(authenticated=authenticated)


def _of_namespace(value: str, _: Scope) -> string_pb2.StringMatcher:
    name = ".*".join(_literally(part) for part in value.split("*"))
    return _regex(f".*/ns/{name}/.*")


def _of_account(value: str, scope: Scope) -> string_pb2.StringMatcher:
    place, slash, name = value.partition("/")
    namespace, account = (place, name) if slash else (scope.namespace, place)
    return _regex(f"{SPIFFE}.+/ns/{_literally(namespace)}/(.+/|)sa/{_literally(account)}(/.+)?")


def _of_principal(value: str, _: Scope) -> string_pb2.StringMatcher:
    if value == "*":
        return _regex(_ANYTHING)
    if value.startswith("*"):
        return _regex(f"{SPIFFE}.*{_literally(value[1:])}")
    return _String(prefix=SPIFFE + value[:-1]) if value.endswith("*") else _String(exact=SPIFFE + value)


_NAMES: Final[Mapping[str, Callable[[str, Scope], string_pb2.StringMatcher]]] = {
    "source.principal": _of_principal,
    "source.namespace": _of_namespace,
    "source.serviceAccount": _of_account,
}


def in_trust_domains(principal: str, domains: Sequence[str]) -> list[str]:
    """`principal` in each of the mesh's trust `domains`, if it names one of them; as Istio's aliases work.

    `cluster.local` stands for the mesh's own, whatever that is. A principal of a foreign domain, or of none, stays.
    """
    domain, slash, rest = principal.partition("/")
    if not slash or rest.count("/") != 3 or domain == "*":
        return [principal]
    # "*-td" is every domain with this end; a wildcard at the end of a domain Istio does not know here.
    if domain != names.TRUST_DOMAIN and not any(_covers(domain, known) for known in domains):
        return [principal]
    return list(dict.fromkeys(principal if _covers(domain, known) else f"{known}/{rest}" for known in domains))


def _covers(written: str, domain: str) -> bool:
    return domain.endswith(written[1:]) if written.startswith("*") else domain == written


def _token_of(value: str) -> rbac_pb2.Principal:
    """`<issuer>/<subject>`, with a wildcard at one end; issuers are URLs, so the last slash counts."""
    issuer, subject = _issuer_and_subject(value)
    ids = [_Principal(metadata=_claim([name], what)) for name, what in (("iss", issuer), ("sub", subject))]
    return _Principal(and_ids=_Principal.Set(ids=ids))


def _issuer_and_subject(value: str) -> tuple[value_pb2.ValueMatcher, value_pb2.ValueMatcher]:
    issuer, slash, subject = value.rpartition("/")
    if not slash:
        issuer, subject = ("*", value) if value.startswith("*") else (value, "*" if value.endswith("*") else "")
    # The one wildcard is the beginning of the issuer, or the end of the subject.
    open_begin, open_end = value.startswith("*"), value.endswith("*") and not value.startswith("*")
    return (
        _text(issuer) if open_begin or not slash else _exactly(issuer),
        _text(subject) if open_end or (open_begin and not slash) else _exactly(subject),
    )


# --- Matchers ---------------------------------------------------------------------------------------------------------


def _string(value: str, *, ignore_case: bool = False) -> string_pb2.StringMatcher:
    """`*` matches anything but the empty string, `*a` what ends in a, `a*` what begins with it."""
    if value == "*":
        return _regex(_ANYTHING)
    return with_wildcard(value, ignore_case=ignore_case)


def _literally(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", text)


def _regex(pattern: str) -> string_pb2.StringMatcher:
    return _String(safe_regex=regex_pb2.RegexMatcher(regex=pattern))


def _header(name: str, value: str, *, ignore_case: bool = False) -> route_components_pb2.HeaderMatcher:
    if value == "*":
        return route_components_pb2.HeaderMatcher(name=name, present_match=True)
    return route_components_pb2.HeaderMatcher(name=name, string_match=_string(value, ignore_case=ignore_case))


def _metadata(name: str, path: Iterable[str], value: value_pb2.ValueMatcher) -> metadata_pb2.MetadataMatcher:
    keys = [metadata_pb2.MetadataMatcher.PathSegment(key=key) for key in path]
    return metadata_pb2.MetadataMatcher(filter=name, path=keys, value=value)


def _claim(path: Iterable[str], value: value_pb2.ValueMatcher) -> metadata_pb2.MetadataMatcher:
    return _metadata(HTTP_JWT_AUTHN, [JWT_PAYLOAD, *path], value)


def _text(value: str) -> value_pb2.ValueMatcher:
    return _Value(string_match=_string(value))


def _exactly(value: str) -> value_pb2.ValueMatcher:
    return _Value(string_match=_String(exact=value))


def _left_by_filter(value: str) -> value_pb2.ValueMatcher:
    """`[a]` is a list that has a."""
    if value.startswith("[") and value.endswith("]"):
        return _in_a_list(_text(value.strip("[]")))
    return _text(value)


def _one_of(values: Sequence[value_pb2.ValueMatcher]) -> value_pb2.ValueMatcher:
    return values[0] if len(values) == 1 else _Value(or_match=value_pb2.OrMatcher(value_matchers=values))


def _in_a_list(value: value_pb2.ValueMatcher) -> value_pb2.ValueMatcher:
    return _Value(list_match=value_pb2.ListMatcher(one_of=value))


def _or_in_a_list(value: value_pb2.ValueMatcher) -> value_pb2.ValueMatcher:
    """A claim that may be one string or a list of them (RFC 7519, section 4.1.3)."""
    return _Value(or_match=value_pb2.OrMatcher(value_matchers=[_in_a_list(value), value]))
