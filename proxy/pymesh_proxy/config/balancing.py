"""How a cluster's traffic is spread: envoy Cluster's lb_policy and the settings beside it → Balance."""

from typing import Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster as ClusterMessage

from pymesh.consistent_hashing import DEFAULT_RING_SIZE, MAX_RING_SIZE
from pymesh.errors import ConfigError
from pymesh.xds.check import join
from pymesh_proxy.config.fields import number
from pymesh_proxy.upstream.balancer import Balance, Policy
from pymesh_proxy.upstream.priorities import PANIC_THRESHOLD
from pymesh_proxy.upstream.ring import LARGEST_BOUND, RingSettings

# With so much, weights hardly count any more; far above it, powers of requests in flight overflow.
MAX_BIAS: Final = 10

_POLICIES: Final = {
    ClusterMessage.ROUND_ROBIN: Policy.ROUND_ROBIN,
    ClusterMessage.LEAST_REQUEST: Policy.LEAST_REQUEST,
    ClusterMessage.RANDOM: Policy.RANDOM,
    ClusterMessage.RING_HASH: Policy.RING_HASH,
    # ORIGINAL_DST: there is nothing to choose from.
    ClusterMessage.CLUSTER_PROVIDED: Policy.ROUND_ROBIN,
}


def balance(message: ClusterMessage, path: str) -> Balance:
    """How the endpoints of the cluster at `path` share its traffic.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    provided = message.lb_policy == ClusterMessage.CLUSTER_PROVIDED
    if provided is not (message.type == ClusterMessage.ORIGINAL_DST):
        raise ConfigError(
            "CLUSTER_PROVIDED goes with type ORIGINAL_DST, and only with it", path=join(path, "lb_policy")
        )
    choices, bias = _least_request(message, path)
    return Balance(
        policy=_POLICIES[message.lb_policy],
        choices=choices,
        bias=bias,
        ring=_ring(message, path),
        panic=_panic_threshold(message, path),
        by_locality=message.common_lb_config.HasField("locality_weighted_lb_config"),
    )


def _least_request(message: ClusterMessage, path: str) -> tuple[int, float]:
    here, config = join(path, "least_request_lb_config"), message.least_request_lb_config
    choices = number(config, "choice_count", 2)
    if choices < 2:
        raise ConfigError("must be at least 2", path=join(here, "choice_count"))
    bias = config.active_request_bias.default_value if config.HasField("active_request_bias") else 1.0
    if not 0 <= bias <= MAX_BIAS:
        raise ConfigError(f"must be 0 to {MAX_BIAS}", path=join(here, "active_request_bias.default_value"))
    return choices, bias


def _ring(message: ClusterMessage, path: str) -> RingSettings:
    here, config = join(path, "ring_hash_lb_config"), message.ring_hash_lb_config
    minimum = number(config, "minimum_ring_size", DEFAULT_RING_SIZE)
    maximum = number(config, "maximum_ring_size", LARGEST_BOUND)
    if not 1 <= minimum <= MAX_RING_SIZE:
        raise ConfigError(f"must be 1 to {MAX_RING_SIZE}", path=join(here, "minimum_ring_size"))
    if maximum > LARGEST_BOUND:
        raise ConfigError(f"must be at most {LARGEST_BOUND}", path=join(here, "maximum_ring_size"))
    if minimum > maximum:
        raise ConfigError(f"is greater than maximum_ring_size ({maximum})", path=join(here, "minimum_ring_size"))
    return RingSettings(
        minimum=minimum,
        maximum=maximum,
        hash=ClusterMessage.RingHashLbConfig.HashFunction.Name(config.hash_function),
        by_hostname=message.common_lb_config.consistent_hashing_lb_config.use_hostname_for_hashing,
    )


def _panic_threshold(message: ClusterMessage, path: str) -> float:
    if not message.common_lb_config.HasField("healthy_panic_threshold"):
        return PANIC_THRESHOLD
    percent = message.common_lb_config.healthy_panic_threshold.value
    if not 0 <= percent <= 100:
        raise ConfigError("must be 0 to 100", path=join(path, "common_lb_config.healthy_panic_threshold.value"))
    return percent / 100
