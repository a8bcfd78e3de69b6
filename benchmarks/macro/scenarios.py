"""What is sent through the proxies: a scenario is one row here and a folder of configuration files.

The folder `configs/<name>` has `bootstrap.yaml`, which pymesh-proxy and Envoy both read, and a file for each of the
other proxies; which file is whose stands in `proxies.py`. In them `${LISTEN}` and `${UPSTREAM}` are the port to listen
on and the upstream's, `${FOLDER}` is a folder to write to, and `$$` is a dollar.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

CONFIGS: Final = Path(__file__).with_name("configs")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of traffic.

    Attributes:
        name: as on the command line; also the folder.
        summary: one line for people.
        path: of every request.
        headers: of every request, `Host` among them.
        connections: that the load generator keeps busy.
        body_bytes: length of each answer's body.
    """

    name: str
    summary: str
    path: str
    headers: tuple[tuple[str, str], ...]
    connections: int
    body_bytes: int

    @property
    def folder(self) -> Path:
        """Where its configuration files are."""
        return CONFIGS / self.name

    @property
    def body(self) -> str:
        """What the upstream answers with."""
        return "x" * self.body_bytes


# What a browser's request looks like when it has come through one hop: ten headers, some 400 bytes.
BROWSER: Final = (
    ("Host", "reviews.default.svc.cluster.local:9080"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("Accept-Language", "en-US,en;q=0.5"),
    ("X-Forwarded-For", "10.0.0.1"),
    ("Cookie", "session=abcdef0123456789; theme=dark"),
    ("Cache-Control", "no-cache"),
    ("X-Custom-Header", "some value here"),
    ("Authorization", "Bearer abcdefghijklmnopqrstuvwxyz"),
)

SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="h1-plain",
            summary="GET over plaintext HTTP/1.1, kept alive on both sides, 10 request headers, 1 KiB back",
            path="/reviews/1?full=true",
            headers=BROWSER,
            connections=32,
            body_bytes=1024,
        ),
    )
}
