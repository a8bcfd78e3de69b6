"""What several replicas of pilot say, as one answer."""

from pymesh_controlplane.cli.mesh import Pilot
from pymesh_controlplane.cli.status import away_of, merged, problems_of


def proxy(name: str, since: str, status: str = "SYNCED") -> dict[str, object]:
    return {"proxy": name, "node": f"sidecar~{name}", "connected_since": since, "types": {"cds": {"status": status}}}


def problem(text: str) -> dict[str, str]:
    return {"text": text, "severity": "error"}


PILOTS = [
    Pilot("one", {"problems": [problem("a"), problem("b")]}, [proxy("web.shop", "10:00"), proxy("db.store", "10:01")]),
    Pilot("two", {"problems": [problem("b"), problem("c")]}, [proxy("web.shop", "10:05", "STALE")]),
]


def test_a_proxy_is_where_it_connected_last() -> None:
    found = {item["proxy"]: (item["pilot"], item["types"]["cds"]["status"]) for item in merged(PILOTS)}
    assert found == {"web.shop": ("two", "STALE"), "db.store": ("one", "SYNCED")}
    assert [item["proxy"] for item in merged(PILOTS, "store")] == ["db.store"]


def test_what_all_refuse_is_told_once() -> None:
    assert [item["text"] for item in problems_of(PILOTS)] == ["a", "b", "c"]


def test_who_is_away_is_told_once_by_who_has_known_for_longest() -> None:
    pilots = [
        Pilot(name, {"away": [{"service": "policy.pymesh-system", "since": since}]}, [])
        for name, since in (("one", "10:05"), ("two", "10:00"), ("three", "10:07"))
    ]
    assert [item["since"] for item in away_of([*pilots, Pilot("of a release before", {}, [])])] == ["10:00"]
