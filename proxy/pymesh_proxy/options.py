"""The command line of `pymesh-proxy`."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pymesh import names
from pymesh.errors import MeshError
from pymesh_proxy import hold

_EPILOG: Final = (
    """\
examples:
  pymesh-proxy --listen 15001
      pass redirected connections on to where they were going, and count them
  pymesh-proxy --config bootstrap.yaml
      run an Envoy v3 bootstrap: static resources, or ADS from a control plane
  pymesh-proxy --listen 15001 --discovery pilot.pymesh-system.svc:15012
      be a sidecar: configuration and certificate from the control plane, the pod's identity from the environment
  pymesh-proxy --gateway --discovery pilot.pymesh-system.svc:15012
      be a gateway at the edge of the mesh: bind the listeners that the control plane sends, redirect nothing
  pymesh-proxy --agent --discovery pilot.pymesh-system.svc:15012 --envoy-bootstrap envoy.json
      obtain certificates for a real Envoy beside this process, and write its bootstrap

Without --config and --discovery the proxy is transparent: it needs the redirect that pymesh-init sets up.

"""
    + hold.HELP
)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for. Ports are 0 where a port is not to be opened."""

    listen: int | None
    inbound_listen: int | None
    config: Path | None
    discovery: tuple[str, int] | None
    gateway: bool
    agent: bool
    envoy_bootstrap: Path | None
    envoy_command: tuple[str, ...]
    admin: tuple[str, int]
    admin_given: bool  # else a bootstrap's `admin` comes first
    metrics_port: int
    readiness_port: int
    status_port: int
    drain_seconds: float
    log_level: str
    token_file: Path
    root_cert: Path
    sds_socket: Path | None
    validate: bool
    filters: tuple[str, ...] = ()  # module:Class


class _Version(argparse.Action):
    """Says the version; argparse's own would have to know it at every start."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # slow to load

        print(f"pymesh-proxy {version('pymesh-proxy')}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """The argument parser."""
    made = argparse.ArgumentParser(
        prog="pymesh-proxy",
        description="The sidecar of pymesh: an HTTP/1.1 and TCP proxy that is configured by xDS.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--version", action=_Version, nargs=0, help="say which, and exit")
    add("--listen", type=_port, metavar="PORT", help="accept redirected connections, both directions (default 15001)")
    add("--inbound-listen", type=_port, metavar="PORT", help="accept inbound ones here instead (15006, as for Envoy)")
    add("--config", "-c", type=Path, metavar="FILE", help="Envoy v3 bootstrap, YAML or JSON")
    add("--discovery", type=_host_port, metavar="HOST:PORT", help="control plane: ADS and certificates over TLS")
    add("--gateway", action="store_true", help="with --discovery: serve the listeners it sends; nothing is redirected")
    add("--agent", action="store_true", help="serve certificates over SDS for an Envoy; proxy nothing")
    add("--envoy-bootstrap", type=Path, metavar="FILE", help="with --agent: where to write Envoy's bootstrap")
    add("--admin", type=_host_port, metavar="HOST:PORT",
        help="admin interface (default: the bootstrap's, else 127.0.0.1:15000; port 0 for none)")  # fmt: skip
    add("--metrics-port", type=_port, default=names.PORT_METRICS, metavar="PORT", help="Prometheus (default 15090)")
    add("--readiness-port", type=_port, default=names.PORT_READINESS, metavar="PORT", help="probes (default 15021)")
    add("--status-port", type=_port, default=0, metavar="PORT",
        help="metrics, and the app's probes as PYMESH_APP_PROBES has them (15020 in a pod; default none)")  # fmt: skip
    add("--drain-time", type=float, default=5.0, metavar="SECONDS", help="longest shutdown after SIGTERM (default 5)")
    add("--log-level", default="info", choices=["debug", "info", "warning", "error"], help="(default info)")
    add("--token", type=Path, default=Path(names.TOKEN_PATH), metavar="FILE", help=argparse.SUPPRESS)
    add("--root-cert", type=Path, default=Path(names.ROOT_CERT_PATH), metavar="FILE", help=argparse.SUPPRESS)
    add("--sds-socket", type=Path, metavar="PATH", help="also serve SDS on this Unix socket")
    add("--filter", action="append", default=[], metavar="MODULE:CLASS",
        help="a filter in plain Python for every HTTP connection (docs/filters.md); may be repeated; also from "
        "PYMESH_FILTERS")  # fmt: skip
    add("--validate", action="store_true", help="check --config and exit")
    add("envoy", nargs="*", metavar="ENVOY ARG", help="with --agent, after `--`: the Envoy to run and supervise")
    return made


def parse(argv: list[str] | None = None) -> Options:
    """The options in `argv`; exits with a usage message where they make no sense together."""
    made = parser()
    args = made.parse_args(argv)
    if args.config and args.discovery:
        made.error("--config and --discovery exclude each other: a bootstrap names its own control plane")
    if args.gateway and not args.discovery:
        made.error("--gateway needs --discovery, the control plane that sends its listeners")
    if args.gateway and (args.listen is not None or args.inbound_listen is not None or args.agent):
        made.error("--gateway binds the listeners it is sent: leave out --listen, --inbound-listen and --agent")
    if args.agent and not args.discovery:
        made.error("--agent needs --discovery, the control plane that signs certificates")
    if args.envoy and not args.agent:
        made.error(f"unexpected arguments: {' '.join(args.envoy)}")
    if args.validate and not args.config:
        made.error("--validate checks a --config FILE")
    listen = args.listen
    if listen is None and not args.config and not args.gateway:
        listen = names.PORT_OUTBOUND
    return Options(
        listen=listen,
        inbound_listen=args.inbound_listen,
        config=args.config,
        discovery=args.discovery,
        gateway=args.gateway,
        agent=args.agent,
        envoy_bootstrap=args.envoy_bootstrap,
        envoy_command=tuple(args.envoy),
        admin=args.admin or ("127.0.0.1", names.PORT_ADMIN),
        admin_given=args.admin is not None,
        metrics_port=args.metrics_port,
        readiness_port=args.readiness_port,
        status_port=args.status_port,
        drain_seconds=args.drain_time,
        log_level=args.log_level,
        token_file=args.token,
        root_cert=args.root_cert,
        sds_socket=args.sds_socket,
        validate=args.validate,
        filters=(*os.environ.get("PYMESH_FILTERS", "").split(), *args.filter),
    )


def read_text(path: Path) -> str:
    """The text of a file named on the command line.

    Raises:
        MeshError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise MeshError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MeshError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _port(value: str) -> int:
    if not value.isdecimal() or int(value) > 65535:
        raise argparse.ArgumentTypeError(f"{value!r} is not a port (0 to 65535)")
    return int(value)


def _host_port(value: str) -> tuple[str, int]:
    host, colon, port = value.rpartition(":")
    if not colon or not host:
        raise argparse.ArgumentTypeError(f"{value!r} is not HOST:PORT")
    return host.strip("[]"), _port(port)
