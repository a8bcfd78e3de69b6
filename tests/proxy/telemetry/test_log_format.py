"""Access log lines, operator by operator, as Envoy 1.40 writes them; and what a format must not be."""

import json

import pytest

from pymesh.access_log_formats import ENVOY_TEXT_FORMAT, ISTIO_JSON_FORMAT, ISTIO_TEXT_FORMAT
from pymesh.errors import ConfigError
from pymesh_proxy.errors import Flag
from pymesh_proxy.telemetry.log_format import compile_format
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts
from tests.proxy.telemetry.log_lines import OPERATORS, WALL, made, record


def empty() -> RequestRecord:
    """What a connection leaves that sent no request."""
    return RequestRecord(Facts("outbound", "", ""), WALL, 100.0)


def line(text: str, of: RequestRecord | None = None) -> str:
    return made(text, of or record())


@pytest.mark.parametrize(("operator", "words"), OPERATORS.items(), ids=OPERATORS)
def test_operators(operator: str, words: tuple[str, str]) -> None:
    assert line(f"%{operator}%", record(b"X-Forwarded-Proto: https\r\n")) == words[0]
    assert line(f"%{operator}%", empty()) == words[1]


def test_every_operator_is_tested() -> None:
    with pytest.raises(ConfigError) as caught:
        compile_format("%NO%")
    known = caught.value.problem.rpartition("known are ")[2].split(", ")
    assert len(known) > 30
    assert set(known) == {operator.partition("(")[0] for operator in OPERATORS}


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("%Y/%m/%dT%H:%M:%S.%3f", "2026/11/22T21:36:32.862"),
        ("%s", "1795383392"),
        ("%s.%6f %1f %9f", "1795383392.862771 8 862771000"),
        ("%f", "862771000"),
        ("%%f %H%%", "%f 21%"),
        ("%z(%Z)", "+0000(GMT)"),
        ("%", "%"),
        ("%9", "%9"),
    ],
)
def test_start_time_by_strftime_in_utc(pattern: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert line(f"<%START_TIME({pattern})%>") == f"<{words}>"


def test_literal_text_and_percent_signs() -> None:
    assert line("no operator\n") == "no operator\n"
    assert line("100%% %RESPONSE_CODE%%%x") == "100% 200%x"
    assert line("") == ""


def test_a_failure_says_why() -> None:
    failed = record()
    failed.flag, failed.status = Flag.UPSTREAM_CONNECTION_FAILURE, 503
    failed.details = "upstream_reset_before_response_started{remote_connection_failure}"
    failed.notes["reason"] = "Connection refused"
    failed.response_headers = None
    text = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_TRANSPORT_FAILURE_REASON%"
    assert line(text, failed) == (
        "503 UF upstream_reset_before_response_started{remote_connection_failure} Connection_refused"
    )
    assert line("%RESP(X)% %RESPONSE_DURATION% %RESP(:STATUS)%", failed) == "- - 503"


def test_a_tcp_connection_has_no_request() -> None:
    tcp = empty()
    tcp.protocol, tcp.details, tcp.t_end = "TCP", "tcp_session_idle_timeout", 101.5
    text = '"%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %DURATION%'
    assert line(text, tcp) == '"- - -" 0 - 1500'
    assert line("%CONNECTION_TERMINATION_DETAILS%", tcp) == "tcp_session_idle_timeout"


def test_repeated_and_empty_headers() -> None:
    assert line("%REQ(X)%|%REQ(Y)%", record(b"X: 1\r\nx: 2\r\nY:\r\n")) == "1, 2|"


def test_values_are_utf_8_or_single_bytes() -> None:
    assert line("%REQ(X)% %REQ(Y)%", record(b"X: \xc3\xa4\r\nY: \xe4\r\n")) == "ä ä"


def test_a_header_of_which_no_byte_is_lost_is_cut_in_characters() -> None:
    assert line("%REQ(X):2%|%REQ(Y):2%", record(b"X: \xc3\xa4bc\r\nY: \xe4bc\r\n")) == "äb|äb"


def test_a_header_that_says_a_dash_is_no_missing_one() -> None:
    assert line("%REQ(X?Y)%", record(b"X: -\r\nY: other\r\n")) == "-"


def test_half_of_a_surrogate_pair_does_not_cost_the_line() -> None:
    odd = record()
    odd.cluster = "a\ud83d"
    assert line("%UPSTREAM_CLUSTER%", odd) == r"a\ud83d"
    assert json.loads(made({"c": "%UPSTREAM_CLUSTER%"}, odd)) == {"c": "a\ud83d"}


def test_a_header_is_named_in_no_source() -> None:
    """Formats are compiled to Python; what somebody writes into one must not become a part of that."""
    found = record(b"X'y`$: quoted\r\n")
    assert line("%REQ(X'y`$)%|%REQ(__class__)%|%START_TIME(' + record + ')%", found) == "quoted|-|' + record + '"


HOSTILE = "a\tb\x85c\u2028d\x7f".encode()


def test_no_value_breaks_a_line() -> None:
    """Grammar keeps CR and LF out of headers; details and reasons are held to the same."""
    nasty = record(b"X: " + HOSTILE.replace(b"\x7f", b"") + b"\r\n")
    nasty.details = 'x\r\n"GET / HTTP/1.1" 200\x1b[2J'
    nasty.cluster = "a\nb\x00"
    text = line("%REQ(X)% %RESPONSE_CODE_DETAILS% %UPSTREAM_CLUSTER%", nasty)
    assert text == r'a\x09b\x85c\u2028d x\x0d\x0a"GET_/_HTTP/1.1"_200\x1b[2J a\x0ab\x00'
    found = made({"x": "%REQ(X)%", "d": "%RESPONSE_CODE_DETAILS%!", "c": "%UPSTREAM_CLUSTER%"}, nasty)
    assert found.count("\n") == 1
    assert len(found.splitlines()) == 1
    assert json.loads(found) == {
        "x": HOSTILE.decode().rstrip("\x7f"),
        "d": 'x\r\n"GET_/_HTTP/1.1"_200\x1b[2J!',
        "c": "a\nb\x00",
    }


def test_json_keeps_types_and_sorts_keys() -> None:
    found = made(
        {"z": "%RESPONSE_CODE%", "a": "%REQ(NONE)%", "m": "x %RESPONSE_CODE% %REQ(NONE)%", "f": "%RESPONSE_FLAGS%",
         "s": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", "w": "word", "c": "%RESPONSE_CODE%%DURATION%", "e": ""},
        record(),
    )  # fmt: skip
    assert found == ('{"a":null,"c":"20012","e":"","f":"-","m":"x 200 -","s":"5","w":"word","z":200}\n')


def test_the_formats_of_istio_and_envoy() -> None:
    busy = record(b"User-Agent: curl/8\r\nX-Request-Id: c71d8373\r\nX-Forwarded-For: 1.2.3.4\r\n")
    assert line(ISTIO_TEXT_FORMAT, busy) == (
        '[2026-11-22T21:36:32.862Z] "GET /reviews/1?x=y HTTP/1.1" 200 - via_upstream - "-" 5 357 12 5 "1.2.3.4" '
        '"curl/8" "c71d8373" "reviews:9080" "10.244.0.8:9080" inbound|9080|| 127.0.0.6:50000 10.244.0.8:9080 '
        "1.2.3.4:0 outbound_.9080_._.reviews.default.svc.cluster.local default\n"
    )
    assert line(ENVOY_TEXT_FORMAT, busy) == (
        '[2026-11-22T21:36:32.862Z] "GET /reviews/1?x=y HTTP/1.1" 200 - 5 357 12 5 "1.2.3.4" "curl/8" "c71d8373" '
        '"reviews:9080" "10.244.0.8:9080"\n'
    )
    found = json.loads(made(ISTIO_JSON_FORMAT, busy))
    assert found.keys() == ISTIO_JSON_FORMAT.keys()
    assert (found["response_code"], found["duration"], found["connection_termination_details"]) == (200, 12, None)


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ("192.0.2.1, 198.51.100.7", "198.51.100.7:0 198.51.100.7 0"),
        ("fd00::1", "[fd00::1]:0 fd00::1 0"),
        ("192.0.2.1,10.244.0.7", "10.244.0.7:40000 10.244.0.7 40000"),
        ("192.0.2.1, unknown", "10.244.0.7:40000 10.244.0.7 40000"),
        ("fe80::1%eth0", "10.244.0.7:40000 10.244.0.7 40000"),
    ],
)
def test_the_client_is_whom_the_proxy_before_us_names(forwarded: str, expected: str) -> None:
    named = record(f"X-Forwarded-For: {forwarded}\r\n".encode())
    text = "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT%"
    assert line(text, named) == expected
    assert line("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", named) == "10.244.0.7:40000"


def test_a_cluster_that_there_is_not_is_not_named() -> None:
    missing = record(b"")
    missing.flag = Flag.NO_CLUSTER
    assert line("%UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW%", missing) == "- -"


def test_both_default_formats_take_a_record_of_nothing() -> None:
    for text in (ISTIO_TEXT_FORMAT, ENVOY_TEXT_FORMAT):
        assert line(text, empty()).endswith("\n")
    assert json.loads(made(ISTIO_JSON_FORMAT, empty()))["upstream_host"] is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ab %FOO% c", "access log format, character 4: unknown operator %FOO%; known are BYTES_RECEIVED, "),
        ("%FOO(x):3%", "access log format, character 1: unknown operator %FOO%"),
        ("100%", "access log format, character 4: no operator begins with this %; write %% for a percent sign"),
        ("a % b", "access log format, character 3: no operator begins with this %"),
        ("%response_code%", "access log format, character 1: no operator begins with this %"),
        ("%REQ(X%", "access log format, character 1: no operator begins with this %"),
        ("%REQ%", "access log format, character 1: %REQ% takes a header name, or two with a ? between them"),
        ("%REQ()%", "access log format, character 1: %REQ% takes a header name"),
        ("%REQ(A?B?C)%", "access log format, character 1: %REQ% takes a header name"),
        ("%REQ(A B)%", "access log format, character 1: %REQ% takes a header name"),
        ("%RESP(:PATH)%", "access log format, character 1: %RESP%: there is no pseudo-header :path"),
        ("%REQ(:NO)%", "access log format, character 1: %REQ%: there is no pseudo-header :no"),
        ("%PROTOCOL(x)%", "access log format, character 1: %PROTOCOL% takes nothing in parentheses"),
        ("%START_TIME(%H\x00)%", "access log format, character 1: %START_TIME%: control characters have no place"),
        ("%REQ(X):99999999999%", "access log format, character 1: no operator begins with this %"),
        ("%DYNAMIC_METADATA(a:b)%", "access log format, character 1: unknown operator %DYNAMIC_METADATA%"),
    ],
)
def test_a_format_that_is_wrong_is_refused_with_the_place(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_format(text)
    assert caught.value.problem.startswith(problem)
    with pytest.raises(ConfigError) as caught:
        compile_format({"good": "%PROTOCOL%", "key": text})
    assert caught.value.path == "key"
    assert caught.value.problem.startswith(problem)
