"""Sites with a policy service: a real process, citadel in it, that a sidecar asks, or that has the load itself.

The sidecar is pymesh-proxy with the very filter that pilot gives to a pod of the service in `configs/policy`, next to
pymesh-proxy without it. No rule ever refuses; all are `Closed`, so that an answer that does not come is an error of
the run and not a cheap request; but one, which is `Open` and about a service that is away half of the time.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from google.protobuf.json_format import MessageToDict

from benchmarks.macro import certificates, sites
from benchmarks.macro.accounting import accounted
from benchmarks.macro.checks import Asked, ask
from benchmarks.macro.machine import Cores
from benchmarks.macro.proxies import BASELINE, PROXIES, PYMESH, Proxy
from benchmarks.macro.running import Running, free_port, running
from benchmarks.macro.sample import Sample
from benchmarks.macro.scenario import CONFIGS, Contender, Instrument, Scenario, Setting, Site, Turn
from pymesh.errors import MeshError
from pymesh.resources.parse import parse
from pymesh_controlplane.pilot import world
from pymesh_controlplane.pilot.policy_filters import limits, put_before_router
from pymesh_controlplane.policy.rules import rules_by_host

FOLDER: Final = CONFIGS / "policy"
RULES: Final = FOLDER / "rules.yaml"
# A server of plain grpcio in the place of the policy service's own port, around the same handler.
GRPCIO: Final = "grpcio"
_ACCOUNT: Final = "pymesh-system/policy"
_HOST: Final = "reviews.default.svc.cluster.local"
_PORT: Final = 9080
_PART: Final = "policy"
# Seconds for which a service stands still that goes away, and for which it is back.
_AWAY: Final = 0.5


def asking(kind: str, name: str, *, away: bool = False) -> Setting:
    """`${POLICY}`, the port of a policy service that is at work, and `${FILTER}`, which asks about one rule.

    `away`: the service stands still half of the time.
    """

    @contextmanager
    def setting(folder: Path, cores: Cores) -> Iterator[Mapping[str, object]]:
        # Beside the load: what is asked about each request takes its time there, and not from the sidecar's core.
        with _service(folder, cores.load) as service:
            described = json.dumps(
                MessageToDict(filter_for(f"{kind} default/{name}"), preserving_proto_field_name=True)
            )
            told = {"POLICY": service.port, "FILTER": described, "CERTIFICATES": folder / "certificates"}
            if not away:
                yield told
                return
            with _standing_still(service.pid):
                yield told

    return setting


@contextmanager
def _standing_still(pid: int) -> Iterator[None]:
    """The process is stopped and goes on, again and again, until the block ends."""
    over = threading.Event()

    def stop_and_go() -> None:
        while not over.wait(_AWAY):
            os.kill(pid, signal.SIGSTOP)
            over.wait(_AWAY)
            os.kill(pid, signal.SIGCONT)

    beside = threading.Thread(target=stop_and_go)
    beside.start()
    try:
        yield
    finally:
        over.set()
        beside.join()


def filter_for(rule: str) -> HttpFilter:
    """What pilot has a sidecar of the service do about a rule, by the rule's name."""
    parsed = parse(RULES.read_text(), str(RULES))
    there = world.build(parsed.resources)
    found = [one for one in rules_by_host(there)[_HOST] if one.name == rule]
    service = there.services[_HOST]
    [held] = limits({_PORT: [(service, service.ports[0])]}, {_HOST: found}, ours=True)
    manager = HttpConnectionManager(http_filters=[HttpFilter(name="router")])
    put_before_router(manager, held)
    return manager.http_filters[0]


@contextmanager
def with_and_without(scenario: Scenario, proxies: Sequence[Proxy], folder: Path, cores: Cores) -> Iterator[Site]:
    """pymesh with what the scenario is about, and without; nobody else has a counterpart.

    Raises:
        MeshError: a program is missing, or does not start.
    """
    _require_pymesh(proxies)
    with sites.processes(scenario, [PROXIES[PYMESH], PROXIES[BASELINE]], folder, cores) as site:
        yield site


@contextmanager
def services(_scenario: Scenario, proxies: Sequence[Proxy], folder: Path, cores: Cores) -> Iterator[Site]:
    """The policy service as it is, and its handler in a server of plain grpcio: what is compared here has no proxy.

    Raises:
        MeshError: one of them does not start.
    """
    _require_pymesh(proxies)
    with ExitStack() as stack:
        ours = stack.enter_context(_service(folder, cores.proxy))
        port, shared = free_port(), folder / "certificates"
        command = [sys.executable, "-m", "benchmarks.macro.grpcio_policy"]
        command += ["--port", str(port), "--certificates", str(shared), "--config-dir", str(folder / "config")]
        plain = stack.enter_context(running(GRPCIO, command, port, folder / "grpcio.log", cores.proxy))
        found = {PYMESH: ours, GRPCIO: plain}
        yield Site({name: Contender(name, each.port, {_PART: each.pid}, each.said) for name, each in found.items()}, ())


def saturated_with_checks(connections: int, streams: int) -> Instrument:
    """Keep so many questions open on each of so many connections, as that many sidecars would."""

    def instrument(turn: Turn) -> Sample:
        asked = Asked(turn.target.port, turn.folder / "certificates", connections, streams, turn.seconds)
        with accounted(turn) as used:
            found = ask(asked, turn.cores.load)
        return Sample(found.answers, found.seconds, used.cpu, used.load_cpu, found.errors)

    return instrument


@contextmanager
def _service(folder: Path, cores: frozenset[int]) -> Iterator[Running]:
    """A policy service of the rules, with a citadel whose root is that of `certificates`, below `folder`."""
    shared, config, keys = folder / "certificates", folder / "config", folder / "jwks.json"
    certificates.write(shared)
    config.mkdir()
    (config / RULES.name).write_text(RULES.read_text())
    signer = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
    keys.write_text(json.dumps({"keys": [{**signer, "kid": "nobody", "alg": "ES256", "use": "sig"}]}))
    port = free_port()
    command = [
        sys.executable, "-m", "pymesh_controlplane", "--listen", "127.0.0.1", "--components", "citadel,policy",
        "--config-dir", str(config), "--ca-dir", str(shared / "authority"), "--jwks", str(keys),
        "--account", _ACCOUNT, "--xds-port", "0", "--tls-port", "0", "--http-port", "0", "--mesh-port", str(port),
        "--log-level", "warning",
    ]  # fmt: skip
    with running("the policy service", command, port, folder / "policy.log", cores) as service:
        yield service


def _require_pymesh(proxies: Sequence[Proxy]) -> None:
    if PYMESH not in {proxy.name for proxy in proxies}:
        raise MeshError(f"this is about {PYMESH}, which is not among the proxies to measure")
