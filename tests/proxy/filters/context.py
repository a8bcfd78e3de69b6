"""What a filter sees of a request, without the request's exchange."""

from dataclasses import dataclass

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.routing import Route
from pymesh_proxy.telemetry.record import RequestRecord


@dataclass
class Context:
    """See filters.base.RequestContext."""

    request: Head
    record: RequestRecord
    route: Route | None = None
    client: str = ""
