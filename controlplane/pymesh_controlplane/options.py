"""The command line of `pymesh-controlplane`, as data."""

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pymesh import names

# As components, galley and injector are the webhooks that a cluster's API server asks. What galley knows comes with
# every source: it judges what pilot and policy read, here as there.
COMPONENTS: Final = ("pilot", "citadel", "galley", "injector", "policy", "telemetry")
# Those that only a Kubernetes API server can ask, under names of which citadel has the certificate.
WEBHOOKS: Final = frozenset({"galley", "injector"})
# Those of a mesh on one machine.
LOCAL_COMPONENTS: Final = tuple(name for name in COMPONENTS if name not in WEBHOOKS)
# Those that serve sidecars on the mesh port, and need a certificate for it.
ON_MESH_PORT: Final = frozenset({"policy", "telemetry"})
# The account of a control plane that runs as one process; as `pymesh up` and the manifests name it.
ACCOUNT: Final = f"{names.SYSTEM_NAMESPACE}/pymesh-controlplane"

_EPILOG: Final = """\
on one machine (pymesh up runs it so):
  pymesh-controlplane --config-dir DIR --ca-dir DIR --jwks FILE

in a cluster (pymesh install runs it so; deploy/ has the manifests):
  pymesh-controlplane --kubernetes --components pilot,citadel,galley,injector
  pymesh-controlplane --kubernetes --components policy
  pymesh-controlplane --kubernetes --components telemetry
  Services, Pods and the mesh kinds are read from the Kubernetes API, tokens are put before its TokenReview, the CA is
  in the Secret cacerts (your own: ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem) or pymesh-ca (made once).
  Run as many replicas as you like of the first: the one that holds the Lease pymesh-controlplane writes back the root
  of the mesh to every namespace, the webhooks' caBundle, missing CRDs of Istio, and what galley says of each resource.
  The policy service is one replica, since what was spent is in its memory, unless --store (or --store-from) names a
  Redis.

ports:
  15010  xDS in plaintext (gRPC: ADS, state of the world and delta); in a cluster on 127.0.0.1 only
  15012  xDS and certificates over TLS (gRPC); the caller shows a token, or for xDS a certificate of this mesh.
         Served where citadel runs, since the port's own certificate is citadel's
  15017  webhooks over TLS, in a cluster: /inject and /validate
  9091   policy and telemetry over mutual TLS (gRPC); the caller shows a certificate of this mesh.
         Opened when citadel has given this process its own
  15014  HTTP: /ready, /metrics, /debug/syncz, /debug/configz, /debug/registryz, /debug/connections, /policy

A port of 0 takes a free one; the line "serving" in the log says which. /ready says what is being waited for.

environment, in a cluster:
  POD_NAMESPACE, POD_NAME  of this pod: where Lease and CA are, and who holds the Lease
  PROXY_IMAGE              if --proxy-image is not given
  POLICY_STORE             if --store is not given

exit status:
  0  ended by SIGTERM or SIGINT
  1  could not start or go on; the one line on standard error says why
  2  the command line is wrong
"""


_ONE_MACHINE_ONLY: Final = {
    "--config-dir": "the Kubernetes API is the source",
    "--state-dir": "the Kubernetes API is the store",
    "--ca-dir": "the CA is in the Secret cacerts or pymesh-ca",
    "--jwks": "the Kubernetes API checks tokens",
    "--root-cert-out": "the root is written to a ConfigMap in every namespace",
    "--known-pods-only": "the Kubernetes API knows its pods",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What the control plane was asked to be. Ports are TCP ports, 0 for any free one.

    Attributes:
        kubernetes: the Kubernetes API is the source and the store; it is reached by `kubeconfig`, or as pods reach it.
        namespace, pod_name: of this process; of use in a cluster only.
    """

    components: frozenset[str]
    kubernetes: bool
    kubeconfig: Path | None
    proxy_image: str
    cluster_id: str
    namespace: str
    pod_name: str
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
    webhook_port: int
    citadel: str
    token: Path
    root_cert: Path
    account: str
    root_cert_out: Path | None
    known_pods_only: bool | None
    store: str
    store_password_file: Path | None
    store_ca: Path | None
    store_from: Path | None
    log_level: str
    log_format: str


def parse(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> Options:
    """Options from `arguments` and `environment`, by default the process's own.

    Raises:
        SystemExit: 0 after `--help`, 2 with one sentence on standard error if they make no sense.
    """
    parser = _parser(environment)
    given = parser.parse_args(arguments)
    if given.components is None:
        given.components = frozenset(COMPONENTS if given.kubernetes else LOCAL_COMPONENTS)
    if given.store_from is not None and (given.store or given.store_password_file or given.store_ca):
        parser.error("--store-from and the other options of the store exclude each other: either says which it is")
    if problem := _in_cluster(given) if given.kubernetes else _on_one_machine(given):
        parser.error(problem)
    return Options(
        **vars(given),
        namespace=environment.get("POD_NAMESPACE") or names.SYSTEM_NAMESPACE,
        pod_name=environment.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}",
    )


def _in_cluster(given: argparse.Namespace) -> str:
    """What makes no sense with --kubernetes; "" if nothing does."""
    for flag, instead in _ONE_MACHINE_ONLY.items():
        if _value(given, flag) is not None:
            return f"{flag} and --kubernetes exclude each other: {instead}"
    if (webhooks := sorted(WEBHOOKS & given.components)) and "citadel" not in given.components:
        return f"{webhooks[0]} shows a certificate of citadel in the same process: add citadel to --components"
    if "injector" in given.components and not given.proxy_image:
        return "injector needs --proxy-image, or PROXY_IMAGE in the environment"
    return ""


def _on_one_machine(given: argparse.Namespace) -> str:
    """What makes no sense without --kubernetes; "" if nothing does."""
    if webhooks := sorted(WEBHOOKS & given.components):
        return f"{webhooks[0]} is a webhook of a Kubernetes API server: it needs --kubernetes"
    if given.kubeconfig is not None:
        return "--kubeconfig says how to reach a cluster: it needs --kubernetes"
    needed = {"pilot": ("--config-dir",), "citadel": ("--ca-dir", "--jwks"), "policy": ("--config-dir",)}
    for component in sorted(given.components):
        for flag in needed.get(component, ()):
            if _value(given, flag) is None:
                return f"{component} needs {flag}, or --kubernetes; see --help"
    if given.root_cert_out is not None and "citadel" not in given.components:
        return "--root-cert-out is citadel's to write, and --components leaves citadel out"
    if given.known_pods_only and not {"citadel", "pilot"} <= given.components:
        return "--known-pods-only is for citadel, and pilot knows the pods: --components leaves out one of them"
    return ""


def _value(given: argparse.Namespace, flag: str) -> object:
    return getattr(given, flag.strip("-").replace("-", "_"))


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pymesh-controlplane",
        description="The control plane of pymesh: tells the sidecars where to send traffic (pilot) and who they are "
        "(citadel), how much they may let in (policy), and gathers what they report (telemetry). In a Kubernetes "
        "cluster it also puts the sidecars into pods (injector) and refuses what is wrong (galley).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--components",
        metavar="A,B",
        type=_components,
        help=f"which parts run here (default: {','.join(LOCAL_COMPONENTS)}; "
        f"with --kubernetes {','.join(sorted(WEBHOOKS))} too)",
    )
    _add_kubernetes(parser.add_argument_group("kubernetes"), environment)
    _add_files(parser.add_argument_group("files, on one machine"))
    _add_mesh(parser.add_argument_group("mesh"))
    _add_identity(parser.add_argument_group("identity of policy and telemetry"))
    _add_store(parser.add_argument_group("store of policy"), environment)
    logs = parser.add_argument_group("logs")
    logs.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    logs.add_argument("--log-format", choices=("text", "json"), default="text")
    return parser


def _add_kubernetes(group: argparse._ArgumentGroup, environment: Mapping[str, str]) -> None:
    group.add_argument(
        "--kubernetes", action="store_true", help="the Kubernetes API is the source and the store, instead of files"
    )
    group.add_argument(
        "--kubeconfig", metavar="FILE", type=Path, help="how to reach it; by default as every pod does, by its account"
    )
    group.add_argument(
        "--proxy-image",
        metavar="IMAGE",
        default=environment.get("PROXY_IMAGE", ""),
        help="of the sidecars that injector puts into pods (default: PROXY_IMAGE of the environment)",
    )
    group.add_argument(
        "--cluster-id", metavar="NAME", default=names.CLUSTER_ID, help="of this cluster (default: %(default)s)"
    )


def _add_files(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--config-dir", metavar="DIR", type=Path, help="folder of YAML that pilot and policy watch")
    group.add_argument(
        "--state-dir",
        metavar="DIR",
        type=Path,
        help="folder of this process's own, mode 0700: the last good version of what is in --config-dir is kept in it, "
        "so that it holds over a restart; by default it does not",
    )
    group.add_argument(
        "--ca-dir",
        metavar="DIR",
        type=Path,
        help="citadel's folder, mode 0700: ca-cert.pem, ca-key.pem, root-cert.pem and cert-chain.pem if you bring "
        "your own CA; empty or absent, and citadel makes one there",
    )
    group.add_argument("--jwks", metavar="FILE", type=Path, help="public keys that sign the workloads' tokens (JWKS)")
    group.add_argument(
        "--root-cert-out", metavar="FILE", type=Path, help="write the mesh's root certificate here, for pods to mount"
    )
    group.add_argument(
        "--known-pods-only",
        action="store_true",
        default=None,
        help="refuse tokens of pods that are not, or not any more, among the Pods in --config-dir; by default a token "
        "holds until it expires",
    )


def _add_mesh(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--trust-domain", metavar="NAME", default=names.TRUST_DOMAIN, help="of every identity (default: %(default)s)"
    )
    group.add_argument("--listen", metavar="ADDR", default="0.0.0.0", help="address to bind (default: %(default)s)")  # noqa: S104  a server's default
    for flag, port, what in (
        ("--xds-port", names.PORT_XDS_PLAINTEXT, "xDS in plaintext"),
        ("--tls-port", names.PORT_XDS_TLS, "xDS and certificates over TLS"),
        ("--http-port", names.PORT_PILOT_HTTP, "HTTP: readiness, metrics, debugging"),
        ("--mesh-port", names.PORT_MESH_GRPC, "policy and telemetry, for sidecars"),
        ("--webhook-port", names.PORT_WEBHOOK, "galley and injector, for the API server"),
    ):
        group.add_argument(flag, metavar="PORT", type=_port, default=port, help=f"{what} (default: %(default)s)")


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


def _add_store(group: argparse._ArgumentGroup, environment: Mapping[str, str]) -> None:
    group.add_argument(
        "--store",
        metavar="URL",
        default=environment.get("POLICY_STORE", ""),
        help="Redis in which replicas of the policy service share counts: redis://HOST:PORT/DB, rediss:// over TLS "
        "(default: POLICY_STORE of the environment; without one, counts are in memory and there is one replica)",
    )
    group.add_argument("--store-password-file", metavar="FILE", type=Path, help="holds the password, and nothing else")
    group.add_argument(
        "--store-ca", metavar="FILE", type=Path, help="roots of the store's certificate (default: the system's)"
    )
    group.add_argument(
        "--store-from",
        metavar="DIR",
        type=Path,
        help="a mounted Secret that says all of this: files url, password and ca.crt; no store if it is not there",
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
