"""DestinationRule → how a cluster's endpoints share its traffic, and which of them are left out. Pure.

Source: istio.io/docs/reference/config/networking/destination-rule, release 1.27, and Istio's translation of it
(pilot/pkg/networking/core, cluster_traffic_policy.go).
"""

from typing import Final

from envoy.config.cluster.v3 import cluster_pb2, outlier_detection_pb2

from pymesh.consistent_hashing import DEFAULT_RING_SIZE
from pymesh.resources.fields import seconds
from pymesh.resources.istio.destination_rule import ConsistentHashLB, OutlierDetection
from pymesh_controlplane.pilot import localities
from pymesh_controlplane.pilot.messages import duration
from pymesh_controlplane.pilot.policies import Policy

# Of a retry budget that does not say; Istio's defaults, and Envoy's.
RETRY_PERCENT: Final = 20.0
MIN_RETRIES: Final = 3

_Cluster = cluster_pb2.Cluster


def put_into(cluster: _Cluster, policy: Policy) -> None:
    """Let `cluster` follow `policy`, as far as its endpoints can be told apart."""
    if policy.retry_budget is not None:
        for thresholds in cluster.circuit_breakers.thresholds:
            budget, written = thresholds.retry_budget, policy.retry_budget
            budget.budget_percent.value = RETRY_PERCENT if written.percent is None else written.percent
            budget.min_retry_concurrency.value = (
                MIN_RETRIES if written.min_retry_concurrency is None else written.min_retry_concurrency
            )
    if cluster.type == _Cluster.ORIGINAL_DST:
        return
    if policy.consistent_hash is not None:
        cluster.lb_policy = _Cluster.RING_HASH
        cluster.ring_hash_lb_config.minimum_ring_size.value = ring_size(policy.consistent_hash)
    if localities.arranges(policy):
        cluster.common_lb_config.locality_weighted_lb_config.SetInParent()
    if policy.outlier_detection is not None:
        cluster.outlier_detection.CopyFrom(_outlier_detection(policy.outlier_detection))
        # As in Istio: with few pods behind a service, half of them being out is no reason to send requests there.
        cluster.common_lb_config.healthy_panic_threshold.value = policy.outlier_detection.min_health_percent


def ring_size(settings: ConsistentHashLB) -> int:
    """The least number of places on the ring; 0 is Istio's for "not said"."""
    inner = settings.ring_hash.minimum_ring_size if settings.ring_hash is not None else None
    return inner or settings.minimum_ring_size or DEFAULT_RING_SIZE


def _outlier_detection(settings: OutlierDetection) -> outlier_detection_pb2.OutlierDetection:
    """Success rates play no part in Istio, and 0 failures in a row stand for "never"."""
    found = outlier_detection_pb2.OutlierDetection()
    found.enforcing_success_rate.value = 0
    if settings.consecutive_5xx_errors is not None:
        found.consecutive_5xx.value = settings.consecutive_5xx_errors
        found.enforcing_consecutive_5xx.value = 100 if settings.consecutive_5xx_errors else 0
    if settings.consecutive_gateway_errors is not None:
        found.consecutive_gateway_failure.value = settings.consecutive_gateway_errors
        found.enforcing_consecutive_gateway_failure.value = 100 if settings.consecutive_gateway_errors else 0
    if settings.interval is not None:
        found.interval.CopyFrom(duration(seconds(settings.interval)))
    if settings.base_ejection_time is not None:
        found.base_ejection_time.CopyFrom(duration(seconds(settings.base_ejection_time)))
    if settings.max_ejection_percent:
        found.max_ejection_percent.value = settings.max_ejection_percent
    if settings.split_external_local_origin_errors:
        found.split_external_local_origin_errors = True
        found.enforcing_local_origin_success_rate.value = 0
        if settings.consecutive_local_origin_failures:
            found.consecutive_local_origin_failure.value = settings.consecutive_local_origin_failures
            found.enforcing_consecutive_local_origin_failure.value = 100
    return found
