"""One form for the many ways to write a path, so that no rule about a path can be walked around. Sans-IO.

Each function takes a request target (`/path?query`) and leaves its query alone; what is not a path (`*`, CONNECT's
`host:port`) is not for these. Their order matters: `unescape_slashes`, `normalize`, `merge_slashes`.

Source: RFC 3986 section 6.2.2; details as in Envoy 1.40, which takes them from Chromium's URL parser (compared by
tests/conformance/test_same_paths.py).
"""

import re
from typing import Final

_ESCAPED_SLASH: Final = re.compile(rb"%2[Ff]|%5[Cc]")
# A target without any of these is in normal form: most are, and then one search is all there is to do.
_NOT_NORMAL: Final = re.compile(rb"[%\\\"<>^`{|}]|/\.")
_ESCAPE_OR_CHARACTER: Final = re.compile(rb"%[0-9A-Fa-f]{2}|[\\\"<>^`{|}]")
# RFC 3986 2.3: these mean the same escaped and as they are.
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_SLASHES: Final = re.compile(rb"//+")


def unescape_slashes(target: bytes) -> bytes:
    """`%2F` as `/` and `%5C` as a backslash; the same object where there is neither."""
    path, mark, query = target.partition(b"?")
    if _ESCAPED_SLASH.search(path) is None:
        return target
    return _ESCAPED_SLASH.sub(lambda found: b"/" if found[0][1:2] == b"2" else b"\\", path) + mark + query


def normalize(target: bytes) -> bytes:
    """Without dot segments and needless escapes; a backslash is a slash; the same object where nothing is to be done.

    Raises:
        ValueError: an escaped NUL, which ends the path for some and not for others.
    """
    if _NOT_NORMAL.search(target) is None:
        return target
    path, mark, query = target.partition(b"?")
    return _without_dots(_ESCAPE_OR_CHARACTER.sub(_character, path)) + mark + query


def merge_slashes(target: bytes) -> bytes:
    """One slash for several; the same object where nothing is to be done."""
    path, mark, query = target.partition(b"?")
    if b"//" not in path:
        return target
    # Envoy puts the slash before what is between, and the slash behind it: two, where nothing is.
    return (_SLASHES.sub(b"/", path) if path.strip(b"/") else b"//") + mark + query


def _character(found: re.Match[bytes]) -> bytes:
    """A backslash, a character that should have been escaped, or an escape; those of unreserved characters go."""
    text = found[0]
    if text == b"\\":
        return b"/"
    if len(text) == 1:
        return b"%%%02X" % text[0]
    code = int(text[1:], 16)
    if code == 0:
        raise ValueError("an escaped NUL in a path")
    return bytes((code,)) if code in _UNRESERVED else text


def _without_dots(path: bytes) -> bytes:
    """RFC 3986 5.2.4: `/a/./b/../c` is `/a/c`; nothing is above the root."""
    segments = path.split(b"/")[1:]
    kept: list[bytes] = []
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in {b".", b".."}:
        kept.append(b"")  # it was a directory
    return b"/" + b"/".join(kept)
