"""An app that ends well, as those that are made for Kubernetes do: what has begun is finished before it goes.

    steady.py VERSION [UPSTREAM]

Answers with its version and what it was sent; with an UPSTREAM, with that one's answer to the same request, but /alive.
"""

import asyncio
import contextlib
import http.client
import signal
import sys

WORK = 0.01  # seconds that an answer takes
READ = 5.0  # seconds that the other side may take


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of a message with a fixed length."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head, await reader.readexactly(int(lengths[0][15:])) if lengths else b""


class App:
    """Serves until SIGTERM, and then finishes."""

    def __init__(self, version: str, upstream: str) -> None:
        self.version, self.upstream = version, upstream
        self.ending = asyncio.Event()
        self.idle: set[asyncio.StreamWriter] = set()
        self.busy: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        try:
            while not self.ending.is_set():
                self.idle.add(writer)
                begun = await reader.read(1)
                self.idle.discard(writer)
                if not begun:
                    break
                self.busy.add(task)
                head, body = await read_message(reader)
                status, text = await self.answer(begun + head, body)
                last = self.ending.is_set()
                close = "connection: close\r\n" if last else ""
                writer.write(f"HTTP/1.1 {status} x\r\ncontent-length: {len(text)}\r\n{close}\r\n".encode() + text)
                await writer.drain()
                self.busy.discard(task)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.idle.discard(writer)
            self.busy.discard(task)
            writer.close()

    async def answer(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        """Status and body."""
        await asyncio.sleep(WORK)
        own = self.version.encode() + b" "
        if not self.upstream or head.split(b" ")[1] == b"/alive":
            return http.client.OK, own + body
        reader, writer = await asyncio.open_connection(self.upstream, 80)
        try:
            method = head.split(b" ", 1)[0]
            writer.write(
                method + b" / HTTP/1.1\r\nhost: " + self.upstream.encode() + b"\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )
            async with asyncio.timeout(READ):
                answer, said = await read_message(reader)
            return int(answer.split(b" ", 2)[1]), own + said
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            return http.client.BAD_GATEWAY, own + repr(error).encode()
        finally:
            writer.close()

    async def run(self) -> None:
        """Serve."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.ending.set)
        server = await asyncio.start_server(self.serve, "", 8080)
        await self.ending.wait()
        server.close()
        for writer in self.idle:
            writer.close()
        if self.busy:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait(self.busy, timeout=READ)


asyncio.run(App(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "").run())
