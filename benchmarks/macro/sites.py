"""What runs for a scenario: the upstream, and before it the proxies that are compared, each on its core."""

import http.client
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from string import Template
from typing import Final

from benchmarks.load.target import Trust
from benchmarks.macro import certificates
from benchmarks.macro.machine import Cores
from benchmarks.macro.proxies import NGINX, Proxy
from benchmarks.macro.running import Running, free_port, running
from benchmarks.macro.scenario import Contender, Scenario, Site
from pymesh.errors import MeshError

_UPSTREAM_CONFIG: Final = Path(__file__).with_name("upstream.conf")
# Seconds that a proxy has for one request.
_ANSWER_TIMEOUT: Final = 5.0
# Seconds until it is wrong of a proxy not to give the upstream's answer, and between two looks.
_CONFIGURED_TIMEOUT: Final = 5.0
_POLL: Final = 0.1
# The part of a contender that is one process.
_ALONE: Final = "proxy"
# Bytes that nginx takes as one word of its configuration file; longer answers come from a file in the page cache.
_MAX_WORD: Final = 2048


@contextmanager
def processes(scenario: Scenario, proxies: Sequence[Proxy], folder: Path, cores: Cores) -> Iterator[Site]:
    """The upstream, and each proxy as often as the scenario has hops.

    Raises:
        MeshError: a program is missing, or does not start.
    """
    shared = folder / "certificates"
    certificates.write(shared)
    (folder / "setting").mkdir()
    with ExitStack() as stack:
        more = stack.enter_context(scenario.setting(folder / "setting", cores))
        upstream = stack.enter_context(_upstream(scenario, folder, cores))
        values = {"CERTIFICATES": shared, "UPSTREAM": upstream.port, **more}
        contenders = {
            proxy.name: stack.enter_context(_contender(scenario, proxy, folder, cores, values)) for proxy in proxies
        }
        yield Site(contenders, (upstream.pid,))


@contextmanager
def _contender(
    scenario: Scenario, proxy: Proxy, folder: Path, cores: Cores, values: Mapping[str, object]
) -> Iterator[Contender]:
    """A proxy before the upstream, hop by hop: the one that the client talks to is started last."""
    started: dict[str, Running] = {}
    after = values
    with ExitStack() as stack:
        for hop in reversed(scenario.hops):
            template = proxy.template(scenario.folder / hop)
            own = folder / proxy.name / hop
            port, config = configure(template, own, {**after, "NAME": proxy.name})
            more = (Template(word).substitute(values) for word in scenario.arguments.get(proxy.name, ()))
            command = [*proxy.command(config), *more]
            part = running(f"{proxy.name} {hop}".removesuffix(" ."), command, port, own / "log", cores.proxy)
            started[hop] = stack.enter_context(part)
            after = {**values, "UPSTREAM": port}
        pids = {_ALONE if hop == "." else hop: started[hop].pid for hop in scenario.hops}
        yield Contender(
            proxy.name,
            started[scenario.hops[0]].port,
            pids,
            lambda: "\n".join(process.said() for process in started.values()),
        )


@contextmanager
def _upstream(scenario: Scenario, folder: Path, cores: Cores) -> Iterator[Running]:
    own = folder / "upstream"
    own.mkdir()
    answer = f'return 200 "{scenario.body}";'
    if scenario.body_bytes > _MAX_WORD:
        (own / "answer").write_text(scenario.body)
        answer = f"root {own}; try_files /answer =404;"
    port, config = configure(_UPSTREAM_CONFIG, own, {"ANSWER": answer, "BODY_BYTES": scenario.body_bytes})
    command = [NGINX.require(), "-c", str(config), "-e", "stderr"]
    with running("the upstream", command, port, own / "log", cores.load) as process:
        yield process


def configure(template: Path, own: Path, values: Mapping[str, object]) -> tuple[int, Path]:
    """A port to listen on, and the configuration that says so, in a folder of its own."""
    own.mkdir(parents=True, exist_ok=True)
    port, config = free_port(), own / template.name
    config.write_text(Template(template.read_text()).substitute(values, LISTEN=port, FOLDER=own))
    return port, config


def check_answer(scenario: Scenario, contender: Contender) -> None:
    """A proxy that answers something else than the upstream would be measured doing something else.

    It is asked again for a while: one whose configuration comes from a control plane may listen before that is there.

    Raises:
        MeshError: it does not answer, or so.
    """
    deadline = time.monotonic() + _CONFIGURED_TIMEOUT
    while True:
        try:
            _ask(scenario, contender)
        except MeshError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL)
        else:
            return


def _ask(scenario: Scenario, contender: Contender) -> None:
    sent = scenario.request.encode(scenario.target(contender.port), close=True)
    try:
        with (
            socket.create_connection(("127.0.0.1", contender.port), _ANSWER_TIMEOUT) as plain,
            _secured(plain, scenario) as connection,
        ):
            connection.sendall(sent)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise MeshError(f"{contender.name} does not answer: {error!r}\n{contender.said()}") from error
    if answer.status != 200 or body != scenario.body.encode():
        said = contender.said()
        raise MeshError(
            f"{contender.name} answers {answer.status}, {len(body)} bytes: not what the upstream said\n{said}".strip()
        )


def _secured(plain: socket.socket, scenario: Scenario) -> socket.socket:
    """The connection, over TLS where the scenario's load is."""
    if not scenario.tls:
        return plain
    return Trust(verify=False).context().wrap_socket(plain, server_hostname="localhost")
