"""What a shift changes, and what it leaves alone."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pymesh.errors import MeshError
from pymesh.resources.resource import Key
from pymesh_controlplane.cli.shifting import Document, Shift, prepare, steps, weighed
from pymesh_controlplane.galley.check import check
from pymesh_controlplane.pilot import world
from tests.controlplane.pilot.worlds import BOOKINFO, pod, service, slice_of, world_of

REVIEWS = Key("VirtualService", "default", "reviews")
SHOP = Key("VirtualService", "default", "shop")
PLAIN = "---".join(
    [
        service("shop"),
        pod("shop-1", "10.244.1.1", "shop"),
        pod("shop-2", "10.244.1.2", "shop"),
        pod("shop-3", "10.244.1.3", "shop", "v2"),
        slice_of("shop", "10.244.1.1", "10.244.1.2", "10.244.1.3"),
        """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop, namespace: default}
spec:
  host: shop
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}, {name: v3, labels: {version: v3}}]
""",
    ]
)


def to(subset: str, weight: int = 0, host: str = "shop") -> str:
    """A destination."""
    return f"{{destination: {{host: {host}{f', subset: {subset}' if subset else ''}}}, weight: {weight}}}"


def objects(text: str) -> list[Document]:
    return [document for document in yaml.safe_load_all(text) if document]


def virtual(http: str, name: str = "shop", more: str = "") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: default}}
spec: {{hosts: [{name}], http: [{http}]{more}}}
"""


def shop(http: str, to: str = "v2") -> Shift:
    return prepare(objects(PLAIN + virtual(http)), "shop", "default", to)


def weights(shift: Shift, share: int) -> list[dict[str, int]]:
    """By route, the weight of each destination, called by its subset, or by its host if it has none."""
    return [
        {item["destination"].get("subset") or item["destination"]["host"]: item["weight"] for item in http["route"]}
        for http in shift.at(share)[SHOP]["spec"]["http"]
    ]


def test_only_weights_change_and_only_in_the_routes_that_are_for_everybody() -> None:
    given_objects = objects(BOOKINFO)
    before = copy.deepcopy(given_objects)
    shift = prepare(given_objects, "reviews", "default", "v2")
    assert [str(place) for place in shift.places] == ["VirtualService default/reviews spec.http[1]"]
    assert [str(place) for place in shift.pinned] == ["VirtualService default/reviews spec.http[0] (jason)"]
    assert shift.share == 0
    expected = next(copy.deepcopy(item) for item in before if item["kind"] == "VirtualService")
    expected["spec"]["http"][1]["route"] = [
        {"destination": {"host": "reviews", "subset": "v1"}, "weight": 72},
        {"destination": {"host": "reviews", "subset": "v3"}, "weight": 18},
        {"destination": {"host": "reviews", "subset": "v2"}, "weight": 10},
    ]
    assert shift.at(10) == {REVIEWS: expected}
    assert given_objects == before


def test_the_whole_way_and_back() -> None:
    there = shop("{route: [{destination: {host: shop, subset: v1}}]}")
    assert [weights(there, share)[0] for share in (1, 50, 100)] == [
        {"v1": 99, "v2": 1},
        {"v1": 50, "v2": 50},
        {"v1": 0, "v2": 100},
    ]
    (document,) = there.at(100).values()
    back = prepare([*objects(PLAIN), document], "shop", "default", "v1")
    assert (back.share, weights(back, 30), weights(back, 100)) == (0, [{"v1": 30, "v2": 70}], [{"v1": 100, "v2": 0}])


@pytest.mark.parametrize(
    ("http", "share", "expected"),
    [
        # From the service as a whole: what is not shifted stays with it.
        (f"{{route: [{to('')}]}}", 25, [{"shop": 75, "v2": 25}]),
        # Weights that no percent can be said of.
        (f"{{route: [{to('v1', 2)}, {to('v3', 1)}]}}", 50, [{"v1": 100, "v3": 50, "v2": 150}]),
        # Another service's share is its own.
        (f"{{route: [{to('v1', 50)}, {to('', 50, 'ratings')}]}}", 100, [{"v1": 0, "ratings": 100, "v2": 100}]),
        # A route that is further on is not taken back.
        (
            f"{{match: [{{uri: {{prefix: /a}}}}], route: [{to('v2', 60)}, {to('v1', 40)}]}}, {{route: [{to('v1')}]}}",
            10,
            [{"v2": 60, "v1": 40}, {"v1": 90, "v2": 10}],
        ),
    ],
)
def test_weights(http: str, share: int, expected: list[dict[str, int]]) -> None:
    shift = prepare(objects(PLAIN + "---" + service("ratings") + virtual(http)), "shop", "default", "v2")
    assert weights(shift, share) == expected


def test_fields_of_destinations_stay_where_they_are() -> None:
    shift = shop(
        "{route: [{destination: {host: shop.default.svc.cluster.local, subset: v1, port: {number: 9080}}, "
        "headers: {request: {set: {x: '1'}}}}], timeout: 3s, retries: {attempts: 2}}"
    )
    (http,) = shift.at(40)[SHOP]["spec"]["http"]
    destination = {"host": "shop.default.svc.cluster.local", "subset": "v1", "port": {"number": 9080}}
    assert http == {
        "route": [
            {"destination": destination, "headers": {"request": {"set": {"x": "1"}}}, "weight": 60},
            {"destination": {**destination, "subset": "v2"}, "weight": 40},
        ],
        "timeout": "3s",
        "retries": {"attempts": 2},
    }


def test_where_there_is_no_virtual_service_one_is_made_of_the_subsets_that_have_pods() -> None:
    shift = prepare(objects(PLAIN), "shop", "default", "v2")
    assert shift.made == SHOP
    assert weights(shift, 20) == [{"v1": 80, "v2": 20}]
    assert weights(prepare(objects(PLAIN), "shop", "default", "v1"), 50) == [{"v2": 50, "v1": 50}]


def test_who_gets_all_already_needs_no_shift() -> None:
    shift = shop("{route: [{destination: {host: shop, subset: v2}}]}")
    assert (shift.places, shift.share, shift.at(100)) == ((), 100, {})


@pytest.mark.parametrize(
    ("text", "arguments", "sentence"),
    [
        (PLAIN, ("shp", "default", "v2"), "namespace default has no Service shp; did you mean shop?; it has shop"),
        (PLAIN, ("shop", "other", "v2"), "namespace other has no Service shop; default has one: see -n"),
        (PLAIN, ("shop", "default", "v4"), "DestinationRule default/shop has no subset v4; it has v1, v2, v3"),
        (
            PLAIN,
            ("shop", "default", "v3"),
            "no pod of shop.default.svc.cluster.local is ready that has the labels of subset v3 (version=v3)",
        ),
        (service("shop"), ("shop", "default", "v2"), "no DestinationRule says which subsets shop.default.svc"),
        (
            service("db", "[{name: tcp, port: 5432}]"),
            ("db", "default", "v2"),
            "no port of db.default.svc.cluster.local speaks HTTP: only requests are shifted, not connections",
        ),
        (
            PLAIN + virtual(f"{{match: [{{headers: {{tester: {{exact: 'yes'}}}}}}], route: [{to('v1')}]}}"),
            ("shop", "default", "v2"),
            "every route to shop.default.svc.cluster.local is for some callers only: VirtualService default/shop",
        ),
        (
            PLAIN + virtual("{redirect: {uri: /}}"),
            ("shop", "default", "v2"),
            "VirtualService default/shop is there and has no HTTP route to shop.default.svc.cluster.local",
        ),
    ],
)
def test_what_is_missing_is_said(text: str, arguments: tuple[str, str, str], sentence: str) -> None:
    with pytest.raises(MeshError) as refused:
        prepare(objects(text), *arguments)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("share", "step", "expected"),
    [(0, None, [100]), (0, 50, [50, 100]), (0, 30, [30, 60, 90, 100]), (20, 40, [60, 100]), (95, 10, [100])],
)
def test_steps(share: int, step: int | None, expected: Sequence[int]) -> None:
    assert steps(share, step) == expected


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(["", "v1", "v2", "v3"]), st.integers(0, 1000)), min_size=2),
    st.integers(0, 100),
)
def test_the_subset_gets_its_share_to_the_percent_and_the_others_lose_nothing(
    drawn: list[tuple[bool, str, int]], share: int
) -> None:
    """Of those that had less than all, whoever shares the rest."""
    route: list[dict[str, Any]] = [
        {"destination": {"host": "a" if own else "b", "subset": subset}, "weight": weight}
        for own, subset, weight in drawn
    ]
    ours = [own for own, _, _ in drawn]
    rest = sum(weight for own, subset, weight in drawn if own and subset != "v2")
    if not rest:
        return
    whole = rest + sum(weight for own, subset, weight in drawn if own and subset == "v2")
    result = weighed(route, ours, "v2", share)
    mine = [item for item in result if item["destination"]["host"] == "a"]
    there = sum(item["weight"] for item in mine if item["destination"].get("subset") == "v2")
    factor = sum(item["weight"] for item in mine) / whole
    assert there * 100 == share * sum(item["weight"] for item in mine)
    foreign = [item["weight"] for item in result if item["destination"]["host"] == "b"]
    assert foreign == [weight * factor for own, _, weight in drawn if not own]
    for item, (own, subset, weight) in zip(result, drawn, strict=False):
        if own and subset != "v2":
            assert abs(item["weight"] - weight * factor * (100 - share) / 100 * whole / rest) < 1


def test_every_step_is_accepted_by_galley() -> None:
    shift = prepare(objects(BOOKINFO), "reviews", "default", "v3")
    for share in (1, 33, 100):
        (document,) = shift.at(share).values()
        others = [item for item in world_of(BOOKINFO).resources.values() if item.key != REVIEWS]
        changed = world_of(yaml.safe_dump(document)).resources[REVIEWS]
        seen = world.build([*others, changed])
        assert check([changed], seen) == []
