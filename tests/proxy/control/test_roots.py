"""Roots that citadel pushes: put in force, refused, done without."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

from pymesh.names import SDS_ROOT, SDS_SERVICE, SDS_STREAM, SDS_WORKLOAD
from pymesh.xds.types import SECRET
from pymesh_proxy.control.channel import Channel
from pymesh_proxy.control.node import Node
from pymesh_proxy.control.roots import RootsClient, TrustedRoots, fingerprints, root_of
from pymesh_proxy.control.secrets import Certificate, Roots, SecretStore
from pymesh_proxy.control.target import Target
from tests.support.certificates import Authority
from tests.support.waiting import eventually

NODE = Node("reviews-0", "default", "10.0.0.7", "reviews", "reviews")
OLD, NEW = Authority("old"), Authority("new")


def pushed(pem: bytes, version: str, name: str = SDS_ROOT) -> bytes:
    """A push as citadel makes it."""
    message = DiscoveryResponse(version_info=version, nonce=f"n{version}", type_url=SECRET)
    secret = Secret(name=name)
    secret.validation_context.trusted_ca.inline_bytes = pem
    message.resources.add().Pack(secret)
    return message.SerializeToString()


class Bench:
    """A workload with a certificate of OLD, and a citadel that pushes what a test puts into `pushes`."""

    def __init__(self, folder: Path) -> None:
        self.pushes: asyncio.Queue[bytes] = asyncio.Queue()
        self.said: list[DiscoveryRequest] = []
        self.path = folder / "citadel"
        self.file = folder / "root-cert.pem"
        self.file.write_bytes(OLD.root)
        self.store = SecretStore()
        self.roots = TrustedRoots(self.store, self.file)
        self.certify(OLD)

    def certify(self, authority: Authority) -> None:
        """Have a certificate of `authority`."""
        issued = authority.issue(uri=str(NODE.identity))
        self.store.put(SDS_WORKLOAD, Certificate(issued.chain + authority.root, issued.key))

    async def _follow(self, requests: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        async def hear() -> None:
            async for data in requests:
                self.said.append(DiscoveryRequest.FromString(data))

        hearing = asyncio.get_running_loop().create_task(hear())
        try:
            while True:
                await context.write(await self.pushes.get())
        finally:
            hearing.cancel()

    @asynccontextmanager
    async def running(self, *, implemented: bool = True) -> AsyncIterator[None]:
        """The client, and citadel; one that is not `implemented` is Istio's."""
        server = grpc.aio.server()
        if implemented:
            handler = grpc.stream_stream_rpc_method_handler(self._follow)
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SDS_SERVICE, {SDS_STREAM: handler}),))
        server.add_insecure_port(f"unix:{self.path}")
        await server.start()
        channel = Channel(Target(unix_path=str(self.path)))
        client = RootsClient(channel, NODE, self.store, self.roots, rng=random.Random(1))
        running = asyncio.get_running_loop().create_task(client.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running])
            await channel.close()
            await server.stop(None)

    async def hears(self, what: str, condition: Callable[[DiscoveryRequest], bool]) -> DiscoveryRequest:
        """The latest thing that was said, once it is so."""
        await eventually(lambda: bool(self.said) and condition(self.said[-1]), what=what)
        return self.said[-1]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_what_is_pushed_is_in_force_and_acknowledged_and_the_file_is_not_read_any_more(bench: Bench) -> None:
    async with bench.running():
        first = await bench.hears("the introduction", lambda said: not said.version_info)
        assert list(first.resource_names) == [SDS_ROOT]
        assert first.node.metadata["CERTIFICATE_ROOT"] == fingerprints(OLD.root)[0]
        bench.pushes.put_nowait(pushed(OLD.root + NEW.root, "1"))
        taken = await bench.hears("the acknowledgement", lambda said: said.version_info == "1")
        assert taken.response_nonce == "n1"
    assert bench.store.get(SDS_ROOT) == Roots(OLD.root + NEW.root)
    bench.file.write_bytes(NEW.root)
    assert bench.roots.in_force() == bench.roots.pushed() == OLD.root + NEW.root
    assert bench.store.get(SDS_ROOT) == Roots(OLD.root + NEW.root)


async def test_whose_certificate_is_shown_is_said_again_when_it_changes(bench: Bench) -> None:
    """And after the connection was lost, with the version that is in force."""
    async with bench.running():
        bench.pushes.put_nowait(pushed(NEW.root + OLD.root, "1"))
        await bench.hears("the acknowledgement", lambda said: said.version_info == "1")
        bench.certify(NEW)
        again = await bench.hears(
            "the new root", lambda said: said.node.metadata["CERTIFICATE_ROOT"] == fingerprints(NEW.root)[0]
        )
        assert again.version_info == "1"
    bench.said.clear()
    async with bench.running():
        back = await bench.hears("the introduction", lambda said: not said.response_nonce)
        assert (back.version_info, back.node.metadata["CERTIFICATE_ROOT"]) == ("1", fingerprints(NEW.root)[0])


@pytest.mark.parametrize(
    ("rubbish", "problem"),
    [
        (pushed(b"", "2"), "no list of certificates"),
        (pushed(b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", "2"), "no list of certificates"),
        (pushed(b"\xff", "2"), "can't decode"),
        (pushed(NEW.root, "2", name="another"), "there is no ROOTCA in it"),
        (b"\xff\xff", "not a discovery response"),
    ],
)
async def test_what_cannot_be_used_is_refused_and_the_last_good_roots_stay(
    bench: Bench, rubbish: bytes, problem: str
) -> None:
    async with bench.running():
        bench.pushes.put_nowait(pushed(OLD.root, "1"))
        await bench.hears("the first", lambda said: said.version_info == "1")
        bench.pushes.put_nowait(rubbish)
        refused = await bench.hears("the refusal", lambda said: bool(said.error_detail.message))
        assert (refused.version_info, problem in refused.error_detail.message) == ("1", True), refused.error_detail
        assert bench.store.get(SDS_ROOT) == Roots(OLD.root)
        bench.pushes.put_nowait(pushed(NEW.root, "3"))
        await bench.hears("the next", lambda said: said.version_info == "3")


async def test_an_authority_that_pushes_nothing_is_no_reason_to_stop(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """The file holds, and what changes in it."""
    caplog.set_level(logging.WARNING)
    async with bench.running(implemented=False):
        await eventually(lambda: "pushes no roots: those in the file hold" in caplog.text)
    assert bench.roots.in_force() == OLD.root
    bench.file.write_bytes(NEW.root)
    assert bench.roots.in_force() == NEW.root
    assert bench.store.get(SDS_ROOT) == Roots(NEW.root)


def test_fingerprints_are_those_that_openssl_shows() -> None:
    """Of what is no certificate there is none."""
    assert len(set(fingerprints(OLD.root + b"noise\n" + NEW.root))) == 2
    assert fingerprints(b"") == fingerprints(b"-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----") == []
    assert root_of(SecretStore()) == ""
