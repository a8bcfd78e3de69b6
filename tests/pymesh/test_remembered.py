"""A dict that does not grow: what goes when it is full."""

from pymesh.remembered import remember


def test_what_was_put_in_first_goes_first() -> None:
    known: dict[str, int] = {}
    for number, key in enumerate("abcd"):
        remember(known, key, number, 3)
    assert known == {"b": 1, "c": 2, "d": 3}
