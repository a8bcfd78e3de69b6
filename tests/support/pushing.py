"""A control plane that pushes whatever a test says, to one proxy, over the state-of-the-world ADS; grpcio beneath.

with Pushing() as pilot, ProxyProcess("--config", pilot.bootstrap(path)) as proxy:
    pilot.push(types.CLUSTER, "1", [cluster])
    pilot.acknowledged(types.CLUSTER, "1")
"""

import json
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from pymesh_proxy.control.subscription import StateOfTheWorld
from tests.support.waiting import eventually_sync

_HTTP2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class Pushing(grpc.GenericRpcHandler):
    """Serves on a free port, between `with` and its end; what was pushed last is told to who comes anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: dict[str, DiscoveryResponse] = {}
        self._queue: queue.Queue[DiscoveryResponse | None] | None = None
        self._acknowledged: dict[str, str] = {}
        self.refused: list[str] = []
        self.node = Node()  # of whom has asked last
        self._pool = ThreadPoolExecutor(max_workers=4)
        options = [("grpc.max_send_message_length", -1)]
        self._server = grpc.server(self._pool, handlers=[self], options=options)
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(grace=None).wait()
        with self._lock:
            if self._queue is not None:
                self._queue.put(None)
        self._pool.shutdown()

    def bootstrap(self, path: Path, listeners: Sequence[Message] = (), clusters: Sequence[Message] = ()) -> str:
        """Write a bootstrap whose ADS leads here; its path.

        With static `listeners` or `clusters`, ADS has to give no others: only what these refer to.
        """
        address = {"socket_address": {"address": "127.0.0.1", "port_value": self.port}}
        http2 = {
            "@type": f"type.googleapis.com/{_HTTP2}",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
        pilot = {
            "name": "pilot",
            "load_assignment": {
                "cluster_name": "pilot",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
            "typed_extension_protocol_options": {_HTTP2: http2},
        }
        ads = {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "pilot"}}],
        }
        others = {} if listeners or clusters else {"cds_config": {"ads": {}}, "lds_config": {"ads": {}}}
        bootstrap = {
            "node": {
                "id": "sidecar~127.0.0.1~proxy.default~default.svc.cluster.local",
                "cluster": "proxy.default",
                "metadata": {"LABELS": {"app": "proxy"}, "of-the-user": ["a", 1.0]},
                "locality": {"zone": "z1"},
            },
            "dynamic_resources": {"ads_config": ads, **others},
            "static_resources": {
                "clusters": [pilot, *map(MessageToDict, clusters)],
                "listeners": [*map(MessageToDict, listeners)],
            },
        }
        path.write_text(json.dumps(bootstrap))
        return str(path)

    def push(self, type_url: str, version: str, resources: Sequence[Message]) -> None:
        """All resources of one type, as they are from now on."""
        response = DiscoveryResponse(type_url=type_url, version_info=version, nonce=f"{type_url} {version}")
        for resource in resources:
            response.resources.add().Pack(resource)
        with self._lock:
            self._latest[type_url] = response
            if self._queue is not None:
                self._queue.put(response)

    def acknowledged(self, type_url: str, version: str) -> None:
        """Wait until the proxy has taken this version."""
        eventually_sync(lambda: self._acknowledged.get(type_url) == version, what=f"ACK of {type_url} {version}")

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
        """See grpc.GenericRpcHandler."""
        if details.method != StateOfTheWorld.method:
            return None
        return grpc.stream_stream_rpc_method_handler(self._stream)

    def _stream(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        own: queue.Queue[DiscoveryResponse | None] = queue.Queue()
        with self._lock:
            self._queue = own
            asked: set[str] = set()

        def read() -> None:
            with suppress(grpc.RpcError):
                for data in requests:
                    request = DiscoveryRequest.FromString(data)
                    if request.HasField("node"):
                        self.node = request.node
                    if request.error_detail.message:
                        self.refused.append(request.error_detail.message)
                    elif request.response_nonce:
                        self._acknowledged[request.type_url] = request.version_info
                    with self._lock:
                        if request.type_url not in asked and request.type_url in self._latest:
                            own.put(self._latest[request.type_url])
                        asked.add(request.type_url)
            own.put(None)

        threading.Thread(target=read, daemon=True).start()
        while (response := own.get()) is not None:
            if response.type_url in asked:
                yield response.SerializeToString()
