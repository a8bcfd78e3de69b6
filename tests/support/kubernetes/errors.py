"""What the API server answers when it refuses: a `Status` object (apimachinery's `metav1.Status`) and its code."""

from collections.abc import Sequence
from typing import Any

Object = dict[str, Any]


class ApiError(Exception):
    """A refusal. `code` is the HTTP status, `reason` a metav1.StatusReason, `details` as in metav1.StatusDetails."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}

    def status(self) -> Object:
        """The Status object of the answer's body."""
        status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            status["details"] = self.details
        return status | {"code": self.code}


def cause(field: str, message: str, reason: str = "FieldValueInvalid") -> Object:
    """One entry of `details.causes`; `reason` is a metav1.CauseType."""
    return {"reason": reason, "message": message, "field": field}


def required(field: str, message: str = "") -> Object:
    """The cause for a field that must be there."""
    return cause(field, f"Required value: {message}".removesuffix(": "), "FieldValueRequired")


def bad_request(message: str) -> ApiError:
    """400: the request cannot be understood."""
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """401: credentials that nobody vouches for."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(message: str, *, group: str = "", plural: str = "", name: str = "") -> ApiError:
    """403: known, understood, and not allowed."""
    return ApiError(403, "Forbidden", message, _about(group, plural, name))


def not_found(group: str, plural: str, name: str) -> ApiError:
    """404 for one object."""
    qualified = f"{plural}.{group}" if group else plural
    return ApiError(404, "NotFound", f'{qualified} "{name}" not found', _about(group, plural, name))


def no_such_path() -> ApiError:
    """404 for a path that no resource lives at."""
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def method_not_allowed(method: str) -> ApiError:
    """405: the path is known, the verb is not one of its own."""
    message = f"the server does not allow this method on the requested resource ({method})"
    return ApiError(405, "MethodNotAllowed", message)


def not_acceptable(served: Sequence[str]) -> ApiError:
    """406: no media type of the Accept header is served."""
    message = f"only the following media types are accepted: {', '.join(served)}"
    return ApiError(406, "NotAcceptable", message)


def unsupported_media_type(served: Sequence[str]) -> ApiError:
    """415: the body's media type is not read here."""
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(served)}"
    return ApiError(415, "UnsupportedMediaType", message)


def already_exists(group: str, plural: str, name: str) -> ApiError:
    """409 on create."""
    qualified = f"{plural}.{group}" if group else plural
    return ApiError(409, "AlreadyExists", f'{qualified} "{name}" already exists', _about(group, plural, name))


def conflict(group: str, plural: str, name: str, why: str = "") -> ApiError:
    """409 on update: somebody else was faster, or a precondition does not hold."""
    qualified = f"{plural}.{group}" if group else plural
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {qualified} "{name}": {why}'
    return ApiError(409, "Conflict", message, _about(group, plural, name))


def invalid(group: str, kind: str, name: str, causes: Sequence[Object]) -> ApiError:
    """422: the object was read, and is wrong in these places."""
    sentences = [f"{each['field']}: {each['message']}" for each in causes]
    text = sentences[0] if len(sentences) == 1 else f"[{', '.join(sentences)}]"
    qualified = f"{kind}.{group}" if group else kind
    details = _about(group, kind, name) | {"causes": list(causes)}
    return ApiError(422, "Invalid", f'{qualified} "{name}" is invalid: {text}', details)


def expired(message: str = "The resourceVersion for the provided watch is too old.") -> ApiError:
    """410: what was asked for is not remembered any more."""
    return ApiError(410, "Expired", message)


def internal(message: str) -> ApiError:
    """500: the server, or a webhook that it needs, has failed."""
    text = f"Internal error occurred: {message}"
    return ApiError(500, "InternalError", text, {"causes": [{"message": message}]})


def _about(group: str, plural: str, name: str) -> Object:
    about = {"name": name, "group": group, "kind": plural}
    return {key: value for key, value in about.items() if value}
