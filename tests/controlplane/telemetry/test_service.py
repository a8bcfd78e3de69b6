"""The access log service over a real gRPC connection, with the identity that the port has proved."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from envoy.service.accesslog.v3 import als_pb2

from pymesh.identity import Identity
from pymesh_controlplane.pilot.server import Origin, ServerContext, StreamError
from pymesh_controlplane.telemetry.collector import Collector
from pymesh_controlplane.telemetry.service import METHOD, SERVICE, AccessLogService
from tests.controlplane.telemetry.support import PAGE_ID, PAGE_NODE, REVIEWS_ID, TO_V1, http_entry, message
from tests.support.waiting import eventually


@asynccontextmanager
async def served(identity: Identity | None) -> AsyncIterator[tuple[Collector, grpc.aio.Channel]]:
    """A collector, and a channel of a proxy that has proved to be `identity`; None has proved nothing and had to."""
    collector = Collector(time.monotonic(), time.time())

    async def origin(context: ServerContext) -> Origin:
        if identity is None:
            raise StreamError(grpc.StatusCode.UNAUTHENTICATED, "no certificate", "unauthenticated")
        return Origin(context.peer(), identity)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((AccessLogService(collector, time.monotonic).handler(origin),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield collector, channel
    finally:
        await server.stop(None)


def call(channel: grpc.aio.Channel) -> "grpc.aio.StreamUnaryCall[bytes, bytes]":
    return channel.stream_unary(f"/{SERVICE}/{METHOD}")()


async def status_of(channel: grpc.aio.Channel, sent: bytes) -> tuple[grpc.StatusCode, str]:
    """Of a stream of one message, sent with the call: grpcio calls a write INTERNAL that a refusal overtakes."""
    answered = channel.unary_unary(f"/{SERVICE}/{METHOD}")(sent)
    return await answered.code(), str(await answered.details())


async def test_what_a_proxy_streams_is_counted_as_it_comes() -> None:
    async with served(PAGE_ID) as (collector, channel):
        stream = call(channel)
        await stream.write(message(http_entry(TO_V1), node=PAGE_NODE).SerializeToString())
        await eventually(lambda: collector.entries == 1)
        assert collector.streams == 1
        await stream.write(message(http_entry(TO_V1), http_entry(TO_V1)).SerializeToString())
        await stream.done_writing()
        als_pb2.StreamAccessLogsResponse.FromString(await stream)
        assert collector.entries == 3
        assert collector.streams == 0
        [edge] = collector.traffic.graph(time.monotonic(), 60)["edges"]
        assert edge["source"]["workload"] == "productpage-v1"


async def test_a_stream_that_breaks_off_leaves_no_trace() -> None:
    async with served(PAGE_ID) as (collector, channel):
        stream = call(channel)
        await stream.write(message(http_entry(TO_V1), node=PAGE_NODE).SerializeToString())
        await eventually(lambda: collector.entries == 1)
        stream.cancel()
        await eventually(lambda: collector.streams == 0)
        assert not collector.refused


FIRST = message(http_entry(TO_V1), node=PAGE_NODE).SerializeToString()


@pytest.mark.parametrize(
    ("identity", "sent", "code", "why"),
    [
        (None, FIRST, grpc.StatusCode.UNAUTHENTICATED, "no certificate"),
        (REVIEWS_ID, FIRST, grpc.StatusCode.PERMISSION_DENIED, "has proved to be spiffe://cluster.local/ns/bookinfo"),
        (PAGE_ID, b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "no StreamAccessLogsMessage"),
        (
            PAGE_ID,
            message(http_entry(TO_V1)).SerializeToString(),
            grpc.StatusCode.INVALID_ARGUMENT,
            "the first message has no identifier",
        ),
        (
            PAGE_ID,
            message(node={"id": "someone"}).SerializeToString(),
            grpc.StatusCode.INVALID_ARGUMENT,
            "node id 'someone' is not of the form",
        ),
    ],
)
async def test_streams_that_are_refused(
    identity: Identity | None, sent: bytes, code: grpc.StatusCode, why: str
) -> None:
    async with served(identity) as (collector, channel):
        status, details = await status_of(channel, sent)
        assert status is code
        assert why in details
        assert collector.entries == 0
        assert collector.refused == {"stream": 1}
        await eventually(lambda: collector.streams == 0)
