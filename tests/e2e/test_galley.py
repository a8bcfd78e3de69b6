"""Wrong configuration in a running mesh: refused in `apply`, left out alone in a watched folder, never in the way.

One mesh; the tests build on each other's end, and each leaves the mesh as it found it.
"""

import json
from collections.abc import Iterator
from os import kill
from pathlib import Path
from signal import SIGKILL

import pytest

from pymesh_controlplane.local import state
from pymesh_controlplane.sources.last_good import FILE
from tests.support.mesh import Mesh
from tests.support.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.mesh]

ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: default}
spec:
  hosts: [shop]
  http:
  - route:
    - destination: {host: shop, subset: v2}
"""
OTHER = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: other, namespace: default}
spec:
  hosts: [other.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1}]
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    manifest = Path(__file__).parent / "manifests" / "versions.yaml"
    with Mesh("galley", manifest, without="policy,telemetry,ingress,egress") as running:
        yield running


@pytest.fixture
def applied(mesh: Mesh) -> Path:
    """The file that pilot reads the VirtualService from."""
    return state.named(mesh.name).applied / "virtualservice-default.shop.json"


def version(mesh: Mesh) -> str:
    """Who answers."""
    return mesh.curl("client", "http://shop/").stdout


def problems(mesh: Mesh) -> list[str]:
    """What pilot has refused."""
    told = json.loads(mesh.run("status", "-o", "json").stdout)["problems"]
    return [problem["text"] for problem in told if problem["severity"] == "error"]


def test_apply_refuses_all_and_changes_nothing(mesh: Mesh, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(f"{OTHER}---{ROUTE.replace('subset: v2', 'subset: v3')}")
    refused = mesh.run("apply", "-f", str(path), check=False)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"pymesh: {path}:18:33: VirtualService default/shop: spec.http[0].route[0].destination.subset: error: "
        "DestinationRule default/shop has no subset 'v3'; it has v1, v2\n"
    )
    assert version(mesh) == "v1"
    assert "other" not in mesh.run("get", "serviceentries").stdout
    # The same words, whether the mesh is asked or not; without it nobody knows of the subsets either.
    asked = mesh.run("validate", "-f", str(path), check=False)
    assert (asked.returncode, asked.stdout) == (1, refused.stderr.removeprefix("pymesh: "))


def test_what_others_name_is_not_deleted_unless_by_force(mesh: Mesh) -> None:
    refused = mesh.run("delete", "destinationrule", "shop", check=False)
    assert refused.returncode == 1
    assert "nothing was deleted; without DestinationRule default/shop this would be wrong" in refused.stderr
    assert "VirtualService default/shop: spec.http[0].route[0].destination.subset" in refused.stderr
    assert version(mesh) == "v1"
    rule = mesh.run("get", "dr", "shop", "-o", "json").stdout
    mesh.run("delete", "dr", "shop", "--force")
    eventually_sync(lambda: version(mesh) not in {"v1", "v2"}, what="the subset to be gone")
    mesh.run("apply", "-f", "-", stdin=rule)
    eventually_sync(lambda: version(mesh) == "v1", what="the subset to be back")


def test_a_broken_file_is_left_out_alone_and_told_and_the_last_good_version_outlives_pilot(
    mesh: Mesh, applied: Path
) -> None:
    good = applied.read_text()
    applied.write_text(ROUTE.replace("subset: v2", "subset: v2, weigth: 1"))
    told = eventually_sync(lambda: problems(mesh), what="the problem")
    expected = (
        f"{applied}:9:45: VirtualService default/shop: spec.http[0].route[0].destination.weigth: error: "
        "unknown field 'weigth' in spec.http[0].route[0].destination (the version before it stays in force)"
    )
    assert told == [expected]
    assert expected in mesh.run("status").stdout
    assert version(mesh) == "v1"

    # Others' changes flow.
    mesh.apply(OTHER)
    clusters = "outbound|80||other.example.com"
    eventually_sync(lambda: clusters in mesh.admin("client", "/clusters"), what="another's change to arrive")

    # The next pilot knows as much as the one before.
    kept = state.named(mesh.name).last_good("pilot") / FILE
    assert kept.stat().st_mode & 0o777 == 0o600
    before = mesh.pod("pymesh-controlplane")["restarts"]
    for pid in mesh.pids("pymesh-controlplane"):
        kill(pid, SIGKILL)
    eventually_sync(
        lambda: mesh.pod("pymesh-controlplane")["restarts"] > before and mesh.pod("pymesh-controlplane")["is_ready"],
        what="pilot to be back",
        timeout=40,
    )
    assert eventually_sync(lambda: problems(mesh), what="the problem, told by the new pilot") == [expected]
    synced = "every proxy to have what the new pilot has"
    eventually_sync(lambda: "STALE" not in (text := mesh.run("status").stdout) and "client" in text, what=synced)
    assert version(mesh) == "v1"

    applied.write_text(ROUTE)
    eventually_sync(lambda: version(mesh) == "v2", what="the mended version to be in force")
    assert problems(mesh) == []
    applied.write_text(good)
    eventually_sync(lambda: version(mesh) == "v1", what="the first version to be back")


def test_a_file_that_is_no_yaml_costs_nobody_else_anything(mesh: Mesh, applied: Path) -> None:
    dropped = applied.with_name("dropped.yaml")
    dropped.write_text("kind: [\n" + OTHER)
    try:
        told = eventually_sync(lambda: problems(mesh), what="the problem")
        assert len(told) == 1
        assert told[0].startswith(f"{dropped}:")
        assert told[0].endswith("(it is not in force)")
        assert version(mesh) == "v1"
    finally:
        dropped.unlink()
    eventually_sync(lambda: not problems(mesh), what="the problem to go with the file")
