"""Regular expressions in RE2, as Envoy has them: the same syntax, and time linear in the input whatever the pattern.

Python's `re` will not do: with it, one `(a+)+b` in a route lets any client stop the proxy. RE2 has no backreferences
and no lookaround; a pattern with them is refused. The library is loaded with the first pattern, since it costs about
5 MB, and most sidecars are never given one.

Source: envoy.type.matcher.v3.RegexMatcher; https://github.com/google/re2/wiki/Syntax
"""

import re
from collections.abc import Callable
from typing import Final, Protocol

from envoy.type.matcher.v3.regex_pb2 import RegexMatchAndSubstitute, RegexMatcher

from pymesh.errors import ConfigError
from pymesh.xds.check import join
from pymesh_proxy.config.fields import required

# What one compiled pattern may use, in bytes; RE2's own default. A pattern that needs more is refused.
MAX_PATTERN_MEMORY: Final = 8 * 1024 * 1024

_NOT_IN_A_PATH: Final = re.compile(r"[^!-~]")
_REFERENCE: Final = re.compile(rb"\\([0-9\\])|([^\\]+)|(\\)")


class _Match(Protocol):
    def group(self, group: int, /) -> bytes | None: ...


class _Pattern(Protocol):
    @property
    def groups(self) -> int: ...

    def fullmatch(self, text: bytes, /) -> _Match | None: ...

    def sub(self, replacement: Callable[[_Match], bytes], text: bytes, /) -> bytes: ...


def full_match(matcher: RegexMatcher, path: str, *, ignore_case: bool = False) -> Callable[[bytes], bool]:
    """Whether the pattern matches the whole of a value, not just a part of it.

    Raises:
        ConfigError: it is empty or not a pattern of RE2.
    """
    match = _compile(matcher, path, ignore_case=ignore_case).fullmatch
    return lambda value: match(value) is not None


def substitution(rewrite: RegexMatchAndSubstitute, path: str) -> Callable[[bytes], bytes]:
    r"""Replaces every match of the pattern; `\1` to `\9` stand for groups, `\0` for the match, `\\` for a backslash.

    Raises:
        ConfigError: the pattern is not one of RE2, or the substitution refers to a group that it does not have.
    """
    pattern = _compile(rewrite.pattern, join(path, "pattern"))
    here = join(path, "substitution")
    if _NOT_IN_A_PATH.search(rewrite.substitution):
        raise ConfigError("blanks and control characters cannot stand in a path", path=here)
    parts: list[bytes | int] = []
    for reference, literal, stray in _REFERENCE.findall(rewrite.substitution.encode()):
        if stray or (reference.isdigit() and int(reference) > pattern.groups):
            problem = (
                "a backslash needs a digit or a backslash after it" if stray else f"there is no group {int(reference)}"
            )
            raise ConfigError(problem, path=here)
        parts.append(int(reference) if reference.isdigit() else reference or literal)

    def expand(match: _Match) -> bytes:
        return b"".join((match.group(part) or b"") if isinstance(part, int) else part for part in parts)

    return lambda text: pattern.sub(expand, text)


def _compile(matcher: RegexMatcher, path: str, *, ignore_case: bool = False) -> _Pattern:
    import re2

    regex = required(matcher.regex, join(path, "regex"))
    options = re2.Options()
    options.max_mem = MAX_PATTERN_MEMORY
    options.log_errors = False
    options.case_sensitive = not ignore_case
    try:
        pattern: _Pattern = re2.compile(regex.encode(), options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ConfigError(f"not a pattern of RE2: {text}", path=join(path, "regex")) from error
    return pattern
