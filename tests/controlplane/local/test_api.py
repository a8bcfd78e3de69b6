"""The supervisor's API on its real socket: one change at a time, and none of them stops the rest."""

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from pymesh.errors import MeshError
from pymesh_controlplane.cli.client import Absent, Client
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.local import api, programs, state
from pymesh_controlplane.local.host_ports import HostPorts
from pymesh_controlplane.local.judge import Applied
from pymesh_controlplane.local.network import Network
from pymesh_controlplane.local.supervisor import Supervisor
from pymesh_controlplane.local.texts import Text
from pymesh_controlplane.local.tokens import TokenSigner

ACCOUNT = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: web}}"
DEADLINE = 10.0  # seconds, below the client's own


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Supervisor, Client]]:
    """A supervisor that answers and starts nothing."""
    place = state.named(f"a{os.getpid()}")
    state.create(place)
    try:
        signer = TokenSigner.load_or_create(place.tokens)
        supervisor = Supervisor(
            place, Network(place.mesh), signer, programs.find(), InjectionConfig(), host_ports=HostPorts()
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(place.socket))
            listener.listen()
            server = api.Server(api.application(supervisor), listener)
            async with asyncio.TaskGroup() as group:
                group.create_task(server.serve_until_told())
                try:
                    yield supervisor, Client(place)
                finally:
                    server.should_exit = True
    finally:
        state.destroy(place)


async def test_others_are_answered_while_manifests_are_read_and_changes_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"namespace": "default", "texts": [{"name": "a.yaml", "directory": "/", "text": ACCOUNT}]}
    async with served() as (supervisor, client), asyncio.TaskGroup() as group:
        reading, go_on, read = threading.Event(), threading.Event(), supervisor.store.read

        def slow_read(texts: Iterable[Text], namespace: str, *, force: bool) -> tuple[list[Applied], list[str]]:
            reading.set()
            assert go_on.wait(DEADLINE), "nothing else was answered meanwhile"
            return read(texts, namespace, force=force)

        monkeypatch.setattr(supervisor.store, "read", slow_read)
        applying = group.create_task(asyncio.to_thread(client.post, "/apply", body))
        assert await asyncio.to_thread(reading.wait, DEADLINE)
        deleting = group.create_task(
            asyncio.to_thread(client.post, "/delete", {"keys": [["ServiceAccount", "default", "web"]]})
        )
        for _ in range(10):
            assert await asyncio.to_thread(client.get, "/objects") == {"items": []}
        assert not deleting.done()
        go_on.set()
        key = ["ServiceAccount", "default", "web"]
        assert (await applying)["results"] == [[key, "created"]]
        assert (await deleting)["results"] == [[key, "deleted"]]


async def test_a_mesh_without_a_collector_says_so() -> None:
    async with served() as (_, client):
        with pytest.raises(Absent, match="this mesh runs without telemetry"):
            await asyncio.to_thread(client.get, "/telemetry/graph?window=60")
        with pytest.raises(
            MeshError, match="telemetry has no page secrets; there are requests, graph, stats"
        ) as caught:
            await asyncio.to_thread(client.get, "/telemetry/secrets")
        assert not isinstance(caught.value, Absent)
