"""The command line of `pymesh-controlplane`, as data."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pymesh import names

# What exists now; more join as they are written. galley checks what pilot's source reads, so it comes with it.
COMPONENTS: Final = ("pilot", "citadel")

_EPILOG: Final = """\
ports:
  15010  xDS in plaintext (gRPC: ADS, state of the world and delta)
  15012  xDS and certificates over TLS (gRPC); the caller shows a token or a certificate of this mesh.
         Served where citadel runs, since the port's own certificate is citadel's
  15014  HTTP: /ready, /metrics, /debug/syncz, /debug/configz, /debug/registryz, /debug/connections

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
    ca_dir: Path | None
    jwks: Path | None
    trust_domain: str
    listen: str
    xds_port: int
    tls_port: int
    http_port: int
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
    needed = {"pilot": ("--config-dir",), "citadel": ("--ca-dir", "--jwks")}
    for component in sorted(given.components):
        for flag in needed[component]:
            if getattr(given, flag.strip("-").replace("-", "_")) is None:
                parser.error(f"{component} needs {flag}; see --help")
    if given.root_cert_out is not None and "citadel" not in given.components:
        parser.error("--root-cert-out is citadel's to write, and --components leaves citadel out")
    return Options(**vars(given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pymesh-controlplane",
        description="The control plane of pymesh: tells the sidecars where to send traffic (pilot) and who they are "
        "(citadel).",
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
    files.add_argument("--config-dir", metavar="DIR", type=Path, help="folder of YAML that pilot watches")
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
    ):
        mesh.add_argument(flag, metavar="PORT", type=_port, default=port, help=f"{what} (default: %(default)s)")
    logs = parser.add_argument_group("logs")
    logs.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    logs.add_argument("--log-format", choices=("text", "json"), default="text")
    return parser


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
