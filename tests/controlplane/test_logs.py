"""Log lines, for people and for machines."""

import json
import logging
from collections.abc import Iterator

import pytest

from pymesh_controlplane import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """The root logger as pytest set it up."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the message has line breaks, or a traceback."""
    logs.configure("info", "json")
    log = logging.getLogger("pymesh.test")
    log.info("two\nlines of %s", "é")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed")
    log.debug("not wanted")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("info", "pymesh.test", "two\nlines of é")
    assert first["time"].endswith("Z")
    assert "ValueError: broken" in second["exception"]


def test_text_has_time_level_and_logger(capsys: pytest.CaptureFixture[str]) -> None:
    """UTC."""
    logs.configure("warning", "text")
    logging.getLogger("pymesh.test").info("not wanted")
    logging.getLogger("pymesh.test").warning("look")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("Z WARNING pymesh.test: look")
