"""Which version is in force: what is bad is left out alone, and its last good version stays."""

from pymesh.errors import ConfigError, Position
from pymesh.resources.istio.virtual_service import VirtualService
from pymesh.resources.parse import parse
from pymesh.resources.resource import Key, holds
from pymesh_controlplane.pilot.model import Severity, World
from pymesh_controlplane.sources.ledger import (
    INCOMPLETE,
    KEPT,
    KEPT_FILE,
    NOTHING,
    NOTHING_FILE,
    STANDS,
    Contents,
    Ledger,
)
from tests.controlplane.pilot.worlds import service

REVIEWS = Key("VirtualService", "default", "reviews")


def route(name: str = "one", host: str = "reviews", extra: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: default}}
spec: {{hosts: [reviews], http: [{{name: {name}, route: [{{destination: {{host: {host}}}}}]{extra}}}]}}
"""


def contents(**files: str | ConfigError) -> Contents:
    named = {f"/c/{name.replace('__', '/')}.yaml": content for name, content in files.items()}
    return {
        path: content if isinstance(content, ConfigError) else parse(content, path)
        for path, content in sorted(named.items())
    }


def route_name(world: World) -> str | None:
    """Which version of the VirtualService is in force."""
    found = world.resources.get(REVIEWS)
    if found is None:
        return None
    assert holds(found, VirtualService)
    return found.value.spec.http[0].name


def errors(world: World) -> list[tuple[str, str]]:
    return [(problem.sentence, problem.consequence) for problem in world.problems if problem.severity is Severity.ERROR]


def place(text: str, words: str) -> str:
    """`line:column` of `words`."""
    before = text[: text.index(words)]
    return f"{before.count(chr(10)) + 1}:{len(before) - before.rindex(chr(10))}"


SERVICE = service("reviews")


def test_what_is_right_is_in_force() -> None:
    world = Ledger().update(contents(a=SERVICE, b=route()))
    assert (route_name(world), world.problems) == ("one", ())


def test_a_bad_new_version_leaves_the_old_one_and_everything_else() -> None:
    ledger = Ledger()
    ledger.update(contents(a=SERVICE, b=route()))
    broken = contents(a=SERVICE + "---" + service("other"), b=route("two", extra=", weigth: 1"))
    world = ledger.update(broken)
    assert route_name(world) == "one"
    assert "other.default.svc.cluster.local" in world.services
    assert errors(world) == [("unknown field 'weigth' in spec.http[0]", KEPT)]
    world = ledger.update(contents(a=SERVICE, b=route("two")))
    assert (route_name(world), errors(world)) == ("two", [])


def test_a_new_version_that_does_not_fit_the_world_leaves_the_old_one() -> None:
    ledger = Ledger()
    ledger.update(contents(a=SERVICE, b=route()))
    world = ledger.update(contents(a=SERVICE, b=route("two", host="revews")))
    assert route_name(world) == "one"
    ((sentence, consequence),) = errors(world)
    assert "there is no service revews.default.svc.cluster.local; did you mean reviews?" in sentence
    assert consequence == KEPT


def test_what_was_never_right_is_not_in_force_until_it_is() -> None:
    ledger = Ledger()
    world = ledger.update(contents(b=route()))
    assert route_name(world) is None
    assert [consequence for _, consequence in errors(world)] == [NOTHING]
    world = ledger.update(contents(a=SERVICE, b=route()))
    assert (route_name(world), errors(world)) == ("one", [])


def test_what_is_in_force_is_not_taken_back_because_of_others() -> None:
    ledger = Ledger()
    ledger.update(contents(a=SERVICE, b=route()))
    world = ledger.update(contents(b=route()))
    assert route_name(world) == "one"
    assert [consequence for _, consequence in errors(world)] == [STANDS]


def consequences(world: World) -> list[str]:
    return [consequence for _, consequence in errors(world)]


def test_what_names_something_missing_is_in_force_as_far_as_it_goes_where_that_is_asked_for() -> None:
    """Two ledgers that began at different times agree, as long as no version was right before."""
    first = Ledger(incomplete=True)
    worlds = [ledger.update(contents(b=route())) for ledger in (first, first, Ledger(incomplete=True))]
    assert [(route_name(world), consequences(world)) for world in worlds] == [("one", [INCOMPLETE])] * 3
    assert (route_name(first.update(contents(a=SERVICE, b=route()))), worlds[0].services) == ("one", {})
    world = first.update(contents(b=route()))
    assert (route_name(world), consequences(world)) == ("one", [INCOMPLETE])


def test_what_names_something_missing_does_not_take_the_place_of_a_version_before() -> None:
    ledger = Ledger(incomplete=True)
    ledger.update(contents(a=SERVICE, b=route()))
    world = ledger.update(contents(a=SERVICE, b=route("two", host="revews")))
    assert (route_name(world), consequences(world)) == ("one", [KEPT])
    world = ledger.update(contents(a=SERVICE + "---" + service("revews"), b=route("two", host="revews")))
    assert (route_name(world), consequences(world)) == ("two", [])


def test_what_is_wrong_by_itself_is_not_in_force_whatever_else_it_names() -> None:
    wrong = route(host="revews", extra=', rewrite: {uri: ""}, match: [{uri: {prefix: api}}]')
    world = Ledger(incomplete=True).update(contents(b=wrong))
    assert (route_name(world), set(consequences(world))) == (None, {NOTHING})


def test_a_bad_rule_and_a_route_that_needs_it_both_stay_what_they_were() -> None:
    """The route's new version is right only with the rule's new version, which is wrong."""

    def rule(subset: str, more: str = "") -> str:
        return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: reviews, namespace: default}}
spec: {{host: reviews, subsets: [{{name: {subset}}}{more}]}}
"""

    ledger = Ledger()
    old = route().replace("host: reviews}", "host: reviews, subset: a}")
    assert errors(ledger.update(contents(a=SERVICE, b=old, c=rule("a")))) == []
    new = route("two").replace("host: reviews}", "host: reviews, subset: b}")
    world = ledger.update(contents(a=SERVICE, b=new, c=rule("b", ", {name: b}")))
    assert route_name(world) == "one"
    assert [subset.name for subset in world.destination_rules[0].value.spec.subsets] == ["a"]
    assert {consequence for _, consequence in errors(world)} == {KEPT}


def test_a_file_that_cannot_be_read_keeps_what_it_said() -> None:
    ledger = Ledger()
    ledger.update(contents(a=SERVICE, b=route()))
    unreadable = ConfigError("cannot be read: Permission denied", position=Position("/c/b.yaml"))
    world = ledger.update(contents(a=SERVICE, b=unreadable))
    assert route_name(world) == "one"
    assert errors(world) == [("cannot be read: Permission denied", KEPT_FILE)]


def test_a_folder_that_cannot_be_read_keeps_what_stood_below_it() -> None:
    ledger = Ledger()
    ledger.update(contents(a=SERVICE, d__b=route()))
    unreadable = ConfigError("cannot be read", position=Position("/c/d"))
    assert route_name(ledger.update({**contents(a=SERVICE), "/c/d": unreadable})) == "one"
    assert route_name(ledger.update({**contents(a=SERVICE), "/c/db": unreadable})) is None


def test_a_document_that_cannot_be_read_keeps_what_it_may_have_said() -> None:
    ledger = Ledger()
    ledger.update(contents(a=f"{SERVICE}---{route()}"))
    world = ledger.update(contents(a=f"{SERVICE}---\nkind: [\n"))
    assert route_name(world) == "one"
    assert [consequence for _, consequence in errors(world)] == [KEPT_FILE]
    assert route_name(ledger.update(contents(a=SERVICE))) is None


def test_after_a_restart_nobody_claims_that_something_stays_in_force() -> None:
    """The versions before are gone with the process that knew them: what is wrong now is told with what that means."""
    unfit = route("two", host="gone")
    cut = f"{service('c')}---\nkind: [\n"
    unknown = route("three", extra=", weigth: 1").replace("name: reviews", "name: other")
    unreadable = ConfigError("cannot be read", position=Position("/c/d.yaml"))
    world = Ledger().update(contents(a=SERVICE, b=unfit, c=cut, d=unreadable, e=unknown))
    assert [str(problem.position) for problem in world.problems] == [
        f"/c/b.yaml:{place(unfit, 'host: gone')}",
        f"/c/c.yaml:{cut.count(chr(10)) + 1}:1",
        "/c/d.yaml",
        f"/c/e.yaml:{place(unknown, 'weigth')}",
    ]
    assert [consequence for _, consequence in errors(world)] == [NOTHING, NOTHING, NOTHING_FILE, NOTHING]
    assert sorted(service.name for service in world.services.values()) == ["c", "reviews"]


def test_a_route_to_a_missing_subset_is_refused_alone() -> None:
    """With the field's place in the file, what there is instead, and what is in force meanwhile."""
    rule = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec: {host: reviews, subsets: [{name: v1}, {name: v2}]}
"""
    ledger = Ledger()
    ledger.update(contents(a=SERVICE, b=route(), c=rule))
    bad = route("two").replace("host: reviews}", "host: reviews, subset: v9}")
    world = ledger.update(contents(a=SERVICE + "---" + service("other"), b=bad, c=rule))
    assert route_name(world) == "one"
    assert "other.default.svc.cluster.local" in world.services
    (problem,) = world.problems
    assert str(problem) == (
        f"/c/b.yaml:{place(bad, 'subset')}: VirtualService default/reviews: spec.http[0].route[0].destination.subset: "
        "error: DestinationRule default/reviews has no subset 'v9'; it has v1, v2 "
        "(the version before it stays in force)"
    )
    world = ledger.update(contents(a=SERVICE, b=bad))
    assert "no DestinationRule defines subsets of reviews.default.svc.cluster.local: write one" in str(
        world.problems[0]
    )


def test_a_deleted_file_takes_its_resources_with_it() -> None:
    ledger = Ledger()
    ledger.update(contents(a=SERVICE, b=route()))
    world = ledger.update(contents(a=SERVICE))
    assert (route_name(world), world.problems) == (None, ())


def test_of_two_with_one_name_the_one_in_force_counts() -> None:
    ledger = Ledger()
    ledger.update(contents(a=SERVICE, m=route("first")))
    world = ledger.update(contents(a=SERVICE, b=route("earlier"), m=route("first"), z=route("later")))
    assert route_name(world) == "first"
    assert [problem.position.file for problem in world.problems if problem.position] == ["/c/b.yaml", "/c/z.yaml"]
    assert errors(world)[0] == (
        "VirtualService default/reviews is written twice, here and at /c/m.yaml:2:1: remove one of them",
        "the one in /c/m.yaml counts",
    )
    assert route_name(ledger.update(contents(a=SERVICE, z=route("later")))) == "later"


def test_from_the_start_the_first_of_two_counts() -> None:
    world = Ledger().update(contents(a=SERVICE, b=f"{route('first')}---{route('second')}"))
    assert route_name(world) == "first"
    assert len(errors(world)) == 1


def test_what_the_runtime_observed_wins_over_what_was_applied() -> None:
    files = contents(applied__a=service("reviews", ip="''"), observed__a=service("reviews", ip="10.96.0.77"))
    world = Ledger(("/c/observed/",)).update(files)
    assert world.services["reviews.default.svc.cluster.local"].addresses == ("10.96.0.77",)
    assert world.problems == ()


def test_a_resource_that_moves_to_another_file_with_a_mistake_stays_what_it_was() -> None:
    ledger = Ledger()
    ledger.update(contents(a=SERVICE, b=route()))
    world = ledger.update(contents(a=SERVICE, c=route("two", extra=", oops: 1")))
    assert route_name(world) == "one"


def test_problems_are_in_the_order_of_the_files() -> None:
    world = Ledger().update(contents(b="kind: [", a="apiVersion: v1\nkind: Foo", c=route()))
    files = [problem.position.file for problem in world.problems if problem.position]
    assert list(dict.fromkeys(files)) == ["/c/a.yaml", "/c/b.yaml", "/c/c.yaml"]


def mesh(text: str) -> str:
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: pymesh, namespace: pymesh-system}\n"
    return f"{head}data:\n  mesh: |\n    {text}\n"


def test_a_mesh_config_that_cannot_be_read_leaves_the_one_before_in_force() -> None:
    ledger = Ledger()
    assert not ledger.update(contents(a=SERVICE)).mesh.registry_only
    only = mesh("outboundTrafficPolicy: {mode: REGISTRY_ONLY}")
    assert ledger.update(contents(a=SERVICE, m=only)).mesh.registry_only
    wrong = mesh("outboundTrafficPolicy: {mode: NOTHING}")
    world = ledger.update(contents(a=SERVICE, m=wrong))
    assert world.mesh.registry_only
    (problem,) = world.problems
    assert str(problem.position) == f"/c/m.yaml:{place(wrong, 'mode')}"
    assert (problem.path, problem.consequence) == ("data.mesh.outboundTrafficPolicy.mode", KEPT)
    assert not ledger.update(contents(a=SERVICE)).mesh.registry_only


def test_a_config_map_of_another_namespace_says_nothing_about_the_mesh() -> None:
    elsewhere = mesh("outboundTrafficPolicy: {mode: REGISTRY_ONLY}").replace("pymesh-system", "default")
    world = Ledger().update(contents(m=elsewhere))
    assert (world.mesh.registry_only, world.problems) == (False, ())
