"""The command line of `pymesh-controlplane`, as data."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pymesh import names

# galley checks what the source of pilot and policy reads, so it comes with them.
COMPONENTS: Final = ("pilot", "citadel", "policy", "telemetry")
# Those that serve sidecars on the mesh port, and need a certificate for it.
ON_MESH_PORT: Final = frozenset({"policy", "telemetry"})
# The account of a control plane that runs as one process; as `pymesh up` and the manifests name it.
ACCOUNT: Final = f"{names.SYSTEM_NAMESPACE}/pymesh-controlplane"

_EPILOG: Final = """\
ports:
  15010  xDS in plaintext (gRPC: ADS, state of the world and delta)
  15012  xDS and certificates over TLS (gRPC); the caller shows a token or a certificate of this mesh.
         Served where citadel runs, since the port's own certificate is citadel's
  9091   policy and telemetry over mutual TLS (gRPC); the caller shows a certificate of this mesh.
         Opened when citadel has given this process its own
  15014  HTTP: /ready, /metrics, /debug/syncz, /debug/configz, /debug/registryz, /debug/connections, /policy

A port of 0 takes a free one; the line "serving" in the log says which.

exit status:
  0  ended by SIGTERM or SIGINT
  1  could not start or go on; the one line on standard error says why
  2  the command line is wrong
"""


@dataclass(frozen=True, slots=True)
class Options:
    """What the control plane was asked to be. Ports are TCP ports, 0 for any free one."""

    components: frozenset[str]
    config_dir: Path | None
    state_dir: Path | None
    ca_dir: Path | None
    jwks: Path | None
    trust_domain: str
    listen: str
    xds_port: int
    tls_port: int
    http_port: int
    mesh_port: int
    citadel: str
    token: Path
    root_cert: Path
    account: str
    root_cert_out: Path | None
    log_level: str
    log_format: str


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Options from `arguments`, by default the process's own.

    Raises:
        SystemExit: 0 after `--help`, 2 with one sentence on standard error if they make no sense.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    needed = {"pilot": ("--config-dir",), "citadel": ("--ca-dir", "--jwks"), "policy": ("--config-dir",)}
    for component in sorted(given.components):
        for flag in needed.get(component, ()):
            if getattr(given, flag.strip("-").replace("-", "_")) is None:
                parser.error(f"{component} needs {flag}; see --help")
    if given.root_cert_out is not None and "citadel" not in given.components:
        parser.error("--root-cert-out is citadel's to write, and --components leaves citadel out")
    return Options(**vars(given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pymesh-controlplane",
        description="The control plane of pymesh: tells the sidecars where to send traffic (pilot) and who they are "
        "(citadel), how much they may let in (policy), and gathers what they report (telemetry).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--components",
        metavar="A,B",
        type=_components,
        default=frozenset(COMPONENTS),
        help=f"which parts run here (default: {','.join(COMPONENTS)})",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--config-dir", metavar="DIR", type=Path, help="folder of YAML that pilot and policy watch")
    files.add_argument(
        "--state-dir",
        metavar="DIR",
        type=Path,
        help="folder of this process's own, mode 0700: the last good version of what is in --config-dir is kept in it, "
        "so that it holds over a restart; by default it does not",
    )
    files.add_argument(
        "--ca-dir",
        metavar="DIR",
        type=Path,
        help="citadel's folder, mode 0700: ca-cert.pem, ca-key.pem, root-cert.pem and cert-chain.pem if you bring "
        "your own CA; empty or absent, and citadel makes one there",
    )
    files.add_argument("--jwks", metavar="FILE", type=Path, help="public keys that sign the workloads' tokens (JWKS)")
    files.add_argument(
        "--root-cert-out", metavar="FILE", type=Path, help="write the mesh's root certificate here, for pods to mount"
    )
    mesh = parser.add_argument_group("mesh")
    mesh.add_argument(
        "--trust-domain", metavar="NAME", default=names.TRUST_DOMAIN, help="of every identity (default: %(default)s)"
    )
    mesh.add_argument("--listen", metavar="ADDR", default="0.0.0.0", help="address to bind (default: %(default)s)")  # noqa: S104  a server's default
    for flag, port, what in (
        ("--xds-port", names.PORT_XDS_PLAINTEXT, "xDS in plaintext"),
        ("--tls-port", names.PORT_XDS_TLS, "xDS and certificates over TLS"),
        ("--http-port", names.PORT_PILOT_HTTP, "HTTP: readiness, metrics, debugging"),
        ("--mesh-port", names.PORT_MESH_GRPC, "policy and telemetry, for sidecars"),
    ):
        mesh.add_argument(flag, metavar="PORT", type=_port, default=port, help=f"{what} (default: %(default)s)")
    _add_identity(parser.add_argument_group("identity of policy and telemetry"))
    logs = parser.add_argument_group("logs")
    logs.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    logs.add_argument("--log-format", choices=("text", "json"), default="text")
    return parser


def _add_identity(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--citadel",
        metavar="HOST:PORT",
        default=f"pilot.{names.SYSTEM_NAMESPACE}.svc:{names.PORT_XDS_TLS}",
        help="who signs their certificate, if citadel does not run here (default: %(default)s)",
    )
    group.add_argument(
        "--token", metavar="FILE", type=Path, default=Path(names.TOKEN_PATH), help="shown to it (default: %(default)s)"
    )
    group.add_argument(
        "--root-cert",
        metavar="FILE",
        type=Path,
        default=Path(names.ROOT_CERT_PATH),
        help="what its certificate, and the callers', are held against (default: %(default)s)",
    )
    group.add_argument(
        "--account",
        metavar="NS/NAME",
        type=_account,
        default=ACCOUNT,
        help="service account of this process, if citadel runs here (default: %(default)s)",
    )


def _account(text: str) -> str:
    namespace, _, name = text.partition("/")
    if not namespace or not name or "/" in name:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAMESPACE/NAME")
    return text


def _components(text: str) -> frozenset[str]:
    wanted = frozenset(part.strip() for part in text.split(",") if part.strip())
    unknown = sorted(wanted.difference(COMPONENTS))
    if unknown or not wanted:
        raise argparse.ArgumentTypeError(
            f"{', '.join(unknown) or 'an empty list'}: no such component; there are {', '.join(COMPONENTS)}"
        )
    return wanted


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)
