"""Who may do what: tokens of service accounts, what is said of them, and RBAC."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx2
import jwt
import pytest

from tests.support.kubernetes.conftest import Said, Server
from tests.support.kubernetes.errors import Object

RBAC = "rbac.authorization.k8s.io"
REVIEW = "/apis/authentication.k8s.io/v1/tokenreviews"
AUDIENCE = "istio-ca"


def token(server: Server, account: str = "default", audience: str = "", **spec: Any) -> str:
    """A token of a service account; for the API server itself without an audience."""
    wanted = {"audiences": [audience]} if audience else {}
    path = server.path("serviceaccounts", f"{account}/token")
    return str(server.create(path, {"spec": {**wanted, **spec}})["status"]["token"])


def reviewed(server: Server, what: str, *audiences: str) -> Object:
    """The status of a TokenReview."""
    body = {"spec": {"token": what, **({"audiences": list(audiences)} if audiences else {})}}
    status: Object = server.create(REVIEW, body)["status"]
    return status


def asking(server: Server, bearer: str, path: str, method: str = "GET", **query: str) -> Said:
    """A request with nothing but a bearer token."""
    with httpx2.Client(base_url=str(server.http.base_url), verify=server.trust()) as http:
        headers = {"authorization": f"Bearer {bearer}"} if bearer else {}
        return Said(http.request(method, path, headers=headers, params=query))


def allow(server: Server, account: str, rule: Object) -> None:
    """A Role with one rule, bound to a service account that is made for it."""
    server.create(server.path("serviceaccounts"), {"metadata": {"name": account}})
    server.create(server.path("roles", group=RBAC), {"metadata": {"name": account}, "rules": [rule]})
    server.create(server.path("rolebindings", group=RBAC), {
        "metadata": {"name": account}, "roleRef": {"kind": "Role", "name": account, "apiGroup": RBAC},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": server.namespace}],
    })  # fmt: skip


def pod(name: str, **spec: Any) -> Object:
    container = {"name": "app", "image": "registry.invalid/app:1"}
    return {"metadata": {"name": name}, "spec": {"containers": [container], "nodeSelector": {"no": "node"}, **spec}}


def test_a_token_says_whose_it_is_and_what_for(server: Server) -> None:
    said = server.create(server.path("serviceaccounts", "default/token"),
                         {"spec": {"audiences": [AUDIENCE], "expirationSeconds": 900}})  # fmt: skip
    assert (said["kind"], said["spec"]["audiences"]) == ("TokenRequest", [AUDIENCE])
    claims = jwt.decode(said["status"]["token"], options={"verify_signature": False})
    account = server.get(server.path("serviceaccounts", "default")).ok()["metadata"]
    assert claims["aud"] == [AUDIENCE]
    assert claims["sub"] == f"system:serviceaccount:{server.namespace}:default"
    assert claims["exp"] - claims["iat"] == 900
    expires = datetime.strptime(said["status"]["expirationTimestamp"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs(expires.timestamp() - claims["exp"]) <= 1
    assert claims["kubernetes.io"] == {
        "namespace": server.namespace, "serviceaccount": {"name": "default", "uid": account["uid"]},
    }  # fmt: skip


def test_a_review_believes_a_token_for_its_audience_alone(server: Server) -> None:
    ours = token(server, audience=AUDIENCE)
    status = reviewed(server, ours, AUDIENCE, "another")
    user = status["user"]
    assert status["authenticated"] is True
    assert status["audiences"] == [AUDIENCE]
    assert user["username"] == f"system:serviceaccount:{server.namespace}:default"
    assert user["groups"] == [
        "system:serviceaccounts", f"system:serviceaccounts:{server.namespace}", "system:authenticated",
    ]  # fmt: skip
    assert user["extra"]["authentication.kubernetes.io/credential-id"][0].startswith("JTI=")
    for status in (reviewed(server, ours), reviewed(server, ours, "another"), reviewed(server, "nonsense", AUDIENCE)):
        assert not status.get("authenticated")
        assert "invalid bearer token" in status["error"]
    assert (
        'token audiences ["istio-ca"] is invalid for the target audiences ["another"]'
        in (reviewed(server, ours, "another")["error"])
    )


def test_a_bound_token_ends_with_its_pod(server: Server) -> None:
    made = server.create(server.path("pods"), pod("bound"))
    reference = {"kind": "Pod", "apiVersion": "v1", "name": "bound", "uid": made["metadata"]["uid"]}
    ours = token(server, audience=AUDIENCE, boundObjectRef=reference)
    extra = reviewed(server, ours, AUDIENCE)["user"]["extra"]
    assert extra["authentication.kubernetes.io/pod-name"] == ["bound"]
    assert extra["authentication.kubernetes.io/pod-uid"] == [made["metadata"]["uid"]]
    other = reference | {"uid": str(uuid4())}
    path = server.path("serviceaccounts", "default/token")
    assert server.ask("POST", path, {"spec": {"boundObjectRef": other}}).refusal[:2] == (409, "Conflict")
    missing = {"kind": "Pod", "apiVersion": "v1", "name": "none"}
    assert server.ask("POST", path, {"spec": {"boundObjectRef": missing}}).refusal[:2] == (404, "NotFound")
    early = token(server, audience="early", boundObjectRef=reference)
    server.ask("DELETE", server.path("pods", "bound"), gracePeriodSeconds="0").ok()
    status = reviewed(server, early, "early")
    assert not status.get("authenticated")


def test_a_token_for_a_moment_is_not_given(server: Server) -> None:
    said = server.ask("POST", server.path("serviceaccounts", "default/token"), {"spec": {"expirationSeconds": 60}})
    assert said.refusal[0] == 422
    assert said.causes == [("spec.expirationSeconds", "FieldValueInvalid")]
    assert server.ask("POST", server.path("serviceaccounts", "nobody/token"), {"spec": {}}).code == 404


def test_nobody_may_do_anything_that_is_not_allowed(server: Server) -> None:
    bearer = token(server)
    path = server.path("configmaps")
    who = f"system:serviceaccount:{server.namespace}:default"
    message = (
        f'configmaps is forbidden: User "{who}" cannot list resource "configmaps" in API group "" in the namespace '
        f'"{server.namespace}"'
    )
    assert asking(server, bearer, path).refusal == (403, "Forbidden", message)
    one = asking(server, bearer, f"{path}/some")
    assert one.refusal[2].startswith(f'configmaps "some" is forbidden: User "{who}" cannot get resource "configmaps"')
    everywhere = asking(server, bearer, "/apis/apps/v1/deployments")
    assert everywhere.refusal[2] == (
        f'deployments.apps is forbidden: User "{who}" cannot list resource "deployments" in API group "apps" at the '
        "cluster scope"
    )
    assert asking(server, bearer, "/metrics").refusal[2] == f'forbidden: User "{who}" cannot get path "/metrics"'
    assert asking(server, bearer, "/version").code == 200
    assert asking(server, bearer, "/apis").code == 200
    assert asking(server, "nonsense", path).refusal == (401, "Unauthorized", "Unauthorized")
    assert asking(server, token(server, audience=AUDIENCE), path).code == 401


def test_a_role_allows_what_it_says(server: Server) -> None:
    verbs = ["get", "list", "watch"]
    allow(server, "reader", {"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs})
    bearer = token(server, "reader")
    path = server.path("configmaps")
    server.create(path, {"metadata": {"name": "readable"}})
    assert asking(server, bearer, path).code == 200
    assert asking(server, bearer, f"{path}/readable").code == 200
    assert asking(server, bearer, path, watch="true", timeoutSeconds="1").code == 200
    assert asking(server, bearer, f"{path}/readable", "DELETE").code == 403
    assert asking(server, bearer, "/api/v1/configmaps").code == 403
    assert asking(server, bearer, server.path("secrets")).code == 403


def test_a_role_for_one_name_lets_that_be_listed_and_watched(server: Server) -> None:
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"], "verbs": ["get", "list", "watch"]}
    allow(server, "named", rule)
    bearer = token(server, "named")
    path = server.path("secrets")
    assert asking(server, bearer, path).code == 403
    assert asking(server, bearer, path, fieldSelector="metadata.name=mine").code == 200
    watched = {"watch": "true", "timeoutSeconds": "1", "fieldSelector": "metadata.name=mine"}
    assert asking(server, bearer, path, **watched).code == 200
    assert asking(server, bearer, path, fieldSelector="metadata.name=other").code == 403


def test_a_subresource_is_a_resource_of_its_own(server: Server) -> None:
    allow(server, "scaler", {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get"]})
    bearer = token(server, "scaler")
    path = server.path("deployments", "none", group="apps")
    assert asking(server, bearer, f"{path}/scale").code == 404
    assert asking(server, bearer, path).code == 403


@pytest.mark.parametrize(("verb", "allowed"), [("get", True), ("delete", False)])
def test_who_may_what_can_be_asked(server: Server, verb: str, allowed: bool) -> None:
    account = f"asked-{verb}"
    allow(server, account, {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]})
    attributes = {"namespace": server.namespace, "verb": verb, "resource": "pods"}
    user = f"system:serviceaccount:{server.namespace}:{account}"
    body = {"spec": {"user": user, "resourceAttributes": attributes}}
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    assert server.create(path, body)["status"]["allowed"] is allowed
    own = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    assert server.create(own, {"spec": {"resourceAttributes": attributes}})["status"]["allowed"] is True
