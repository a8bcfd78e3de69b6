"""The secret store."""

from pathlib import Path

import pytest

from pymesh_proxy.control.secrets import MAX_SECRET_BYTES, Certificate, Roots, SecretStore, read_bounded


def test_generations_and_subscribers() -> None:
    store, heard = SecretStore(), []
    unsubscribe = store.subscribe(heard.append)
    assert (store.get("a"), store.generation("a"), store.names()) == (None, 0, ())
    assert store.put("a", Roots(b"1"))
    assert not store.put("a", Roots(b"1"))  # nothing new
    assert store.put("a", Certificate(b"c", b"k"))
    assert store.put("b", Roots(b"1"))
    assert heard == ["a", "a", "b"]
    assert (store.generation("a"), store.names()) == (2, ("a", "b"))
    unsubscribe()
    store.put("a", Roots(b"3"))
    assert heard == ["a", "a", "b"]


def test_keys_are_not_shown() -> None:
    assert "secret" not in repr(Certificate(b"chain", b"secret"))


def test_only_small_files_are_secrets(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x" * MAX_SECRET_BYTES)
    assert len(read_bounded(tmp_path / "small")) == MAX_SECRET_BYTES
    (tmp_path / "large").write_bytes(b"x" * (MAX_SECRET_BYTES + 1))
    with pytest.raises(OSError, match="no certificate, key or token"):
        read_bounded(tmp_path / "large")


def test_a_dropped_secret_is_gone_and_whoever_used_it_hears_of_it() -> None:
    store, told = SecretStore(), []
    store.put("a", Roots(b"x"))
    store.subscribe(told.append)
    store.drop("a")
    store.drop("a")
    assert (store.get("a"), told) == (None, ["a"])
