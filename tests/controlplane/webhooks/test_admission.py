"""AdmissionReview v1, read and written."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh_controlplane.webhooks import admission
from pymesh_controlplane.webhooks.admission import ALLOWED, Answer, Cause, ReviewError
from tests.controlplane.webhooks.reviews import UID, patch_of, request, review

POD = {"metadata": {"generateName": "reviews-"}, "spec": {}}
ASKED = admission.read(review(request("Pod", POD)))


def written(answer: Answer) -> dict[str, object]:
    """The response."""
    body = json.loads(admission.write(ASKED, answer))
    assert (body["kind"], body["apiVersion"]) == ("AdmissionReview", "admission.k8s.io/v1")
    found: dict[str, object] = body["response"]
    assert found.pop("uid") == UID
    return found


def test_a_request_is_read_as_it_was_asked() -> None:
    asked = admission.read(review(request("Pod", None, POD, dryRun=True, subResource="status", namespace="books")))
    assert (asked.operation, asked.object, asked.old_object) == ("DELETE", None, POD)
    assert (asked.kind.api_version, asked.kind.kind, asked.resource.resource) == ("v1", "Pod", "pods")
    assert (asked.dry_run, asked.sub_resource, asked.namespace, asked.name) == (True, "status", "books", "")
    assert admission.read(review(request("RateLimit", POD))).kind.api_version == "policy.pymesh.io/v1alpha1"


@pytest.mark.parametrize(
    ("named", "called"),
    [({"name": "one"}, "one"), ({"generateName": "some-"}, "some-"), ({}, "(no name)")],
)
def test_an_object_without_a_name_is_called_by_what_its_name_begins_with(named: dict[str, str], called: str) -> None:
    assert admission.read(review(request("Pod", {"metadata": named}))).called == called


def test_an_answer_is_allowed_patched_or_refused() -> None:
    assert written(ALLOWED) == {"allowed": True}
    operations = [{"op": "add", "path": "/metadata/labels", "value": {"ä": "1"}}]
    assert patch_of(admission.write(ASKED, Answer(patch=operations))) == operations
    refused = written(Answer((Cause("spec.x", "is wrong"), Cause("", "has no spec"))))
    assert refused["allowed"] is False
    assert refused["status"] == {
        "status": "Failure",
        "message": "Pod default/reviews-: spec.x: is wrong\nPod default/reviews-: has no spec",
        "reason": "Invalid",
        "code": 422,
        "details": {
            "name": "reviews-",
            "group": "",
            "kind": "Pod",
            "causes": [
                {"reason": "FieldValueInvalid", "field": "spec.x", "message": "is wrong"},
                {"reason": "FieldValueInvalid", "field": "", "message": "has no spec"},
            ],
        },
    }


def test_what_is_told_is_bounded_and_fits_in_headers() -> None:
    warnings = written(Answer(warnings=["a\r\nb", "x" * 1000, *["w"] * 30]))["warnings"]
    assert isinstance(warnings, list)
    assert warnings[0] == "a\\r\\nb"
    assert len(warnings[1]) == admission.MAX_WARNING
    assert (len(warnings), warnings[-1]) == (admission.MAX_WARNINGS, "and 17 more warnings")
    refused = json.loads(admission.write(ASKED, Answer([Cause("f", "s" * 9000)] * 100)))["response"]["status"]
    assert len(refused["details"]["causes"]) == admission.MAX_CAUSES
    assert len(refused["message"]) < admission.MAX_CAUSES * (admission.MAX_MESSAGE + 1)


@pytest.mark.parametrize("depth", [1, 50, 98, 99, 2000])
def test_nesting_is_counted_without_recursion(depth: int) -> None:
    value: object = 1
    for _ in range(depth):
        value = [value]
    assert admission.is_deeper([value], admission.MAX_DEPTH) == (depth >= admission.MAX_DEPTH)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_review_or_refused(body: bytes) -> None:
    with pytest.raises(ReviewError):
        admission.read(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.sampled_from(sorted(request("Pod", POD))), JSON)
def test_any_value_in_any_field_is_read_or_refused(name: str, value: object) -> None:
    try:
        found = admission.read(review(request("Pod", POD) | {name: value}))
    except ReviewError:
        return
    assert json.loads(admission.write(found, ALLOWED))["response"]["uid"] == found.uid
