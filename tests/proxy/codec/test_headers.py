"""A head as it is changed on the way through: what is looked up, and what is written out."""

from hypothesis import given
from hypothesis import strategies as st

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import parse_request


def head(*lines: bytes) -> Head:
    parsed = parse_request(b"GET / HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in (b"Host: a", *lines)) + b"\r\n")
    assert parsed is not None
    return parsed[0]


def test_an_untouched_head_is_written_as_it_came() -> None:
    lines = b"Host:a\r\nX-One:  1 \t\r\nx-one: 2\r\n"
    parsed = parse_request(b"GET / HTTP/1.1\r\n" + lines + b"\r\n")
    assert parsed is not None
    assert parsed[0].fields() == lines


def test_names_are_looked_up_in_lower_case_and_values_without_white_space() -> None:
    found = head(b"X-Thing: \t a b\t ")
    assert found.get(b"x-thing") == b"a b"
    assert found.has(b"x-thing")
    assert found.get(b"x-other") is None
    assert not found.has(b"x-other")


def test_repeated_fields_are_joined_for_reading_and_kept_apart_for_writing() -> None:
    found = head(b"Set-Cookie: a=1 ", b"set-cookie: b=2")
    assert found.get(b"set-cookie") == b"a=1, b=2"
    assert found.fields() == b"Host: a\r\nSet-Cookie: a=1 \r\nset-cookie: b=2\r\n"


def test_added_fields_come_behind_the_received_bytes() -> None:
    found = head(b"X-A: 1")
    found.add(b"x-b", b"2")
    found.add(b"x-a", b"3")
    assert found.fields() == b"Host: a\r\nX-A: 1\r\nx-b: 2\r\nx-a: 3\r\n"
    assert found.get(b"x-a") == b"1, 3"
    assert found.items() == [(b"Host", b"a"), (b"X-A", b"1"), (b"x-b", b"2"), (b"x-a", b"3")]


def test_set_replaces_every_field_of_the_name() -> None:
    found = head(b"X-A: 1", b"x-a: 2", b"X-B: 3")
    found.add(b"x-a", b"4")
    found.set(b"x-a", b"5")
    assert found.fields() == b"Host: a\r\nX-B: 3\r\nx-a: 5\r\n"
    found.set(b"x-a", b"6")
    assert found.fields() == b"Host: a\r\nX-B: 3\r\nx-a: 6\r\n"
    assert found.get(b"x-a") == b"6"


def test_a_removed_field_is_gone_and_can_come_back() -> None:
    found = head(b"X-A: 1")
    found.remove(b"x-a")
    found.remove(b"x-never-there")
    assert found.get(b"x-a") is None
    assert found.fields() == b"Host: a\r\n"
    found.add(b"x-a", b"2")
    assert found.fields() == b"Host: a\r\nx-a: 2\r\n"


def test_a_repeated_field_survives_the_removal_of_another() -> None:
    found = head(b"X-A: 1", b"Cookie: a", b"cookie: b")
    found.remove(b"x-a")
    assert found.fields() == b"Host: a\r\nCookie: a\r\ncookie: b\r\n"
    found = head(b"X-A: 1", b"X-B: 2")
    found.add(b"x-b", b"3")
    found.remove(b"x-a")
    assert found.fields() == b"Host: a\r\nX-B: 2\r\nx-b: 3\r\n"


def test_hop_by_hop_fields_go_and_so_does_what_connection_lists() -> None:
    found = head(
        b"Connection: close, X-Private ,,x-absent",
        b"connection: Keep-Alive",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"TE: trailers",
        b"Upgrade: websocket",
        b"X-Private: 1",
        b"X-Public: 2",
    )
    found.remove_hop_by_hop()
    assert found.fields() == b"Host: a\r\nX-Public: 2\r\n"


def test_several_fields_are_taken_away_at_once_and_the_rest_stays_as_it_came() -> None:
    found = head(b"X-Cut: 1", b"X-A:  2 ", b"x-END:3", b"x-cut: 4")
    found.add(b"x-end", b"5")
    assert found.has_any(frozenset({b"x-end", b"x-none"}))
    found.remove_all(frozenset({b"x-end", b"x-cut", b"x-none"}))
    assert found.fields() == b"Host: a\r\nX-A:  2 \r\n"
    assert not found.has_any(frozenset({b"x-end", b"x-cut"}))
    assert found.items() == [(b"Host", b"a"), (b"X-A", b"2")]


_NAMES = [b"X-A", b"x-a", b"X-B", b"x-b", b"X-C", b"host-not"]
_LINES = st.lists(st.sampled_from([name + b": %d" % index for index, name in enumerate(_NAMES)]), max_size=8)
_CHANGES = st.lists(
    st.tuples(st.sampled_from(["add", "set", "remove"]), st.sampled_from([b"x-a", b"x-b", b"x-d"])), max_size=6
)


@given(_LINES, _CHANGES)
def test_any_changes_give_what_they_give_on_a_plain_list(lines: list[bytes], changes: list[tuple[str, bytes]]) -> None:
    found = head(*lines)
    fields = [(b"host", b"a"), *((name.lower(), value) for name, value in (line.split(b": ") for line in lines))]
    for number, (change, name) in enumerate(changes):
        value = b"new %d" % number
        if change != "add":
            fields = [pair for pair in fields if pair[0] != name]
        if change == "remove":
            found.remove(name)
        else:
            (found.add if change == "add" else found.set)(name, value)
            fields.append((name, value))
    seen = {name: [value for key, value in fields if key == name] for name, _ in fields}
    assert set(found.names()) == set(seen)
    for name in (*seen, b"x-a", b"x-none"):
        assert found.values(name) == seen.get(name, [])
        assert found.get(name) == (b", ".join(seen[name]) if name in seen else None)
        assert found.has(name) is (name in seen)
    assert sorted((name.lower(), value) for name, value in found.items()) == sorted(fields)
    again = parse_request(b"GET / HTTP/1.1\r\n" + found.fields() + b"\r\n")
    assert again is not None
    assert again[0].items() == found.items()
    assert (
        found.with_start(b"GET / HTTP/1.1", b"x-e: f\r\n") == b"GET / HTTP/1.1\r\n" + found.fields() + b"x-e: f\r\n\r\n"
    )
