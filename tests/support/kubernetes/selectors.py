"""Label and field selectors, as queries and as objects (metav1.LabelSelector)."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.kubernetes.errors import Object, bad_request
from tests.support.kubernetes.kinds import Kind

Matches = Callable[[Object], bool]

_SET = re.compile(r"^(?P<key>[^\s!=,()]+)\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)$")
_EQUAL = re.compile(r"^(?P<key>[^\s!=,()]+)\s*(?P<operator>==|=|!=)\s*(?P<value>[^\s!=,()]*)$")
_EXISTS = re.compile(r"^(?P<not>!?)\s*(?P<key>[^\s!=,()]+)$")
_COMMA = re.compile(r",(?![^(]*\))")


def by_labels(text: str) -> Callable[[Mapping[str, str]], bool]:
    """A predicate over labels, from the text of a query (`app=web,tier in (a, b),!old`).

    Raises:
        ApiError: 400.
    """
    terms = [_label_term(term.strip()) for term in _COMMA.split(text)] if text.strip() else []
    return lambda labels: all(term(labels) for term in terms)


def _label_term(term: str) -> Callable[[Mapping[str, str]], bool]:
    if match := _SET.match(term):
        values = [value.strip() for value in match["values"].split(",")]
        return requirement(match["key"], {"in": "In", "notin": "NotIn"}[match["operator"]], values)
    if match := _EQUAL.match(term):
        return requirement(match["key"], "NotIn" if match["operator"] == "!=" else "In", [match["value"]])
    if match := _EXISTS.match(term):
        return requirement(match["key"], "DoesNotExist" if match["not"] else "Exists", [])
    raise bad_request(f"unable to parse requirement: found '{term}', expected: in, notin, =, ==, !=, gt, lt")


def requirement(key: str, operator: str, values: list[str]) -> Callable[[Mapping[str, str]], bool]:
    """One requirement of metav1.LabelSelectorRequirement."""
    match operator:
        case "In":
            return lambda labels: labels.get(key) in values
        case "NotIn":
            return lambda labels: key not in labels or labels[key] not in values
        case "Exists":
            return lambda labels: key in labels
        case "DoesNotExist":
            return lambda labels: key not in labels
    raise bad_request(f'"{operator}" is not a valid label selector operator')


def by_selector(selector: Object | None) -> Callable[[Mapping[str, str]], bool]:
    """A predicate over labels, from a metav1.LabelSelector; nothing and {} select everything."""
    selector = selector or {}
    terms = [requirement(key, "In", [value]) for key, value in selector.get("matchLabels", {}).items()]
    terms += [
        requirement(each["key"], each["operator"], each.get("values", []))
        for each in selector.get("matchExpressions", ())
    ]
    return lambda labels: all(term(labels) for term in terms)


def by_fields(text: str, kind: Kind) -> Matches:
    """A predicate over objects, from the text of a query (`metadata.name=web,status.phase!=Running`).

    Raises:
        ApiError: 400, a field that is not selectable.
    """
    terms: list[tuple[str, bool, str]] = []
    for term in filter(None, text.split(",")):
        path, operator, value = _field_term(term)
        if path not in ("metadata.name", "metadata.namespace", *kind.selectable):
            if kind.selectable:
                raise bad_request(f"field label not supported: {path}")
            known = '"metadata.name", "metadata.namespace"'
            raise bad_request(f'"{path}" is not a known field selector: only {known}')
        terms.append((path, operator, value))
    return lambda found: all((text_at(found, path) == value) is equal for path, equal, value in terms)


def _field_term(term: str) -> tuple[str, bool, str]:
    for operator, equal in (("!=", False), ("==", True), ("=", True)):
        path, found, value = term.partition(operator)
        if found:
            return path.strip(), equal, value.strip()
    raise bad_request(f"invalid field selector {term!r}")


def text_at(found: Object, path: str) -> str:
    """The text of a field by its dotted path; "" where it is not set."""
    value: Any = found
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def both(labels: str, fields: str, kind: Kind) -> Matches:
    """The predicate of a list or a watch."""
    wanted, field = by_labels(labels), by_fields(fields, kind)
    return lambda found: wanted(found["metadata"].get("labels") or {}) and field(found)
