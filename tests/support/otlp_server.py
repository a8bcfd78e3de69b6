"""A real grpcio trace collector (OTLP) that keeps the spans that it is sent."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class OtlpServer(grpc.GenericRpcHandler):
    """What came, in the order in which it came; while `refusing` is set, everything is answered with that status."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[ExportTraceServiceRequest] = []
        self.refusing: grpc.StatusCode | None = None
        self.refused = 0
        self.partly = b""  # the bytes of an answer that says so
        self._lock = threading.Lock()

    @property
    def spans(self) -> list[Span]:
        """All spans."""
        return [
            span
            for request in list(self.requests)
            for resource in request.resource_spans
            for scope in resource.instrumentation_library_spans  # called scope_spans since; the same on the wire
            for span in scope.spans
        ]

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
        """See grpc.GenericRpcHandler."""
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(
            self._export,
            request_deserializer=ExportTraceServiceRequest.FromString,
            response_serializer=ExportTraceServiceResponse.SerializeToString,
        )

    def _export(self, request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        with self._lock:
            if self.refusing is not None:
                self.refused += 1
                context.abort(self.refusing, "not now")
            self.requests.append(request)
        return ExportTraceServiceResponse.FromString(self.partly)


@contextmanager
def otlp_server(port: int = 0) -> Iterator[OtlpServer]:
    """The collector on a port of loopback, plaintext."""
    handler = OtlpServer()
    with ThreadPoolExecutor(max_workers=8) as pool:
        listening = grpc.server(pool, handlers=[handler], options=[("grpc.so_reuseport", 0)])
        handler.port = listening.add_insecure_port(f"127.0.0.1:{port}")
        listening.start()
        try:
            yield handler
        finally:
            listening.stop(grace=None).wait()
