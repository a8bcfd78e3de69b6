"""The verdict on manifests: everything at once, next to what is in force, and who would miss what is deleted."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from pymesh.resources.resource import Key
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.local.judge import FORCED, INCOMPLETE, MADE_WRONG, Applied, Verdict, judge
from pymesh_controlplane.local.store import InUseError, RefusedError, Store
from pymesh_controlplane.local.texts import Text
from tests.controlplane.pilot.worlds import service

RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
"""
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}
"""
EDGE = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
"""
ENTERING = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: entering}
spec: {hosts: ['*'], gateways: [edge], http: [{route: [{destination: {host: reviews}}]}]}
"""
SERVICE = service("reviews")


def verdict(*texts: str, in_force: dict[Key, Applied] | None = None) -> Verdict:
    named = [Text(f"{number}.yaml", "/srv", text) for number, text in enumerate(texts)]
    return judge(named, "default", in_force or {}, InjectionConfig())


def store(tmp_path: Path, *texts: str) -> Store:
    for name in ("applied", "secrets", "tmp"):
        (tmp_path / name).mkdir()
    found = Store(tmp_path / "applied", tmp_path / "secrets", tmp_path / "tmp", InjectionConfig())
    items, _ = found.read([Text("all.yaml", "/srv", "---".join(texts))], "default")
    found.apply(items)
    return found


def given(*texts: str) -> list[Text]:
    return [Text("new.yaml", "/srv", "---".join(texts))]


def told(found: Verdict) -> list[str]:
    return [str(problem) for problem in found.errors]


def test_what_is_in_force_counts() -> None:
    alone = verdict(ROUTE)
    assert "there is no service reviews.default.svc.cluster.local" in told(alone)[0]
    before = verdict(SERVICE, RULE)
    in_force = {item.resource.key: item for item in before.items}
    assert verdict(ROUTE, in_force=in_force).problems == ()
    assert told(verdict(ROUTE.replace("subset: v1", "subset: v3"), in_force=in_force)) == [
        (
            "0.yaml:5:72: VirtualService default/reviews: spec.http[0].route[0].destination.subset: error: "
            "DestinationRule default/reviews has no subset 'v3'; it has v1, v2"
        )
    ]


@pytest.mark.parametrize(
    ("data", "gone"),
    [
        (
            ("mesh",),
            [
                "without the key more.py, its checks are gone (c): a ConfigMap is replaced as a whole",
                "without the key tickets.py, its checks are gone (a, b): a ConfigMap is replaced as a whole",
            ],
        ),
        (
            ("tickets.py", "more.py"),
            ["without the key mesh, the MeshConfig's defaults hold: a ConfigMap is replaced as a whole"],
        ),
        (("mesh", "tickets.py", "more.py"), []),
    ],
)
def test_what_the_meshs_config_map_loses_is_told(data: tuple[str, ...], gone: list[str]) -> None:
    code = "from pymesh.checks import check\n@check\ndef a(request): ...\n@check\ndef b(request): ...\n"
    more = "from pymesh.checks import check\n@check('c')\ndef a(request): ...\n"
    had = {"mesh": "accessLogFile: /dev/stdout", "tickets.py": code, "more.py": more}

    def config_map(keys: Iterable[str], name: str = "pymesh") -> str:
        metadata = {"name": name, "namespace": "pymesh-system"}
        return json.dumps(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {key: had[key] for key in keys}}
        )

    in_force = {item.resource.key: item for item in verdict(config_map(had), config_map(had, "other")).items}
    found = verdict(config_map(data), config_map([], "other"), in_force=in_force)
    assert [(problem.path, problem.sentence) for problem in found.problems] == [("data", sentence) for sentence in gone]
    assert verdict(config_map(data)).problems == ()


POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec: {selector: {matchLabels: {app: web}}, rules: [{}]}
"""
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, command: [web]}]}}
"""
OTHER_POD = """
apiVersion: v1
kind: Pod
metadata: {name: shop, labels: {app: shop}}
spec: {containers: [{name: shop, command: [shop]}]}
"""
HAD_AN_ADDRESS = "status: {podIP: 10.244.0.9}\n"


def test_a_selector_is_judged_by_the_pods_that_are_to_be() -> None:
    """Nothing has run yet: Deployments make pods, and the status that a manifest came with tells nothing."""
    nobody = "it selects no pod of namespace default, and has no effect"
    for right in ((POLICY, DEPLOYMENT), (POLICY, DEPLOYMENT, OTHER_POD + HAD_AN_ADDRESS)):
        assert verdict(*right).problems == ()
    for odd in (
        (POLICY, OTHER_POD),
        (POLICY, OTHER_POD + HAD_AN_ADDRESS),
        (POLICY, DEPLOYMENT.replace("app: web", "app: w")),
    ):
        assert [problem.sentence for problem in verdict(*odd).warnings] == [nobody]
    ended = (POLICY, OTHER_POD, OTHER_POD.replace("shop", "web") + "status: {phase: Succeeded}\n")
    assert [problem.sentence for problem in verdict(*ended).warnings] == [nobody]
    in_force = {item.resource.key: item for item in verdict(DEPLOYMENT).items}
    assert verdict(POLICY, in_force=in_force).problems == ()
    assert verdict(POLICY).problems == (), "of no pod at all nothing is known"


def test_what_can_be_read_is_judged_even_if_not_all_can_and_that_is_said() -> None:
    found = verdict(SERVICE.replace("ports:", "prots:"), RULE, ROUTE)
    assert [problem.resource for problem in found.errors] == [
        "Service default/reviews",
        "VirtualService default/reviews",
    ]
    assert found.problems[-1].sentence == INCOMPLETE
    assert INCOMPLETE not in [problem.sentence for problem in verdict(ROUTE).problems]


@pytest.mark.parametrize(
    ("key", "named_by"),
    [
        (Key("Service", "default", "reviews"), ["VirtualService default/entering", "VirtualService default/reviews"]),
        (Key("DestinationRule", "default", "reviews"), ["VirtualService default/reviews"]),
        (Key("Gateway", "default", "edge"), ["VirtualService default/entering"]),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_what_others_name_is_not_deleted(key: Key, named_by: list[str], tmp_path: Path) -> None:
    found = store(tmp_path, SERVICE, RULE, ROUTE, EDGE, ENTERING)
    with pytest.raises(InUseError) as refused:
        found.refuse_if_named([key])
    text = str(refused.value)
    assert text.startswith(f"nothing was deleted; without {key} this would be wrong:\n  all.yaml:")
    assert "--force deletes all the same" in text
    for name in ("VirtualService default/entering", "VirtualService default/reviews"):
        assert (f": {name}: spec." in text) is (name in named_by)


SECURE = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: secure}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: web}}]
"""
SECRET = "\n{apiVersion: v1, kind: Secret, metadata: {name: web, namespace: pymesh-system}, type: Opaque}\n"
LIMIT = """
apiVersion: policy.pymesh.io/v1alpha1
kind: RateLimit
metadata: {name: calm}
spec: {targetRefs: [{kind: Service, name: reviews}], requests: 10, per: Second}
"""


def test_what_is_only_named_is_not_deleted_either(tmp_path: Path) -> None:
    """A Gateway without its Secret and a limit without its Service may be right, but hardly are when it is deleted."""
    found = store(tmp_path, SERVICE, SECURE, SECRET, LIMIT)
    with pytest.raises(InUseError, match=r"Gateway default/secure: spec.servers\[0\].tls.credentialName: error: names"):
        found.refuse_if_named([Key("Secret", "pymesh-system", "web")])
    with pytest.raises(InUseError, match=r"RateLimit default/calm: spec.targetRefs\[0\].name: error: names Service"):
        found.refuse_if_named([Key("Service", "default", "reviews")])
    found.refuse_if_named(list(found.items))


def test_whoever_names_it_may_go_with_it_and_what_nobody_names_may_go(tmp_path: Path) -> None:
    found = store(tmp_path, SERVICE, RULE, ROUTE, EDGE, ENTERING)
    found.refuse_if_named([Key("VirtualService", "default", "reviews")])
    found.refuse_if_named([Key("Gateway", "default", "edge"), Key("VirtualService", "default", "entering")])
    found.refuse_if_named(list(found.items))
    found.refuse_if_named([Key("Service", "default", "unknown")])


def test_what_was_wrong_before_hinders_no_deletion(tmp_path: Path) -> None:
    """Deleted by force, say: the route is wrong with the Gateway and without it."""
    found = store(tmp_path, SERVICE, RULE, ROUTE, EDGE)
    found.delete(Key("Service", "default", "reviews"))
    found.refuse_if_named([Key("Gateway", "default", "edge")])


NO_SUBSETS = (
    "VirtualService default/reviews: spec.http[0].route[0].destination.subset: error: no DestinationRule defines "
    "subsets of reviews.default.svc.cluster.local: write one for this host"
)


def test_what_would_make_others_wrong_is_not_applied(tmp_path: Path) -> None:
    """In the words of `delete`, which refuses the same, with the place of what would be wrong."""
    found = store(tmp_path, SERVICE, RULE, ROUTE, EDGE, ENTERING)
    moved = RULE.replace("host: reviews", "host: reviewz")
    with pytest.raises(RefusedError) as refused:
        found.read(given(moved), "default")
    (error,) = refused.value.errors
    assert str(error).startswith("all.yaml:")
    assert str(error).endswith(f": {NO_SUBSETS} ({MADE_WRONG})")
    with pytest.raises(InUseError) as kept:
        found.refuse_if_named([Key("DestinationRule", "default", "reviews")])
    assert NO_SUBSETS in str(kept.value)


def test_by_force_what_makes_others_wrong_is_applied_with_a_warning(tmp_path: Path) -> None:
    found = store(tmp_path, SERVICE, RULE, ROUTE)
    _, warnings = found.read(given(RULE.replace("name: v1", "name: v3")), "default", force=True)
    (warning,) = [text for text in warnings if FORCED in text]
    assert ": warning: DestinationRule default/reviews has no subset 'v1'; it has v3, v2 (" in warning
    with pytest.raises(RefusedError, match="there are two subsets"):
        found.read(given(RULE.replace("name: v2", "name: v1")), "default", force=True)


def test_who_is_changed_in_the_same_command_is_not_made_wrong(tmp_path: Path) -> None:
    found = store(tmp_path, SERVICE, RULE, ROUTE)
    only_v2 = RULE.replace("{name: v1, labels: {version: v1}}, ", "")
    assert found.judge(given(only_v2, ROUTE.replace("subset: v1", "subset: v2")), "default").problems == ()
    assert len(found.judge(given(only_v2), "default").errors) == 1
    assert found.judge(given(RULE), "default").problems == ()


def test_what_was_wrong_before_hinders_nobody(tmp_path: Path) -> None:
    """Though the sentence is another one now: there is a rule again, without the subset."""
    found = store(tmp_path, SERVICE, RULE, ROUTE)
    found.delete(Key("DestinationRule", "default", "reviews"))
    assert found.judge(given(RULE.replace("name: v1", "name: v3")), "default").errors == ()


def test_a_first_time_has_no_order_that_makes_others_wrong(tmp_path: Path) -> None:
    """What comes later may only help what is there: rules before routes, limits and secure gateways before all."""
    found = store(tmp_path)
    for text in (LIMIT, SECURE, RULE, EDGE, SERVICE, SECRET, ENTERING, ROUTE):
        items, _ = found.read(given(text), "default")
        found.apply(items)
    assert len(found.items) == 8
