"""The certificate client against a grpcio server that plays citadel, with the real child process."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from pymesh import istio_ca
from pymesh.grpc.status import RpcError
from pymesh_proxy.config.model import PeerValidation, SdsName, TlsServer
from pymesh_proxy.control.certificates import RENEW_AT, RENEW_SPREAD, CertificateClient, renewal_delay
from pymesh_proxy.control.channel import Channel
from pymesh_proxy.control.node import Node
from pymesh_proxy.control.roots import TrustedRoots
from pymesh_proxy.control.secrets import Certificate, Roots, SecretStore
from pymesh_proxy.control.target import Target
from pymesh_proxy.transport.tls import TlsContexts
from tests.support.certificates import Authority
from tests.support.waiting import eventually

NODE = Node("reviews-0", "default", "10.0.0.7", "reviews", "reviews")
URI = "spiffe://cluster.local/ns/default/sa/reviews"


class Citadel(grpc.GenericRpcHandler):
    """Signs what it is asked; `sign` may be replaced by a test."""

    def __init__(self, authority: Authority) -> None:
        self.sign: Callable[[str], list[bytes]] = lambda csr: [authority.sign(csr), authority.root]
        self.requests: list[istio_ca.CertificateRequest] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
        def create(data: bytes, context: grpc.ServicerContext) -> bytes:
            request = istio_ca.decode_request(data)
            self.requests.append(request)
            return istio_ca.encode_response(part.decode() for part in self.sign(request.csr))

        return grpc.unary_unary_rpc_method_handler(create) if details.method == istio_ca.PATH else None

    @contextmanager
    def serving(self, path: Path) -> Iterator[None]:
        with ThreadPoolExecutor(max_workers=2) as pool:
            server = grpc.server(pool, handlers=[self])
            server.add_insecure_port(f"unix:{path}")
            server.start()
            try:
                yield
            finally:
                server.stop(grace=None).wait()


def _rng(seed: int) -> random.Random:
    return random.Random(seed)


class Clock:
    """Unix time that a test can move."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


class Bench:
    """Everything around one client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.citadel = Citadel(self.authority)
        self.store = SecretStore()
        self.clock = Clock()
        self.roots = folder / "root-cert.pem"
        self.roots.write_bytes(self.authority.root)
        self.channel = Channel(Target(unix_path=str(folder / "citadel")))
        self.client = CertificateClient(
            self.channel, NODE, self.store, roots=TrustedRoots(self.store, self.roots), rng=_rng(1), clock=self.clock
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(self.client.run())
                yield
                task.cancel()
        finally:
            await self.channel.close()

    def certificate(self) -> Certificate:
        secret = self.store.get("default")
        assert isinstance(secret, Certificate)
        return secret


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def citadel(bench: Bench) -> Iterator[Citadel]:
    with bench.citadel.serving(bench.folder / "citadel"):
        yield bench.citadel


async def test_a_certificate_is_obtained_and_usable(bench: Bench, citadel: Citadel) -> None:
    assert bench.client.waiting_for == f"waiting for a certificate from unix:{bench.folder}/citadel"
    async with bench.running():
        await eventually(lambda: bench.client.ready, timeout=30)
    secret = bench.certificate()
    leaf = x509.load_pem_x509_certificate(secret.chain)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [URI] == [secret.uri]
    assert (secret.not_before, secret.not_after) == (
        leaf.not_valid_before_utc.timestamp(),
        leaf.not_valid_after_utc.timestamp(),
    )
    assert secret.serial == f"{leaf.serial_number:x}"
    assert "PRIVATE KEY" not in repr(secret)
    assert bench.store.get("ROOTCA") == Roots(bench.authority.root)
    assert bench.client.waiting_for == ""
    assert bench.client.stats.issued == 1
    assert citadel.requests[0].validity_duration == 24 * 3600
    TlsContexts(bench.store).server(TlsServer(SdsName("default"), PeerValidation(SdsName("ROOTCA"))))


async def test_renewal_at_half_life_with_a_new_key(bench: Bench, citadel: Citadel) -> None:
    citadel.sign = lambda csr: [bench.authority.sign(csr, begins=0, lasts=4), bench.authority.root]
    async with bench.running():
        await eventually(lambda: bench.store.generation("default") == 1, timeout=30)
        first = bench.certificate()
        await eventually(lambda: bench.store.generation("default") == 2, timeout=30)
        assert bench.certificate().key != first.key
        assert time.time() > first.not_before + 4 * (RENEW_AT - RENEW_SPREAD)


async def test_the_old_certificate_stays_in_use_while_there_is_no_new_one(
    bench: Bench, citadel: Citadel, caplog: pytest.LogCaptureFixture
) -> None:
    citadel.sign = lambda csr: [bench.authority.sign(csr, begins=0, lasts=4), bench.authority.root]
    async with bench.running():
        await eventually(lambda: bench.client.ready, timeout=30)
        first = bench.certificate()

        def refuse(csr: str) -> list[bytes]:
            raise RuntimeError("the disk is full")

        citadel.sign = refuse
        await eventually(lambda: bench.client.stats.failures >= 1, timeout=30)
        assert bench.certificate() == first
        bench.clock.offset = 3600
        assert not bench.client.ready
        assert "the old one has expired" in bench.client.waiting_for
        await eventually(lambda: "EXPIRED" in caplog.text, timeout=30)
        assert bench.certificate() == first


def flawed(flaw: str, authority: Authority, csr: str) -> list[bytes]:
    """A chain that must not be accepted."""
    match flaw:
        case "another identity":
            return [authority.sign(csr, uri="spiffe://cluster.local/ns/default/sa/admin")]
        case "another key":
            return [authority.issue(uri=URI).chain]
        case "expired":
            return [authority.sign(csr, begins=-7200, lasts=3600)]
        case "not yet valid":
            return [authority.sign(csr, begins=3600)]
        case "another root":
            return [Authority("evil").sign(csr)]
        case "a broken chain":
            return [authority.sign(csr), Authority("evil").root]
        case "garbage":
            return [b"garbage"]
    return []


FLAWS = {
    "another identity": "is for spiffe://cluster.local/ns/default/sa/admin, not for",
    "another key": "for another key",
    "expired": "is valid from",
    "not yet valid": "is valid from",
    "another root": "not among the trusted roots",
    "a broken chain": "the chain is broken",
    "nothing": "the answer holds no certificate",
    "garbage": "the answer holds no certificate",
}


@pytest.mark.parametrize("flaw", FLAWS)
async def test_what_was_not_asked_for_is_not_used(bench: Bench, citadel: Citadel, flaw: str) -> None:
    citadel.sign = lambda csr: flawed(flaw, bench.authority, csr)
    async with bench.running():
        await eventually(lambda: bench.client.stats.failures, timeout=30)
        error = bench.client.stats.last_error
    assert bench.store.get("default") is None
    assert FLAWS[flaw] in error
    assert FLAWS[flaw] in bench.client.waiting_for


async def test_an_intermediate_authority_is_followed_to_the_root(bench: Bench, citadel: Citadel) -> None:
    intermediate = Authority("intermediate", parent=bench.authority)
    citadel.sign = lambda csr: [intermediate.sign(csr)]
    async with bench.running():
        await eventually(lambda: bench.client.ready, timeout=30)
    assert len(x509.load_pem_x509_certificates(bench.certificate().chain)) == 2


async def test_missing_roots_and_a_citadel_that_is_not_there(bench: Bench) -> None:
    bench.roots.unlink()
    async with bench.running():
        await eventually(lambda: bench.client.stats.failures, timeout=30)
        assert "cannot read the mesh's roots" in bench.client.waiting_for
        bench.roots.write_bytes(b"no certificate")
        await eventually(lambda: "holds no certificate" in bench.client.waiting_for, timeout=30)
        bench.roots.write_bytes(bench.authority.root)
        await eventually(lambda: "no such file or directory" in bench.client.waiting_for, timeout=30)
    assert bench.store.get("ROOTCA") is not None  # the roots are there, even before there is a certificate


async def test_a_changed_roots_file_is_taken_up_and_a_broken_one_is_not(bench: Bench, citadel: Citadel) -> None:
    async with bench.running():
        await eventually(lambda: bench.client.ready, timeout=30)
        both = bench.authority.root + Authority("next").root
        bench.roots.write_bytes(both)
        bench.client._look_at_roots()
        assert bench.store.get("ROOTCA") == Roots(both)
        bench.roots.write_bytes(b"")
        bench.client._look_at_roots()
        assert bench.store.get("ROOTCA") == Roots(both)


async def test_no_child_survives_a_cancelled_attempt(bench: Bench, citadel: Citadel) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(csr: str) -> list[bytes]:
        loop.call_soon_threadsafe(asked.set)
        time.sleep(0.2)
        return []

    citadel.sign = slow
    async with bench.running():
        await asked.wait()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in children if b"control.csr" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_renewals_are_spread_around_half_of_life() -> None:
    certificate = Certificate(b"", b"", not_before=1000.0, not_after=2000.0)
    delays = [renewal_delay(certificate, 1000.0, _rng(seed)) for seed in range(100)]
    assert min(delays) >= 450
    assert max(delays) <= 550
    assert max(delays) - min(delays) > 50
    assert renewal_delay(certificate, 5000.0, _rng(1)) == 1.0


async def test_the_token_of_a_refused_caller_is_not_in_the_error(bench: Bench) -> None:
    with pytest.raises(RpcError) as error:
        await bench.channel.unary(istio_ca.PATH, b"", within=1)
    assert "Bearer" not in str(error.value)
