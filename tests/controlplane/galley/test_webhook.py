"""galley as a webhook: one object, judged in the world in force, and nobody is kept from mending or deleting."""

import copy
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh.resources.parse import parse
from pymesh_controlplane.galley.webhook import Judge
from pymesh_controlplane.pilot import world
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.webhooks import admission
from pymesh_controlplane.webhooks.admission import ALLOWED, Answer, ReviewError
from tests.controlplane.pilot.worlds import pod, service
from tests.controlplane.webhooks.reviews import Object, request, review

NOW = datetime(2026, 11, 23, tzinfo=UTC)
ROUTE: Object = yaml.safe_load("""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}
""")
RULE: Object = yaml.safe_load("""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
""")
EDGE: Object = yaml.safe_load("""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
""")
ENTERING: Object = yaml.safe_load("""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: entering, namespace: default}
spec: {hosts: ['*'], gateways: [edge], http: [{route: [{destination: {host: reviews}}]}]}
""")
SERVICE: Object = yaml.safe_load(service("reviews"))
# What an API server has put into everything that it holds.
STORED = {
    "uid": "8b4ab1b4-2a0c-4d5c-9d3e-0d7e6f6f1a11",
    "resourceVersion": "4711",
    "generation": 2,
    "creationTimestamp": "2026-11-23T00:00:00Z",
    "managedFields": [{"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {".": {}}}}],
}


def there(*objects: Object) -> World:
    """The world of these, in force."""
    return world.build(parse("---\n".join(yaml.safe_dump(each) for each in objects), "w.yaml").resources)


def changed(value: Object, way: str, to: object) -> Object:
    """A copy with `to` at `way`: `spec.http.0.route`."""
    result = copy.deepcopy(value)
    owner: Any = result
    *before, last = way.split(".")
    for key in before:
        owner = owner[int(key)] if isinstance(owner, list) else owner.setdefault(key, {})
    owner[last] = to
    return result


def judged(new: Object | None, old: Object | None = None, in_force: Iterable[Object] = (), **more: object) -> Answer:
    """The verdict on the review of a change."""
    kind = (new or old or {})["kind"]
    return Judge().answer(admission.read(review(request(kind, new, old, **more))), there(*in_force), NOW)


def told(found: Answer) -> list[tuple[str, str]]:
    """The fields and sentences of a refusal."""
    return [(cause.field, cause.sentence) for cause in found.refused]


def test_what_is_right_in_the_world_in_force_is_let_pass() -> None:
    stored = {**ROUTE, "metadata": {**ROUTE["metadata"], **STORED}, "status": {"conditions": []}}
    assert judged(stored, in_force=[SERVICE, RULE]) == ALLOWED


def test_unknown_fields_and_wrong_values_are_refused_all_at_once_in_galleys_words() -> None:
    wrong = changed(changed(ROUTE, "spec.http.0.ruote", []), "spec.http.0.route.0.weight", "ten")
    assert told(judged(wrong, in_force=[SERVICE, RULE])) == [
        ("spec.http[0].route[0].weight", "the text 'ten' is not a whole number, 0 or more"),
        ("spec.http[0].ruote", "unknown field 'ruote' in spec.http[0]; did you mean 'route'?"),
    ]


def test_a_selector_is_judged_by_the_pods_that_there_are() -> None:
    policy: Object = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "readers", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "rules": [{}]},
    }
    web: Object = yaml.safe_load(pod("web", "10.0.0.1", "web"))
    assert judged(policy, in_force=[web]) == ALLOWED
    (warning,) = judged(policy, in_force=[changed(web, "metadata.labels", {"app": "shop"})]).warnings
    assert warning.endswith("spec.selector.matchLabels: it selects no pod of namespace default, and has no effect")


def test_what_a_resource_says_by_itself_is_refused_whatever_else_there_is() -> None:
    pathless = changed(ROUTE, "spec.http.0.match", [{"uri": {"prefix": "api"}}])
    [(field, sentence)] = told(judged(pathless, in_force=[SERVICE, RULE]))
    assert (field, sentence) == ("spec.http[0].match[0].uri.prefix", "a path starts with '/': write prefix: /api")
    policy = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Sidecar",
        "metadata": {"name": "a"},
        "spec": {},
    }
    [(field, sentence)] = told(judged(policy))
    assert "not supported yet" in sentence


def test_what_is_not_there_yet_is_a_warning_that_says_what_is_in_force_meanwhile() -> None:
    found = judged(changed(ROUTE, "spec.http.0.route.0.destination.subset", "v3"), in_force=[SERVICE, RULE])
    assert found.refused == ()
    assert found.dangling
    [warning] = found.warnings
    assert warning == (
        "VirtualService default/reviews: spec.http[0].route[0].destination.subset: DestinationRule default/reviews has "
        "no subset 'v3'; it has v1, v2 (stored; until that is there, in force as far as it goes)"
    )
    found = judged(changed(ROUTE, "spec.http.0.route.0.destination.subset", "v3"), ROUTE, [SERVICE, RULE, ROUTE])
    assert found.warnings[0].endswith(
        "(stored; until that is there or the control plane starts anew, the version before stays in force)"
    )
    for missing in ([], [RULE], [SERVICE]):
        assert judged(ROUTE, in_force=missing).refused == ()
    assert judged(ENTERING, in_force=[SERVICE]).dangling
    assert judged(ENTERING, in_force=[SERVICE, EDGE]) == ALLOWED


def test_what_a_change_makes_wrong_elsewhere_is_told_with_it() -> None:
    narrower = changed(RULE, "spec.subsets", RULE["spec"]["subsets"][1:])
    found = judged(narrower, RULE, [SERVICE, RULE, ROUTE])
    assert found.refused == ()
    assert not found.dangling, "nothing is on its way that would mend it"
    assert any("VirtualService default/reviews" in each and "right until now" in each for each in found.warnings)


@pytest.mark.parametrize(
    ("deleted", "in_force", "words"),
    [
        (RULE, [SERVICE, RULE, ROUTE], "no DestinationRule defines subsets"),
        (EDGE, [SERVICE, EDGE, ENTERING], "there is no Gateway edge"),
    ],
)
def test_what_others_name_is_deleted_with_a_warning(deleted: Object, in_force: list[Object], words: str) -> None:
    found = judged(None, deleted, in_force)
    assert (found.refused, found.dangling) == ((), False)
    [warning] = found.warnings
    assert words in warning
    assert warning.endswith("(deleted all the same, and wrong without it)")
    assert judged(None, deleted, in_force, name="").warnings == found.warnings, "as one of a collection"
    assert judged(None, ROUTE, in_force) == ALLOWED
    assert judged(None, changed(deleted, "metadata.name", "unheard-of"), in_force) == ALLOWED


# --- mending what is wrong ------------------------------------------------------------------------------------------

WRONG = changed(ROUTE, "spec.http.0.timeout", "soon")


def test_labels_finalizers_and_the_status_of_what_is_wrong_can_be_changed() -> None:
    for way, to in (
        ("metadata.labels", {"a": "b"}),
        ("metadata.finalizers", ["x/y"]),
        ("metadata.managedFields", []),
        ("status", {"conditions": []}),
    ):
        assert judged(changed(WRONG, way, to), WRONG, [SERVICE, RULE]) == ALLOWED
    assert judged(changed(WRONG, "spec.hosts", []), WRONG, subResource="status") == ALLOWED


def test_what_is_ending_may_lose_its_finalizers_whatever_it_says() -> None:
    ending = changed(changed(WRONG, "metadata.deletionTimestamp", "2026-11-23T00:00:00Z"), "spec.more", 1)
    assert judged(ending, WRONG, [SERVICE, RULE]) == ALLOWED


def test_what_was_wrong_before_is_no_reason_to_refuse_what_is_mended_elsewhere() -> None:
    found = judged(changed(WRONG, "spec.hosts", ["reviews", "ratings"]), WRONG, [SERVICE, RULE])
    assert found.refused == ()
    assert any(each.endswith("(as it was before)") for each in found.warnings)
    twice = changed(WRONG, "spec.htpp", [])
    assert [field for field, _ in told(judged(twice, WRONG, [SERVICE, RULE]))] == ["spec.htpp"]
    assert told(judged(twice, in_force=[SERVICE, RULE])), "what is new has no past"


# --- what it is asked about -----------------------------------------------------------------------------------------

MESH: Object = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "pymesh", "namespace": "pymesh-system"},
    "data": {"mesh": "outboundTrafficPolicy: {mode: REGISTRY_ONLY}"},
}


def test_of_config_maps_the_one_with_the_mesh_config_is_judged() -> None:
    assert judged(MESH) == ALLOWED
    wrong = changed(MESH, "data.mesh", "outboundTrafficPolicy: {mode: SOMETIMES}")
    [(field, sentence)] = told(judged(wrong))
    assert field.startswith("data.mesh")
    assert "SOMETIMES" in sentence
    assert judged(changed(wrong, "metadata.name", "other")) == ALLOWED
    assert judged(changed(wrong, "metadata.namespace", "default")) == ALLOWED


def test_what_the_meshs_config_map_loses_is_told() -> None:
    code = "from pymesh.checks import check\n@check\ndef with_ticket(request): ...\n"
    had = changed(MESH, "data", {**MESH["data"], "tickets.py": code})
    (warning,) = judged(MESH, had, in_force=[had]).warnings
    assert warning == (
        "ConfigMap pymesh-system/pymesh: data: without the key tickets.py, its checks are gone (with_ticket): "
        "a ConfigMap is replaced as a whole"
    )
    assert judged(had, MESH, in_force=[MESH]) == ALLOWED


def test_a_name_that_is_to_be_generated_is_no_mistake() -> None:
    unnamed = {**ROUTE, "metadata": {"generateName": "reviews-", "namespace": "default"}}
    assert judged(unnamed, in_force=[SERVICE, RULE]) == ALLOWED


def test_a_review_has_what_its_operation_comes_with() -> None:
    with pytest.raises(ReviewError, match="CREATE has an object"):
        judged(None, ROUTE, operation="CREATE")


def test_a_judge_remembers_worlds_and_still_sees_what_changes() -> None:
    judge = Judge()
    asked = admission.read(review(request("DestinationRule", changed(RULE, "spec.subsets", []), RULE)))
    for _ in range(2):
        assert len(judge.answer(asked, there(SERVICE, RULE, ROUTE), NOW).warnings) == 2
        assert judge.answer(asked, there(SERVICE, RULE), NOW) == ALLOWED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(
    st.sampled_from([ROUTE, RULE, EDGE, MESH]), st.sampled_from(["metadata", "spec", "data", "kind", "status"]), JSON
)
def test_whatever_an_object_holds_there_is_a_verdict(value: Object, field: str, content: object) -> None:
    for new, old in (({**value, field: content}, None), ({**value, field: content}, value), (value, {field: content})):
        asked = admission.read(review(request(value["kind"], value) | {"object": new, "oldObject": old}))
        found = Judge().answer(asked, there(SERVICE, RULE, ROUTE, EDGE), NOW)
        assert all(cause.sentence for cause in found.refused)
