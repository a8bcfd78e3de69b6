"""What counts as traffic: something happens, not only that somebody is connected."""

from pymesh_proxy.telemetry.metrics import HttpStats, ListenerStats, Stats, TcpStats
from pymesh_proxy.telemetry.traffic import FLOWS, LASTS, Traffic


class World:
    """Counters, and a clock that the test turns."""

    def __init__(self) -> None:
        self.now = 100.0
        self.stats = Stats()
        self.http, self.tcp, self.listener = HttpStats(), TcpStats(), ListenerStats()
        self.stats.http["h"], self.stats.tcp["t"], self.stats.listeners["l"] = self.http, self.tcp, self.listener
        self.traffic = Traffic(self.stats, lambda: self.now)

    def moving(self, after: float = 0.0) -> bool:
        self.now += after
        return self.traffic.moving()


class Bytes:
    """An opaque connection on which as many bytes come as the test says."""

    def __init__(self, world: World) -> None:
        self.world, self.more, self.looks = world, 0, 0

    def catch_up(self) -> None:
        self.looks += 1
        self.world.tcp.bytes_received += self.more
        self.more = 0


def test_a_request_or_a_connection_is_traffic_for_a_moment() -> None:
    world = World()
    assert not world.moving()
    for counted, name in ((world.http, "rq_total"), (world.listener, "cx_total")):
        setattr(counted, name, getattr(counted, name) + 1)
        assert world.moving(0.001)
        assert world.moving(LASTS * 0.9)
        assert not world.moving(LASTS * 0.2)


def test_a_connection_that_is_open_and_idle_is_none() -> None:
    world = World()
    flow = Bytes(world)
    world.stats.flows.add(flow)
    world.http.cx_active = world.tcp.cx_active = 1
    for _ in range(5):
        assert not world.moving(LASTS)
    flow.more = 1
    assert world.moving(LASTS)


def test_opaque_connections_are_looked_at_now_and_then_and_not_all() -> None:
    world = World()
    flows = [Bytes(world) for _ in range(FLOWS + 10)]
    world.stats.flows.update(flows)
    for _ in range(100):
        world.moving(LASTS / 1000)
    assert sum(flow.looks for flow in flows) == FLOWS
