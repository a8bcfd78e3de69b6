"""The mesh that is measured: what it is made of, and who in it counts. That it runs is seen by running it."""

from pathlib import Path
from string import Template

import pytest

from benchmarks.macro import mesh
from benchmarks.macro.machine import Cores
from benchmarks.macro.scenarios import SCENARIOS
from pymesh.errors import MeshError
from pymesh_controlplane.cli import manifests
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.local.judge import judge

ROWS = [
    {"name": "ingressgateway", "owner": "", "pids": {"pymesh-proxy": 1}, "host_ports": {"127.0.0.1:18080": 8080}},
    {"name": "reviews-abc", "owner": "reviews", "pids": {"app": 2, "pymesh-proxy": 3}, "host_ports": {}},
]


def test_its_manifests_would_be_accepted(tmp_path: Path) -> None:
    scenario = SCENARIOS["mesh"]
    file = tmp_path / "mesh.yaml"
    file.write_text(Template((scenario.folder / "mesh.yaml").read_text()).substitute(BODY="x", HOST="a.example"))
    verdict = judge(manifests.read([str(file)]), "default", {}, InjectionConfig())
    assert [str(problem) for problem in verdict.errors] == []


def test_processes_are_found_by_pod_or_owner() -> None:
    assert [mesh._pid(ROWS, *where) for where in (("ingressgateway", "pymesh-proxy"), ("reviews", "app"))] == [1, 2]
    with pytest.raises(MeshError, match=r"has no policy/policy; it has ingressgateway/pymesh-proxy, reviews/app"):
        mesh._pid(ROWS, "policy", "policy")


def test_the_load_goes_to_the_ingress_gateways_port_of_this_machine() -> None:
    assert mesh._way_in(ROWS) == 18080
    with pytest.raises(MeshError, match="no ingress gateway that this machine reaches"):
        mesh._way_in(ROWS[1:])


def test_a_mesh_is_not_made_where_pymesh_is_not_measured(tmp_path: Path) -> None:
    cores = Cores(frozenset({0}), frozenset({0}))
    with (
        pytest.raises(MeshError, match="a mesh is made of pymesh"),
        mesh.local_mesh(SCENARIOS["mesh"], [], tmp_path, cores),
    ):
        pass
