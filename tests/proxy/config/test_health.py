"""Health checks and outlier detection as they are configured."""

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster as ClusterMessage

from pymesh.errors import ConfigError
from pymesh_proxy.config.clusters import compile_cluster
from pymesh_proxy.config.model import Cluster
from pymesh_proxy.upstream.health import HealthCheck, HttpCheck, TcpCheck
from pymesh_proxy.upstream.outlier import ENFORCING, Ejection, OutlierSettings
from tests.support.xds import message

TIMES = "timeout: 1s, interval: 5s, unhealthy_threshold: 3, healthy_threshold: 2"


def cluster(text: str) -> Cluster:
    return compile_cluster(message(ClusterMessage, f"{{name: a, {text}}}"), "c").cluster


def check(text: str) -> HealthCheck:
    found = cluster(f"health_checks: [{{{text}}}]").health_check
    assert found is not None
    return found


def test_a_check_and_its_defaults() -> None:
    assert check(f"{TIMES}, http_health_check: {{path: /healthz}}") == HealthCheck(
        what=HttpCheck("/healthz"), timeout=1, interval=5, unhealthy_threshold=3, healthy_threshold=2,
        unhealthy_interval=5, unhealthy_edge_interval=5, healthy_edge_interval=5,
        no_traffic_interval=60, no_traffic_healthy_interval=60,
    )  # fmt: skip


def test_a_check_with_everything() -> None:
    found = check(f"""{TIMES}, initial_jitter: 1s, interval_jitter: 2s, interval_jitter_percent: 10,
      reuse_connection: false, no_traffic_interval: 7s, no_traffic_healthy_interval: 8s, unhealthy_interval: 9s,
      unhealthy_edge_interval: 10s, healthy_edge_interval: 11s,
      http_health_check: {{path: "/h?x", host: me.test, method: HEAD, codec_client_type: HTTP1,
        expected_statuses: [{{start: 200, end: 300}}], retriable_statuses: [{{start: 503, end: 504}}]}}""")
    assert found == HealthCheck(
        what=HttpCheck("/h?x", "me.test", "HEAD", ((200, 300),), ((503, 504),)),
        timeout=1, interval=5, unhealthy_threshold=3, healthy_threshold=2, unhealthy_interval=9,
        unhealthy_edge_interval=10, healthy_edge_interval=11, no_traffic_interval=7, no_traffic_healthy_interval=8,
        initial_jitter=1, jitter=2, jitter_percent=10, reuse=False,
    )  # fmt: skip


def test_tcp_checks() -> None:
    assert check(f"{TIMES}, tcp_health_check: {{}}").what == TcpCheck()
    spoken = check(f"{TIMES}, tcp_health_check: {{send: {{text: '0aff'}}, receive: [{{text: 00}}, {{binary: eA==}}]}}")
    assert spoken.what == TcpCheck(b"\n\xff", (b"\0", b"x"))


def test_outlier_detection_and_its_defaults() -> None:
    assert cluster("outlier_detection: {}").outlier == OutlierSettings()
    assert cluster("type: STATIC").outlier is None


def test_outlier_detection_with_everything() -> None:
    found = cluster("""outlier_detection: {interval: 1s, base_ejection_time: 2s, max_ejection_time: 3s,
      max_ejection_time_jitter: 4s, max_ejection_percent: 5, always_eject_one_host: true, consecutive_5xx: 6,
      consecutive_gateway_failure: 7, consecutive_local_origin_failure: 8, split_external_local_origin_errors: true,
      success_rate_minimum_hosts: 9, success_rate_request_volume: 10, success_rate_stdev_factor: 1100,
      failure_percentage_threshold: 12, failure_percentage_minimum_hosts: 13, failure_percentage_request_volume: 14,
      successful_active_health_check_uneject_host: false, enforcing_consecutive_5xx: 15,
      enforcing_consecutive_gateway_failure: 16, enforcing_consecutive_local_origin_failure: 17,
      enforcing_success_rate: 18, enforcing_local_origin_success_rate: 19, enforcing_failure_percentage: 20,
      enforcing_failure_percentage_local_origin: 21}""").outlier
    assert found == OutlierSettings(
        1, 2, 3, 4, 5, always_eject_one=True, consecutive_5xx=6, consecutive_gateway_failure=7,
        consecutive_local_origin_failure=8, split_local_origin=True, success_rate_minimum_hosts=9,
        success_rate_request_volume=10, success_rate_stdev_factor=1.1, failure_percentage_threshold=12,
        failure_percentage_minimum_hosts=13, failure_percentage_request_volume=14, uneject_when_checked=False,
        enforcing=dict(zip((
            Ejection.CONSECUTIVE_5XX, Ejection.CONSECUTIVE_GATEWAY_FAILURE, Ejection.CONSECUTIVE_LOCAL_ORIGIN_FAILURE,
            Ejection.SUCCESS_RATE, Ejection.LOCAL_ORIGIN_SUCCESS_RATE, Ejection.FAILURE_PERCENTAGE,
            Ejection.LOCAL_ORIGIN_FAILURE_PERCENTAGE,
        ), range(15, 22), strict=True)),
    )  # fmt: skip
    assert found.enforcing.keys() == ENFORCING.keys()


def test_a_long_base_ejection_time_is_the_longest_too() -> None:
    found = cluster("outlier_detection: {base_ejection_time: 400s}").outlier
    assert found is not None
    assert found.max_ejection_time == 400


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("health_checks: [{}]", "health_checks[0].timeout", "is required"),
        (f"health_checks: [{{{TIMES}}}]", "health_checks[0]", "one of these is required"),
        (f"health_checks: [{{{TIMES}, tcp_health_check: {{}}}}, {{}}]", "health_checks", "at most one"),
        (f"health_checks: [{{{TIMES.replace('1s', '0s')}, tcp_health_check: {{}}}}]",
         "health_checks[0].timeout", "above 0"),
        (f"health_checks: [{{{TIMES}, http_health_check: {{}}}}]", "health_checks[0].http_health_check.path",
         "is required"),
        (f"health_checks: [{{{TIMES}, http_health_check: {{path: 'a b'}}}}]", "health_checks[0].http_health_check.path",
         "must be a path"),
        (f'health_checks: [{{{TIMES}, http_health_check: {{path: /, host: "a\\r\\nb"}}}}]',
         "health_checks[0].http_health_check.host", "is not a host"),
        (f"health_checks: [{{{TIMES}, http_health_check: {{path: /, method: CONNECT}}}}]",
         "health_checks[0].http_health_check.method", "no health check"),
        (f"health_checks: [{{{TIMES}, http_health_check: {{path: /, expected_statuses: [{{start: 300, end: 200}}]}}}}]",
         "health_checks[0].http_health_check.expected_statuses[0]", "within 100 and 600"),
        (f"health_checks: [{{{TIMES}, tcp_health_check: {{send: {{text: xy}}}}}}]",
         "health_checks[0].tcp_health_check.send.text", "hexadecimal"),
        ("outlier_detection: {max_ejection_percent: 101}", "outlier_detection.max_ejection_percent", "0 to 100"),
        ("outlier_detection: {interval: 0s}", "outlier_detection.interval", "above 0"),
        ("outlier_detection: {max_ejection_time: 1s}", "outlier_detection.max_ejection_time",
         "less than base_ejection_time"),
        ("ring_hash_lb_config: {minimum_ring_size: 65537}", "ring_hash_lb_config.minimum_ring_size", "1 to 65536"),
        ("ring_hash_lb_config: {minimum_ring_size: 0}", "ring_hash_lb_config.minimum_ring_size", "1 to 65536"),
        ("ring_hash_lb_config: {maximum_ring_size: 8388609}", "ring_hash_lb_config.maximum_ring_size", "at most"),
        ("ring_hash_lb_config: {maximum_ring_size: 9}", "ring_hash_lb_config.minimum_ring_size", "is greater than"),
        ("least_request_lb_config: {active_request_bias: {default_value: -1, runtime_key: x}}",
         "least_request_lb_config.active_request_bias.default_value", "0 to 10"),
        ("least_request_lb_config: {active_request_bias: {default_value: 11, runtime_key: x}}",
         "least_request_lb_config.active_request_bias.default_value", "0 to 10"),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, path: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cluster(text)
    assert caught.value.path == f"c.{path}"
    assert problem in caught.value.problem
