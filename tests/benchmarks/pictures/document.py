"""A run's document, as small as pictures need it."""

from typing import Any

from benchmarks.load.histogram import Histogram

MS = 1_000_000


def ratio(median: float) -> dict[str, Any]:
    return {"rounds": [median], "median": median, "least": median - 0.1, "most": median + 0.1}


def document() -> dict[str, Any]:
    answers = Histogram(range(MS, 101 * MS, MS // 10))
    return {
        "scenarios": {
            "h1-plain": {
                "unit": "request",
                "proxies": {
                    "pymesh": {"figures": {"cpu_us_per_request": {}}, "errors": 0, "latencies": answers.document()},
                    "envoy": {"figures": {"cpu_us_per_request": {}}, "errors": 0, "latencies": answers.document()},
                    "nginx": {"figures": {"cpu_us_per_request": {}}, "errors": 2, "latencies": answers.document()},
                },
                "ratios_to_envoy": {
                    "pymesh": {"cpu_us_per_request": ratio(0.6), "p99_ms": ratio(1.5), "rss_idle_bytes": ratio(0.8)},
                    "nginx": {"cpu_us_per_request": ratio(0.3)},
                },
                "goals": [
                    {"figure": "cpu_us_per_request", "against": "mitmproxy", "target": 0.2},
                    {"figure": "cpu_us_per_request", "against": "envoy", "target": 0.6},
                ],
            },
            "idle": {
                "unit": "connection",
                "proxies": {"pymesh": {"figures": {}, "errors": 0, "latencies": None}},
                "ratios_to_envoy": {"pymesh": {"rss_idle_bytes": ratio(0.7), "rss_loaded_bytes": ratio(0.5)}},
                "goals": [{"figure": "rss_loaded_bytes", "against": "envoy", "target": 0.6}],
            },
            "bulk": {
                "unit": "GB",
                "proxies": {"pymesh": {"figures": {"cpu_s_per_gb": {}}, "errors": 3, "latencies": None}},
                "ratios_to_envoy": {},
                "goals": [],
            },
        }
    }
