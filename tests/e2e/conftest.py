"""One mesh for all tests of this folder that only need a mesh."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mesh import Mesh


@pytest.fixture(scope="session")
def mesh() -> Iterator[Mesh]:
    """A client, a service in two versions, a pod without a sidecar, and one whose proxy is Envoy."""
    with Mesh("e2e", Path(__file__).parent / "manifests" / "mesh.yaml") as running:
        yield running
