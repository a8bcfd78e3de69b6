"""What has no standard kind: limits that all sidecars of a service keep together, `policy.pymesh.io/v1alpha1`.

The shape is the Gateway API's for policies (gateway.networking.k8s.io, GEP-713): a policy names what it is for in
`targetRefs`, in its own namespace.
"""

from typing import Annotated, Final, Literal

from msgspec import Meta

from pymesh import policy_attributes
from pymesh.resources.fields import Block, Duration, Name, ObjectMeta

GROUP: Final = "policy.pymesh.io"

Amount = Annotated[int, Meta(ge=1, le=10**9, description="a whole number from 1 to 1000000000")]
# A service with more requests in it at once than this has other worries, and a sidecar's counter has 32 bits.
Slots = Annotated[int, Meta(ge=1, le=10**6, description="a whole number from 1 to 1000000")]
Attribute = Annotated[
    str,
    Meta(
        pattern=policy_attributes.PATTERN,
        max_length=policy_attributes.MAX_NAME,
        description=policy_attributes.DESCRIPTION,
    ),
]
Attributes = Annotated[
    list[Attribute],
    Meta(max_length=policy_attributes.MAX_ATTRIBUTES, description="a list of at most 8 attributes"),
]
FailureMode = Literal["Open", "Closed", "LastDecision"]
Otherwise = Literal["Open", "Closed"]


class TargetRef(Block, frozen=True):
    """A Service of the policy's own namespace (Gateway API: LocalPolicyTargetReference)."""

    name: Name
    kind: Literal["Service"] = "Service"
    group: Literal[""] = ""


Targets = Annotated[list[TargetRef], Meta(min_length=1, description="a list with at least one target")]


class RateLimitSpec(Block, frozen=True):
    """So many requests in so much time, over all sidecars of the targets.

    Attributes:
        requests, per: how many in how long, evenly.
        burst: how many at once after a quiet time; as many as `requests` if it is not said.
        by: what is counted apart: each caller, each path ...; everything together if it is empty. See
            pymesh.policy_attributes. A path template also says which requests the limit is about.
        failure_mode: what the sidecar does while the policy service cannot be asked: let in, answer 503, or go on
            by itself from where the rate stood.
        otherwise: what LastDecision does where there was none.
        dry_run: count whom it would refuse, and let them in.
        quota: sidecars lease stocks of its tokens, or ask about each request; what suits the rate if it is not said.
    """

    target_refs: Targets
    requests: Amount
    per: Literal["Second", "Minute", "Hour", "Day"]
    burst: Amount | None = None
    by: Attributes = []
    failure_mode: FailureMode = "LastDecision"
    otherwise: Otherwise = "Closed"
    dry_run: bool = False
    quota: Literal["Leased", "Asked"] | None = None


class RateLimit(Block, frozen=True):
    """How many requests in how much time."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    spec: RateLimitSpec
    status: object | None = None


class ConcurrencyLimitSpec(Block, frozen=True):
    """So many requests in the targets at once, over all their sidecars; the modes are those of RateLimitSpec."""

    target_refs: Targets
    max: Slots
    failure_mode: FailureMode = "LastDecision"
    otherwise: Otherwise = "Closed"
    dry_run: bool = False


class ConcurrencyLimit(Block, frozen=True):
    """How many requests at once."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    spec: ConcurrencyLimitSpec
    status: object | None = None


class Remember(Block, frozen=True, rename={"valid_for": "for"}):
    """How sidecars may use an answer again.

    Attributes:
        valid_for: for how long, `for` in the manifest.
        uses: for how many requests in all; any number of them if it is not said.
        by: what answers are told apart by; one that names nothing is the same for everybody.
    """

    valid_for: Duration
    by: Attributes
    uses: Amount | None = None


class CheckSpec(Block, frozen=True):
    """A function in Python that is asked about each request of the targets; the modes are those of RateLimitSpec.

    Attributes:
        function: the name of a function with `@check` (pymesh.checks) in a key NAME.py of the mesh's ConfigMap.
        timeout: how long it may take.
        failure_mode: also what is done where the function fails.
        remember: how its answers may be used again, where they do not say so themselves.
    """

    target_refs: Targets
    function: Annotated[
        str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}\Z", description="the name of a function with @check")
    ]
    timeout: Duration = "50ms"
    failure_mode: FailureMode = "Closed"
    otherwise: Otherwise = "Closed"
    dry_run: bool = False
    remember: Remember | None = None


class Check(Block, frozen=True):
    """Who comes in, as a function of ours says."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    spec: CheckSpec
    status: object | None = None
