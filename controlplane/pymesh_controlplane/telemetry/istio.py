"""The labels of Istio's standard metrics (`pymesh.istio_metrics`) for what was reported. Pure.

Every proxy has the same metrics of its own traffic. The collector's are for whoever cannot reach the proxies; to scrape
both is to count every request twice, so `pymesh prometheus` leaves these out.
"""

from pymesh.istio_metrics import IstioMetrics, Labels
from pymesh.peer_metadata import UNKNOWN_VALUE
from pymesh_controlplane.telemetry.entries import Flight


def count(metrics: IstioMetrics, flight: Flight) -> None:
    """Count `flight` in `metrics`. Connections of opaque bytes are reported at their end: opened is closed.

    A new series is its reporter's: an app can make up the names of hosts that it asks for.
    """
    ends, owner = _ends(flight), f"{flight.reporter.principal} {flight.reporter.pod}"
    if flight.protocol == "tcp":
        connections, _ = metrics.connections.get((*ends, "tcp", flight.flag, flight.security), owner)
        connections.opened += 1
        connections.closed += 1
        connections.received += flight.received
        connections.sent += flight.sent
        return
    status = str(flight.status)
    requests, _ = metrics.requests.get(
        (*ends, flight.protocol, status, flight.grpc_status, flight.flag, flight.security), owner
    )
    requests.add(flight.milliseconds, flight.received, flight.sent)


def _ends(flight: Flight) -> Labels:
    """The labels from `reporter` to `destination_cluster`, in the order of HTTP_LABELS."""
    source, destination, service = flight.source, flight.destination, flight.service
    # Without mutual TLS nobody has proved anything on this connection, whatever the proxies can prove.
    source_principal, destination_principal = flight.source_principal, flight.destination_principal
    if not flight.mtls:
        source_principal = destination_principal = ""
    return (
        flight.side,
        source.workload, source.canonical_service, source.canonical_revision, source.namespace,
        source_principal or UNKNOWN_VALUE, source.app, source.version, source.cluster,
        destination.workload, destination.namespace, destination_principal or UNKNOWN_VALUE, destination.app,
        destination.version, service.host, destination.canonical_service, destination.canonical_revision,
        service.name, service.namespace, destination.cluster,
    )  # fmt: skip
