"""What the control plane counts, under the names that Istio's dashboards ask for.

Plain integers and a collector: Istio's counters carry no `_total`, which prometheus_client's own would add.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

# Seconds; Istio's buckets for pilot_proxy_convergence_time.
CONVERGENCE_BUCKETS: Final = (0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0)

# The label of each, "" if it has none, and the help text.
COUNTERS: Final = {
    "pilot_xds_pushes": ("type", "Updates sent to proxies."),
    "pilot_total_xds_rejects": ("", "Updates that proxies refused (NACK)."),
    "pilot_xds_rejects": ("type", "Updates that proxies refused (NACK), by type."),
    "pilot_xds_too_large": ("type", "Resources that a proxy was not sent, as no message can carry them."),
    "pilot_xds_expired_nonce": ("type", "Answers to an update that is not the last one; ignored."),
    "pilot_xds_refused": ("reason", "Streams that pilot refused or cut off."),
    "pilot_xds_unknown_types": ("", "Requests for a type of resource that pilot does not serve; ignored."),
    "pilot_push_triggers": ("", "Changes of the configuration that were read."),
    "pilot_jwks_resolver_network_fetch_success_total": ("", "Key sets of issuers that were fetched."),
    "pilot_jwks_resolver_network_fetch_fail_total": ("", "Key sets of issuers that could not be fetched."),
    "pilot_translate_errors": ("", "Translations for a proxy that failed; what it had before stays in force."),
    "citadel_server_csr_count": ("", "Certificate signing requests received."),
    "citadel_server_success_cert_issuance_count": ("", "Certificates issued to workloads."),
    "citadel_server_authentication_failure_count": ("", "Callers that did not prove who they are."),
    "citadel_server_csr_sign_err_count": ("", "Certificate signing requests refused."),
    "citadel_server_jwks_reload_errors": ("", "Changes of the JWKS file that could not be used."),
    "pymesh_kubernetes_lists": ("resource", "Lists of a kind that were read from the Kubernetes API."),
    "pymesh_kubernetes_events": ("resource", "Events of watches on the Kubernetes API, bookmarks among them."),
    "pymesh_kubernetes_errors": ("resource", "Lists and watches that the Kubernetes API did not give."),
    "citadel_server_token_reviews": ("result", "Tokens that the Kubernetes API was asked about."),
    "citadel_server_ca_changes": ("", "Changes of the CA in its store that are not in force: unusable, or too early."),
    "controlplane_leader_errors": ("", "Attempts to take or renew the Lease that failed."),
    "controlplane_writes": ("what", "Objects that were written back to the Kubernetes API."),
    "controlplane_write_errors": ("what", "Attempts to write back that failed; they are made again."),
    "controlplane_contested_writes": ("what", "Writes back that somebody else undoes again and again."),
    "controlplane_tls_refused": ("reason", "Connections and calls to the TLS ports that got no further."),
    "controlplane_certificate_errors": ("", "Attempts to get a certificate for the mesh port that failed."),
}
GAUGES: Final = {
    "pilot_xds": "Proxies connected to this pilot.",
    "citadel_server_root_cert_expiry_timestamp": "When the first of the roots ends, seconds since 1970.",
    "citadel_server_cert_chain_expiry_timestamp": "When what signs certificates ends, seconds since 1970.",
    "controlplane_leader": "1 while this replica holds the Lease and writes back.",
    "controlplane_tls_connections": "Connections to the TLS ports that are open.",
    "controlplane_certificate_expiry_timestamp": "When the certificate of the mesh port ends, seconds since 1970.",
}


class Metrics(Collector):
    """The numbers, and their form at scrape time. Used from one event loop only."""

    def __init__(self) -> None:
        self._counters: dict[str, Counter[str]] = {name: Counter() for name in COUNTERS}
        self._gauges: dict[str, float] = dict.fromkeys(GAUGES, 0.0)
        self._convergence = [0] * (len(CONVERGENCE_BUCKETS) + 1)
        self._convergence_sum = 0.0

    def count(self, name: str, label: str = "", by: int = 1) -> None:
        """Add to the counter `name`, of COUNTERS; `label` is the value of its one label, if it has one."""
        self._counters[name][label] += by

    def counted(self, name: str, label: str | None = None) -> int:
        """The counter `name`, over all labels unless one is given."""
        counter = self._counters[name]
        return counter.total() if label is None else counter[label]

    def set(self, name: str, value: float) -> None:
        """Set the gauge `name`, of GAUGES."""
        self._gauges[name] = value

    def add(self, name: str, by: float) -> None:
        """Move the gauge `name`, of GAUGES."""
        self._gauges[name] += by

    def converged(self, seconds: float) -> None:
        """One proxy has acknowledged all it needs, `seconds` after the change was read."""
        self._convergence[bisect_left(CONVERGENCE_BUCKETS, seconds)] += 1
        self._convergence_sum += seconds

    def collect(self) -> Iterator[Metric]:
        """Everything, for prometheus_client."""
        for name, (label, text) in COUNTERS.items():
            # Declared without a type: the exposition format would rename a counter to ..._total.
            metric = Metric(name, text, "unknown")
            values = self._counters[name] or ({} if label else {"": 0})
            for value, number in sorted(values.items()):
                metric.add_sample(name, {label: value} if label else {}, number)
            yield metric
        for name, text in GAUGES.items():
            gauge = Metric(name, text, "gauge")
            gauge.add_sample(name, {}, self._gauges[name])
            yield gauge
        yield self._convergence_histogram()

    def _convergence_histogram(self) -> Metric:
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, number in zip((*CONVERGENCE_BUCKETS, float("inf")), self._convergence, strict=True):
            total += number
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        family = HistogramMetricFamily(
            "pilot_proxy_convergence_time", "Seconds from a change to the last acknowledgement of a proxy it concerns."
        )
        family.add_metric([], buckets=buckets, sum_value=self._convergence_sum)
        return family
