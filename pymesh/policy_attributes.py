"""What a limit counts by and an answer is remembered by: attributes of a request, called the same on both planes.

    source.principal, source.namespace, source.serviceAccount, source.address    who calls
    request.method, request.host, request.path                                   the path without its query
    request.path[/users/{*}/orders]                                              a path template
    request.headers[NAME]
    request.auth.principal, request.auth.claims[NAME], request.auth.claims[GROUP][NAME]      of a JWT that was verified

The names, and `{*}` and `{**}` in templates, are those of Istio's AuthorizationPolicy.

A path template stands for all paths that it matches: `{*}` for any one segment, `{**}` for any number of them, and what
is counted apart is what `{NAME}` stands for: by `request.path[/users/{user}/orders]`, each user's orders. A limit by a
template is about the requests that it matches, and about no others.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pymesh.identity import Identity

PLAIN: Final = (
    "source.principal",
    "source.namespace",
    "source.serviceAccount",
    "source.address",
    "request.method",
    "request.host",
    "request.path",
    "request.auth.principal",
)
WITH_ARGUMENT: Final = ("request.headers[NAME]", "request.path[TEMPLATE]", "request.auth.claims[NAME]")
# Attributes in one list: each multiplies what is counted apart.
MAX_ATTRIBUTES: Final = 8
MAX_NAME: Final = 256  # characters

_SEGMENT: Final = r"(?:\{(?:\*\*?|[A-Za-z_]\w{0,31})\}|[A-Za-z0-9._~%!$&'()+,;:@=-])"
_TEMPLATE: Final = rf"(?:/{_SEGMENT}*)+"
_HEADER: Final = r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}"
_CLAIM: Final = r"(?:\[[^\[\]]{1,64}\]){1,4}"
PATTERN: Final = (
    rf"^(?:{'|'.join(map(re.escape, PLAIN))}"
    rf"|request\.headers\[{_HEADER}\]|request\.path\[{_TEMPLATE}\]|request\.auth\.claims{_CLAIM})\Z"
)
DESCRIPTION: Final = f"one of {', '.join(PLAIN)}, {', '.join(WITH_ARGUMENT)}"

_NAME: Final = re.compile(PATTERN, re.ASCII)
_PLACE: Final = re.compile(r"\{(\*\*?|\w+)\}", re.ASCII)


class PathTemplate:
    """A template of paths, as in `/users/{user}/orders/{**}`.

    Raises:
        ValueError: the text is no template; with the reason.
    """

    def __init__(self, text: str) -> None:
        if not re.fullmatch(_TEMPLATE, text, re.ASCII):
            raise ValueError(f"{text!r} is no path template, as /users/{{*}}/orders and /files/{{**}} are")
        self.text = text
        parts = _PLACE.split(text)
        if "**" in parts[1:-2:2]:
            raise ValueError(f"{text!r} is no path template: nothing in braces may follow {{**}}")
        for before, place, after in zip(parts[0::2], parts[1::2], parts[2::2], strict=False):
            if not before.endswith("/") or not (after == "" or after.startswith("/")):
                raise ValueError(f"{text!r} is no path template: {{{place}}} must be a whole segment")
        # Each `{*}` ends where its segment does, and there is one `{**}` at most: linear in the length of the path.
        kinds = {"*": "[^/]+", "**": ".*"}
        self._match = re.compile(
            "".join(
                re.escape(part) if index % 2 == 0 else kinds.get(part, "([^/]+)") for index, part in enumerate(parts)
            ),
            re.DOTALL,
        ).fullmatch
        apart = [part if index % 2 == 0 or part in kinds else None for index, part in enumerate(parts)]
        self._shown = [f"{{{part}}}" if part in kinds else part for part in apart]

    def of(self, path: str) -> str | None:
        """The template with the segments of `path` (without query) for its `{NAME}`s; None if it does not match."""
        found = self._match(path)
        if found is None:
            return None
        named = iter(found.groups())
        return "".join(next(named) if part is None else part for part in self._shown)


@dataclass(frozen=True, slots=True)
class Named:
    """The name of an attribute, parsed.

    Attributes:
        kind: the name up to its brackets, one of PLAIN or `request.headers`, `request.path[]`, `request.auth.claims`.
        header: in lower case; template, claim (a path): the argument, according to `kind`.
    """

    kind: str
    header: str = ""
    template: PathTemplate | None = None
    claim: tuple[str, ...] = ()


def parse(name: str) -> Named:
    """The attribute called `name`.

    Raises:
        ValueError: there is no attribute of this name.
    """
    if len(name) > MAX_NAME or not _NAME.match(name):
        raise ValueError(f"{name!r} is no attribute: it is {DESCRIPTION}")
    kind, bracket, argument = name.partition("[")
    if not bracket:
        return Named(kind)
    argument = argument[:-1]
    if kind == "request.headers":
        return Named(kind, header=argument.lower())
    if kind == "request.path":
        return Named("request.path[]", template=PathTemplate(argument))
    return Named(kind, claim=tuple(argument.split("][")))


def namespace_of(principal: str) -> str:
    """The namespace of a SPIFFE identity; "" if it is not a workload's."""
    try:
        return Identity.parse(principal).namespace
    except ValueError:
        return ""


def account_of(principal: str) -> str:
    """The service account of a SPIFFE identity, as `namespace/name`; "" if it is not a workload's."""
    try:
        identity = Identity.parse(principal)
    except ValueError:
        return ""
    return f"{identity.namespace}/{identity.service_account}"


def claim_of(claims: Mapping[str, object], path: tuple[str, ...]) -> str:
    """A claim as text: a string as it is, anything else as JSON; "" without the claim."""
    found: object = claims
    for key in path:
        if not isinstance(found, Mapping) or key not in found:
            return ""
        found = found[key]
    return found if isinstance(found, str) else json.dumps(_plain(found), separators=(",", ":"), sort_keys=True)


def auth_principal_of(claims: Mapping[str, object]) -> str:
    """`issuer/subject`, as Istio's request.auth.principal; "" without a JWT."""
    issuer, subject = claims.get("iss"), claims.get("sub")
    return f"{issuer}/{subject}" if isinstance(issuer, str) and isinstance(subject, str) else ""


def _plain(value: object) -> object:
    """Equal JSON for equal claims, whoever parsed them: protobuf's Struct knows no whole numbers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
