"""AuthorizationPolicy: values that mean something, attributes that there are, somebody to ask, a proxy that can."""

import re
from ipaddress import ip_network
from typing import Final

from pymesh.resources.istio.authorization_policy import DRY_RUN, FALSE, TRUE, AuthorizationPolicy, Rule
from pymesh.resources.resource import Resource
from pymesh.xds import filter_names
from pymesh_controlplane.galley.findings import Findings
from pymesh_controlplane.galley.pods import Pods
from pymesh_controlplane.galley.selection import check_selection
from pymesh_controlplane.galley.supported import unsupported
from pymesh_controlplane.pilot import authorization
from pymesh_controlplane.pilot.authorization import Settings
from pymesh_controlplane.pilot.authorization_rules import CLAIMS, FILTERS, HEADERS, nested, of_requests
from pymesh_controlplane.pilot.authorizers import authorizers
from pymesh_controlplane.pilot.model import Problem, World
from pymesh_controlplane.wording import listed, near

# Attributes of conditions (istio.io/docs/reference/config/security/conditions); the others have a name in brackets.
ATTRIBUTES: Final = (
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "destination.ip",
    "destination.port",
    "connection.sni",
)
_BRACKETS: Final = (HEADERS, CLAIMS, "experimental.envoy.filters.")
# The filters that leave metadata with pymesh-proxy: a condition on any other would never hold.
_LEAVE_METADATA: Final = (filter_names.HTTP_EXT_AUTHZ, filter_names.HTTP_JWT_AUTHN, filter_names.HTTP_RBAC)
# What CUSTOM rules cannot say, as in Istio: the authorizer is told who calls, and here it may not be known yet.
_NOT_IN_CUSTOM: Final = ("principals", "requestPrincipals", "namespaces", "serviceAccounts")
_NOT_IN_CUSTOM_KEYS: Final = ("source.namespace", "source.principal", "source.serviceAccount", "request.auth.")

_IP_FIELDS: Final = frozenset({"ipBlocks", "remoteIpBlocks"})
# A segment of a path with wildcards (RFC 3986, section 3.3: pchar), as Envoy takes it.
_SEGMENT: Final = re.compile(r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]+")
_ACCOUNT: Final = re.compile(r"([a-z0-9.-]+/)?[a-z0-9.-]+")
_TEMPLATE_SEGMENTS: Final = ("{*}", "{**}")


def check(resource: Resource[AuthorizationPolicy], world: World, pods: Pods) -> list[Problem]:
    """What is wrong with an AuthorizationPolicy."""
    findings = Findings(resource)
    check_selection(findings, resource, world, pods)
    _check_action(findings, resource, world)
    for index, rule in enumerate(resource.value.spec.rules):
        _check_rule(findings, f"spec.rules[{index}]", rule, resource)
    _check_tokens(findings, resource, world)
    return findings.problems


def refused(resource: Resource[AuthorizationPolicy], settings: Settings) -> list[str]:
    """What a proxy would refuse of what pilot makes of the resource."""
    made = authorization.filters([resource], settings)
    return unsupported((*made.requests, *made.connections))


def _check_action(findings: Findings, resource: Resource[AuthorizationPolicy], world: World) -> None:
    spec = resource.value.spec
    if spec.action in {"DENY", "CUSTOM"} and not spec.rules:
        sentence = f"{spec.action} without rules is about nothing: write 'rules: [{{}}]' if it is about everything"
        findings.error("spec.rules", sentence)
    dry = (resource.value.metadata.annotations or {}).get(DRY_RUN)
    if dry is not None and dry not in TRUE | FALSE:
        findings.error("metadata.annotations", f"{DRY_RUN} is true or false, not '{dry}'")
    elif dry in TRUE and spec.action not in authorization.DRY_RUN_PREFIX:
        findings.error("metadata.annotations", f"{DRY_RUN} is for ALLOW and DENY: {spec.action} decides nothing here")
    if spec.action != "CUSTOM":
        if spec.provider is not None:
            findings.error("spec.provider", f"{spec.action} asks nobody: remove it, or write action: CUSTOM")
        return
    if spec.provider is None:
        findings.error("spec.provider", "CUSTOM needs somebody to ask: provider: {name: ...} of the extensionProviders")
        return
    known = {provider.name: provider for provider in world.mesh.extension_providers}
    found = known.get(spec.provider.name)
    if found is None:
        sentence = f"there is no provider '{spec.provider.name}' in the MeshConfig's extensionProviders"
        findings.dangling("spec.provider.name", f"{sentence}{near(spec.provider.name, known)}")
    elif found.authorizer is None:
        findings.dangling("spec.provider.name", f"'{spec.provider.name}' is nobody to ask about requests")
    elif found.envoy_ext_authz_http is not None:
        sentence = f"'{spec.provider.name}' is asked by HTTP, which pymesh-proxy does not do: give it envoyExtAuthzGrpc"
        findings.dangling("spec.provider.name", sentence)
    elif found.authorizer.include_request_body_in_check is not None:
        sentence = f"'{spec.provider.name}' wants to see bodies, which pymesh-proxy does not show: remove that there"
        findings.dangling("spec.provider.name", sentence)
    elif spec.provider.name not in authorizers(world, ours=True):
        host = f"{found.authorizer.service}:{found.authorizer.port}"
        findings.warning("spec.provider.name", f"there is no service {host} yet: until then nothing is let in")


# --- Rules ------------------------------------------------------------------------------------------------------------


def _check_rule(findings: Findings, path: str, rule: Rule, resource: Resource[AuthorizationPolicy]) -> None:
    action = resource.value.spec.action
    for here, field, values in rule.lists(path):
        plain = field if not field.startswith("not") else field[3].lower() + field[4:]
        if action == "CUSTOM" and plain in _NOT_IN_CUSTOM:
            findings.error(here, f"{field} is not there for CUSTOM rules: leave that to who is asked")
        for index, value in enumerate(values):
            _check_value(findings, f"{here}[{index}]", plain, value)
    for here in rule.empty_blocks(path):
        findings.error(here, "it says nothing: leave out what it stands in if anything will do")
    _check_accounts(findings, path, rule)
    for here, condition in rule.conditions(path):
        if not condition.values and not condition.not_values:
            findings.error(here, "write values or notValues")
        if not _check_key(findings, f"{here}.key", condition.key):
            continue
        if action == "CUSTOM" and condition.key.startswith(_NOT_IN_CUSTOM_KEYS):
            findings.error(f"{here}.key", f"{condition.key} is not there for CUSTOM rules: leave that to who is asked")
        for field, some in (("values", condition.values), ("notValues", condition.not_values)):
            for index, value in enumerate(some):
                _check_value(findings, f"{here}.{field}[{index}]", condition.key, value)
    if action == "DENY" and _only_of_requests(rule, path):
        sentence = "where bytes are opaque nothing is known of requests, and it denies whatever the rest of it matches"
        findings.warning(path, f"{sentence}: name the ports that it is about, in to.operation.ports")


def _check_tokens(findings: Findings, resource: Resource[AuthorizationPolicy], world: World) -> None:
    """Warn of rules about tokens where nobody's are believed."""
    namespace, root = resource.key.namespace, world.root_namespace
    places = {item.key.namespace for item in world.request_authentications}
    if places & {namespace, root} or (places and namespace == root):
        return
    for index, rule in enumerate(resource.value.spec.rules):
        path = f"spec.rules[{index}]"
        asked = [here for here, field, _ in rule.lists(path) if field.lower().endswith("requestprincipals")]
        asked += [here for here, condition in rule.conditions(path) if condition.key.startswith("request.auth.")]
        if asked:
            sentence = "no RequestAuthentication says whose tokens are believed here: no request has what this is about"
            findings.warning(asked[0], sentence)
            return


def _check_accounts(findings: Findings, path: str, rule: Rule) -> None:
    for index, item in enumerate(rule.from_ or ()):
        source = item.source
        accounts = source.service_accounts or source.not_service_accounts
        others = source.principals or source.not_principals or source.namespaces or source.not_namespaces
        if accounts and others:
            here = f"{path}.from[{index}].source"
            findings.error(here, "serviceAccounts go with neither principals nor namespaces: they say both")


def _only_of_requests(rule: Rule, path: str) -> bool:
    """Whether nothing is left of the rule, or of what it is about, where bytes are opaque."""
    fields = {field.removeprefix("not").lower() for _, field, _ in rule.lists(path)}
    keys = {condition.key for condition in rule.when}
    if not fields and not keys:
        return False
    about_requests = fields & {"hosts", "methods", "paths", "requestprincipals"} or any(map(of_requests, keys))
    return bool(about_requests) and "ports" not in fields and "destination.port" not in keys


def _check_key(findings: Findings, path: str, key: str) -> bool:
    """Whether there is such an attribute."""
    start = next((start for start in _BRACKETS if key.startswith(start)), None)
    if start is None:
        if key in ATTRIBUTES:
            return True
        known = [*ATTRIBUTES, *(f"{start}[...]" for start in (HEADERS, CLAIMS))]
        findings.error(path, f"there is no attribute {key}{near(key, known)}; there are {listed(known, 20)}")
        return False
    inside = nested(key)
    if not inside or key != f"{key.partition('[')[0]}[{']['.join(inside)}]":
        findings.error(path, f"write it with a name in brackets, as in {start.removesuffix('.')}[name]")
        return False
    if key.startswith(FILTERS):
        name = key.removeprefix(FILTERS).partition("[")[0]
        if name not in _LEAVE_METADATA:
            findings.error(path, f"no filter '{name}' leaves metadata; those that do are {listed(_LEAVE_METADATA)}")
            return False
    elif key.partition("[")[0] != start:
        findings.error(path, f"there is no attribute {key.partition('[')[0]}; did you mean {start}[...]?")
        return False
    elif start == HEADERS:
        findings.check_header_name(path, inside[0])
    return True


def _check_value(findings: Findings, path: str, what: str, value: str) -> None:
    """`what` is a field of a source or an operation, or an attribute."""
    if what in _IP_FIELDS or what.endswith(".ip"):
        _check_address(findings, path, value)
    elif what in {"ports", "destination.port"}:
        if not (value.isascii() and value.isdigit() and int(value[:6]) <= 65535):
            findings.error(path, f"'{value}' is not a port: write a number from 1 to 65535, in quotes")
    elif what in {"serviceAccounts", "source.serviceAccount"}:
        if not _ACCOUNT.fullmatch(value):
            findings.error(path, f"'{value}' is not an account: write name or namespace/name, without wildcards")
    elif what == "paths" and ("{" in value or "}" in value):
        _check_template(findings, path, value)
    elif what in {"namespaces", "source.namespace"}:
        return  # here a wildcard may stand anywhere
    elif "*" in value[1:-1] or (len(value) > 1 and value.startswith("*") and value.endswith("*")):
        if what.startswith("request."):  # what a client sends may well have stars
            findings.warning(path, f"'{value}': '*' is any text at the beginning or at the end, and itself elsewhere")
        else:
            findings.error(path, f"'{value}': '*' stands at the beginning, at the end, or alone")
    elif what in {"principals", "source.principal"} and value.startswith("spiffe:"):
        findings.error(path, "a principal is written without 'spiffe://'")


def _check_address(findings: Findings, path: str, value: str) -> None:
    if "%" in value:
        findings.error(path, f"'{value}' has a zone, which means something on one machine only: write it without")
        return
    try:
        ip_network(value, strict=False)
    except ValueError as error:
        findings.error(path, f"'{value}' is neither an address nor a network: {error}")


def _check_template(findings: Findings, path: str, value: str) -> None:
    segments = value.strip("/").split("/")
    wildcards = [segment for segment in segments if segment in _TEMPLATE_SEGMENTS]
    if "{**}" in wildcards[:-1]:
        findings.error(path, "{**} is the last wildcard of a path")
    for segment in segments:
        braces = "{" in segment or "}" in segment
        if segment not in _TEMPLATE_SEGMENTS and (braces or not _SEGMENT.fullmatch(segment)):
            sentence = f"'{segment}' is no segment of a path with wildcards: write {{*}} or {{**}} for a whole one"
            findings.error(path, sentence)
            return
    if not value.startswith("/"):
        findings.error(path, "a path begins with '/'")
