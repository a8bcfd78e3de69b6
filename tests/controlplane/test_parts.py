"""What the policy service's replicas share: where a Secret says what it is."""

from pathlib import Path

import pytest

from pymesh.errors import ConfigError
from pymesh_controlplane import parts
from pymesh_controlplane.options import parse
from pymesh_controlplane.policy.redis_store import RedisStore

ARGUMENTS = ["--kubernetes", "--components", "policy", "--store-from"]


async def test_a_mounted_secret_says_all_of_it(tmp_path: Path) -> None:
    """As `kubectl create secret --from-file` writes it, with a line's end where an editor has left one."""
    (tmp_path / "url").write_text("rediss://redis.example:6380/2\n")
    (tmp_path / "password").write_text("s3cret\n")
    (tmp_path / "ca.crt").write_text("read when it connects")
    found = parts.store(parse([*ARGUMENTS, str(tmp_path)], {}))
    assert isinstance(found, RedisStore)
    assert found._prefix == "pymesh:policy:cluster.local:", "another mesh may have the same database"
    assert found.where == "rediss://redis.example:6380/2"
    settings = found._redis.connection_pool.connection_kwargs
    assert (settings["password"], settings["ssl_ca_certs"]) == ("s3cret", str(tmp_path / "ca.crt"))
    await found.close()


def test_without_the_secret_there_is_no_store(tmp_path: Path) -> None:
    assert parts.store(parse([*ARGUMENTS, str(tmp_path / "absent")], {})) is None
    assert parts.store(parse([*ARGUMENTS, str(tmp_path)], {})) is None


def test_a_secret_without_a_url_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret")
    with pytest.raises(ConfigError, match="there is no file url beside the others"):
        parts.store(parse([*ARGUMENTS, str(tmp_path)], {}))


def test_either_the_secret_or_options_say_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([*ARGUMENTS, "/etc/store"], {"POLICY_STORE": "redis://elsewhere"})
    assert "exclude each other" in capsys.readouterr().err
