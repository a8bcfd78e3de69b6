"""HTTP to a port in a pod, as `cli/client.py` has it to the supervisor: short questions, whole answers."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import h11

from pymesh.errors import printable
from pymesh_controlplane.kube.api import Api, ApiError
from pymesh_controlplane.kube.portforward import BrokenError, Stream, forward

# Bytes of an answer: pilot has some hundred for each proxy, the collector a few KiB for each request asked for.
MAX_ANSWER: Final = 16 * 1024 * 1024
# Bytes of an answer that is a refusal.
MAX_REASON: Final = 1024


class PodHttp:
    """A connection to one port of a pod, kept from question to question; made when it is first needed.

    Attributes:
        namespace, pod, port: where to.
    """

    def __init__(self, api: Api, namespace: str, pod: str, port: int) -> None:
        self.namespace = namespace
        self.pod = pod
        self.port = port
        self._api = api
        self._stream: Stream | None = None
        self._http = h11.Connection(h11.CLIENT)
        self._opened = ExitStack()

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of GET `path`.

        Raises:
            ApiError: no connection, no answer in time, or none that is HTTP.
        """
        # A connection that was kept may have been closed meanwhile: no fault, and a GET may be repeated.
        for again in (self._stream is not None, False):
            try:
                return self._ask("GET", path)
            except BrokenError:
                self.close()
                if not again:
                    raise
            except ApiError:
                self.close()
                raise
        raise AssertionError("the last attempt returns or raises")

    def post(self, path: str) -> tuple[int, bytes]:
        """Status and body of POST `path`, without a body of its own; over a new connection, for it is not repeated.

        Raises:
            ApiError: as `get`; whether it was done is then not known.
        """
        self.close()
        try:
            return self._ask("POST", path)
        except ApiError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._stream = None
        self._opened.close()
        self._http = h11.Connection(h11.CLIENT)

    def _ask(self, method: str, path: str) -> tuple[int, bytes]:
        if self._stream is None:
            self._stream = self._opened.enter_context(forward(self._api, self.namespace, self.pod, self.port))
        stream, http = self._stream, self._http
        fields = {"Host": f"127.0.0.1:{self.port}", "User-Agent": "pymesh", "Accept": "application/json"}
        request = h11.Request(method=method, target=path, headers=list(fields.items()))
        stream.send((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
        try:
            status, body = self._response(stream)
            if http.our_state is http.their_state is h11.DONE:
                http.start_next_cycle()
            else:
                self.close()
        except h11.RemoteProtocolError as error:
            raise ApiError(f"{self}: not an HTTP response: {printable(str(error))}") from None
        return status, body

    def _response(self, stream: Stream) -> tuple[int, bytes]:
        status, body = 0, bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data = stream.receive()
                if not data and self._http.their_state is h11.SEND_RESPONSE:
                    raise BrokenError(f"{self} closed the connection without an answer")
                self._http.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_ANSWER:
                    raise ApiError(f"{self} answers with more than {MAX_ANSWER // 2**20} MiB: ask for less")
            elif isinstance(event, h11.EndOfMessage):
                return status, bytes(body)
            elif isinstance(event, h11.ConnectionClosed):
                raise ApiError(f"{self} closed the connection before its answer ended")

    def __str__(self) -> str:
        return f"context {self._api.context}: {self.namespace}/{self.pod} port {self.port}"


@contextmanager
def opened(api: Api, namespace: str, pod: str, port: int) -> Iterator[PodHttp]:
    """A PodHttp that is closed at the end of the block."""
    http = PodHttp(api, namespace, pod, port)
    try:
        yield http
    finally:
        http.close()
