"""One mesh for all tests of this folder, in the cluster that $KUBECONFIG points at.

It installs the mesh, the bookinfo sample and workloads of its own, and takes all of it out again; the last file tests
that. A cluster that has a mesh, or one of the namespaces, already is left alone.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import cluster
from tests.cluster.cluster import MANIFESTS, SYSTEM, apply, kubectl, pymesh, rolled_out, sample

# Seconds for one test: rollouts on a small cluster.
TIMEOUT = 900
# Seconds until the mesh is ready, the images' way to the nodes included.
READY = 600
NAMESPACES = ("bookinfo", "pymesh-test", "pymesh-outside")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(TIMEOUT))


@pytest.fixture(scope="session")
def empty() -> None:
    """A cluster that can be had for the tests."""
    assert os.environ.get("KUBECONFIG"), "KUBECONFIG names the cluster that the mesh is to be installed in"
    there = {namespace["metadata"]["name"] for namespace in cluster.get("namespaces")}
    taken = sorted(there & {SYSTEM, *NAMESPACES})
    assert not taken, f"the cluster has {', '.join(taken)} already: these tests would install, change and delete them"


@pytest.fixture(scope="session")
def mesh(empty: None) -> Iterator[str]:
    """The mesh, installed; what the command said. It is taken out again unless a test has done it."""
    try:
        yield pymesh("install", *cluster.install_options(), "--timeout", str(READY), timeout=READY + 60)
    finally:
        cluster.run(str(cluster.BIN / "pymesh"), "uninstall", "--purge", timeout=240)


@pytest.fixture(scope="session")
def workloads(mesh: str) -> Iterator[None]:
    """The bookinfo sample, and what the tests ask from and for, ready."""
    try:
        apply(sample("bookinfo"), MANIFESTS / "workloads.yaml")
        for namespace in NAMESPACES:
            rolled_out(namespace)
        kubectl("-n", "pymesh-test", "wait", "--for=condition=Ready", "pod/client", "--timeout=180s", timeout=200)
        kubectl("-n", "pymesh-outside", "wait", "--for=condition=Ready", "pod/outsider", "--timeout=180s", timeout=200)
        yield
    finally:
        cluster.run(str(cluster.BIN / "kubectl"), "delete", "namespace", *NAMESPACES, "--ignore-not-found", timeout=240)
