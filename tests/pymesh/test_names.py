"""Node ids: what a peer may call itself, since that goes into logs, tables and the search for its pod."""

import pytest

from pymesh.names import MAX_NODE_ID, NodeId


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "sidecar~10.244.0.7~reviews-v1-0.default~default.svc.cluster.local",
            ("sidecar", "10.244.0.7", "reviews-v1-0", "default"),
        ),
        ("router~fd00::7~gateway.v1.edge~edge.svc.cluster.local", ("router", "fd00::7", "gateway.v1", "edge")),
        ("sidecar~~a.b~b.svc.cluster.local", ("sidecar", "", "a", "b")),
        (f"sidecar~~{'.'.join(['p' * 63] * 3)}.{'n' * 63}~n", ("sidecar", "", ".".join(["p" * 63] * 3), "n" * 63)),
    ],
)
def test_a_node_id_is_read(text: str, parts: tuple[str, ...]) -> None:
    assert NodeId.parse(text) == parts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a~b~c",
        "sidecar~10.0.0.1~pod~domain",
        "sidecar~10.0.0.1~.default~domain",
        "sidecar~10.0.0.1~pod.~domain",
        "sidecar~999.1.1.1~a.b~domain",
        "sidecar~1~a.b~domain",
        "sidecar~fe80::1%\x1b[2J~a.b~domain",
        "sidecar~10.0.0.1~a\n.b~domain",
        "sidecar~10.0.0.1~a.b\n~domain",
        "sidecar~10.0.0.1~a.b~domain\n",
        "sidecar\x1b[31m~10.0.0.1~a.b~domain",
        "Sidecar~10.0.0.1~a.b~domain",
        "sidecar~10.0.0.1~A.b~domain",
        "sidecar~10.0.0.1~-a.b~domain",
        "sidecar~10.0.0.1~a..b~domain",
        f"sidecar~10.0.0.1~a.{'b' * 64}~domain",
        f"sidecar~10.0.0.1~{'.'.join(['p' * 63] * 4)}.b~domain",
        f"sidecar~10.0.0.1~a.b~{'d.' * MAX_NODE_ID}d",
    ],
)
def test_what_is_no_node_id_is_refused_in_printable_words(text: str) -> None:
    with pytest.raises(ValueError, match="node id") as refused:
        NodeId.parse(text)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 2 * MAX_NODE_ID
