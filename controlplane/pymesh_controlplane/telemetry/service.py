"""The access log service (ALS): proxies stream what passed them, over the mesh's mutual TLS.

Source: https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/accesslog/v3/als.proto
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import grpc
import grpc.aio
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.message import DecodeError

from pymesh.errors import printable
from pymesh_controlplane.pilot.server import Authenticate, ServerContext, StreamError
from pymesh_controlplane.telemetry.collector import Collector
from pymesh_controlplane.telemetry.entries import entries_of
from pymesh_controlplane.telemetry.reporter import ForeignNodeError, Reporter, reporter_of

log = logging.getLogger("pymesh.telemetry")

SERVICE: Final = "envoy.service.accesslog.v3.AccessLogService"
METHOD: Final = "StreamAccessLogs"
# Entries that are counted in one go, at 20 µs each; then it is the others' turn. A message may have a hundred thousand.
SLICE: Final = 200


class AccessLogService:
    """Hands what proxies stream to `collector`. `clock` gives seconds of the monotonic clock.

    A stream is read as fast as its messages are counted and no faster: what comes quicker waits in the proxy, whose
    queue is bounded and whose losses are counted.
    """

    def __init__(self, collector: Collector, clock: Callable[[], float]) -> None:
        self._collector = collector
        self._clock = clock

    def handler(self, origin: Authenticate) -> grpc.GenericRpcHandler:
        """The gRPC service for one listener, whose callers `origin` tells."""

        async def stream(_: object, context: ServerContext) -> bytes:
            self._collector.streams += 1
            try:
                return await self._read(context, origin)
            except StreamError as error:
                self._collector.refused["stream"] += 1
                log.warning("access log stream from %s refused: %s", printable(context.peer()), error)
                await context.abort(error.code, str(error))
            finally:
                self._collector.streams -= 1

        # Messages stay bytes here: what cannot be decoded is then ours to refuse, with a sentence and a count.
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: grpc.stream_unary_rpc_method_handler(stream)})

    async def _read(self, context: ServerContext, origin: Authenticate) -> bytes:
        caller = await origin(context)
        reporter: Reporter | None = None
        while (message := await _receive(context)) is not None:
            if message.HasField("identifier"):
                try:
                    reporter = reporter_of(message.identifier.node, caller.identity)
                except ForeignNodeError as error:
                    raise StreamError(grpc.StatusCode.PERMISSION_DENIED, str(error), "identity") from error
                except ValueError as error:
                    raise StreamError(grpc.StatusCode.INVALID_ARGUMENT, str(error), "node") from error
            if reporter is None:
                raise StreamError(grpc.StatusCode.INVALID_ARGUMENT, "the first message has no identifier", "node")
            entries = entries_of(message)
            for start in range(0, len(entries), SLICE):
                self._collector.take(entries[start : start + SLICE], reporter, self._clock())
                await asyncio.sleep(0)
        return als_pb2.StreamAccessLogsResponse().SerializeToString()


async def _receive(context: ServerContext) -> als_pb2.StreamAccessLogsMessage | None:
    """The next message; None at the end."""
    data: object = await context.read()
    if not isinstance(data, bytes):  # grpc.aio.EOF
        return None
    try:
        return als_pb2.StreamAccessLogsMessage.FromString(data)
    except DecodeError as error:
        sentence = f"no StreamAccessLogsMessage: {error}"
        raise StreamError(grpc.StatusCode.INVALID_ARGUMENT, sentence, "message") from error
