"""An API server, and a client of it, for the tests that work with the Kubernetes API."""

from collections.abc import AsyncIterator, Iterator

import pytest
from lightkube import AsyncClient

from pymesh_controlplane.kube.client import connect
from tests.support.kubernetes.server import ApiServer


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    """An API server for the tests of one module."""
    with ApiServer() as server:
        yield server


@pytest.fixture
async def client(api: ApiServer) -> AsyncIterator[AsyncClient]:
    """An administrator's client of it."""
    found = connect(api.kubeconfig())
    yield found
    await found.close()
