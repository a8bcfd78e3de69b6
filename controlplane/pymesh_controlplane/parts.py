"""What the components that serve sidecars bring to the process that runs them, one function a component."""

import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass

import grpc
from prometheus_client.registry import Collector as Metrics
from starlette.routing import BaseRoute

from pymesh_controlplane.pilot.server import Authenticate
from pymesh_controlplane.policy.service import PolicyService
from pymesh_controlplane.sources.base import Source
from pymesh_controlplane.telemetry import pages
from pymesh_controlplane.telemetry.collector import Collector
from pymesh_controlplane.telemetry.service import AccessLogService


@dataclass(frozen=True, slots=True)
class Part:
    """A component with services on the mesh port.

    Attributes:
        services: the gRPC services of port 9091, given what tells the origin of their calls.
        run: its work beside the calls, until cancelled; None if it has none.
        waiting: why it is not ready, "" if it is.
        routes: its pages on port 15014.
        collectors, texts: what it shows at /metrics there; the latter is in Prometheus' text format already.
    """

    services: Callable[[Authenticate], Sequence[grpc.GenericRpcHandler]]
    run: Callable[[], Coroutine[None, None, None]] | None = None
    waiting: Callable[[], str] = str
    routes: Sequence[BaseRoute] = ()
    collectors: Sequence[Metrics] = ()
    texts: Sequence[Callable[[], str]] = ()


def chosen(components: Collection[str], source: Source | None) -> list[Part]:
    """The parts of `components`. policy follows `source`, and is left out where there is none."""
    found: list[Part] = []
    if "policy" in components and source is not None:
        found.append(policy(source))
    if "telemetry" in components:
        found.append(telemetry())
    return found


def policy(source: Source) -> Part:
    """The policy service: answers checks and leases slots, by the rules of the worlds of `source`."""
    service = PolicyService(source, time.monotonic)
    return Part(
        services=service.handlers,
        run=service.run,
        waiting=service.waiting,
        routes=service.routes(),
        collectors=(service.collector(),),
    )


def telemetry() -> Part:
    """The collector: takes the access log entries of proxies, and answers who talks to whom."""
    collector = Collector(time.monotonic(), time.time())
    service = AccessLogService(collector, time.monotonic)
    return Part(
        services=lambda origin: (service.handler(origin),),
        routes=pages.routes(collector, time.monotonic),
        collectors=(collector,),
        texts=(collector.istio_text,),
    )
