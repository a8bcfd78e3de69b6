"""What a shift tells programs."""

import json
from typing import Any

import pytest

from pymesh.errors import MeshError
from pymesh.resources.resource import Key
from pymesh_controlplane.cli import shift
from pymesh_controlplane.cli.output import Format
from pymesh_controlplane.cli.rollout import Manner, Rollout, Seen
from pymesh_controlplane.cli.shift import Told
from pymesh_controlplane.cli.shifting import Shift

PLAN = Shift("shop.default.svc.cluster.local", "v2", {}, None, (), ())


def test_a_dry_run_has_the_steps_that_are_planned(capsys: pytest.CaptureFixture[str]) -> None:
    Told(PLAN, Format.json).end("dry run", "nothing was changed", [Seen(50, 5.0, {}), Seen(100, 5.0, {})])
    document = json.loads(capsys.readouterr().out)
    assert document["steps"] == [
        {"share": 50, "seconds": 5.0, "subsets": {}},
        {"share": 100, "seconds": 5.0, "subsets": {}},
    ]


def test_a_shift_has_the_steps_that_were_seen(capsys: pytest.CaptureFixture[str]) -> None:
    told = Told(PLAN, Format.json)
    told.step(Seen(50, 7, {}))
    told.end("went back", "interrupted")
    assert json.loads(capsys.readouterr().out)["steps"] == [{"share": 50, "seconds": 7, "subsets": {}}]


KEY = Key("VirtualService", "shop", "shop")
ROUTES: dict[str, Any] = {
    "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
    "metadata": {"name": "shop", "namespace": "shop"}, "spec": {"hosts": ["shop"], "http": []},
}  # fmt: skip


class Away:
    """A mesh whose control plane is away: objects can be read, and nothing can be changed."""

    def __init__(self) -> None:
        self.puts = 0

    def objects(self, kinds: set[str], _: str = "") -> list[dict[str, Any]]:
        if kinds == {"Namespace"}:
            return [{"metadata": {"name": "shop"}}, {"metadata": {"name": "default"}}]
        return [ROUTES]

    def put(self, *_: object) -> None:
        self.puts += 1
        raise MeshError("nobody answers for the webhook")

    def pilots(self) -> None:
        raise MeshError("pymesh-controlplane is scaled to 0")


def test_what_could_not_be_changed_is_not_taken_back() -> None:
    mesh = Away()
    plan = Shift("shop.shop.svc.cluster.local", "v2", {KEY: ROUTES}, None, (), ())
    rollout = Rollout(mesh, plan, "shop", Manner([100], 1, ()), lambda _: None, lambda _: None, lambda _: None)  # type: ignore[arg-type]  # as much of a mesh as it takes
    with pytest.raises(MeshError, match="nobody answers"):
        rollout.run()
    assert not rollout.go_back()
    assert mesh.puts == 1


def test_a_control_plane_that_is_away_is_told_before_anything_is_changed() -> None:
    with pytest.raises(MeshError, match=r"^nothing was changed, for nobody would put it in force: pymesh-controlplane"):
        shift._require_pilot(Away())  # type: ignore[arg-type]  # likewise


def test_a_namespace_that_is_not_there_is_told_as_that() -> None:
    mesh = Away()
    shift._require_namespace(mesh, [ROUTES], "shop")  # type: ignore[arg-type]  # likewise
    shift._require_namespace(mesh, [], "default")  # type: ignore[arg-type]  # likewise
    with pytest.raises(MeshError, match=r"there is no namespace shp; there are shop, default; did you mean shop\?"):
        shift._require_namespace(mesh, [ROUTES], "shp")  # type: ignore[arg-type]  # likewise
