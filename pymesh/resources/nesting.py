"""How deep objects are nested, said and bounded without recursion. Pure.

Decoders, converters and comparisons of objects recurse, and from some 500 levels on Python gives up. An API server
takes 10,000, from everybody who may write a field that has no schema.
"""

import re
from typing import Final

# Strings, up to the end of the text where they do not end, and what opens and closes a level.
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


def is_deeper(value: object, levels: int) -> bool:
    """Whether plain values are nested deeper than `levels`; a text or number has no level, `{}` has one."""
    layer = [value] if isinstance(value, (dict, list)) else []
    for _ in range(levels):
        children = (child for item in layer for child in (item.values() if isinstance(item, dict) else item))
        layer = [child for child in children if isinstance(child, (dict, list))]
        if not layer:
            return False
    return bool(layer)


def cut(data: bytes, levels: int) -> bytes:
    """JSON with `[]` for what is nested deeper than `levels`: it still is deeper, by one level.

    Raises:
        ValueError: it ends too early.
    """
    kept, depth, begin = bytearray(), 0, 0
    for token in _TOKEN.finditer(data):
        sign = data[token.start()]
        if sign in b"[{":
            depth += 1
            if depth == levels + 1:
                kept += data[begin : token.start()] + b"[]"
        elif sign in b"]}":
            if depth == levels + 1:
                begin = token.end()
            depth -= 1
    if depth:
        raise ValueError("the JSON ends too early")
    return bytes(kept + data[begin:])
