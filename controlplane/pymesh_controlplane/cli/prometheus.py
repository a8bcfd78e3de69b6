"""`pymesh prometheus`: a configuration by which Prometheus scrapes a mesh, made from the pods that there are."""

import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import typer
import yaml

from pymesh.errors import printable
from pymesh_controlplane.cli import target
from pymesh_controlplane.injector import scraping

# Prometheus' own default is a minute; Istio's samples and its dashboards' rates over five minutes go with this one.
INTERVAL: Final = "15s"

_Interval = Annotated[str, typer.Option(help="How often to scrape, as in 15s.")]

Object = Mapping[str, Any]


def prometheus(
    mesh: target.MeshName = "",
    context: target.Context = "",
    kubeconfig: target.Kubeconfig = "",
    interval: _Interval = INTERVAL,
) -> None:
    """Print a configuration by which Prometheus scrapes the mesh: every pod that asks for it, by its annotations.

    Of a mesh of this machine, whose pods are reached inside its network only:
    ip netns exec pymesh-MESH-mesh prometheus --config.file=FILE. In a cluster, for a Prometheus that runs in it and
    does not find pods by itself (one that does needs no more than their annotations).
    """
    with target.opened(mesh, context, kubeconfig) as found:
        objects = found.objects({"Pod"})
    sys.stdout.write(yaml.dump(configuration(objects, interval), Dumper=yaml.CSafeDumper, sort_keys=False))


def configuration(objects: Iterable[Object], interval: str = INTERVAL) -> dict[str, Any]:
    """The configuration for the Pods among `objects`, as Kubernetes has them. Pure.

    A pod asks by `prometheus.io/scrape`, `port` and `path`, as Prometheus' usual configuration for Kubernetes reads
    them; the injector writes them. The mesh's own pods are a job of their own, from which the collector's `istio_*` are
    left out: these are the proxies' once more, and would count every request twice.
    """
    jobs: dict[tuple[bool, str], list[dict[str, Any]]] = {}
    for pod in objects:
        annotations = pod["metadata"].get("annotations") or {}
        address = (pod.get("status") or {}).get("podIP")
        if pod["kind"] != "Pod" or not address or annotations.get(scraping.SCRAPE) != "true":
            continue
        path = annotations.get(scraping.PATH, "/metrics")
        own = annotations == {**annotations, **scraping.of_control_plane()}
        target = {
            "targets": [f"{address}:{annotations.get(scraping.PORT, '80')}"],
            "labels": {
                "namespace": pod["metadata"].get("namespace", "default"),
                "pod": pod["metadata"]["name"],
                **({"app": app} if (app := (pod["metadata"].get("labels") or {}).get("app")) else {}),
            },
        }
        jobs.setdefault((own, path), []).append(target)
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval},
        "scrape_configs": [_job(own, path, targets) for (own, path), targets in sorted(jobs.items())],
    }


def _job(own: bool, path: str, targets: list[dict[str, Any]]) -> dict[str, Any]:
    job: dict[str, Any] = {
        "job_name": "pymesh" if own else "pods" if path == scraping.PROXY_PATH else f"pods {printable(path)}",
        "metrics_path": path,
        "static_configs": targets,
    }
    if own:
        job["metric_relabel_configs"] = [{"source_labels": ["__name__"], "regex": "istio_.*", "action": "drop"}]
    return job
