"""The control plane's metrics, as Prometheus reads them."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pymesh_controlplane.metrics import COUNTERS, GAUGES, Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """By name and labels, read back from the text."""
    registry = CollectorRegistry()
    registry.register(metrics)
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_names_are_istios() -> None:
    """Without _total, which its dashboards do not ask for."""
    metrics = Metrics()
    metrics.count("pilot_xds_pushes", "cds")
    metrics.count("pilot_xds_pushes", "cds", 2)
    metrics.count("citadel_server_csr_count")
    metrics.set("pilot_xds", 3)
    found = samples(metrics)
    assert found["pilot_xds_pushes", (("type", "cds"),)] == 3
    assert found["citadel_server_csr_count", ()] == 1
    assert found["pilot_total_xds_rejects", ()] == 0
    assert found["pilot_xds", ()] == 3


def test_convergence_is_a_histogram() -> None:
    """Cumulative, as Prometheus wants it; a value on a bound belongs to it."""
    metrics = Metrics()
    for seconds in (0.05, 0.1, 0.2, 100.0):
        metrics.converged(seconds)
    found = samples(metrics)
    name = "pilot_proxy_convergence_time_bucket"
    bounds = [found[name, (("le", bound),)] for bound in ("0.1", "0.5", "30.0", "+Inf")]
    assert bounds == [2, 3, 3, 4]
    assert found["pilot_proxy_convergence_time_count", ()] == 4
    assert found["pilot_proxy_convergence_time_sum", ()] == 100.35


def test_every_metric_is_explained() -> None:
    """One sentence each."""
    assert all(text.endswith(".") for _, text in COUNTERS.values())
    assert all(text.endswith(".") for text in GAUGES.values())
