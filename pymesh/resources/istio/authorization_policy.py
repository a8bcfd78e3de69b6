"""Istio's AuthorizationPolicy: who may do what to a workload.

Source: istio.io/docs/reference/config/security/authorization-policy and .../conditions, release 1.27.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from pymesh.resources.fields import Block, NotYet, ObjectMeta
from pymesh.resources.istio.common import TargetRef, Text, WorkloadSelector
from pymesh.resources.resource import Resource

# Annotation: "true" says that a policy decides nothing; what it would have decided is counted and logged.
DRY_RUN: Final = "istio.io/dry-run"
# What Go's strconv.ParseBool takes for true and for false; Istio reads the annotation by it.
TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})

Texts = list[Text]
Action = Literal["ALLOW", "DENY", "AUDIT", "CUSTOM"]


class Source(Block, frozen=True):
    """Where a request comes from; all that is said must hold, and of each list one item.

    Attributes:
        principals: `cluster.local/ns/default/sa/web`, as the peer's certificate says.
        request_principals: `<issuer>/<subject>`, as the request's token says.
        service_accounts: `name`, of the policy's namespace, or `namespace/name`.
        ip_blocks: of the peer; `remote_ip_blocks`: of the client, which is told in x-forwarded-for.
    """

    principals: Texts = []
    not_principals: Texts = []
    request_principals: Texts = []
    not_request_principals: Texts = []
    namespaces: Texts = []
    not_namespaces: Texts = []
    service_accounts: Texts = []
    not_service_accounts: Texts = []
    ip_blocks: Texts = []
    not_ip_blocks: Texts = []
    remote_ip_blocks: Texts = []
    not_remote_ip_blocks: Texts = []
    trust_domains: NotYet = None
    not_trust_domains: NotYet = None


class From(Block, frozen=True):
    """One source."""

    source: Source


class Operation(Block, frozen=True):
    """What is asked for; all that is said must hold, and of each list one item."""

    hosts: Texts = []
    not_hosts: Texts = []
    ports: Texts = []
    not_ports: Texts = []
    methods: Texts = []
    not_methods: Texts = []
    paths: Texts = []
    not_paths: Texts = []


class To(Block, frozen=True):
    """One operation."""

    operation: Operation


class Condition(Block, frozen=True):
    """What else must hold: an attribute has one of `values`, and none of `not_values`."""

    key: Text
    values: Texts = []
    not_values: Texts = []


class Rule(Block, frozen=True):
    """One of the sources asks for one of the operations under all of the conditions; what is left out is anything."""

    from_: Annotated[list[From], Meta(min_length=1, description="a list with at least one source")] | None = (
        msgspec.field(name="from", default=None)
    )
    to: Annotated[list[To], Meta(min_length=1, description="a list with at least one operation")] | None = None
    when: list[Condition] = []

    def conditions(self, path: str) -> Iterator[tuple[str, Condition]]:
        """The conditions below `path`, each with its own."""
        for index, condition in enumerate(self.when):
            yield f"{path}.when[{index}]", condition

    def lists(self, path: str) -> Iterator[tuple[str, str, Texts]]:
        """Every list of values below `path`: its own path, its field (`notPaths`), and the values."""
        for here, block in self._blocks(path):
            for field, values in msgspec.to_builtins(block).items():
                if values:
                    yield f"{here}.{field}", field, values

    def empty_blocks(self, path: str) -> Iterator[str]:
        """The paths of sources and operations that say nothing."""
        return (here for here, block in self._blocks(path) if not any(msgspec.to_builtins(block).values()))

    def _blocks(self, path: str) -> Iterator[tuple[str, Source | Operation]]:
        for index, item in enumerate(self.from_ or ()):
            yield f"{path}.from[{index}].source", item.source
        for index, operation in enumerate(self.to or ()):
            yield f"{path}.to[{index}].operation", operation.operation


class Provider(Block, frozen=True):
    """Who decides, with action CUSTOM: one of `extensionProviders` of the MeshConfig."""

    name: Text


class AuthorizationPolicySpec(Block, frozen=True):
    """security.istio.io AuthorizationPolicy. An ALLOW policy without rules lets nothing in."""

    selector: WorkloadSelector | None = None
    target_ref: TargetRef | None = None
    target_refs: list[TargetRef] = []
    rules: list[Rule] = []
    action: Action = "ALLOW"
    provider: Provider | None = None

    @property
    def targets(self) -> list[TargetRef]:
        """What it names, in whichever of the two fields."""
        return self.target_refs or ([self.target_ref] if self.target_ref is not None else [])


class AuthorizationPolicy(Block, frozen=True):
    """Who may do what to a workload."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()
    status: object | None = None


def is_dry(policy: Resource[AuthorizationPolicy]) -> bool:
    """Whether the policy is only tried out."""
    annotations: Mapping[str, str] = policy.value.metadata.annotations or {}
    return annotations.get(DRY_RUN) in TRUE
