"""AdmissionReview v1: what the API server asks, and the form of an answer. Pure; strict about what is read.

Sources: the API reference of admission.k8s.io/v1, and Kubernetes' "Dynamic Admission Control" ("Webhook request and
response"). A body that is no review of this version gets a `Status`, which the API server shows to whoever asked it.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from pymesh.errors import MeshError, printable

API_VERSION: Final = "admission.k8s.io/v1"

# Bytes of a request. It holds an object twice (an update has the old one, too), of which etcd takes 1.5 MiB and the API
# server 3 MiB; controller-runtime draws the line at the same 7 MiB.
MAX_BODY: Final = 7 * 1024 * 1024
# Levels. A pod or a route is some 12 deep, what is said of its managers once more; 100 is far from Python's own limit.
MAX_DEPTH: Final = 100
# Characters of a uid; it is a UUID of 36.
MAX_UID: Final = 256
# The API server shortens warnings to 256 characters each once there are more than 4096 in all.
MAX_WARNING: Final = 256
MAX_WARNINGS: Final = 16
# More reasons than this are not read by anyone; the rest shows up when these are mended.
MAX_CAUSES: Final = 20
# Characters of each, and of what is not about an object.
MAX_MESSAGE: Final = 1024

Object: TypeAlias = dict[str, Any]
T = TypeVar("T")


class ReviewError(MeshError):
    """A request that is no admission review; it is answered with this HTTP status, and the text."""

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(printable(sentence))
        self.status = status


class GroupVersionKind(msgspec.Struct, frozen=True):
    """GroupVersionKind of apimachinery."""

    version: str
    kind: str
    group: str = ""

    @property
    def api_version(self) -> str:
        """As a resource writes it."""
        return f"{self.group}/{self.version}" if self.group else self.version


class GroupVersionResource(msgspec.Struct, frozen=True):
    """GroupVersionResource of apimachinery."""

    version: str
    resource: str
    group: str = ""


class Request(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """AdmissionRequest, as far as anything here depends on it."""

    uid: str
    kind: GroupVersionKind
    resource: GroupVersionResource
    operation: Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]
    sub_resource: str = ""
    name: str = ""
    namespace: str = ""
    object: Object | None = None
    old_object: Object | None = None
    dry_run: bool | None = None

    @property
    def called(self) -> str:
        """The object's name, or, where it has none yet, what that is going to begin with.

        The request itself has no name where one is generated, and where a collection is deleted.
        """
        metadata = (self.object or self.old_object or {}).get("metadata")
        known = metadata if isinstance(metadata, dict) else {}
        return str(self.name or known.get("name") or known.get("generateName") or "(no name)")


class _Review(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    request: msgspec.Raw = msgspec.Raw(b"null")


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason to refuse an object: the field, if it is about one, and what is wrong with it."""

    field: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of a request.

    Attributes:
        refused: why it is refused; empty if it is allowed.
        patch: operations of a JSON Patch (RFC 6902); none leave the object as it is.
        warnings: what kubectl shows all the same, a line each.
        dangling: whether a warning is about what may only not have been seen yet; asked again, the answer may differ.
    """

    refused: Sequence[Cause] = ()
    patch: Sequence[Mapping[str, object]] = ()
    warnings: Sequence[str] = ()
    dangling: bool = False


ALLOWED: Final = Answer()


def read(body: bytes) -> Request:
    """The request in the body of a call.

    Raises:
        ReviewError: it is no AdmissionReview of version v1, or too large, or too deep.
    """
    if len(body) > MAX_BODY:
        raise ReviewError(f"the review has more than {MAX_BODY} bytes", 413)
    try:
        review = _decode(body, _Review, "")
        if (review.kind, review.api_version) != ("AdmissionReview", API_VERSION):
            got = f"{review.kind[:64]} of {review.api_version[:64]}"
            raise ReviewError(f"send an AdmissionReview of {API_VERSION}, not {got}: see admissionReviewVersions")
        request = _decode(review.request, Request, "request")
    except RecursionError:
        raise ReviewError(f"the review is nested deeper than {MAX_DEPTH} levels") from None
    if not 0 < len(request.uid) <= MAX_UID:
        raise ReviewError("the review's request.uid is empty or too long")
    if is_deeper([request.object, request.old_object], MAX_DEPTH):
        raise ReviewError(f"the review is nested deeper than {MAX_DEPTH} levels")
    return request


def write(request: Request, answer: Answer) -> bytes:
    """The AdmissionReview that answers `request`."""
    response: dict[str, object] = {"uid": request.uid, "allowed": not answer.refused}
    if answer.refused:
        response["status"] = _invalid(request, answer.refused)
    elif answer.patch:
        operations = json.dumps(answer.patch, separators=(",", ":")).encode()
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(operations).decode()}
    if answer.warnings:
        response["warnings"] = _bounded(answer.warnings)
    return json.dumps({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}).encode()


def refusal(request: Request, causes: Sequence[Cause]) -> str:
    """Why the object of `request` is refused, in the words that galley has everywhere, a line a cause."""
    subject = f"{request.kind.kind} {request.namespace}/{request.called}"
    told = [(subject, cause.field, cause.sentence) for cause in causes[:MAX_CAUSES]]
    lines = (": ".join(part for part in parts if part) for parts in told)
    return "\n".join(shortened(printable(line), MAX_MESSAGE) for line in lines)


def _invalid(request: Request, causes: Sequence[Cause]) -> dict[str, object]:
    """A `Status` that kubectl shows as it shows what the API server itself finds wrong: field by field."""
    details = {
        "name": request.called,
        "group": request.kind.group,
        "kind": request.kind.kind,
        "causes": [
            {"reason": "FieldValueInvalid", "field": each.field, "message": shortened(each.sentence, MAX_MESSAGE)}
            for each in causes[:MAX_CAUSES]
        ],
    }
    message = refusal(request, causes)
    return {"status": "Failure", "message": message, "reason": "Invalid", "code": 422, "details": details}


def status(message: str, code: int) -> dict[str, object]:
    """A `Status` of apimachinery that tells of a failure. Its code is one of HTTP's, 400 to 599."""
    reasons = {400: "BadRequest", 413: "RequestEntityTooLarge", 503: "ServiceUnavailable", 504: "Timeout"}
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "message": shortened(message, MAX_MESSAGE),
        "reason": reasons.get(code, "InternalError" if code >= 500 else "BadRequest"),
        "code": code,
    }


def shortened(text: str, limit: int) -> str:
    """`text`, cut off after `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def is_deeper(value: object, limit: int) -> bool:
    """Whether `value`, plain JSON, is nested deeper than `limit` levels. Does not recurse itself."""
    level: list[object] = [value]
    for _ in range(limit):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below += [each for each in item.values() if isinstance(each, dict | list)]
            elif isinstance(item, list):
                below += [each for each in item if isinstance(each, dict | list)]
        if not below:
            return False
        level = below
    return True


def _decode(data: bytes | msgspec.Raw, what: type[T], root: str) -> T:
    """The struct in `data`, which stands at `root` of the review."""
    try:
        return msgspec.json.decode(data, type=what)
    except (msgspec.MsgspecError, UnicodeError) as error:
        where = str(error)[:512].replace("`$", f"`{root}").replace("`.", "`")
        raise ReviewError(f"this is no AdmissionReview: {where}") from None


def _bounded(warnings: Sequence[str]) -> list[str]:
    """Warnings as HTTP headers can carry them: single lines, not too many, not too long."""
    shown = [shortened(printable(warning), MAX_WARNING) for warning in warnings[:MAX_WARNINGS]]
    if len(warnings) > MAX_WARNINGS:
        shown[-1] = f"and {len(warnings) - MAX_WARNINGS + 1} more warnings"
    return shown
