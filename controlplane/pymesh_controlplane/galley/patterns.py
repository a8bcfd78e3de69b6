"""Regular expressions are RE2's, as in Envoy and in the sidecar; what does not compile is refused here."""

import re
from typing import Final

# The same bound as the sidecar's.
MAX_PATTERN_MEMORY: Final = 8 * 1024 * 1024
_REFERENCE: Final = re.compile(r"\\(.?)", re.DOTALL)


def trouble(pattern: str) -> str | None:
    """What is wrong with a pattern; None if nothing is."""
    if not pattern:
        return "an empty pattern matches nothing: remove it"
    found = _compiled(pattern)
    return found if isinstance(found, str) else None


def substitution_trouble(pattern: str, substitution: str) -> str | None:
    r"""What is wrong with the replacement for a good pattern: a `\1` without such a group, a stray backslash."""
    found = _compiled(pattern)
    groups = found if isinstance(found, int) else 0
    for reference in _REFERENCE.findall(substitution):
        if reference.isdecimal() and reference.isascii():
            if int(reference) > groups:
                return f"there is no group {reference} in the pattern"
        elif reference != "\\":
            return "a backslash needs a digit or a backslash after it"
    return None


def _compiled(pattern: str) -> int | str:
    """The number of groups of `pattern`, or why it is none."""
    import re2  # loaded with the first pattern

    options = re2.Options()
    options.max_mem = MAX_PATTERN_MEMORY
    options.log_errors = False
    try:
        return int(re2.compile(pattern, options).groups)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        return f"not a pattern of RE2: {text}"
