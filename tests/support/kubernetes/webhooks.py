"""Dynamic admission: which webhooks a request goes to, and in which order; they are really called, over TLS.

Match conditions are CEL; of that language comparisons of a field with a text, joined by `&&`, are understood
(`request.name == 'pymesh'`), and anything else fails loudly.
"""

import base64
import re
import uuid
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.support.kubernetes import patches
from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.errors import ApiError, Object, bad_request, internal
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.requests import Target, User
from tests.support.kubernetes.reviews import info
from tests.support.kubernetes.selectors import by_selector, text_at
from tests.support.kubernetes.webhook_call import Called, CallError, call

GROUP = "admissionregistration.k8s.io"
_MUTATING, _VALIDATING = "mutatingwebhookconfigurations", "validatingwebhookconfigurations"
_TERM = re.compile(
    r"""^(?P<path>(?:request|object|oldObject)(?:\.\w+)+)\s*(?P<operator>==|!=)\s*['"](?P<text>[^'"]*)['"]$"""
)


@dataclass(slots=True)
class Attributes:
    """A request as admission sees it. `new` is None on DELETE, `old` on CREATE."""

    operation: str
    kind: Kind
    target: Target
    user: User
    name: str
    namespace: str
    new: Object | None
    old: Object | None
    dry: bool
    options: Object
    warnings: list[str]


async def mutate(cluster: Cluster, request: Attributes) -> bool:
    """Ask the mutating webhooks, and change `request.new` as they say; whether anything was changed.

    Raises:
        ApiError: a webhook refuses, or fails and must not.
    """
    changed = False
    asked: list[Object] = []  # those that want to be asked again when others change something after them
    again: list[Object] = []
    for webhook in _matching(cluster, request, _MUTATING):
        if await _mutated(cluster, request, webhook):
            changed = True
            again, asked = [*again, *asked], []
        if webhook.get("reinvocationPolicy") == "IfNeeded":
            asked.append(webhook)
    for webhook in again:
        await _mutated(cluster, request, webhook)
    return changed


async def _mutated(cluster: Cluster, request: Attributes, webhook: Object) -> bool:
    response = await _asked(cluster, request, webhook)
    if response is None or not response.get("patch"):
        return False
    if response.get("patchType") != "JSONPatch":
        raise internal(f'failed calling webhook "{webhook["name"]}": webhook returned response.patch but not '
                       "response.patchType")  # fmt: skip
    operations = msgspec.json.decode(base64.b64decode(response["patch"]))
    before = request.new
    request.new = patches.json_patch(before, operations)
    return request.new != before


async def validate(cluster: Cluster, request: Attributes) -> None:
    """Ask the validating webhooks.

    Raises:
        ApiError: one refuses, or fails and must not.
    """
    for webhook in _matching(cluster, request, _VALIDATING):
        await _asked(cluster, request, webhook)


def _matching(cluster: Cluster, request: Attributes, plural: str) -> Iterator[Object]:
    if request.kind.group == GROUP:
        return  # who could take a webhook away that refuses everything?
    for configuration in cluster.store.all((GROUP, plural)):
        for webhook in configuration.get("webhooks") or ():
            kind = _kind_for(cluster, request, webhook)
            if (
                kind
                and _selected(cluster, request, webhook)
                and _conditions(webhook, _review(request, kind)["request"])
            ):
                yield webhook


def _kind_for(cluster: Cluster, request: Attributes, webhook: Object) -> Kind | None:
    """The version in which a webhook takes a request: its own, or an equivalent one."""
    kind = request.kind
    equivalent = [each for each in cluster.registry.all() if each.storage == kind.storage and each is not kind]
    for each in [kind, *(equivalent if webhook.get("matchPolicy") == "Equivalent" else [])]:
        if any(_rule(rule, each, request) for rule in webhook.get("rules") or ()):
            return each
    return None


def _rule(rule: Object, kind: Kind, request: Attributes) -> bool:
    sub = request.target.subresource
    resource = f"{kind.plural}/{sub}" if sub else kind.plural
    resources = {resource, "*/*", *([f"{kind.plural}/*", f"*/{sub}"] if sub else ["*", f"{kind.plural}/*"])}
    scope = "Namespaced" if kind.namespaced else "Cluster"
    return (
        _has(rule["apiGroups"], kind.group)
        and _has(rule["apiVersions"], kind.version)
        and _has(rule["operations"], request.operation)
        and bool(resources & set(rule["resources"]))
        and rule.get("scope", "*") in ("*", scope)
    )


def _has(listed: list[str], wanted: str) -> bool:
    return wanted in listed or "*" in listed


def _selected(cluster: Cluster, request: Attributes, webhook: Object) -> bool:
    if request.kind.storage == ("", "namespaces"):
        place = request.new or request.old or {}
        in_namespace = by_selector(webhook.get("namespaceSelector"))(place["metadata"].get("labels") or {})
    elif request.kind.namespaced:
        found = cluster.store.get(("", "namespaces"), "", request.namespace) or {"metadata": {}}
        in_namespace = by_selector(webhook.get("namespaceSelector"))(found["metadata"].get("labels") or {})
    else:
        in_namespace = True
    wanted = by_selector(webhook.get("objectSelector"))
    return in_namespace and any(
        wanted(each["metadata"].get("labels") or {}) for each in (request.new, request.old) if each is not None
    )


def _conditions(webhook: Object, request: Object) -> bool:
    about = {"request": request, "object": request["object"], "oldObject": request["oldObject"]}
    for condition in webhook.get("matchConditions") or ():
        for term in condition["expression"].split("&&"):
            match = _TERM.match(term.strip())
            if match is None:
                raise internal(f"matchCondition {condition['name']!r} is more CEL than this server understands: {term}")
            if (text_at(about, match["path"]) == match["text"]) is not (match["operator"] == "=="):
                return False
    return True


async def _asked(cluster: Cluster, request: Attributes, webhook: Object) -> Object | None:
    """A webhook's response; None if it failed and may.

    Raises:
        ApiError: it refuses, or failed and must not.
    """
    name = webhook["name"]
    if request.dry and webhook.get("sideEffects") not in ("None", "NoneOnDryRun"):
        raise bad_request(f'admission webhook "{name}" does not support dry run')
    kind = _kind_for(cluster, request, webhook)
    assert kind is not None, "only webhooks that match are asked"
    review = _review(request, kind)
    try:
        response = _response(await call(cluster, webhook, review), review["request"]["uid"])
    except CallError as error:
        if webhook.get("failurePolicy") == "Ignore":
            return None
        raise internal(f'failed calling webhook "{name}": {error}') from None
    request.warnings += response.get("warnings") or []
    if not response["allowed"]:
        raise _denied(name, response.get("status") or {})
    return response


def _response(called: Called, uid: str) -> Object:
    """The response of an AdmissionReview, if it is one (webhook/request/admissionreview.go)."""
    review = called.review
    if not isinstance(review, dict) or (review.get("kind"), review.get("apiVersion")) != (
        "AdmissionReview",
        f"{_API}/v1",
    ):
        raise CallError(f"expected webhook response of {_API}/v1, Kind=AdmissionReview")
    response = review.get("response")
    if not isinstance(response, dict):
        raise CallError("webhook response was absent")
    if response.get("uid") != uid:
        raise CallError(f'expected response.uid="{uid}", got "{response.get("uid")}"')
    return {"allowed": False} | response


_API = "admission.k8s.io"


def _denied(name: str, result: Object) -> ApiError:
    """A webhook's refusal as the client is told (webhook/errors/statuserror.go)."""
    said = result.get("message") or result.get("reason") or ""
    message = f'admission webhook "{name}" denied the request' + (f": {said}" if said else " without explanation")
    return ApiError(max(result.get("code") or 0, 400), result.get("reason", ""), message, result.get("details"))


def _review(request: Attributes, kind: Kind) -> Object:
    """The AdmissionReview for a webhook that wants the object in the version of `kind`."""

    def versioned(found: Object | None) -> Object | None:
        return None if found is None else deepcopy(found) | {"apiVersion": kind.api_version}

    asked = request.kind
    content: dict[str, Any] = {
        "uid": str(uuid.uuid4()),
        "kind": _gvk(kind),
        "resource": _gvr(kind),
        "requestKind": _gvk(asked),
        "requestResource": _gvr(asked),
        "name": request.name,
        "operation": request.operation,
        "userInfo": info(request.user),
        "object": versioned(request.new),
        "oldObject": versioned(request.old),
        "dryRun": request.dry,
        "options": request.options,
    }
    if request.namespace:
        content["namespace"] = request.namespace
    if request.target.subresource:
        content |= {"subResource": request.target.subresource, "requestSubResource": request.target.subresource}
    return {"kind": "AdmissionReview", "apiVersion": f"{_API}/v1", "request": content}


def _gvk(kind: Kind) -> Object:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def _gvr(kind: Kind) -> Object:
    return {"group": kind.group, "version": kind.version, "resource": kind.plural}
