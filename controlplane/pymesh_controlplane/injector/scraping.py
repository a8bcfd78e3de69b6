"""How Prometheus is told what to scrape: the annotations that its usual configurations look for. Pure.

Source: https://istio.io/latest/docs/ops/integrations/prometheus/#option-1-metrics-merging (the annotations' names).
"""

from collections.abc import MutableMapping
from typing import Final

from pymesh import names

SCRAPE: Final = "prometheus.io/scrape"
PORT: Final = "prometheus.io/port"
PATH: Final = "prometheus.io/path"

PROXY_PATH: Final = "/stats/prometheus"
CONTROL_PLANE_PATH: Final = "/metrics"


def of_proxy() -> dict[str, str]:
    """The annotations of a pod whose proxy is to be scraped."""
    return {SCRAPE: "true", PORT: str(names.PORT_METRICS), PATH: PROXY_PATH}


def of_control_plane() -> dict[str, str]:
    """The annotations of a pod of the control plane."""
    return {SCRAPE: "true", PORT: str(names.PORT_PILOT_HTTP), PATH: CONTROL_PLANE_PATH}


def announce(annotations: MutableMapping[str, str]) -> None:
    """Have the proxy beside an app scraped, unless the pod says itself what is to be scraped of it, or that nothing is.

    There is one place for each annotation, and the app was there first. Its proxy can then still be found by the name
    of its port, `http-envoy-prom`.
    """
    if not annotations.keys() & {SCRAPE, PORT, PATH}:
        annotations.update(of_proxy())
