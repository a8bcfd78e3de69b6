"""JSON Patch (RFC 6902), JSON Merge Patch (RFC 7386) and Kubernetes' strategic merge patch."""

from copy import deepcopy
from typing import Any

from tests.support.kubernetes.errors import ApiError, Object, bad_request, cause
from tests.support.kubernetes.schema import Schema

JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
# Operations of one JSON patch; apiserver's own limit.
OPERATIONS = 10_000


def json_patch(document: Any, operations: Any) -> Any:
    """The document after the operations.

    Raises:
        ApiError: 400, 422: an operation that cannot be done; the document is as before.
    """
    if not isinstance(operations, list) or len(operations) > OPERATIONS:
        raise bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    document = deepcopy(document)
    for each in operations:
        try:
            document = _operate(document, each)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            raise ApiError(422, "Invalid", f"the server rejected our request due to an error in our request: {error}",
                           {"causes": [cause("patch", str(error))]}) from None  # fmt: skip
    return document


def _operate(document: Any, each: Object) -> Any:
    path = _pointer(each["path"])
    match each["op"]:
        case "add":
            return _add(document, path, deepcopy(each["value"]))
        case "remove":
            return _remove(document, path)[0]
        case "replace":
            document, _ = (document, None) if not path else _remove(document, path)
            return _add(document, path, deepcopy(each["value"]))
        case "move":
            document, value = _remove(document, _pointer(each["from"]))
            return _add(document, path, value)
        case "copy":
            return _add(document, path, deepcopy(_at(document, _pointer(each["from"]))))
        case "test":
            if _at(document, path) != each["value"]:
                raise ValueError(f"testing path {each['path']} failed")
            return document
    raise ValueError(f"unexpected kind: {each['op']}")


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise ValueError(f"a path begins with a slash: {text!r}")
    return [step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:]]


def _index(step: str, length: int) -> int:
    if not step.isdecimal() or int(step) >= length:
        raise IndexError(f"no index {step!r} in a list of {length}")
    return int(step)


def _at(document: Any, path: list[str]) -> Any:
    for step in path:
        document = document[_index(step, len(document))] if isinstance(document, list) else document[step]
    return document


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _at(document, path[:-1])
    if isinstance(parent, list):
        parent.insert(len(parent) if path[-1] == "-" else _index(path[-1], len(parent) + 1), value)
    elif isinstance(parent, dict):
        parent[path[-1]] = value
    else:
        raise TypeError(f"/{'/'.join(path)} is below neither an object nor a list")
    return document


def _remove(document: Any, path: list[str]) -> tuple[Any, Any]:
    parent = _at(document, path[:-1])
    return document, parent.pop(_index(path[-1], len(parent)) if isinstance(parent, list) else path[-1])


def merge(document: Any, patch: Any) -> Any:
    """The document after a JSON merge patch; nothing given is changed."""
    if not isinstance(patch, dict):
        return deepcopy(patch)
    merged = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def strategic(document: Any, patch: Any, schema: Schema | None) -> Any:
    """The document after a strategic merge patch, whose directives and merge keys are honoured.

    Raises:
        ApiError: 400, a directive or an item without its key.
    """
    if not isinstance(patch, dict):
        return deepcopy(patch)
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: deepcopy(value) for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    merged = dict(document) if isinstance(document, dict) else {}
    retained = patch.get("$retainKeys")
    if retained is not None:
        merged = {key: value for key, value in merged.items() if key in retained}
    for key, value in patch.items():
        if key in ("$patch", "$retainKeys") or key.startswith("$setElementOrder/"):
            continue
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            merged[name] = [each for each in merged.get(name) or () if each not in value]
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = _strategic_value(merged.get(key), value, schema.field(key) if schema else None)
    for key, order in patch.items():
        if key.startswith("$setElementOrder/"):
            _order(merged, key.partition("/")[2], order, schema)
    return merged


def _strategic_value(old: Any, new: Any, schema: Schema | None) -> Any:
    if isinstance(new, list) and schema and "merge" in _strategy(schema):
        return _strategic_list(old if isinstance(old, list) else [], new, schema)
    return strategic(old, new, schema) if isinstance(new, dict) else deepcopy(new)


def _strategy(schema: Schema) -> str:
    return str(schema.node.get("x-kubernetes-patch-strategy", ""))


def _strategic_list(old: list[Any], new: list[Any], schema: Schema) -> list[Any]:
    key = schema.node.get("x-kubernetes-patch-merge-key", "")
    if any(isinstance(each, dict) and each.get("$patch") == "replace" for each in new):
        return [deepcopy(each) for each in new if not (isinstance(each, dict) and each.get("$patch") == "replace")]
    if not key:
        return list(old) + [each for each in new if each not in old]
    merged = list(old)
    for each in new:
        if not isinstance(each, dict) or key not in each:
            raise bad_request(f"map: {each} does not contain declared merge key: {key}")
        at = next((index for index, one in enumerate(merged) if one.get(key) == each[key]), None)
        if each.get("$patch") == "delete":
            merged = [one for one in merged if one.get(key) != each[key]]
        elif at is None:
            merged.append(strategic({}, each, schema.item()))
        else:
            merged[at] = strategic(merged[at], each, schema.item())
    return merged


def _order(merged: Object, name: str, order: list[Any], schema: Schema | None) -> None:
    below = schema.field(name) if schema else None
    key = below.node.get("x-kubernetes-patch-merge-key", "") if below else ""
    wanted = [each.get(key) if isinstance(each, dict) else each for each in order]

    def rank(item: Any) -> int:
        value = item.get(key) if isinstance(item, dict) else item
        return wanted.index(value) if value in wanted else len(wanted)

    if isinstance(merged.get(name), list):
        merged[name] = sorted(merged[name], key=rank)
