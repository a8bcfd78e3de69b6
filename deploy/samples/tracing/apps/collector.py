"""A collector of traces for looking at: takes spans over OTLP/gRPC on port 4317, shows the last traces on port 8080.

It stands for Jaeger, Tempo or an OpenTelemetry collector, which take the same. `GET /` answers with the traces that it
has, the newest last, each a tree: a line a span, with the service that sent it, its name, and how long it took.
`GET /?spans=N` shows traces of at least so many, and answers 404 while there are none: ask again.
"""

import signal
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
# Traces that are kept, and spans of each.
MAX_TRACES = 100
MAX_SPANS = 1000


class Traces(grpc.GenericRpcHandler):
    """What has come, by trace."""

    def __init__(self) -> None:
        self._traces: OrderedDict[bytes, list[tuple[str, trace_pb2.Span]]] = OrderedDict()
        self._lock = threading.Lock()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
        """See grpc.GenericRpcHandler."""
        if details.method != EXPORT:
            return None
        return grpc.unary_unary_rpc_method_handler(
            self._export,
            request_deserializer=trace_service_pb2.ExportTraceServiceRequest.FromString,
            response_serializer=trace_service_pb2.ExportTraceServiceResponse.SerializeToString,
        )

    def _export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, _: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        with self._lock:
            for group in request.resource_spans:
                names = {item.key: item.value.string_value for item in group.resource.attributes}
                for scope in group.instrumentation_library_spans:
                    for span in scope.spans:
                        spans = self._traces.setdefault(span.trace_id, [])
                        if len(spans) < MAX_SPANS:
                            spans.append((names.get("service.name", "?"), span))
            while len(self._traces) > MAX_TRACES:
                self._traces.popitem(last=False)
        return trace_service_pb2.ExportTraceServiceResponse()

    def text(self, least: int) -> str:
        """The traces of `least` spans and more, for people."""
        with self._lock:
            return "\n".join(_tree(trace_id, spans) for trace_id, spans in self._traces.items() if len(spans) >= least)


def _tree(trace_id: bytes, spans: list[tuple[str, trace_pb2.Span]]) -> str:
    known = {span.span_id for _, span in spans}
    lines = [f"trace {trace_id.hex()}"]

    def below(parent: bytes | None, depth: int) -> None:
        for service, span in sorted(spans, key=lambda item: item[1].start_time_unix_nano):
            if span.parent_span_id == parent or (parent is None and span.parent_span_id not in known):
                milliseconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
                lines.append(f"{'  ' * depth}{service}: {span.name} ({milliseconds:.1f} ms)")
                below(span.span_id, depth + 1)

    below(None, 1)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Serve until told to stop."""
    traces = Traces()

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Show the traces."""
            least = parse_qs(urlsplit(self.path).query).get("spans", ["0"])[0]
            if not least.isdecimal():
                self.send_error(400, "spans is a number")
                return
            body = traces.text(int(least)).encode()
            self.send_response(200 if body or not int(least) else 404)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    collector = grpc.server(ThreadPoolExecutor(max_workers=4), handlers=[traces])
    collector.add_insecure_port("0.0.0.0:4317")
    collector.start()
    pages = ThreadingHTTPServer(("", 8080), Page)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=pages.shutdown).start())
    pages.serve_forever()
    collector.stop(grace=1).wait()


if __name__ == "__main__":
    main()
