"""Path templates: `/shops/*/items/{item}` and `/files/**`, as patterns of RE2.

`*` and `{name}` stand for one segment, which is not empty; `**` for any number of them, none included. `{name=a/*}` is
what stands behind the `=`. Names mean nothing here. After `**` nothing but literal text may follow.

Source: envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig; Envoy's uri_template_internal.cc
"""

import re
from typing import Final

from envoy.type.matcher.v3.regex_pb2 import RegexMatcher

from pymesh.errors import ConfigError
from pymesh_proxy.config.matchers import ValueMatch
from pymesh_proxy.config.patterns import full_match

MAX_VARIABLES: Final = 5  # and a name's length, both as in Envoy
_MAX_NAME: Final = 16

_LITERAL: Final = r"a-zA-Z0-9\-._~%!$&'()+,;:@"  # pchar of RFC 3986 without `*` and `=`
_IS_LITERAL: Final = re.compile(f"[{_LITERAL}]+")
_NAME: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*")
_TEMPLATE: Final = re.compile(r"/[!-~]*")
_ONE: Final = f"[{_LITERAL}]+"
_ANY: Final = f"[{_LITERAL}/]*"
_OPERATORS: Final = {"*": _ONE, "**": _ANY}
# A segment is an operator or a variable, with a literal suffix behind it if it is the last; or it is literal.
_SEGMENT: Final = re.compile(r"(?P<operator>\*\*?)|\{(?P<name>[^{}=]*)(?:=(?P<of>[^{}]*))?\}")


def uri_template(template: str, path: str) -> tuple[ValueMatch, bytes]:
    """Whether a path, without query, is one of the template's; and what each such path begins with.

    Raises:
        ConfigError: the template is not one, at `path`.
    """
    if not _TEMPLATE.fullmatch(template):
        raise ConfigError("a path template begins with / and has no blanks", path=path)
    pattern = "".join(["/", *_Template(path).patterns(template[1:])])
    start = re.split(r"[*{]", template, maxsplit=1)[0].encode()
    return full_match(RegexMatcher(regex=pattern), path), start


class _Template:
    """Takes one template apart."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._names: set[str] = set()
        self._after_any = False

    def patterns(self, rest: str) -> list[str]:
        """The patterns of what follows the first slash, slashes among them."""
        found: list[str] = []
        while rest:
            pattern, rest = self._segment(rest)
            found.append(pattern)
            if rest.startswith("/"):
                found.append("/")
                rest = rest[1:]
            elif rest:  # behind an operator: a suffix, which ends the template
                found.append(self._literal(rest))
                rest = ""
        return found

    def _segment(self, rest: str) -> tuple[str, str]:
        """The pattern of the segment that `rest` begins with, and what is behind it."""
        special = _SEGMENT.match(rest)
        if special is None:
            text, slash, behind = rest.partition("/")
            return self._literal(text), slash + behind
        if special["operator"]:
            return self._operator(special["operator"]), rest[special.end() :]
        self._name(special["name"])
        if special["of"] is None:
            return self._operator("*"), rest[special.end() :]
        parts = special["of"].split("/")
        pattern = "/".join([self._operator(part) if part in _OPERATORS else self._literal(part) for part in parts])
        return pattern, rest[special.end() :]

    def _operator(self, operator: str) -> str:
        if self._after_any:
            raise ConfigError("nothing but literal text may follow **", path=self._path)
        self._after_any = operator == "**"
        return _OPERATORS[operator]

    def _literal(self, text: str) -> str:
        if not _IS_LITERAL.fullmatch(text):
            problem = f"{text!r} is no part of a path template: *, **, {{name}}, {{name=…}} or characters of a path"
            raise ConfigError(problem, path=self._path)
        return re.escape(text)

    def _name(self, name: str) -> None:
        if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
            raise ConfigError(f"{name!r} is not a name of at most {_MAX_NAME} letters and digits", path=self._path)
        if name in self._names:
            raise ConfigError(f"the name {name!r} is given twice", path=self._path)
        self._names.add(name)
        if len(self._names) > MAX_VARIABLES:
            raise ConfigError(f"more than {MAX_VARIABLES} names", path=self._path)
