"""Counters as Prometheus reads them."""

from prometheus_client.parser import text_string_to_metric_families

from pymesh_proxy.telemetry.exposition import render
from pymesh_proxy.telemetry.metrics import DURATION_BUCKETS, ClusterStats, HttpStats, ListenerStats, Stats, TcpStats


def samples(stats: Stats) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(render([stats]).decode())
        for sample in family.samples
    }


def test_nothing_has_happened() -> None:
    assert samples(Stats()) == {}


def test_counts_appear_under_envoys_names() -> None:
    stats = Stats()
    http = stats.http["inbound"] = HttpStats()
    http.cx_total, http.cx_active, http.rq_total = 3, 1, 7
    cluster = stats.clusters["outbound|9080||reviews"] = ClusterStats()
    cluster.rq_total, cluster.rq_retry, cluster.cx_active = 5, 2, 4
    tcp = stats.tcp["tcp"] = TcpStats()
    tcp.bytes_sent = 11
    listener = stats.listeners["virtualOutbound"] = ListenerStats()
    listener.refusals["not_redirected"] = 2
    stats.gauges["pymesh_ready"] = ("ready", 1)
    found = samples(stats)
    prefix = (("envoy_http_conn_manager_prefix", "inbound"),)
    name = (("envoy_cluster_name", "outbound|9080||reviews"),)
    assert found["envoy_http_downstream_cx_total", prefix] == 3
    assert found["envoy_http_downstream_cx_active", prefix] == 1
    assert found["envoy_http_downstream_rq_total", prefix] == 7
    assert found["envoy_cluster_upstream_rq_total", name] == 5
    assert found["envoy_cluster_upstream_rq_retry_total", name] == 2
    assert found["envoy_cluster_upstream_cx_active", name] == 4
    assert found["envoy_tcp_downstream_bytes_sent_total", (("envoy_tcp_prefix", "tcp"),)] == 11
    refused = (("envoy_listener_address", "virtualOutbound"), ("reason", "not_redirected"))
    assert found["pymesh_listener_refused_total", refused] == 2
    assert found["pymesh_ready", ()] == 1


def test_a_finished_request_is_in_its_class_and_its_buckets() -> None:
    stats = Stats()
    http = stats.http["x"] = HttpStats()
    for status, milliseconds in ((200, 0.5), (204, 0.51), (404, 12), (503, 1e9), (0, 3), (999, 3)):
        http.completed(status, milliseconds)
    found = samples(stats)
    label = ("envoy_http_conn_manager_prefix", "x")
    classes = {
        digit: found["envoy_http_downstream_rq_xx_total", (label, ("envoy_response_code_class", digit))]
        for digit in "12345"
    }
    assert classes == {"1": 0, "2": 2, "3": 0, "4": 1, "5": 1}
    buckets = [
        found["envoy_http_downstream_rq_time_bucket", (label, ("le", str(float(le))))] for le in DURATION_BUCKETS
    ]
    assert buckets[:5] == [1, 2, 4, 4, 5]
    assert buckets == sorted(buckets)
    assert found["envoy_http_downstream_rq_time_bucket", (label, ("le", "+Inf"))] == 6
    assert found["envoy_http_downstream_rq_time_count", (label,)] == 6
    assert found["envoy_http_downstream_rq_time_sum", (label,)] == 0.5 + 0.51 + 12 + 1e9 + 6
