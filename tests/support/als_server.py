"""A real grpcio access log service (envoy.service.accesslog.v3) that keeps what it is told."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry, TCPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse

METHOD = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"


class AlsServer(grpc.GenericRpcHandler):
    """What came, in the order in which it came; `streams` that were opened, `ended` those that ended in order."""

    def __init__(self) -> None:
        self.port = 0
        self.messages: list[StreamAccessLogsMessage] = []
        self.streams = self.ended = 0
        self._lock = threading.Lock()

    @property
    def http(self) -> list[HTTPAccessLogEntry]:
        """The entries of requests."""
        return [entry for message in self.messages for entry in message.http_logs.log_entry]

    @property
    def tcp(self) -> list[TCPAccessLogEntry]:
        """The entries of opaque connections."""
        return [entry for message in self.messages for entry in message.tcp_logs.log_entry]

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
        """See grpc.GenericRpcHandler."""
        if details.method != METHOD:
            return None
        return grpc.stream_unary_rpc_method_handler(
            self._stream,
            request_deserializer=StreamAccessLogsMessage.FromString,
            response_serializer=StreamAccessLogsResponse.SerializeToString,
        )

    def _stream(
        self, requests: Iterator[StreamAccessLogsMessage], context: grpc.ServicerContext
    ) -> StreamAccessLogsResponse:
        with self._lock:
            self.streams += 1
        for message in requests:
            with self._lock:
                self.messages.append(message)
        with self._lock:
            self.ended += 1
        return StreamAccessLogsResponse()


@contextmanager
def als_server(port: int = 0, server: AlsServer | None = None) -> Iterator[AlsServer]:
    """The service on a port of loopback, plaintext; `server` goes on with what an earlier one has."""
    handler = server or AlsServer()
    with ThreadPoolExecutor(max_workers=8) as pool:
        listening = grpc.server(pool, handlers=[handler], options=[("grpc.so_reuseport", 0)])
        handler.port = listening.add_insecure_port(f"127.0.0.1:{port}")
        listening.start()
        try:
            yield handler
        finally:
            listening.stop(grace=None).wait()
