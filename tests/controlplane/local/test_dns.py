"""The names of a mesh: answers, absences, limits, and a server that garbage does not stop."""

import asyncio
import contextlib
import socket

import pytest
from dnslib import EDNS0, QTYPE, RCODE, RR, A, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from pymesh_controlplane.local import dns
from pymesh_controlplane.local.dns import MAX_UDP, Server, Zone

ZONE = Zone(
    {
        "web.default.svc.cluster.local": ("10.96.0.11",),
        "db.default.svc.cluster.local": tuple(f"10.244.0.{n}" for n in range(2, 102)),
        "db-0.db.default.svc.cluster.local": ("10.244.0.2",),
        "empty.default.svc.cluster.local": (),
    }
)


def ask(name: str, kind: str = "A", zone: Zone = ZONE, limit: int | None = None) -> DNSRecord:
    reply = zone.answer(bytes(DNSRecord.question(name, kind).pack()), limit)
    assert reply is not None
    return DNSRecord.parse(reply)


def test_a_service_has_its_cluster_ip() -> None:
    reply = ask("Web.default.svc.cluster.local.")
    assert [str(record.rdata) for record in reply.rr] == ["10.96.0.11"]
    assert (reply.header.aa, reply.header.rcode, reply.rr[0].ttl) == (1, RCODE.NOERROR, dns.TTL)


def test_a_headless_service_has_all_its_pods_and_each_has_a_name() -> None:
    assert len(ask("db.default.svc.cluster.local").rr) == 100
    assert str(ask("db-0.db.default.svc.cluster.local").rr[0].rdata) == "10.244.0.2"


@pytest.mark.parametrize("name", ["web.default.svc.cluster.local", "default.svc.cluster.local", "svc.cluster.local"])
def test_a_name_without_an_ipv6_address_exists_all_the_same(name: str) -> None:
    reply = ask(name, "AAAA")
    assert (reply.header.rcode, reply.rr) == (RCODE.NOERROR, [])
    assert QTYPE[reply.auth[0].rtype] == "SOA"


def test_a_service_without_endpoints_exists() -> None:
    assert ask("empty.default.svc.cluster.local").header.rcode == RCODE.NOERROR


@pytest.mark.parametrize("name", ["web", "web.default", "example.com", "x.web.default.svc.cluster.local"])
def test_other_names_do_not_exist(name: str) -> None:
    assert ask(name).header.rcode == RCODE.NXDOMAIN


def test_long_answers_are_truncated_over_udp() -> None:
    reply = ask("db.default.svc.cluster.local", limit=MAX_UDP)
    assert reply.header.tc == 1
    question = DNSRecord.question("web.default.svc.cluster.local")
    question.add_ar(EDNS0(udp_len=4096))
    assert DNSRecord.parse(ZONE.answer(bytes(question.pack()), MAX_UDP) or b"").header.tc == 0


def test_answers_and_other_operations_are_not_answered_as_questions() -> None:
    question = DNSRecord.question("web.default.svc.cluster.local")
    answer = question.reply()
    answer.add_answer(RR("web.default.svc.cluster.local", rdata=A("192.0.2.1")))
    assert ZONE.answer(bytes(answer.pack())) is None
    question.header.opcode = 5
    assert DNSRecord.parse(ZONE.answer(bytes(question.pack())) or b"").header.rcode == RCODE.NOTIMP


@given(st.binary(max_size=200))
def test_garbage_is_answered_with_an_error_or_not_at_all(data: bytes) -> None:
    reply = ZONE.answer(data, MAX_UDP)
    assert reply is None or len(reply) <= MAX_UDP


@given(st.data())
def test_a_damaged_question_raises_nothing(data: st.DataObject) -> None:
    packet = bytearray(DNSRecord.question("web.default.svc.cluster.local").pack())
    for _ in range(data.draw(st.integers(1, 4))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    ZONE.answer(bytes(packet), MAX_UDP)


async def test_the_server_answers_over_udp_and_tcp_and_survives_garbage() -> None:
    udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
    for sock in (udp, tcp):
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
    tcp.listen()
    server = Server(ZONE)
    address = udp.getsockname()
    await server.start(udp, tcp)
    loop = asyncio.get_running_loop()
    question = bytes(DNSRecord.question("web.default.svc.cluster.local").pack())
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            await loop.sock_connect(client, address)
            await loop.sock_sendall(client, b"garbage")
            await loop.sock_sendall(client, question)
            async with asyncio.timeout(5):
                assert b"\x0a\x60\x00\x0b" in await loop.sock_recv(client, 512)
        reader, writer = await asyncio.open_connection(*tcp.getsockname())
        with contextlib.closing(writer):
            frame = len(question).to_bytes(2, "big") + question
            for byte in frame:
                writer.write(bytes([byte]))
            writer.write(frame)
            async with asyncio.timeout(5):
                for _ in range(2):
                    length = int.from_bytes(await reader.readexactly(2), "big")
                    assert b"\x0a\x60\x00\x0b" in await reader.readexactly(length)
                writer.write(b"\xff\xff")
                assert await reader.read() == b"", "a question that is too long ends the connection"
    finally:
        await server.stop()
