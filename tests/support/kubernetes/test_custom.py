"""Custom resources: served, pruned, defaulted and validated by their definition; and patches of all kinds."""

from collections.abc import Iterator

import pytest

from tests.support.kubernetes.conftest import Server
from tests.support.kubernetes.errors import Object
from tests.support.waiting import eventually_sync

GROUP = "double.pymesh.io"
MERGE, JSON, STRATEGIC = (f"application/{kind}-patch+json" for kind in ("merge", "json", "strategic-merge"))
APPLY = "application/apply-patch+yaml"

TEXT: Object = {"type": "string"}
SPEC: Object = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "minimum": 1},
        "colour": {"type": "string", "enum": ["red", "blue"], "default": "red"},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "parts": {
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {"name": TEXT, "image": TEXT}},
        },
        "words": {"type": "array", "x-kubernetes-list-type": "set", "items": TEXT},
        "either": {"type": "object", "properties": {"a": TEXT, "b": TEXT},
                   "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
    },
}  # fmt: skip


def definition(plural: str, **version: object) -> Object:
    schema = {"type": "object", "properties": {"spec": SPEC, "status": {
        "type": "object", "x-kubernetes-preserve-unknown-fields": True}}}  # fmt: skip
    kind = plural.removesuffix("s").capitalize()
    versions = [
        {"name": name, "served": True, "storage": name == "v1", "schema": {"openAPIV3Schema": schema},
         "subresources": {"status": {}},
         "additionalPrinterColumns": [
             {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
             {"name": "Words", "type": "string", "jsonPath": ".spec.words"},
             {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'}],
         **version}
        for name in ("v1", "v1beta1")
    ]  # fmt: skip
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "versions": versions,
                 "names": {"plural": plural, "kind": kind, "shortNames": [plural[:3]]}},
    }  # fmt: skip


DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture(scope="module")
def widgets(server: Server) -> Iterator[Server]:
    """A server with the kind Widget."""
    server.create(DEFINITIONS, definition("widgets"))
    try:
        server.settled(server.path("widgets", group=GROUP), 200)
        yield server
    finally:
        server.ask("DELETE", f"{DEFINITIONS}/widgets.{GROUP}")


def widget(name: str, **spec: object) -> Object:
    return {"apiVersion": f"{GROUP}/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": 1, **spec}}


def at(server: Server, name: str = "") -> str:
    return server.path("widgets", name, group=GROUP)


def test_a_definition_is_established(widgets: Server) -> None:
    found = widgets.get(f"{DEFINITIONS}/widgets.{GROUP}").ok()
    conditions = {each["type"]: each["status"] for each in found["status"]["conditions"]}
    assert conditions["NamesAccepted"] == conditions["Established"] == "True"
    assert found["status"]["storedVersions"] == ["v1"]
    assert found["status"]["acceptedNames"]["listKind"] == "WidgetList"
    resources = widgets.get(f"/apis/{GROUP}/v1").ok()["resources"]
    assert [each["name"] for each in resources] == ["widgets", "widgets/status"]
    assert GROUP in [each["name"] for each in widgets.get("/apis").ok()["groups"]]
    aggregated = widgets.get(
        "/apis", accept="application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    ).ok()
    assert GROUP in [each["metadata"]["name"] for each in aggregated["items"]]


def test_unknown_fields_go_and_defaults_come(widgets: Server) -> None:
    made = widgets.create(at(widgets), widget("pruned", nonsense=1, free={"any": {"thing": [1]}}))
    assert made["spec"] == {"size": 1, "colour": "red", "free": {"any": {"thing": [1]}}}
    assert made["metadata"]["generation"] == 1
    strict = widgets.ask("POST", at(widgets), widget("strict", nonsense=1), fieldValidation="Strict")
    assert strict.refusal[:2] == (400, "BadRequest")
    assert 'strict decoding error: unknown field "spec.nonsense"' in strict.refusal[2]


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        ({"size": 0}, "spec.size", "FieldValueInvalid"),
        ({"size": "big"}, "spec.size", "FieldValueTypeInvalid"),
        ({"colour": "green"}, "spec.colour", "FieldValueNotSupported"),
        ({"parts": [{"image": "x"}]}, "spec.parts[0].name", "FieldValueRequired"),
        ({"parts": [{"name": "a"}, {"name": "a"}]}, "spec.parts[1]", "FieldValueDuplicate"),
        ({"either": {"a": "x", "b": "y"}}, "<nil>", "FieldValueInvalid"),
    ],
)
def test_what_the_schema_forbids(widgets: Server, spec: Object, field: str, reason: str) -> None:
    said = widgets.ask("POST", at(widgets), widget("wrong", **spec))
    assert said.refusal[:2] == (422, "Invalid"), said.text
    assert (field, reason) in said.causes
    assert said.body["details"]["group"] == GROUP


def test_every_version_gives_the_same_object(widgets: Server) -> None:
    widgets.create(at(widgets), widget("versions"))
    path = widgets.path("widgets", "versions", group=GROUP, version="v1beta1")
    found = widgets.get(path).ok()
    assert found["apiVersion"] == f"{GROUP}/v1beta1"
    widgets.ask("PUT", path, found | {"spec": {"size": 7}}).ok()
    assert widgets.get(at(widgets, "versions")).ok()["spec"]["size"] == 7
    wrong = widgets.ask("PUT", at(widgets, "versions"), found)
    assert wrong.refusal[:2] == (400, "BadRequest")


def test_status_is_a_world_of_its_own(widgets: Server) -> None:
    made = widgets.create(at(widgets), widget("status") | {"status": {"phase": "Early"}})
    assert "status" not in made
    path = at(widgets, "status")
    told = widgets.ask("PUT", f"{path}/status", made | {"spec": {"size": 9}, "status": {"phase": "Ready"}}).ok()
    assert told["status"] == {"phase": "Ready"}
    assert told["spec"]["size"] == 1
    assert told["metadata"]["generation"] == 1
    changed = widgets.ask("PATCH", path, {"spec": {"size": 2}, "status": {"phase": "Other"}}, media=MERGE).ok()
    assert changed["status"] == {"phase": "Ready"}
    assert changed["metadata"]["generation"] == 2
    patched = widgets.ask("PATCH", f"{path}/status", {"status": {"phase": "Last"}}, media=MERGE).ok()
    assert patched["status"] == {"phase": "Last"}
    assert widgets.ask("PUT", f"{path}/status", made | {"status": {"phase": "Old"}}).refusal[:2] == (409, "Conflict")


def test_columns_are_the_definitions(widgets: Server) -> None:
    path = at(widgets, "columns")
    made = widgets.create(at(widgets), widget("columns", words=["a", "b"]))
    condition = {"type": "Ready", "status": "True"}
    widgets.ask("PUT", f"{path}/status", made | {"status": {"conditions": [condition]}}).ok()
    table = widgets.kubectl("get", "wid", "columns").stdout.splitlines()
    assert table[0].split() == ["NAME", "SIZE", "WORDS", "READY"]
    assert table[1].split() == ["columns", "1", '["a","b"]', "True"]


def test_a_json_patch_is_all_or_nothing(widgets: Server) -> None:
    widgets.create(at(widgets), widget("json", words=["a"]))
    path = at(widgets, "json")
    steps = [{"op": "test", "path": "/spec/size", "value": 1}, {"op": "replace", "path": "/spec/size", "value": 3},
             {"op": "add", "path": "/spec/words/-", "value": "b"}]  # fmt: skip
    assert widgets.ask("PATCH", path, steps, media=JSON).ok()["spec"] == {
        "size": 3,
        "colour": "red",
        "words": ["a", "b"],
    }
    assert widgets.ask("PATCH", path, steps, media=JSON).refusal[:2] == (422, "Invalid")
    missing = [{"op": "replace", "path": "/spec/size", "value": 4}, {"op": "remove", "path": "/spec/none"}]
    assert widgets.ask("PATCH", path, missing, media=JSON).code == 422
    assert widgets.get(path).ok()["spec"]["size"] == 3


def test_a_merge_patch_with_a_version_is_conditional(widgets: Server) -> None:
    made = widgets.create(at(widgets), widget("merge"))
    path = at(widgets, "merge")
    version = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}}
    done = widgets.ask("PATCH", path, version | {"spec": {"colour": None, "size": 2}}, media=MERGE).ok()
    assert done["spec"] == {"size": 2, "colour": "red"}
    assert widgets.ask("PATCH", path, version | {"spec": {"size": 3}}, media=MERGE).refusal[:2] == (409, "Conflict")


def test_strategic_patches_are_for_built_in_kinds(widgets: Server) -> None:
    widgets.create(at(widgets), widget("plain"))
    assert widgets.ask("PATCH", at(widgets, "plain"), {"spec": {"size": 2}}, media=STRATEGIC).code == 415
    ports = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
    widgets.create(widgets.path("services"), {"metadata": {"name": "strategic"}, "spec": {"ports": ports}})
    patch = {"spec": {"ports": [{"port": 81, "$patch": "delete"}, {"port": 80, "appProtocol": "http"},
                                {"port": 82, "name": "c"}]}}  # fmt: skip
    made = widgets.ask("PATCH", widgets.path("services", "strategic"), patch, media=STRATEGIC).ok()
    told = [(each["port"], each["name"], each.get("appProtocol")) for each in made["spec"]["ports"]]
    assert sorted(told) == [(80, "a", "http"), (82, "c", None)]


def applied(server: Server, name: str, manager: str, spec: Object, **query: str) -> tuple[int, Object]:
    body = {"apiVersion": f"{GROUP}/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec}
    said = server.ask("PATCH", at(server, name), body, media=APPLY, fieldManager=manager, **query)
    return said.code, said.body


def test_apply_owns_what_it_says(widgets: Server) -> None:
    code, made = applied(widgets, "owned", "one", {"size": 1, "parts": [{"name": "a", "image": "x"}], "words": ["a"]})
    assert code == 201
    entry = made["metadata"]["managedFields"][0]
    assert (entry["manager"], entry["operation"], entry["apiVersion"]) == ("one", "Apply", f"{GROUP}/v1")
    assert entry["fieldsV1"] == {"f:spec": {
        "f:size": {}, "f:words": {'v:"a"': {}},
        "f:parts": {'k:{"name":"a"}': {".": {}, "f:image": {}, "f:name": {}}},
    }}  # fmt: skip
    more = {"size": 1, "parts": [{"name": "b", "image": "y"}], "words": ["b"]}
    code, made = applied(widgets, "owned", "two", more)
    assert code == 200
    assert made["spec"]["parts"] == [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]
    assert made["spec"]["words"] == ["a", "b"]
    code, made = applied(widgets, "owned", "two", {"size": 1})
    assert code == 200, made
    assert made["spec"]["parts"] == [{"name": "a", "image": "x"}], "what nobody says any more is taken out"
    assert made["spec"]["words"] == ["a"]
    code, made = applied(widgets, "owned", "one", {"parts": [{"name": "a"}]})
    assert code == 200, made
    assert made["spec"]["size"] == 1, "two still says so"
    assert made["spec"]["parts"] == [{"name": "a"}]


def test_apply_conflicts_with_who_owns_another_value(widgets: Server) -> None:
    applied(widgets, "contested", "one", {"size": 1, "parts": [{"name": "a", "image": "x"}]})
    code, said = applied(widgets, "contested", "two", {"size": 2})
    assert (code, said["reason"]) == (409, "Conflict")
    assert said["message"] == 'Apply failed with 1 conflict: conflict with "one": .spec.size'
    assert said["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".spec.size"}
    ]
    code, said = applied(widgets, "contested", "two", {"size": 2, "parts": [{"name": "a", "image": "y"}]})
    assert said["message"] == (
        'Apply failed with 2 conflicts: conflicts with "one":\n- .spec.size\n- .spec.parts[name="a"].image'
    )
    code, made = applied(widgets, "contested", "two", {"size": 2}, force="true")
    assert (code, made["spec"]["size"]) == (200, 2)
    code, said = applied(widgets, "contested", "one", {"size": 1})
    assert code == 409


def test_who_writes_without_apply_owns_as_well(widgets: Server) -> None:
    applied(widgets, "written", "one", {"size": 1})
    path = at(widgets, "written")
    widgets.ask("PATCH", path, {"spec": {"size": 5}}, media=MERGE, fieldManager="hand").ok()
    _, said = applied(widgets, "written", "one", {"size": 1})
    assert said["message"] == (f'Apply failed with 1 conflict: conflict with "hand" using {GROUP}/v1: .spec.size')
    assert applied(widgets, "written", "one", {"size": 5})[0] == 200, "the same value may be shared"


def test_apply_needs_a_name_and_a_kind(widgets: Server) -> None:
    body = {"apiVersion": f"{GROUP}/v1", "kind": "Widget", "metadata": {"name": "anonymous"}, "spec": {"size": 1}}
    nameless = widgets.ask("PATCH", at(widgets, "anonymous"), body, media=APPLY)
    assert nameless.refusal[0] == 422
    assert nameless.causes == [("fieldManager", "FieldValueRequired")]
    owned = body | {"metadata": {"name": "anonymous", "managedFields": [{"manager": "x", "operation": "Apply"}]}}
    assert widgets.ask("PATCH", at(widgets, "anonymous"), owned, media=APPLY, fieldManager="a").code == 400
    assert widgets.ask("PATCH", at(widgets, "anonymous"), {"spec": {}}, media=APPLY, fieldManager="a").code == 400
    stale = body | {"metadata": {"name": "anonymous", "resourceVersion": "1"}}
    for code in (201, 409):
        assert widgets.ask("PATCH", at(widgets, "anonymous"), stale, media=APPLY, fieldManager="a").code == code


def test_kubectl_applies_in_both_ways(widgets: Server) -> None:
    text = """
apiVersion: v1
kind: Service
metadata: {name: applied}
spec: {selector: {app: %s}, ports: [{name: http, port: 80}%s]}
"""
    one = widgets.kubectl("apply", "-f", "-", content=text % ("a", ", {name: more, port: 81}"))
    assert one.stdout == "service/applied created\n", one.stderr
    assert widgets.kubectl("apply", "-f", "-", content=text % ("a", ", {name: more, port: 81}")).stdout == (
        "service/applied unchanged\n"
    )
    two = widgets.kubectl("apply", "-f", "-", content=text % ("b", ""))
    assert two.stdout == "service/applied configured\n", two.stderr
    found = widgets.get(widgets.path("services", "applied")).ok()["spec"]
    assert (found["selector"], [port["port"] for port in found["ports"]]) == ({"app": "b"}, [80])
    three = widgets.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", content=text % ("c", ""))
    assert three.stdout == "service/applied serverside-applied\n", three.stderr
    other = widgets.kubectl("apply", "--server-side", "--field-manager=x", "-f", "-", content=text % ("d", ""))
    assert 'conflict with "kubectl": .spec.selector' in other.stderr
    diff = widgets.kubectl("diff", "-f", "-", content=text % ("z", ""))
    assert diff.returncode == 1, diff.stderr
    assert "+    app: z" in diff.stdout


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"spec": {"versions": []}}, "spec.versions"),
        ({"metadata": {"name": "other.double.pymesh.io"}}, "metadata.name"),
    ],
)
def test_definitions_that_are_refused(server: Server, change: Object, field: str) -> None:
    made = definition("gadgets")
    for key, value in change.items():
        made[key] = made[key] | value
    said = server.ask("POST", DEFINITIONS, made)
    assert said.refusal[0] == 422
    assert field in [each for each, _ in said.causes]


def test_a_schema_has_to_be_structural(server: Server) -> None:
    made = definition("gadgets", schema={"openAPIV3Schema": {"type": "object", "properties": {"spec": {}}}})
    said = server.ask("POST", DEFINITIONS, made)
    assert ("spec.validation.openAPIV3Schema.properties[spec].type", "FieldValueRequired") in said.causes


def test_what_a_definition_defined_goes_with_it(server: Server) -> None:
    server.create(DEFINITIONS, definition("trinkets"))
    path = server.path("trinkets", group=GROUP)
    server.settled(path, 200)
    body = widget("gone") | {"kind": "Trinket"}
    server.create(path, body)
    server.ask("DELETE", f"{DEFINITIONS}/trinkets.{GROUP}").ok()
    server.settled(path, 404)
    server.settled(f"{DEFINITIONS}/trinkets.{GROUP}", 404)
    server.create(DEFINITIONS, definition("trinkets"))
    try:
        server.settled(path, 200)
        eventually_sync(lambda: server.get(path).ok()["items"] == [], what="none of the old ones")
    finally:
        server.ask("DELETE", f"{DEFINITIONS}/trinkets.{GROUP}")
