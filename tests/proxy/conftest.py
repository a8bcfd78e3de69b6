"""What the tests of the proxy share."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The proxy is tested on the loop that it runs on."""
    return {"uvloop": uvloop.new_event_loop}
