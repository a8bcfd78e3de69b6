"""Objects come, change and go as in a real API server: names, versions, conflicts, validation, defaults."""

from typing import Any

import pytest

from tests.support.kubernetes.conftest import Server
from tests.support.kubernetes.errors import Object


def config_map(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def pod(name: str, **spec: Any) -> Object:
    container = {"name": "app", "image": "registry.invalid/app:1"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [container], "nodeSelector": {"no": "node"}, **spec}}  # fmt: skip


def test_the_server_names_what_it_makes(server: Server) -> None:
    made = server.create(server.path("configmaps"), {"metadata": {"generateName": "some-"}, "data": {"a": "b"}})
    meta = made["metadata"]
    assert (made["kind"], made["apiVersion"]) == ("ConfigMap", "v1")
    assert meta["name"].startswith("some-")
    assert len(meta["name"]) == len("some-") + 5
    assert meta["generateName"] == "some-"
    assert len(meta["uid"]) == 36
    assert meta["creationTimestamp"].endswith("Z")
    assert "generation" not in meta
    assert int(meta["resourceVersion"]) > 0


def test_what_is_there_is_not_made_again(server: Server) -> None:
    path = server.path("configmaps")
    server.create(path, config_map("once"))
    said = server.ask("POST", path, config_map("once"))
    assert said.refusal == (409, "AlreadyExists", 'configmaps "once" already exists')
    assert said.body["details"] == {"name": "once", "kind": "configmaps"}


def test_an_update_of_something_older_is_a_conflict(server: Server) -> None:
    first = server.create(server.path("configmaps"), config_map("changed", a="1"))
    path = server.path("configmaps", "changed")
    second = server.ask("PUT", path, first | {"data": {"a": "2"}}).ok()
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    message = (
        'Operation cannot be fulfilled on configmaps "changed": the object has been modified; please apply your '
        "changes to the latest version and try again"
    )
    assert server.ask("PUT", path, first | {"data": {"a": "3"}}).refusal == (409, "Conflict", message)
    assert server.ask("PUT", path, config_map("changed", a="3")).ok()["data"] == {"a": "3"}


def test_an_update_that_changes_nothing_makes_no_version(server: Server) -> None:
    made = server.create(server.path("configmaps"), config_map("same", a="1"))
    again = server.ask("PUT", server.path("configmaps", "same"), made).ok()
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


def test_the_body_has_to_fit_the_path(server: Server) -> None:
    server.create(server.path("configmaps"), config_map("here"))
    path = server.path("configmaps", "here")
    assert server.ask("PUT", path, config_map("there")).refusal[:2] == (400, "BadRequest")
    elsewhere = config_map("here") | {"metadata": {"name": "here", "namespace": "elsewhere"}}
    assert server.ask("PUT", path, elsewhere).refusal == (
        400,
        "BadRequest",
        "the namespace of the provided object does not match the namespace sent on the request",
    )
    other = config_map("here") | {"kind": "Secret"}
    assert server.ask("PUT", path, other).refusal[:2] == (400, "BadRequest")


def test_what_is_nowhere_is_not_found(server: Server) -> None:
    assert server.get(server.path("configmaps", "none")).refusal == (404, "NotFound", 'configmaps "none" not found')
    assert server.get(server.path("gadgets", "none")).code == 404
    assert server.get("/apis/none.example.com/v1/things").code == 404
    nowhere = server.ask("POST", "/api/v1/namespaces/nowhere-at-all/configmaps", config_map("lost"))
    assert nowhere.refusal == (404, "NotFound", 'namespaces "nowhere-at-all" not found')


def test_a_wrong_name_is_told_by_its_field(server: Server) -> None:
    said = server.ask("POST", server.path("configmaps"), config_map("Not_A_Name"))
    code, reason, message = said.refusal
    assert (code, reason) == (422, "Invalid")
    assert message.startswith(
        'ConfigMap "Not_A_Name" is invalid: metadata.name: Invalid value: "Not_A_Name": a lowercase'
    )
    assert said.causes == [("metadata.name", "FieldValueInvalid")]
    assert said.body["details"]["kind"] == "ConfigMap"


def test_media_types_that_are_not_served(server: Server) -> None:
    path = server.path("configmaps")
    assert server.ask("POST", path, b"<a/>", media="text/xml").refusal[:2] == (415, "UnsupportedMediaType")
    assert server.ask("PATCH", server.path("configmaps", "x"), b"{}").code == 415
    assert server.get(path, accept="text/html").code == 406
    assert server.ask("POST", path, b"{", media="application/json").code == 400


def test_yaml_is_as_good_as_json(server: Server) -> None:
    body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: from-yaml}\ndata: {a: b}\n"
    assert server.ask("POST", server.path("configmaps"), body, media="application/yaml").code == 201


def test_unknown_fields_are_dropped_and_told_of(server: Server) -> None:
    body = config_map("unknown") | {"dada": {"a": "b"}}
    path = server.path("configmaps")
    said = server.ask("POST", path, body, fieldValidation="Strict")
    assert said.refusal == (
        400,
        "BadRequest",
        'ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "dada"',
    )
    warned = server.ask("POST", path, body)
    assert warned.headers["warning"] == '299 - "unknown field \\"dada\\""'
    assert "dada" not in warned.ok()
    assert "warning" not in server.ask("PUT", f"{path}/unknown", body, fieldValidation="Ignore").headers


def test_wrong_types_are_not_even_read(server: Server) -> None:
    said = server.ask("POST", server.path("configmaps"), {"metadata": {"name": "typed"}, "data": {"a": True}})
    code, reason, message = said.refusal
    assert (code, reason) == (400, "BadRequest")
    assert "json: cannot unmarshal bool into Go struct field" in message


def test_dry_runs_keep_nothing(server: Server) -> None:
    path = server.path("configmaps")
    assert server.ask("POST", path, config_map("dry"), dryRun="All").code == 201
    assert server.get(f"{path}/dry").code == 404
    server.create(path, config_map("wet", a="1"))
    server.ask("PUT", f"{path}/wet", config_map("wet", a="2"), dryRun="All").ok()
    server.ask("DELETE", f"{path}/wet", dryRun="All").ok()
    assert server.get(f"{path}/wet").ok()["data"] == {"a": "1"}
    assert server.ask("POST", path, config_map("some"), dryRun="Some").code in (400, 422)


def test_deletion_by_condition(server: Server) -> None:
    path = server.path("configmaps", "guarded")
    made = server.create(server.path("configmaps"), config_map("guarded"))
    assert server.ask("DELETE", path, {"preconditions": {"uid": "another"}}).refusal[:2] == (409, "Conflict")
    assert server.ask("DELETE", path, {"preconditions": {"resourceVersion": "1"}}).refusal[:2] == (409, "Conflict")
    done = server.ask("DELETE", path, {"preconditions": {"uid": made["metadata"]["uid"]}})
    assert done.ok()["status"] == "Success"
    assert done.body["details"] == {"name": "guarded", "kind": "configmaps", "uid": made["metadata"]["uid"]}
    assert server.ask("DELETE", path).code == 404


def test_finalizers_hold_what_is_deleted(server: Server) -> None:
    body = config_map("held")
    body["metadata"]["finalizers"] = ["pymesh.io/hold"]
    server.create(server.path("configmaps"), body)
    path = server.path("configmaps", "held")
    dying = server.ask("DELETE", path).ok()
    assert dying["metadata"]["deletionTimestamp"]
    assert server.get(path).code == 200
    free = b'{"metadata":{"finalizers":null}}'
    server.ask("PATCH", path, free, media="application/merge-patch+json").ok()
    assert server.get(path).code == 404


def test_dependents_go_with_their_owner(server: Server) -> None:
    owner = server.create(server.path("configmaps"), config_map("owner"))
    body = config_map("dependent")
    body["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    ]
    server.create(server.path("configmaps"), body)
    server.ask("DELETE", server.path("configmaps", "owner")).ok()
    server.settled(server.path("configmaps", "dependent"), 404)


def test_a_collection_is_deleted_by_selection(server: Server) -> None:
    for name in ("one", "two", "three"):
        body = config_map(f"many-{name}")
        body["metadata"]["labels"] = {"many": "no" if name == "three" else "yes"}
        server.create(server.path("configmaps"), body)
    server.ask("DELETE", server.path("configmaps"), labelSelector="many=yes").ok()
    left = server.get(server.path("configmaps"), labelSelector="many").ok()["items"]
    assert [each["metadata"]["name"] for each in left] == ["many-three"]


def test_a_namespace_goes_with_its_contents_and_takes_nothing_more(server: Server) -> None:
    name = f"{server.namespace}-gone"
    server.create("/api/v1/namespaces", {"metadata": {"name": name}})
    path = f"/api/v1/namespaces/{name}"
    held = config_map("held")
    held["metadata"]["finalizers"] = ["pymesh.io/hold"]
    server.create(f"{path}/configmaps", held)
    assert server.ask("DELETE", path).ok()["status"]["phase"] == "Terminating"
    code, reason, message = server.ask("POST", f"{path}/configmaps", config_map("late")).refusal
    assert (code, reason) == (403, "Forbidden")
    assert message == (
        f'configmaps "late" is forbidden: unable to create new content in namespace {name} because it is being '
        "terminated"
    )
    server.ask("PATCH", f"{path}/configmaps/held", b'{"metadata":{"finalizers":null}}',
               media="application/merge-patch+json").ok()  # fmt: skip
    server.settled(path, 404)


def test_secrets_are_base64(server: Server) -> None:
    path = server.path("secrets")
    made = server.create(path, {"metadata": {"name": "texts"}, "stringData": {"a": "b"}, "data": {"c": "ZA=="}})
    assert made["data"] == {"a": "Yg==", "c": "ZA=="}
    assert made["type"] == "Opaque"
    assert "stringData" not in made
    assert server.ask("POST", path, {"metadata": {"name": "bad"}, "data": {"c": "*"}}).refusal[:2] == (
        400,
        "BadRequest",
    )
    wrong = server.ask(
        "POST", path, {"metadata": {"name": "tls"}, "type": "kubernetes.io/tls", "data": {"tls.crt": ""}}
    )
    assert wrong.causes == [("data[tls.key]", "FieldValueRequired")]
    key = server.ask("POST", path, {"metadata": {"name": "key"}, "data": {"a b": "ZA=="}})
    assert key.causes == [("data[a b]", "FieldValueInvalid")]


def test_some_fields_never_change(server: Server) -> None:
    server.create(server.path("secrets"), {"metadata": {"name": "fixed"}, "immutable": True, "data": {"a": "ZA=="}})
    path = server.path("secrets", "fixed")
    merge = "application/merge-patch+json"
    assert server.ask("PATCH", path, {"data": {"a": "ZQ=="}}, media=merge).causes == [("data", "FieldValueForbidden")]
    assert server.ask("PATCH", path, {"type": "a/b"}, media=merge).causes == [("type", "FieldValueInvalid")]
    service = {"metadata": {"name": "fixed"}, "spec": {"ports": [{"port": 80}]}}
    server.create(server.path("services"), service)
    other = {"spec": {"clusterIP": "10.96.250.250", "clusterIPs": ["10.96.250.250"]}}
    said = server.ask("PATCH", server.path("services", "fixed"), other, media=merge)
    assert said.causes == [("spec.clusterIPs[0]", "FieldValueInvalid")]
    server.create(server.path("pods"), pod("fixed"))
    said = server.ask("PATCH", server.path("pods", "fixed"), {"spec": {"hostname": "other"}}, media=merge)
    assert said.causes == [("spec", "FieldValueForbidden")]
    binding = {"metadata": {"name": "fixed"}, "roleRef": {"kind": "Role", "name": "a", "apiGroup": RBAC}}
    server.create(server.path("rolebindings", group=RBAC), binding)
    change = {"roleRef": {"name": "b"}}
    said = server.ask("PATCH", server.path("rolebindings", "fixed", group=RBAC), change, media=merge)
    assert said.causes == [("roleRef", "FieldValueInvalid")]


RBAC = "rbac.authorization.k8s.io"


def deployment(name: str, **labels: str) -> Object:
    template = {"metadata": {"labels": labels or {"app": name}}, "spec": pod(name)["spec"]}
    return {"metadata": {"name": name}, "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}},
                                                 "template": template}}  # fmt: skip


def test_deployments_select_their_own_pods(server: Server) -> None:
    path = server.path("deployments", group="apps")
    wrong = server.ask("POST", path, deployment("web", app="other"))
    assert wrong.causes == [("spec.template.metadata.labels", "FieldValueInvalid")]
    made = server.create(path, deployment("web"))
    assert made["metadata"]["generation"] == 1
    assert made["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
    }
    merge = "application/merge-patch+json"
    other = {"spec": {"selector": {"matchLabels": {"app": "web", "more": "x"}},
                      "template": {"metadata": {"labels": {"app": "web", "more": "x"}}}}}  # fmt: skip
    assert server.ask("PATCH", f"{path}/web", other, media=merge).causes == [("spec.selector", "FieldValueInvalid")]
    labelled = server.ask("PATCH", f"{path}/web", {"metadata": {"labels": {"a": "b"}}}, media=merge).ok()
    assert labelled["metadata"]["generation"] == 1
    changed = server.ask("PATCH", f"{path}/web", {"spec": {"paused": True}}, media=merge).ok()
    assert changed["metadata"]["generation"] == 2


def test_workloads_are_scaled_by_their_subresource(server: Server) -> None:
    path = server.path("deployments", group="apps")
    server.create(path, deployment("scaled"))
    found = server.get(f"{path}/scaled/scale").ok()
    assert (found["kind"], found["apiVersion"], found["status"]["selector"]) == (
        "Scale",
        "autoscaling/v1",
        "app=scaled",
    )
    done = server.kubectl("scale", "deployment/scaled", "--replicas=3")
    assert done.returncode == 0, done.stderr
    assert server.get(f"{path}/scaled").ok()["spec"]["replicas"] == 3


def test_services_get_an_address(server: Server) -> None:
    path = server.path("services")
    made = server.create(path, {"metadata": {"name": "plain"}, "spec": {"ports": [{"port": 80}]}})["spec"]
    assert made.pop("clusterIPs") == [made.pop("clusterIP")]
    assert made == {
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "type": "ClusterIP", "sessionAffinity": "None",
        "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
    }  # fmt: skip
    headless = {"metadata": {"name": "headless"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}}
    assert server.create(path, headless)["spec"]["clusterIPs"] == ["None"]
    alias = {"metadata": {"name": "alias"}, "spec": {"type": "ExternalName", "externalName": "example.com"}}
    assert server.create(path, alias)["spec"] == {
        "type": "ExternalName", "externalName": "example.com", "sessionAffinity": "None",
    }  # fmt: skip
    unnamed = {"metadata": {"name": "unnamed"}, "spec": {"ports": [{"port": 80}, {"port": 81}]}}
    assert ("spec.ports[0].name", "FieldValueRequired") in server.ask("POST", path, unnamed).causes
    empty = {"metadata": {"name": "empty"}, "spec": {"selector": {"a": "b"}}}
    assert server.ask("POST", path, empty).causes == [("spec.ports", "FieldValueRequired")]


def test_pods_get_what_nobody_wrote(server: Server) -> None:
    made = server.create(server.path("pods"), pod("plain"))
    spec, status = made["spec"], made["status"]
    volume = spec["volumes"][0]["name"]
    assert volume.startswith("kube-api-access-")
    assert spec["containers"] == [{
        "name": "app", "image": "registry.invalid/app:1", "imagePullPolicy": "IfNotPresent", "resources": {},
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        "volumeMounts": [{"name": volume, "readOnly": True,
                          "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
    }]  # fmt: skip
    kept = {key: value for key, value in spec.items() if key not in ("containers", "volumes", "nodeSelector")}
    seconds = {"effect": "NoExecute", "operator": "Exists", "tolerationSeconds": 300}
    assert kept == {
        "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
        "securityContext": {}, "schedulerName": "default-scheduler", "serviceAccountName": "default",
        "serviceAccount": "default", "enableServiceLinks": True, "priority": 0,
        "preemptionPolicy": "PreemptLowerPriority",
        "tolerations": [{"key": "node.kubernetes.io/not-ready", **seconds},
                        {"key": "node.kubernetes.io/unreachable", **seconds}],
    }  # fmt: skip
    assert (status["phase"], status["qosClass"]) == ("Pending", "BestEffort")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"serviceAccountName": "nobody"}, ""),
        ({"containers": []}, "spec.containers"),
        ({"containers": [{"name": "a", "image": "a", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]},
         "spec.containers[0].volumeMounts[0].name"),
        ({"initContainers": [{"name": "app", "image": "a"}]}, "spec.initContainers[0].name"),
        ({"initContainers": [{"name": "i", "image": "a", "livenessProbe": {"exec": {"command": ["a"]}}}]},
         "spec.initContainers[0].livenessProbe"),
        ({"containers": [{"name": "a", "image": "a", "readinessProbe": {}}]}, "spec.containers[0].readinessProbe"),
        ({"containers": [{"name": "a", "image": "a", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]},
         "spec.containers[0].resources.requests"),
        ({"volumes": [{"name": "t", "projected": {"sources": [
            {"serviceAccountToken": {"path": "t", "expirationSeconds": 60}}]}}]},
         "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds"),
    ],
)  # fmt: skip
def test_pods_that_are_refused(server: Server, spec: Object, field: str) -> None:
    said = server.ask("POST", server.path("pods"), pod("refused", **spec))
    if not field:
        message = (
            f'pods "refused" is forbidden: error looking up service account {server.namespace}/nobody: '
            'serviceaccount "nobody" not found'
        )
        assert said.refusal == (403, "Forbidden", message)
    else:
        assert said.code == 422, said.text
        assert [each for each, _ in said.causes] == [field]


def test_the_restricted_standard_holds_for_pods(server: Server) -> None:
    name = f"{server.namespace}-restricted"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    server.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    path = f"/api/v1/namespaces/{name}"
    server.settled(f"{path}/serviceaccounts/default", 200)
    try:
        said = server.ask("POST", f"{path}/pods", pod("loose"))
        message = (
            'pods "loose" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false '
            '(container "app" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities '
            '(container "app" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or '
            'container "app" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "app" must '
            'set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")'
        )
        assert said.refusal == (403, "Forbidden", message)
        tight = pod("tight", securityContext={"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}})
        context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        tight["spec"]["containers"][0]["securityContext"] = context
        assert server.ask("POST", f"{path}/pods", tight).code == 201
    finally:
        server.ask("DELETE", path)
