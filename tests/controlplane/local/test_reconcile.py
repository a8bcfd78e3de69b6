"""From wanted and existing pods to the next steps."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh_controlplane.local.podspec import RollingUpdate, Strategy
from pymesh_controlplane.local.reconcile import Create, Delete, Existing, Wanted, plan, pod_name, template_hash

WEB = Wanted("default", "web", 2, "t1", Strategy())


def existing(*names: str, template: str = "t1", ready: bool = True, terminating: bool = False) -> list[Existing]:
    return [Existing("default", name, "web", template, ready, terminating) for name in names]


def test_missing_pods_are_made_with_names_that_only_depend_on_what_they_are_made_of() -> None:
    actions = plan([WEB], [])
    assert actions == [
        Create("default", "web", pod_name("web", "t1", 0)),
        Create("default", "web", pod_name("web", "t1", 1)),
    ]
    assert plan([WEB], []) == actions


def test_a_lost_pod_is_made_again_under_its_name_once_the_old_one_is_gone() -> None:
    first, second = pod_name("web", "t1", 0), pod_name("web", "t1", 1)
    ending = [*existing(first, terminating=True), *existing(second)]
    assert plan([WEB], ending) == [Create("default", "web", pod_name("web", "t1", 2))]
    assert plan([WEB], existing(second)) == [Create("default", "web", first)]


def test_nothing_to_do() -> None:
    assert plan([WEB], existing("a", "b")) == []


def test_scaling_down_takes_what_is_not_ready_first() -> None:
    pods = [*existing("a", "b"), *existing("c", ready=False)]
    assert plan([WEB], pods) == [Delete("default", "c")]
    assert plan([replace(WEB, replicas=0)], existing("a")) == [Delete("default", "a")]


def test_pods_without_an_owner_are_ended_once() -> None:
    assert plan([], existing("a")) == [Delete("default", "a")]
    assert plan([], existing("a", terminating=True)) == []


def test_the_same_name_in_another_namespace_is_another_owner() -> None:
    assert plan([replace(WEB, namespace="other", replicas=0)], existing("a")) == [Delete("default", "a")]


def test_rolling_makes_the_new_before_it_ends_the_old() -> None:
    new = replace(WEB, template_hash="t2")
    assert plan([new], existing("a", "b")) == [Create("default", "web", pod_name("web", "t2", 0))]
    one_coming = [*existing("a", "b"), *existing("n", template="t2", ready=False)]
    assert plan([new], one_coming) == []
    one_there = [*existing("a", "b"), *existing("n", template="t2")]
    assert plan([new], one_there) == [Delete("default", "a")]


def test_old_pods_that_serve_nobody_go_at_once() -> None:
    new = replace(WEB, template_hash="t2")
    assert Delete("default", "a") in plan([new], existing("a", "b", ready=False))


def test_recreate_waits_until_the_old_are_gone() -> None:
    new = replace(WEB, template_hash="t2", strategy=Strategy(type="Recreate"))
    assert plan([new], existing("a", "b")) == [Delete("default", "a"), Delete("default", "b")]
    assert plan([new], existing("a", "b", terminating=True)) == []
    assert len(plan([new], [])) == 2


def test_a_single_pod_keeps_its_name_and_is_replaced_when_it_changes() -> None:
    single = Wanted("default", "client", 1, "t1", Strategy(), pod_name="client")
    assert plan([single], []) == [Create("default", "client", "client")]
    old = [Existing("default", "client", "client", "t0", True, False)]
    assert plan([single], old) == [Delete("default", "client")]
    assert plan([single], [replace(old[0], terminating=True)]) == []


def test_a_template_hash_tells_templates_apart_and_not_their_order_of_fields() -> None:
    assert template_hash({"a": 1, "b": 2}) == template_hash({"b": 2, "a": 1})
    assert template_hash({"a": 1}) != template_hash({"a": 2})
    assert template_hash({"a": 1}, "/x") != template_hash({"a": 1}, "/y")


@pytest.mark.parametrize(
    ("surge", "unavailable", "most", "least"), [("25%", "25%", 5, 3), (0, 0, 4, 3), (2, 0, 6, 4), ("100%", "0%", 8, 4)]
)
def test_a_rollout_ends_and_stays_within_its_limits(
    surge: int | str, unavailable: int | str, most: int, least: int
) -> None:
    strategy = Strategy(rolling_update=RollingUpdate(max_surge=surge, max_unavailable=unavailable))
    wanted = replace(WEB, replicas=4, template_hash="t2", strategy=strategy)
    pods = existing("a", "b", "c", "d")
    for _ in range(20):
        for action in plan([wanted], pods):
            if isinstance(action, Create):
                pods.append(Existing("default", action.name, "web", "t2", False, False))
            else:
                pods = [pod for pod in pods if pod.name != action.name]
        assert len(pods) <= most
        assert sum(pod.ready for pod in pods) >= least
        # One more becomes ready in every round.
        unready = next((pod for pod in pods if not pod.ready), None)
        if unready is not None:
            pods[pods.index(unready)] = replace(unready, ready=True)
    assert [pod.template_hash for pod in pods] == ["t2"] * 4


@given(
    replicas=st.integers(0, 5),
    pods=st.lists(
        st.builds(
            Existing,
            namespace=st.just("default"),
            name=st.integers(0, 9).map(str),
            owner=st.just("web"),
            template_hash=st.sampled_from(["t1", "t2"]),
            ready=st.booleans(),
            terminating=st.booleans(),
        ),
        max_size=9,
        unique_by=lambda pod: pod.name,
    ),
)
def test_no_plan_names_a_pod_twice_or_touches_one_that_is_ending(replicas: int, pods: list[Existing]) -> None:
    actions = plan([replace(WEB, replicas=replicas)], pods)
    names = [action.name for action in actions]
    assert len(names) == len(set(names))
    alive = {pod.name for pod in pods if not pod.terminating}
    assert all(action.name in alive for action in actions if isinstance(action, Delete))
    assert not {action.name for action in actions if isinstance(action, Create)} & {pod.name for pod in pods}
