"""The ADS client over a real connection to a grpcio server that plays pilot."""

import asyncio
import logging
import queue
import random
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest
from google.protobuf.message import Message

from pymesh.grpc.framing import MAX_MESSAGE_BYTES
from pymesh.xds.types import CLUSTER, ENDPOINT, LISTENER
from pymesh_proxy.control import backoff
from pymesh_proxy.control.channel import Channel
from pymesh_proxy.control.node import Node
from pymesh_proxy.control.pace import Pace
from pymesh_proxy.control.subscription import Delta, StateOfTheWorld
from pymesh_proxy.control.target import Target
from pymesh_proxy.control.xds import XdsClient, node_message
from tests.proxy.control.scripted import Remembering, cluster, delta, endpoints, listener, sotw
from tests.support.waiting import eventually

NODE = Node("reviews-0", "default", "10.0.0.7", "reviews", "reviews", labels={"app": "reviews"})


class Pilot(grpc.GenericRpcHandler):
    """Answers as the test says, and keeps what it is asked."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self._lock = threading.Lock()
        self.streams = 0
        self._held: list[Message] = []  # said while there was no stream
        self._stream: queue.Queue[Message | None] | None = None  # the latest one's

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
        if details.method not in {Delta.method, StateOfTheWorld.method}:
            return None

        def stream(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            own: queue.Queue[Message | None] = queue.Queue()
            with self._lock:
                self._stream = own
                self.streams += 1
                while self._held:
                    own.put(self._held.pop(0))

            def read() -> None:
                with suppress(grpc.RpcError):
                    for request in requests:
                        self.requests.append(request)
                with self._lock:
                    self._stream = None if self._stream is own else self._stream
                own.put(None)

            threading.Thread(target=read, daemon=True).start()
            while (response := own.get()) is not None:
                yield response.SerializeToString()

        return grpc.stream_stream_rpc_method_handler(stream)

    @contextmanager
    def serving(self, path: Path) -> Iterator[None]:
        """Listen on a Unix socket for as long as the context lasts."""
        with ThreadPoolExecutor(max_workers=4) as pool:
            server = grpc.server(pool, handlers=[self])
            server.add_insecure_port(f"unix:{path}")
            server.start()
            try:
                yield
            finally:
                server.stop(grace=None).wait()

    def asked(self) -> list[DeltaDiscoveryRequest]:
        return [DeltaDiscoveryRequest.FromString(data) for data in self.requests]

    def send(self, *responses: DeltaDiscoveryResponse) -> None:
        with self._lock:
            for response in responses:
                if self._stream is None:
                    self._held.append(response)
                else:
                    self._stream.put(response)


@asynccontextmanager
async def following(
    path: Path, *, is_delta: bool = True, rng: random.Random | None = None, pace: Pace | None = None
) -> AsyncIterator[tuple[XdsClient, Remembering]]:
    consumer = Remembering()
    channel = Channel(Target(unix_path=str(path)))
    rng, pace = rng or random.Random(1), pace or Pace()
    client = XdsClient(channel, node_message(NODE), consumer, delta=is_delta, rng=rng, pace=pace)
    try:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(client.run())
            yield client, consumer
            running.cancel()
    finally:
        await channel.close()


FIRST = (
    delta(CLUSTER, "1", cluster("a")),
    delta(ENDPOINT, "2", endpoints("a")),
    delta(LISTENER, "3", listener("l")),
)


async def test_configuration_arrives_and_survives_the_loss_of_pilot(tmp_path: Path) -> None:
    pilot = Pilot()
    async with following(tmp_path / "xds") as (client, consumer):
        await eventually(lambda: client.stats.last_error)
        assert client.waiting_for == (
            f"waiting for clusters, listeners from unix:{tmp_path}/xds: no such file or directory"
        )
        with pilot.serving(tmp_path / "xds"):
            await eventually(lambda: len(pilot.requests) == 2)
            pilot.send(*FIRST)
            await eventually(lambda: client.ready)
            assert client.waiting_for == ""
            assert client.stats.connected
            assert client.stats.last_error == ""
            assert consumer.names(CLUSTER) == {"a"}
            first = pilot.asked()[0]
            assert first.node == node_message(NODE)
            assert first.node.id == "sidecar~10.0.0.7~reviews-0.default~default.svc.cluster.local"
        await eventually(lambda: not client.stats.connected)
        assert client.ready
        assert client.stats.last_error
        assert consumer.names(CLUSTER) == {"a"}
        again = Pilot()
        with again.serving(tmp_path / "xds"):
            await eventually(lambda: len(again.requests) == 3)
            assert [dict(request.initial_resource_versions) for request in again.asked()] == [
                {"a": "1"},
                {"a": "1"},
                {"l": "1"},
            ]
            again.send(delta(CLUSTER, "1", removed=["a"]))
            await eventually(lambda: consumer.names(CLUSTER) == set())
            assert client.stats.connects == 2
            assert client.stats.disconnects == 1


async def test_a_refusal_reaches_pilot_with_the_path(tmp_path: Path) -> None:
    pilot = Pilot()
    with pilot.serving(tmp_path / "xds"):
        async with following(tmp_path / "xds") as (client, consumer):
            consumer.refuse = {"a"}
            pilot.send(FIRST[0])
            await eventually(lambda: len(pilot.requests) == 3)
            assert pilot.asked()[2].error_detail.message == "a: some.field: is not supported"
            assert client.stats.rejected == 1
            assert client.waiting_for.endswith("clusters refused: a: some.field: is not supported")


async def test_a_response_that_makes_no_sense_costs_the_stream_but_not_the_client(tmp_path: Path) -> None:
    pilot = Pilot()
    with pilot.serving(tmp_path / "xds"):
        async with following(tmp_path / "xds") as (client, _):
            pilot.send(delta("type.googleapis.com/unheard.Of", "1"))
            await eventually(lambda: "not asked for" in client.stats.last_error)
            await eventually(lambda: pilot.streams == 2)  # it came back
            pilot.send(*FIRST)
            await eventually(lambda: client.ready)


class Hasty(random.Random):
    """Lets every wait be a thousandth of its longest."""

    def uniform(self, a: float, b: float) -> float:
        del a, b
        return 0.001


def losses(caplog: pytest.LogCaptureFixture) -> list[tuple[int, float]]:
    """The level at which each lost stream was told, and the longest wait that came next."""
    records = [record for record in caplog.records if "trying again" in record.msg]
    return [(record.levelno, round(record.args[1] * 1000, 1)) for record in records if isinstance(record.args, tuple)]


async def test_a_message_that_is_too_large_is_asked_for_again_only_after_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "pymesh_proxy.control.xds")
    pilot = Pilot()
    large = delta(ENDPOINT, "2", endpoints("e" * MAX_MESSAGE_BYTES))
    with pilot.serving(tmp_path / "xds"):
        async with following(tmp_path / "xds", rng=Hasty()) as (client, _):
            for attempt in range(1, 4):
                await eventually(lambda attempt=attempt: pilot.streams == attempt)
                # Clusters are accepted each time, and what comes behind them is too large.
                pilot.send(FIRST[0], large)
                await eventually(lambda attempt=attempt: len(losses(caplog)) == attempt)
            assert "larger than the limit" in client.stats.last_error
            assert client.stats.updates == 3
    assert losses(caplog) == [
        (logging.WARNING, backoff.LONGEST),
        (logging.DEBUG, backoff.LONGEST),
        (logging.DEBUG, backoff.LONGEST),
    ]


async def test_only_an_accepted_response_makes_the_next_attempt_a_quick_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "pymesh_proxy.control.xds")
    pilot = Pilot()
    with pilot.serving(tmp_path / "xds"):
        async with following(tmp_path / "xds", rng=Hasty()):
            for attempt in range(1, 4):
                await eventually(lambda attempt=attempt: pilot.streams == attempt)
                pilot.send(delta("type.googleapis.com/unheard.Of", "1"))
                await eventually(lambda attempt=attempt: len(losses(caplog)) == attempt)
            await eventually(lambda: pilot.streams == 4)
            pilot.send(FIRST[0], delta("type.googleapis.com/unheard.Of", "1"))
            await eventually(lambda: len(losses(caplog)) == 4)
    assert losses(caplog) == [
        (logging.WARNING, backoff.QUICK),
        (logging.DEBUG, backoff.FIRST),
        (logging.DEBUG, 2 * backoff.FIRST),
        (logging.WARNING, backoff.QUICK),
    ]


async def test_state_of_the_world(tmp_path: Path) -> None:
    pilot = Pilot()
    with pilot.serving(tmp_path / "xds"):
        async with following(tmp_path / "xds", is_delta=False) as (client, consumer):
            for response in (
                sotw(CLUSTER, "1", cluster("a")),
                sotw(ENDPOINT, "2", endpoints("a")),
                sotw(LISTENER, "3", listener("l")),
            ):
                pilot.send(response)
            await eventually(lambda: client.ready)
            assert consumer.names(ENDPOINT) == {"a"}
            await eventually(lambda: len(pilot.requests) == 6)
            last = DiscoveryRequest.FromString(pilot.requests[-1])
            assert (last.type_url, last.version_info) == (LISTENER, "3")


@pytest.mark.parametrize("count", [2000])
async def test_a_push_of_many_clusters(tmp_path: Path, count: int) -> None:
    pilot = Pilot()
    names = [f"outbound|9080||service-{number}.default.svc.cluster.local" for number in range(count)]
    with pilot.serving(tmp_path / "xds"):
        slices: list[float] = []
        paced = Pace(ran=lambda seconds, _: slices.append(seconds))
        async with following(tmp_path / "xds", pace=paced) as (client, consumer):
            pilot.send(
                delta(CLUSTER, "1", *map(cluster, names)),
                delta(ENDPOINT, "2", *map(endpoints, names)),
                delta(LISTENER, "3"),
            )
            await eventually(lambda: client.ready)
            assert len(consumer.names(CLUSTER)) == count
            assert len(slices) >= 3, "each response at a pace"


async def test_what_never_comes_is_given_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymesh_proxy.control.ads.INITIAL_FETCH_TIMEOUT", 0.05)
    pilot = Pilot()
    with pilot.serving(tmp_path / "xds"):
        async with following(tmp_path / "xds") as (client, _):
            pilot.send(delta(CLUSTER, "1", cluster("a")), delta(LISTENER, "2"))
            await eventually(lambda: client.ready)
            assert client.stats.given_up == 1
