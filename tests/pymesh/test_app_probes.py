"""The variable that tells a sidecar what to ask its app: read strictly, or refused with the field."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh.app_probes import MAX_BYTES, VARIABLE, AppProbe, HttpCheck, TcpCheck, parse, probe_path
from pymesh.errors import ConfigError


def test_a_good_one() -> None:
    assert parse('{"/app-health/app/readyz": {"tcpSocket": {"port": 80}, "timeoutSeconds": 5}}') == {
        "/app-health/app/readyz": AppProbe(TcpCheck(80), 5)
    }
    assert parse('{"/app-lifecycle/a/prestopz": {"httpGet": {"port": 1}}}') == {
        probe_path("a", "preStop"): AppProbe(HttpCheck(1))
    }


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", ""),
        ("[" * 50_000, ""),
        ("[]", ""),
        (" " * (MAX_BYTES + 1), ""),
        ('{"/app-health/app/metrics": {}}', "[/app-health/app/metrics]"),
        ('{"/app-health/../x/readyz": {}}', "[/app-health/../x/readyz]"),
        ('{"/app-health/a/readyz": {}}', "[/app-health/a/readyz]"),
        ('{"/app-health/a/readyz": {"tcpSocket": {"port": true}}}', "[/app-health/a/readyz].tcpSocket.port"),
        ('{"/app-health/a/readyz": {"tcpSocket": {"port": 15020}}}', "[/app-health/a/readyz].tcpSocket.port"),
        ('{"/app-health/a/readyz": {"tcpSocket": {"port": 1, "host": "h"}}}', "[/app-health/a/readyz].tcpSocket.host"),
        ('{"/app-health/a/readyz": {"grpc": {"port": 1, "service": 2}}}', "[/app-health/a/readyz].grpc.service"),
        ('{"/app-health/a/readyz": {"tcpSocket": {"port": 1}, "grpc": {"port": 1}}}', "[/app-health/a/readyz]"),
        (
            '{"/app-health/a/readyz": {"httpGet": {"port": 1, "httpHeaders": [{"name": "a", "value": "\\r\\nc: d"}]}}}',
            "[/app-health/a/readyz].httpGet.httpHeaders[0].value",
        ),
    ],
)
def test_a_bad_one_is_refused_with_its_field(text: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.path == f"{VARIABLE}{path}"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["httpGet", "port", "path", "httpHeaders", "name", "grpc", "x"]), inner)
    ),
)


@given(_JSON)
def test_whatever_is_in_it_is_taken_or_refused(value: object) -> None:
    with contextlib.suppress(ConfigError):
        parse(json.dumps({"/app-health/a/livez": value}))
