"""The four proxies, each one process, with several listeners that lead to an upstream each.

HAProxy and nginx are configured to pass on as much as they would by themselves; nothing makes them stricter.
"""

import json
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from tests.support.envoy import command
from tests.support.waiting import eventually_sync

NAMES: Final = ("pymesh", "envoy", "haproxy", "nginx")
# Seconds after which a proxy gives an incomplete message up: longer than any row is looked at.
PATIENCE: Final = 60
# Below net.ipv4.ip_local_port_range of Linux.
PORTS: Final = (20_000, 32_000)

HAPROXY: Final = """\
global
  nbthread 1
defaults
  mode http
  retries 0
  http-reuse never
  timeout connect {patience}s
  timeout client {patience}s
  timeout server {patience}s
{lanes}
"""
HAPROXY_LANE: Final = """\
frontend front{number}
  bind 127.0.0.1:{listen}
  default_backend back{number}
backend back{number}
  server upstream 127.0.0.1:{upstream}
"""
NGINX: Final = """\
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header Connection "";
  proxy_request_buffering off; proxy_buffering off; proxy_next_upstream off;
{lanes}
}}
"""
NGINX_LANE: Final = (
    "  server {{ listen 127.0.0.1:{listen}; location / {{ proxy_pass http://127.0.0.1:{upstream}; }} }}\n"
)

_FILTERS: Final = "type.googleapis.com/envoy.extensions.filters."


@contextmanager
def running(folder: Path, upstreams: dict[str, Sequence[int]]) -> Iterator[dict[str, list[int]]]:
    """The proxies named in `upstreams`, each before those ports; the ports that they listen on."""
    with ExitStack() as stack:
        listening = {name: _free_ports(len(ports)) for name, ports in upstreams.items()}
        processes = {}
        for name, ports in upstreams.items():
            place = folder / name
            place.mkdir()
            argv = _command(name, place, listening[name], ports)
            with (place / "log").open("wb") as log:
                processes[name] = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            stack.callback(_end, processes[name])
        for name, process in processes.items():
            up = partial(_listening, listening[name][-1], process, folder / name / "log")
            eventually_sync(up, what=f"{name} listening", timeout=30.0)
        yield listening


def version(name: str) -> str:
    """Which version of the proxy a column of the table is of."""
    match name:
        case "pymesh":
            return "this tree"
        case "envoy":
            said = _said([*command(Path("none"))[:1], "--version"])
            return said.split("version: ")[1].split("/")[1]
        case "haproxy":
            return _said(["haproxy", "-v"]).split()[2].partition("-")[0]
        case _:
            return _said([_program("nginx"), "-v"]).partition("/")[2].split()[0]


def _said(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _program(name: str) -> str:
    """Where it is: Debian keeps these where only root looks."""
    return shutil.which(name) or f"/usr/sbin/{name}"


def _free_ports(count: int) -> list[int]:
    """So many ports of loopback that nobody listens on, below those that the kernel gives to clients meanwhile."""
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            port = random.randint(*PORTS)
            with suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
    return found


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


def _listening(port: int, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"it ended with status {process.returncode}: {log.read_text()}")
    socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    return True


def _command(name: str, folder: Path, listen: Sequence[int], upstreams: Sequence[int]) -> list[str]:
    """Write the configuration of a proxy, and say how it is started with it."""
    config = folder / "config"
    if name in {"pymesh", "envoy"}:
        config = folder / "config.json"
        config.write_text(json.dumps(_bootstrap(listen, upstreams)))
        if name == "envoy":
            return command(config)
        off = ["--admin", "127.0.0.1:0", "--metrics-port", "0", "--readiness-port", "0"]
        return [sys.executable, "-m", "pymesh_proxy", "--config", str(config), *off]
    whole, lane = (HAPROXY, HAPROXY_LANE) if name == "haproxy" else (NGINX, NGINX_LANE)
    pairs = enumerate(zip(listen, upstreams, strict=True))
    lanes = "".join(lane.format(number=number, listen=a, upstream=b) for number, (a, b) in pairs)
    config.write_text(whole.format(patience=PATIENCE, folder=folder, lanes=lanes))
    if name == "haproxy":
        return [_program("haproxy"), "-q", "-db", "-f", str(config)]
    return [_program("nginx"), "-p", str(folder), "-c", str(config)]


def _bootstrap(listen: Sequence[int], upstreams: Sequence[int]) -> dict[str, object]:
    """One bootstrap for pymesh-proxy and Envoy, with all that widens what is accepted: HTTP/1.0, upgrades."""
    return {
        "static_resources": {
            "listeners": [_listener(f"lane{number}", port) for number, port in enumerate(listen)],
            "clusters": [_cluster(f"lane{number}", port) for number, port in enumerate(upstreams)],
        }
    }


def _listener(name: str, port: int) -> dict[str, object]:
    manager = {
        "@type": f"{_FILTERS}network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "grid",
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "default"},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{_FILTERS}http.router.v3.Router"}}],
        "route_config": {
            "name": "grid",
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "60s"}}],
                }
            ],
        },
    }
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _cluster(name: str, port: int) -> dict[str, object]:
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    return {
        "name": name,
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
