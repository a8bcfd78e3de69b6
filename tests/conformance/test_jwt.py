"""The same tokens in Envoy and in pymesh-proxy: the same are good, for the same reason the others are not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pymesh.jwks import NOBODYS_KEYS
from tests.conformance.jwt_requests import EVERYTHING, KEYS, UNNAMED
from tests.conformance.sides import Answer, Side, Situation, both_proxies
from tests.support.echo import EchoServer

pytestmark = pytest.mark.envoy

BOOTSTRAP = Path(__file__).with_name("jwt.yaml").read_text()


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    folder: Path = tmp_path_factory.mktemp("jwt")
    text = BOOTSTRAP.replace("UNNAMED", UNNAMED).replace("NOBODY", NOBODYS_KEYS).replace("'KEYS'", f"'{KEYS}'")
    with EchoServer("a") as a, both_proxies(folder, a, a, text) as both:
        yield both


def told(answer: Answer) -> dict[str, object]:
    """What client and app were told."""
    if not answer.upstream:
        return {"status": answer.status, "body": answer.body, "challenge": answer.header("www-authenticate")}
    headers = answer.upstream["headers"]
    assert isinstance(headers, list)
    seen = sorted(pair for pair in headers if pair[0] not in {"x-test", "x-request-id", "content-length"})
    return {"status": answer.status, "target": answer.upstream["target"], "headers": seen}


def test_both_believe_the_same_tokens(sides: tuple[Side, Side]) -> None:
    assert len({asked.name for asked in EVERYTHING}) == len(EVERYTHING)
    wrong: list[str] = []
    outcomes = []
    for asked in EVERYTHING:
        name = asked.name.encode("ascii", "replace").decode()
        situation = Situation(name, 0, asked.path, asked.method, headers=asked.headers)
        envoy, pymesh = (told(side.ask(situation)) for side in sides)
        outcomes.append(envoy["status"])
        # Where they differ, this one is stricter, unless it only says another thing to the app.
        stricter = (envoy["status"], pymesh["status"]) in {(200, 200), (401, 401), (200, 401), (503, 200)}
        if (envoy != pymesh) is not bool(asked.differs) or not stricter | (envoy == pymesh):
            wrong.append(f"{asked.name}\n  envoy  {envoy}\n  pymesh {pymesh}")
    assert not wrong, "\n".join(wrong)
    assert outcomes.count(200) > 50
    assert outcomes.count(401) > 100
    assert outcomes.count(403) > 3
