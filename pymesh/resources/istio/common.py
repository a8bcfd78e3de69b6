"""What several of Istio's kinds are made of."""

from typing import Annotated, Literal

from msgspec import Meta

from pymesh.resources.fields import Block, Name, NotYet, Port

Labels = dict[str, str]
Hosts = Annotated[list[str], Meta(min_length=1, description="a list with at least one host")]
# As long as a URL that everybody takes; a longer one is compared with every request for nothing.
Text = Annotated[str, Meta(pattern=r"(?s)^.+\Z", max_length=2048, description="a text of 1 to 2048 characters")]

PortProtocol = Literal["HTTP", "HTTPS", "GRPC", "GRPC-Web", "HTTP2", "MONGO", "TCP", "TLS"]


class PortSelector(Block, frozen=True):
    """A port by number."""

    number: Port


class WorkloadSelector(Block, frozen=True):
    """The workloads that have all of these labels."""

    match_labels: Labels = {}


class TargetRef(Block, frozen=True):
    """What a policy is for, by name instead of by labels (Gateway API: GEP-713)."""

    kind: Text
    name: Name
    group: str = ""
    namespace: NotYet = None
