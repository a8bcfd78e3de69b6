"""The balancers of clusters: what takes long to make is made before it is needed, and again where nobody waits."""

from collections.abc import Callable, Mapping

from pymesh.steps import Steps
from pymesh_proxy.config.model import Cluster
from pymesh_proxy.upstream.balancer import Balancer, Policy
from pymesh_proxy.upstream.cluster import ClusterState
from pymesh_proxy.upstream.pickers import Random


class Balancers:
    """Makes balancers, with those from before to begin with."""

    def __init__(self, random: Random, later: Callable[[Steps[None]], object]) -> None:
        """`later`: see Balancer."""
        self._random = random
        self._later = later
        self._prepared: dict[str, tuple[Cluster, Balancer]] = {}

    def make(self, cluster: Cluster, before: Balancer | None) -> Balancer:
        """The one that was prepared for exactly this compiled object, or else a new one."""
        made_for, prepared = self._prepared.pop(cluster.name, (None, None))
        if prepared is not None and made_for is cluster:
            return prepared
        return Balancer(cluster.endpoints, cluster.balance, self._random, before, self._later)

    def preparing(self, clusters: Mapping[str, Cluster], state: Callable[[str], ClusterState | None]) -> Steps[None]:
        """Make the rings of `clusters` that are to be in force: large ones, and those of clusters in use.

        `state` tells what is known of one that has been in use. Other small rings, of which there may be
        thousands that nobody ever asks, are made for the first request.
        """
        self._prepared = {name: made for name, made in self._prepared.items() if clusters.get(name) is made[0]}
        for name, cluster in clusters.items():
            if cluster.balance.policy is Policy.RING_HASH and name not in self._prepared:
                known = state(name)
                if known is None or known.cluster is not cluster:
                    before = None if known is None else known.balancer
                    made = Balancer(cluster.endpoints, cluster.balance, self._random, before, self._later)
                    if known is not None or made.takes_long:
                        yield from made.catching_up()
                        self._prepared[name] = (cluster, made)
            yield
