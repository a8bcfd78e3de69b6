"""Pods → the configuration of a Prometheus, judged by Prometheus' own promtool."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from pymesh_controlplane.cli.prometheus import configuration
from pymesh_controlplane.injector import scraping


def pod(name: str, annotations: dict[str, str], address: str = "10.244.0.7", **metadata: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "annotations": annotations, **metadata},
        "status": {"podIP": address},
    }


def test_every_pod_that_asks_for_it_is_scraped_where_it_says(tmp_path: Path) -> None:
    own = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080", "prometheus.io/path": "/app-metrics"}
    found = configuration(
        [
            pod("cart-0", scraping.of_proxy(), labels={"app": "cart"}),
            pod("db-0", own, "10.244.0.8"),
            pod("telemetry", scraping.of_control_plane(), "10.244.0.2"),
            pod("shy-0", {"prometheus.io/scrape": "false"}, "10.244.0.9"),
            pod("plain-0", {}),
            pod("starting-0", scraping.of_proxy(), ""),
            {"kind": "Service", "metadata": {"name": "cart", "annotations": scraping.of_proxy()}},
        ]
    )
    jobs = {job["job_name"]: job for job in found["scrape_configs"]}
    assert {
        name: (job["metrics_path"], [target["targets"] for target in job["static_configs"]])
        for name, job in jobs.items()
    } == {
        "pods": ("/stats/prometheus", [["10.244.0.7:15090"]]),
        "pods /app-metrics": ("/app-metrics", [["10.244.0.8:8080"]]),
        "pymesh": ("/metrics", [["10.244.0.2:15014"]]),
    }
    assert jobs["pods"]["static_configs"][0]["labels"] == {"namespace": "shop", "pod": "cart-0", "app": "cart"}
    # The collector's are the proxies' once more.
    assert [config["regex"] for config in jobs["pymesh"]["metric_relabel_configs"]] == ["istio_.*"]
    assert "metric_relabel_configs" not in jobs["pods"]
    check(found, tmp_path)


def test_a_mesh_without_pods(tmp_path: Path) -> None:
    check(configuration([], "5s"), tmp_path)


def check(found: dict[str, Any], directory: Path) -> None:
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(found))
    done = subprocess.run(["promtool", "check", "config", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
