"""Secrets as they are read: their content by key, and nothing of it in any sentence or representation."""

import pytest

from pymesh.resources.kubernetes import Secret
from pymesh.resources.parse import parse
from pymesh.resources.redaction import redacted
from pymesh.resources.resource import Resource, holds

HEAD = "apiVersion: v1\nkind: Secret\nmetadata: {name: x, namespace: web}\n"


def read(text: str) -> Resource[Secret]:
    (resource,) = parse(HEAD + text, "f").resources
    assert holds(resource, Secret)
    return resource


def test_data_is_base64_and_plain_text_wins() -> None:
    secret = read("data: {a: aGVsbG8=, b: AP8=}\nstringData: {a: there}").value
    assert secret.content() == {"a": b"there", "b": b"\x00\xff"}


def test_what_is_not_base64_is_named_by_its_key() -> None:
    with pytest.raises(ValueError, match=r"^token$"):
        read("data: {token: 'hunter2!'}").value.content()


@pytest.mark.parametrize(
    "text",
    [
        "data: {pin: 31337}",
        "stringData: {pin: 31337}",
        "stringData: 'hunter 31337'",
        "stringData: {a: {b: 31337}}",
        "data: [31337]",
    ],
)
def test_a_mistake_is_told_without_the_value(text: str) -> None:
    (error,) = parse(HEAD + text, "f").errors
    assert "31337" not in str(error)
    assert error.path.startswith(("data", "stringData"))


def test_nothing_of_it_is_shown() -> None:
    last_applied = "{kubectl.kubernetes.io/last-applied-configuration: hunter2, note: kept}"
    secret = read("stringData: {password: hunter2, tls.crt: public}")
    document = {**secret.raw, "metadata": {"name": "x", "annotations": {"note": "kept"}}}
    assert "hunter2" not in repr(secret)
    shown = redacted(secret.raw)
    assert "hunter2" not in str(shown)
    assert str(shown["stringData"]["tls.crt"]).startswith("<6 characters, sha256 ")
    assert redacted(document)["metadata"] == {"name": "x", "annotations": {"note": "kept"}}
    annotated = parse((HEAD + "data: {}").replace("name: x,", f"name: x, annotations: {last_applied},"), "f")
    assert "hunter2" not in str(redacted(annotated.resources[0].raw))


def test_the_digest_tells_certificates_apart_and_no_passwords() -> None:
    assert read("data: {tls.crt: YQ==}").digest != read("data: {tls.crt: Yg==}").digest
    assert read("data: {password: YQ==}").digest == read("data: {password: Yg==}").digest


def test_other_kinds_are_shown_as_they_are() -> None:
    document = {"kind": "ConfigMap", "data": {"a": "b"}}
    assert redacted(document) is document
