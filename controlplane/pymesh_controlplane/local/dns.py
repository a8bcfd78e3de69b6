"""The names of a local mesh: the answers, as a pure table, and the server that gives them over UDP and TCP.

What Kubernetes' DNS specification (1.1.0) says for Services: `<service>.<namespace>.svc.cluster.local` is the cluster
IP, or the addresses of all ready pods for a headless Service; `<pod>.<service>.<namespace>.svc.cluster.local` is one of
those pods. The hosts of ServiceEntries have the addresses that stand for them (see `vips`). There is nothing beyond the
mesh: every other name does not exist.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable, Mapping
from typing import Final, cast

from dnslib import QTYPE, RCODE, RR, SOA, A, DNSError, DNSHeader, DNSRecord

from pymesh import names

ZONE: Final = f"{names.CLUSTER_DOMAIN}."
# Seconds an answer may be kept, as CoreDNS' kubernetes plugin has it: short, since pods come and go.
TTL: Final = 5
# Bytes of a UDP answer without EDNS: RFC 1035, section 2.3.3. Longer ones are truncated and asked for again over TCP.
MAX_UDP: Final = 512
# What EDNS may raise it to: RFC 9715 advises 1400 bytes against fragments.
MAX_EDNS_UDP: Final = 1400
# Bytes of a question over TCP: one name and an OPT record are far below.
MAX_QUESTION: Final = 4096
# Connections over TCP at a time, and the seconds each may idle: RFC 7766, section 6.2.3 asks for both.
MAX_TCP_CONNECTIONS: Final = 128
TCP_IDLE: Final = 5.0

_ADDRESS_TYPES: Final = frozenset({QTYPE.A, QTYPE.ANY})


class Zone:
    """What is known: fully qualified names in lower case without the final dot, and their IPv4 addresses."""

    def __init__(self, addresses: Mapping[str, Iterable[str]]) -> None:
        self.addresses = {name: tuple(found) for name, found in addresses.items()}
        # A name with something below it exists, though it has no address: RFC 8020.
        self._parents = {parent for name in self.addresses for parent in _parents(name)}

    def answer(self, request: bytes, limit: int | None = None) -> bytes | None:
        """The reply to the packet `request`, at most `limit` bytes; None where nothing sensible can be said."""
        try:
            query = DNSRecord.parse(request)
        except (DNSError, ValueError, IndexError, struct.error):
            return _format_error(request)
        if query.header.qr or len(query.questions) != 1:
            return None if query.header.qr else _format_error(request)
        reply = query.reply(ra=0, aa=1)
        if query.header.opcode != 0:
            reply.header.rcode = RCODE.NOTIMP
        else:
            self._fill(reply, query)
        packed = bytes(reply.pack())
        if limit is not None and len(packed) > max(limit, _edns_size(query)):
            packed = bytes(reply.truncate().pack())
        return packed

    def _fill(self, reply: DNSRecord, query: DNSRecord) -> None:
        name = str(query.q.qname).rstrip(".").lower()
        found = self.addresses.get(name)
        if found and query.q.qtype in _ADDRESS_TYPES:
            for address in found:
                reply.add_answer(RR(query.q.qname, QTYPE.A, ttl=TTL, rdata=A(address)))
            return
        if found is None and name not in self._parents:
            reply.header.rcode = RCODE.NXDOMAIN
        # Says how long the absence may be remembered: RFC 2308, section 3.
        authority = SOA(f"ns.dns.{ZONE}", f"hostmaster.{ZONE}", (1, 7200, 1800, 86400, TTL))
        reply.add_auth(RR(ZONE, QTYPE.SOA, ttl=TTL, rdata=authority))


def _parents(name: str) -> Iterable[str]:
    while "." in name:
        name = name.partition(".")[2]
        yield name


def _edns_size(query: DNSRecord) -> int:
    sizes = [record.edns_len for record in query.ar if record.rtype == QTYPE.OPT]
    return min(max(sizes, default=0), MAX_EDNS_UDP)


def _format_error(request: bytes) -> bytes | None:
    """FORMERR with the question's id, if there was at least a header."""
    if len(request) < 12 or request[2] & 0x80:
        return None
    header = DNSHeader(id=int.from_bytes(request[:2], "big"), qr=1, rcode=RCODE.FORMERR)
    return bytes(DNSRecord(header).pack())


class Server:
    """Answers on two sockets. `zone` may be replaced at any time; a question sees one or the other."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None
        self._connections = 0

    async def start(self, udp: socket.socket, tcp: socket.socket) -> None:
        """Serve on bound sockets, of which `tcp` is to listen."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), sock=udp)
        self._server = await asyncio.start_server(self._converse, sock=tcp)

    async def stop(self) -> None:
        """Close both."""
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= MAX_TCP_CONNECTIONS:
                await self._questions(reader, writer)
        except (OSError, EOFError, TimeoutError):
            pass
        finally:
            self._connections -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _questions(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(TCP_IDLE):
                length = int.from_bytes(await reader.readexactly(2), "big")
                if length > MAX_QUESTION:
                    return
                reply = self.zone.answer(await reader.readexactly(length))
            if reply is None:
                return
            writer.write(len(reply).to_bytes(2, "big") + reply)
            async with asyncio.timeout(TCP_IDLE):
                await writer.drain()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._server.zone.answer(data, MAX_UDP)
        if reply is not None and self._transport is not None:
            self._transport.sendto(reply, addr)
