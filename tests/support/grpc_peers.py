"""A real grpcio server for our client: an echo service of raw bytes that misbehaves on request."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from tests.support.certificates import Issued

ECHO = "/test.Echo/Unary"
CHAT = "/test.Echo/Chat"
BURST = "/test.Echo/Burst"
FAIL = "/test.Echo/Fail"
HANG = "/test.Echo/Hang"
WHO = "/test.Echo/Who"


class _Echo(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
        def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
            context.send_initial_metadata((("x-server", "grpcio"),))
            return request

        def chat(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            yield from requests

        def burst(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            """`request` is "COUNTxSIZE"."""
            count, size = map(int, request.split(b"x"))
            for number in range(count):
                yield bytes([number % 256]) * size

        def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
            context.set_trailing_metadata((("x-trace-bin", b"\x00\xff"),))
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no: 100% of ü")

        def hang(request: bytes, context: grpc.ServicerContext) -> bytes:
            while context.is_active():  # until the client gives it up
                time.sleep(0.01)
            return b""

        def who(request: bytes, context: grpc.ServicerContext) -> bytes:
            names = context.peer_identities() or ()
            return repr([sorted((key, value) for key, value in context.invocation_metadata()), *names]).encode()

        return {
            ECHO: grpc.unary_unary_rpc_method_handler(unary),
            CHAT: grpc.stream_stream_rpc_method_handler(chat),
            BURST: grpc.unary_stream_rpc_method_handler(burst),
            FAIL: grpc.unary_unary_rpc_method_handler(fail),
            HANG: grpc.unary_unary_rpc_method_handler(hang),
            WHO: grpc.unary_unary_rpc_method_handler(who),
        }.get(details.method)


@contextmanager
def grpcio_server(
    address: str = "127.0.0.1:0", *, certificate: Issued | None = None, clients: bytes | None = None
) -> Iterator[tuple[grpc.Server, int]]:
    """The server and its port, with TLS if there is a certificate; clients need one below the roots `clients`."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        limits = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
        server = grpc.server(pool, handlers=[_Echo()], options=limits)
        if certificate is None:
            port = server.add_insecure_port(address)
        else:
            pair = [(certificate.key, certificate.chain)]
            credentials = grpc.ssl_server_credentials(pair, clients, require_client_auth=clients is not None)
            port = server.add_secure_port(address, credentials)
        server.start()
        try:
            yield server, port
        finally:
            server.stop(grace=None).wait()
