"""Large rings are made in steps, before they are needed; meanwhile the ring from before serves."""

from dataclasses import replace

from pymesh.steps import Steps, whole
from pymesh_proxy.config.model import Cluster, Discovery
from pymesh_proxy.upstream.balancer import Balance, Balancer, Policy
from pymesh_proxy.upstream.balancers import Balancers
from pymesh_proxy.upstream.hashing import xxh64
from pymesh_proxy.upstream.ring import RingSettings
from tests.proxy.upstream.endpoints import endpoints, fail, heal

LARGE = Balance(Policy.RING_HASH, ring=RingSettings(minimum=4096))
KEYS = [xxh64(b"user-%d" % number) for number in range(500)]


def owners(balancer: Balancer) -> list[str]:
    return [found.host if (found := balancer.pick((), key)) else "none" for key in KEYS]


def test_after_an_ejection_the_old_ring_serves_until_the_new_one_is_made() -> None:
    them, later = endpoints(1, 1, 1, 1), list[Steps[None]]()
    balancer = Balancer(them, LARGE, lambda: 0.5, later=later.append)
    assert balancer.takes_long
    whole(balancer.catching_up())
    before = owners(balancer)
    assert not balancer.takes_long
    assert not later
    fail(them[1])
    meanwhile = owners(balancer)
    assert len(later) == 1, "not made while somebody waits"
    assert [new for new, old in zip(meanwhile, before, strict=True) if old != them[1].host] == [
        old for old in before if old != them[1].host
    ], "who is well keeps his keys"
    assert them[1].host not in meanwhile
    others = [balancer.pick(them[:3], key) for key in KEYS[:20]]
    assert others == [them[3]] * 20, "nobody who was tried, while another is usable"
    assert balancer.pick(them, KEYS[0]) in {them[0], them[2], them[3]}
    whole(later.pop())
    assert owners(balancer) == owners(Balancer(them, LARGE, lambda: 0.5)), "as if it had never been another one"
    heal(them[1])
    owners(balancer)
    fail(them[0])  # again something else, while that is made
    owners(balancer)
    assert len(later) == 1
    whole(later.pop())
    assert owners(balancer) == owners(Balancer(them, LARGE, lambda: 0.5))


def test_a_step_is_short_however_large_the_ring() -> None:
    """Counted, not timed: no step hashes or sorts more than a few hundred places."""
    for them, settings in ((endpoints(1), RingSettings(minimum=65_536)), (endpoints(*[1] * 2000), RingSettings())):
        balancer = Balancer(them, replace(LARGE, ring=settings), lambda: 0.5)
        steps = sum(1 for _ in balancer.catching_up())
        assert steps >= max(settings.minimum, len(them)) / 100


def cluster(count: int, balance: Balance = LARGE) -> Cluster:
    return Cluster("c", Discovery.EDS, endpoints=tuple(endpoints(*[1] * count)), balance=balance)


def test_only_large_rings_are_prepared_and_only_for_what_comes_into_force() -> None:
    made = Balancers(lambda: 0.5, lambda _: None)
    large, small = cluster(4), replace(cluster(4, Balance(Policy.RING_HASH)), name="small")
    whole(made.preparing({"c": large, "small": small}, {}.get))
    assert set(made._prepared) == {"c"}
    prepared = made._prepared["c"][1]
    whole(made.preparing({"c": large}, {}.get))
    assert made._prepared["c"][1] is prepared, "it is not made again"
    assert made.make(large, None) is prepared
    whole(made.preparing({"c": large}, {}.get))
    whole(made.preparing({}, {}.get))
    assert not made._prepared, "it is not kept either"
