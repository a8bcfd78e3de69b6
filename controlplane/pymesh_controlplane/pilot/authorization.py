"""AuthorizationPolicies → the filters that enforce them. Pure.

A request meets the policies that select its workload (selection.py) in Istio's order: an external authorizer is asked
(CUSTOM), the request is marked for the log (AUDIT), it is denied (DENY), or allowed (ALLOW); as soon as there is one
ALLOW policy, what none of them allows is denied. Opaque connections meet the same policies, as far as these are about
connections.

Source: istio.io/docs/concepts/security (authorization), istio.io/docs/reference/config/security/authorization-policy
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2

from pymesh.resources.istio.authorization_policy import Action, AuthorizationPolicy, is_dry
from pymesh.resources.resource import Resource
from pymesh.xds.filter_names import HTTP_RBAC, NETWORK_RBAC
from pymesh_controlplane.pilot import authorization_rules
from pymesh_controlplane.pilot.authorization_rules import Scope
from pymesh_controlplane.pilot.authorizers import Authorizer, ask_about_connections, ask_about_requests
from pymesh_controlplane.pilot.filters import Before
from pymesh_controlplane.pilot.messages import packed

STAT_PREFIX: Final = "tcp."
# Prefixes of counters and metadata, Istio's: of dry runs, and of what the rules of a CUSTOM policy have matched.
DRY_RUN_PREFIX: Final[Mapping[Action, str]] = {"ALLOW": "istio_dry_run_allow_", "DENY": "istio_dry_run_deny_"}
ASKED_PREFIX: Final = "istio_ext_authz_"
# Suffix of the names of CUSTOM rules whose provider cannot be asked: what they match is denied, as in Istio.
UNASKABLE: Final = "-deny-due-to-bad-CUSTOM-action"

_ACTIONS: Final = {"ALLOW": rbac_pb2.RBAC.ALLOW, "DENY": rbac_pb2.RBAC.DENY, "AUDIT": rbac_pb2.RBAC.LOG}
# The actions that the proxy decides itself, in the order in which a request meets them.
_DECIDED_HERE: Final[Sequence[Action]] = ("AUDIT", "DENY", "ALLOW")

Policy = Resource[AuthorizationPolicy]
_HttpFilter = http_connection_manager_pb2.HttpFilter
_Filter = listener_components_pb2.Filter


class Settings(NamedTuple):
    """What policies mean in a mesh, for one kind of proxy.

    Attributes:
        trust_domains: the mesh's own, then those that stand for it.
        authorizers: who can be asked, by name.
        asks_about_connections: whether the proxy can ask authorizers about opaque connections, too. Where it cannot, it
            denies what the rules of a CUSTOM policy match.
    """

    trust_domains: tuple[str, ...]
    authorizers: Mapping[str, Authorizer]
    asks_about_connections: bool


def filters(policies: Sequence[Policy], settings: Settings) -> Before:
    """The filters in front of a workload for which `policies` hold: of its requests, and of its opaque connections."""
    return Before(
        (*_asked_about_requests(policies, settings), *_decided_about_requests(policies, settings)),
        (*_asked_about_connections(policies, settings), *_decided_about_connections(policies, settings)),
    )


def rule_name(policy: Policy, index: int) -> str:
    """How a denial names a rule, as in Istio: `ns[default]-policy[reviews]-rule[0]`."""
    return f"ns[{policy.key.namespace}]-policy[{policy.key.name}]-rule[{index}]"


# --- ALLOW, DENY and AUDIT: decided in the proxy ----------------------------------------------------------------------


def _decided_about_requests(policies: Sequence[Policy], settings: Settings) -> Iterator[_HttpFilter]:
    for action, some in _by_action(policies):
        config = http_rbac_pb2.RBAC()
        _put_rules(config, action, some, settings, opaque=False)
        yield _HttpFilter(name=HTTP_RBAC, typed_config=packed(config))


def _decided_about_connections(policies: Sequence[Policy], settings: Settings) -> Iterator[_Filter]:
    for action, some in _by_action(policies):
        config = network_rbac_pb2.RBAC(stat_prefix=STAT_PREFIX)
        _put_rules(config, action, some, settings, opaque=True)
        yield _Filter(name=NETWORK_RBAC, typed_config=packed(config))


def _by_action(policies: Iterable[Policy]) -> Iterator[tuple[Action, list[Policy]]]:
    """The policies that the proxy decides by, by their action, in the order in which a request meets them."""
    for action in _DECIDED_HERE:
        if some := [policy for policy in policies if policy.value.spec.action == action]:
            yield action, some


def _put_rules(
    config: http_rbac_pb2.RBAC | network_rbac_pb2.RBAC,
    action: Action,
    policies: Iterable[Policy],
    settings: Settings,
    *,
    opaque: bool,
) -> None:
    """Fill the rules that are enforced, and the shadow rules: those of policies on a dry run."""
    in_force = [policy for policy in policies if not is_dry(policy)]
    tried = [policy for policy in policies if is_dry(policy)]
    if in_force:
        config.rules.CopyFrom(_rules(action, in_force, settings, opaque=opaque))
    if tried:
        config.shadow_rules.CopyFrom(_rules(action, tried, settings, opaque=opaque))
        config.shadow_rules_stat_prefix = DRY_RUN_PREFIX.get(action, "")


def _rules(
    action: Action, policies: Iterable[Policy], settings: Settings, *, opaque: bool, prefix: str = "", suffix: str = ""
) -> rbac_pb2.RBAC:
    found = rbac_pb2.RBAC(action=_ACTIONS.get(action, rbac_pb2.RBAC.DENY))
    for policy in policies:
        scope = Scope(policy.key.namespace, action, settings.trust_domains, opaque)
        for index, rule in enumerate(policy.value.spec.rules):
            compiled = authorization_rules.policy(rule, scope)
            if compiled is not None:
                found.policies[f"{prefix}{rule_name(policy, index)}{suffix}"].CopyFrom(compiled)
        if not policy.value.spec.rules:
            found.policies[f"{prefix}{rule_name(policy, 0)}{suffix}"].CopyFrom(_never())
    return found


def _never() -> rbac_pb2.Policy:
    """What a policy without rules becomes: it matches nothing, so an ALLOW policy like that denies everything."""
    nothing = rbac_pb2.Permission(not_rule=rbac_pb2.Permission(any=True))
    nobody = rbac_pb2.Principal(not_id=rbac_pb2.Principal(any=True))
    return rbac_pb2.Policy(permissions=[nothing], principals=[nobody])


# --- CUSTOM: an external authorizer is asked about what the rules match -----------------------------------------------


def _asked_about_requests(policies: Sequence[Policy], settings: Settings) -> Iterator[_HttpFilter]:
    for name, some in _by_provider(policies):
        authorizer = settings.authorizers.get(name)
        config = http_rbac_pb2.RBAC()
        if authorizer is None:
            config.rules.CopyFrom(_rules("CUSTOM", some, settings, opaque=False, suffix=UNASKABLE))
            yield _HttpFilter(name=HTTP_RBAC, typed_config=packed(config))
            continue
        config.shadow_rules.CopyFrom(_rules("CUSTOM", some, settings, opaque=False, prefix=_prefix(name)))
        config.shadow_rules_stat_prefix = ASKED_PREFIX
        yield _HttpFilter(name=HTTP_RBAC, typed_config=packed(config))
        yield ask_about_requests(authorizer, HTTP_RBAC, ASKED_PREFIX, f"{_prefix(name)}ns[")


def _asked_about_connections(policies: Sequence[Policy], settings: Settings) -> Iterator[_Filter]:
    for name, some in _by_provider(policies):
        authorizer = settings.authorizers.get(name)
        if authorizer is not None and not authorizer.grpc:
            continue  # it is asked about requests only, as in Istio
        config = network_rbac_pb2.RBAC(stat_prefix=STAT_PREFIX)
        if authorizer is None or not settings.asks_about_connections:
            config.rules.CopyFrom(_rules("CUSTOM", some, settings, opaque=True, suffix=UNASKABLE))
            yield _Filter(name=NETWORK_RBAC, typed_config=packed(config))
            continue
        config.shadow_rules.CopyFrom(_rules("CUSTOM", some, settings, opaque=True, prefix=_prefix(name)))
        config.shadow_rules_stat_prefix = ASKED_PREFIX
        yield _Filter(name=NETWORK_RBAC, typed_config=packed(config))
        yield ask_about_connections(authorizer, NETWORK_RBAC, ASKED_PREFIX, f"{_prefix(name)}ns[")


def _by_provider(policies: Iterable[Policy]) -> Iterator[tuple[str, list[Policy]]]:
    """The CUSTOM policies in force by the name of their provider, sorted."""
    found: dict[str, list[Policy]] = {}
    for policy in policies:
        spec = policy.value.spec
        if spec.action == "CUSTOM" and not is_dry(policy):
            found.setdefault(spec.provider.name if spec.provider is not None else "", []).append(policy)
    yield from sorted(found.items())


def _prefix(provider: str) -> str:
    """The prefix of the rules about which `provider` is asked. Followed by `ns[`, it is no other provider's as well."""
    return f"istio-ext-authz-{provider}-"
