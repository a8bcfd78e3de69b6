"""The discovery server as its clients see it: a real gRPC client over a real socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from google.rpc.status_pb2 import Status

from pymesh.grpc.framing import MAX_MESSAGE_BYTES
from pymesh.identity import Identity
from pymesh.xds.types import CLUSTER, LISTENER, SECRET
from pymesh_controlplane.pilot import server as pilot_server
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.node import Node
from pymesh_controlplane.pilot.server import Origin, RequestBudget, StreamError
from pymesh_controlplane.pilot.session import Snapshot
from tests.controlplane.pilot.serving import NODE_ID, Pilot, always, node_message, serving, snapshot_of
from tests.controlplane.pilot.worlds import Messages
from tests.support.waiting import eventually

SOTW = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

RawStream = grpc.aio.StreamStreamCall[bytes, bytes]


@pytest.fixture
async def pilot() -> AsyncIterator[Pilot]:
    """A pilot that anybody may talk to."""
    async with serving() as running:
        yield running


@contextlib.asynccontextmanager
async def stream(pilot: Pilot, method: str = SOTW) -> AsyncIterator[RawStream]:
    """A stream to pilot; messages are bytes."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{pilot.port}") as channel:
        call = channel.stream_stream(method)()
        try:
            yield call
        finally:
            call.cancel()


async def say(call: RawStream, **request: object) -> None:
    """A DiscoveryRequest."""
    await call.write(DiscoveryRequest(**request).SerializeToString())


async def hear(call: RawStream) -> DiscoveryResponse:
    """The next DiscoveryResponse."""
    data = await call.read()
    assert isinstance(data, bytes), await call.details()
    return DiscoveryResponse.FromString(data)


async def ended(call: RawStream) -> tuple[grpc.StatusCode, str]:
    """How the stream ended."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        while isinstance(await call.read(), bytes):
            pass
    return await call.code(), await call.details()


def clusters(*names: str) -> Messages:
    """A mesh of clusters."""
    return {CLUSTER: {name: Cluster(name=name) for name in names}}


async def test_a_client_is_sent_the_world_and_its_changes(pilot: Pilot) -> None:
    """State of the world, with nonces, versions and who sent it."""
    async with stream(pilot) as call:
        await say(call, type_url=CLUSTER, node=node_message())
        pilot.feed.put(clusters("a"))
        first = await hear(call)
        assert [Cluster.FromString(resource.value).name for resource in first.resources] == ["a"]
        assert first.resources[0].type_url == first.type_url == CLUSTER
        assert first.control_plane.identifier == "pymesh-pilot"
        await say(call, type_url=CLUSTER, response_nonce=first.nonce, version_info=first.version_info)
        pilot.feed.put(clusters("a", "b"))
        second = await hear(call)
        assert len(second.resources) == 2
        assert second.nonce != first.nonce
        assert second.version_info != first.version_info
    assert pilot.metrics.counted("pilot_xds_pushes", "cds") == 2
    await eventually(lambda: not pilot.server.connections, what="the stream's end to be noticed")


async def test_delta_is_sent_what_changed(pilot: Pilot) -> None:
    """Names, versions, and what is gone."""
    pilot.feed.put(clusters("a", "b"))
    async with stream(pilot, DELTA) as call:
        request = DeltaDiscoveryRequest(type_url=CLUSTER, node=node_message())
        await call.write(request.SerializeToString())
        first = DeltaDiscoveryResponse.FromString(await call.read())
        assert sorted(resource.name for resource in first.resources) == ["a", "b"]
        answer = DeltaDiscoveryRequest(type_url=CLUSTER, response_nonce=first.nonce)
        await call.write(answer.SerializeToString())
        pilot.feed.put(clusters("a", "c"))
        second = DeltaDiscoveryResponse.FromString(await call.read())
        assert [resource.name for resource in second.resources] == ["c"]
        assert list(second.removed_resources) == ["b"]


async def test_a_burst_of_changes_is_one_push(pilot: Pilot) -> None:
    """As when a folder of files is applied."""
    pilot.feed.put(clusters())
    async with stream(pilot) as call:
        await say(call, type_url=CLUSTER, node=node_message())
        first = await hear(call)
        await say(call, type_url=CLUSTER, response_nonce=first.nonce)
        await eventually(lambda: pilot.server.connections[1].session.synced(CLUSTER))
        for number in range(20):
            pilot.feed.put(clusters(*map(str, range(number + 1))))
        assert len((await hear(call)).resources) == 20
        assert pilot.metrics.counted("pilot_xds_pushes") == 2


async def test_a_refusal_is_counted_and_kept(pilot: Pilot) -> None:
    """With its reason; the stream goes on."""
    pilot.feed.put(clusters("a"))
    async with stream(pilot) as call:
        await say(call, type_url=CLUSTER, node=node_message())
        first = await hear(call)
        await say(call, type_url=CLUSTER, response_nonce=first.nonce, error_detail=Status(code=3, message="no such"))
        await eventually(lambda: pilot.metrics.counted("pilot_xds_rejects", "cds") == 1)
        (connection,) = pilot.server.connections.values()
        assert connection.session.subscriptions[CLUSTER].error == "no such"
        pilot.feed.put(clusters("b"))
        assert Cluster.FromString((await hear(call)).resources[0].value).name == "b"


async def test_types_that_pilot_does_not_serve_are_passed_over(pilot: Pilot) -> None:
    """Counted, and no reason to end the stream."""
    pilot.feed.put(clusters("a"))
    async with stream(pilot) as call:
        await say(call, type_url="type.googleapis.com/envoy.service.runtime.v3.Runtime", node=node_message())
        await say(call, type_url=CLUSTER)
        await hear(call)
        assert pilot.metrics.counted("pilot_xds_unknown_types") == 1


@pytest.mark.parametrize(
    ("first", "code", "sentence"),
    [
        (b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "no discovery request"),
        (DiscoveryRequest(type_url=CLUSTER).SerializeToString(), grpc.StatusCode.INVALID_ARGUMENT, "needs a node"),
        (
            DiscoveryRequest(type_url=CLUSTER, node=node_message("me")).SerializeToString(),
            grpc.StatusCode.INVALID_ARGUMENT,
            "not of the form",
        ),
    ],
    ids=["garbage", "no node", "odd node"],
)
@pytest.mark.parametrize("method", [SOTW, DELTA])
async def test_a_first_message_that_is_none_ends_the_stream(
    pilot: Pilot, method: str, first: bytes, code: grpc.StatusCode, sentence: str
) -> None:
    """With a sentence, counted; whoever comes next is served."""
    if method == DELTA and first[:1] != b"\xff":
        request = DiscoveryRequest.FromString(first)
        first = DeltaDiscoveryRequest(type_url=request.type_url).SerializeToString()
        if request.HasField("node"):
            first = DeltaDiscoveryRequest(type_url=request.type_url, node=request.node).SerializeToString()
    async with stream(pilot, method) as call:
        await call.write(first)
        status = await ended(call)
        assert status[0] == code
        assert sentence in status[1]
    assert pilot.metrics.counted("pilot_xds_refused") == 1
    assert not pilot.server.connections


async def test_garbage_in_the_middle_ends_only_that_stream(pilot: Pilot) -> None:
    """A neighbour is served on."""
    pilot.feed.put(clusters("a"))
    async with stream(pilot) as good, stream(pilot) as bad:
        for call in (good, bad):
            await say(call, type_url=CLUSTER, node=node_message())
            response = await hear(call)
            await say(call, type_url=CLUSTER, response_nonce=response.nonce)
        await bad.write(b"\xff\xff")
        assert (await ended(bad))[0] == grpc.StatusCode.INVALID_ARGUMENT
        assert pilot.metrics.counted("pilot_xds_refused", "garbage") == 1
        await say(good, type_url=LISTENER)
        assert (await hear(good)).type_url == LISTENER


async def test_a_flood_is_cut_off(pilot: Pilot, monkeypatch: pytest.MonkeyPatch) -> None:
    """And counted."""
    monkeypatch.setattr(pilot_server, "RequestBudget", lambda now: RequestBudget(now, burst=50, rate=1))
    async with stream(pilot) as call:
        with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
            await say(call, type_url=CLUSTER, node=node_message())
            for _ in range(200):
                await say(call, type_url=CLUSTER)
        # grpcio's client says INTERNAL of a stream that ends under its hands while it writes.
        assert (await ended(call))[0] in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL}
    assert pilot.metrics.counted("pilot_xds_refused", "flood") == 1
    assert not pilot.server.connections


def test_the_budget_refills_with_time() -> None:
    """Up to the burst, no further."""
    budget = RequestBudget(0.0, burst=2, rate=1)
    assert [budget.take(0.0) for _ in range(3)] == [True, True, False]
    assert [budget.take(1.0) for _ in range(2)] == [True, False]
    assert [budget.take(100.0) for _ in range(3)] == [True, True, False]


async def test_too_large_a_message_ends_only_that_stream(pilot: Pilot) -> None:
    """More than 4 MiB in one request."""
    async with stream(pilot) as call:
        await call.write(b"x" * (5 * 1024 * 1024))
        assert (await ended(call))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_silent_client_is_cut_off(pilot: Pilot, monkeypatch: pytest.MonkeyPatch) -> None:
    """It opened a stream and says nothing."""
    monkeypatch.setattr(pilot_server, "FIRST_REQUEST_TIMEOUT", 0.05)
    async with stream(pilot) as call:
        assert (await ended(call))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    assert pilot.metrics.counted("pilot_xds_refused", "silent") == 1


@pytest.mark.parametrize(
    ("account", "code"), [("reviews", None), ("ratings", grpc.StatusCode.PERMISSION_DENIED)], ids=["own", "other's"]
)
async def test_a_node_must_be_the_one_that_was_proved(account: str, code: grpc.StatusCode | None) -> None:
    """Otherwise one pod could read what another is to know."""
    proved = Origin("10.244.0.7:4000", Identity("cluster.local", "default", "reviews"))
    async with serving(always(proved)) as pilot, stream(pilot) as call:
        pilot.feed.put(clusters("a"))
        await say(call, type_url=CLUSTER, node=node_message(account=account))
        if code is None:
            await hear(call)
        else:
            status = await ended(call)
            assert status[0] == code
            assert "proved to be spiffe://cluster.local/ns/default/sa/reviews" in status[1]


@pytest.mark.parametrize("proved", [True, False], ids=["proved", "anybody"])
async def test_secrets_are_for_those_who_have_proved_who_they_are(*, proved: bool) -> None:
    """On the plaintext port everybody may say that they are the gateway."""
    identity = Identity("cluster.local", "default", "reviews") if proved else None
    async with serving(always(Origin("10.244.0.7:4000", identity))) as pilot, stream(pilot) as call:
        pilot.feed.put({SECRET: {"kubernetes://web": Secret(name="kubernetes://web")}})
        await say(call, type_url=SECRET, resource_names=["kubernetes://web"], node=node_message())
        response = await hear(call)
        assert len(response.resources) == int(proved)


async def test_a_caller_without_proof_is_refused() -> None:
    """Before anything is read from it."""

    async def nobody(_: object) -> Origin:
        raise StreamError(grpc.StatusCode.UNAUTHENTICATED, "send a token", "unauthenticated")

    async with serving(nobody) as pilot, stream(pilot) as call:
        assert await ended(call) == (grpc.StatusCode.UNAUTHENTICATED, "send a token")
        assert pilot.metrics.counted("pilot_xds_refused", "unauthenticated") == 1


async def test_a_translation_that_fails_stops_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    """And leaves the proxy it fails for with what it has."""

    def translate(node: Node, world: World) -> Snapshot:
        if node.pod == "broken" and world.revision != "0":
            raise KeyError("a bug of ours")
        return snapshot_of(clusters(world.revision))

    async with serving(translate=translate) as pilot, stream(pilot) as good, stream(pilot) as bad:
        pilot.feed.put({})
        for call, node_id in ((good, NODE_ID), (bad, "sidecar~10.0.0.1~broken.default~default.svc.cluster.local")):
            await say(call, type_url=CLUSTER, node=node_message(node_id))
            response = await hear(call)
            await say(call, type_url=CLUSTER, response_nonce=response.nonce)
        pilot.feed.put({})
        assert Cluster.FromString((await hear(good)).resources[0].value).name == "1"
        await eventually(lambda: pilot.metrics.counted("pilot_translate_errors") == 1)
        assert len(pilot.server.connections) == 2
    assert "translation failed; what it has stays in force" in caplog.text


async def test_a_client_that_does_not_read_holds_up_nobody(pilot: Pilot) -> None:
    """Flow control stops its own stream only, with one message under way."""
    large = {CLUSTER: {str(number): Cluster(name=str(number), alt_stat_name="x" * 1000) for number in range(2000)}}
    async with stream(pilot) as deaf, stream(pilot) as good:
        await say(deaf, type_url=CLUSTER, node=node_message())
        await eventually(lambda: len(pilot.server.connections) == 1)
        pilot.feed.put(large)
        await say(good, type_url=CLUSTER, node=node_message())
        response = await hear(good)
        assert len(response.resources) == 2000
        for number in range(5):
            await say(good, type_url=CLUSTER, response_nonce=response.nonce)
            pilot.feed.put({CLUSTER: {**large[CLUSTER], "new": Cluster(name="new", alt_stat_name=str(number))}})
            response = await hear(good)
        (first, *_) = pilot.server.connections.values()
        assert first.session.subscriptions[CLUSTER].outstanding is not None


@pytest.mark.parametrize("method", [SOTW, DELTA])
async def test_what_no_message_can_carry_is_left_out_counted_and_logged_once(
    pilot: Pilot, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    large = Cluster(name="large", alt_stat_name="x" * MAX_MESSAGE_BYTES)
    pilot.feed.put({CLUSTER: {"large": large, "small": Cluster(name="small")}})
    form = DiscoveryResponse if method == SOTW else DeltaDiscoveryResponse
    for _ in range(2):
        async with stream(pilot, method) as call:
            if method == SOTW:
                await say(call, type_url=CLUSTER, node=node_message())
            else:
                await call.write(DeltaDiscoveryRequest(type_url=CLUSTER, node=node_message()).SerializeToString())
            data = await call.read()
            assert len(data) < MAX_MESSAGE_BYTES
            (resource,) = form.FromString(data).resources
            assert b"small" in resource.SerializeToString()
    assert pilot.metrics.counted("pilot_xds_too_large", "cds") == 2
    (told,) = [record.getMessage() for record in caplog.records if "larger than" in record.getMessage()]
    assert told.startswith("cds large is not sent to sidecar~")
