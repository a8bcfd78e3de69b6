"""What is compared: the same two pods with more and more of the mesh at work, and what one turn of load tells."""

import json
from dataclasses import dataclass
from statistics import median
from typing import Final

BARE: Final = "bare"
FULL: Final = "full"

# Parts that no variant needs; `bare` has neither of the optional ones.
WITHOUT: Final = {FULL: "ingress,egress", BARE: "policy,telemetry,ingress,egress"}

_RULE: Final = """\
apiVersion: policy.pymesh.io/v1alpha1
kind: {kind}
metadata: {{name: bench, namespace: bench}}
spec:
  targetRefs: [{{kind: Service, name: server}}]
"""
SLOTS: Final = _RULE.format(kind="ConcurrencyLimit") + "  max: 1000\n"
ASKED: Final = _RULE.format(kind="RateLimit") + "  requests: 1000000\n  per: Second\n"


@dataclass(frozen=True, slots=True)
class Variant:
    """A way for the mesh to be. `mesh` is `bare` or `full`, `rules` is YAML that is in force meanwhile."""

    name: str
    summary: str
    mesh: str
    rules: str = ""


# The first is what the others are compared with.
VARIANTS: Final = (
    Variant("off", "no policy service, no collector", BARE),
    Variant("telemetry", "every request reported to the collector", FULL),
    Variant("slot", "the same, and a concurrency limit whose slots the sidecar holds", FULL, SLOTS),
    Variant("asked", "the same, and a rate limit that is asked about for every request", FULL, ASKED),
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One variant under load.

    Attributes:
        requests: answered with as many connections as keep the sidecars busy.
        cpu_us: microseconds of CPU per request, by whose they are: `client` and `server` for the two sidecars.
        p50_us, p99_us: of requests one after the other over one connection.
    """

    requests: int
    cpu_us: dict[str, float]
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw. Times in microseconds."""

    requests: int
    p50_us: float
    p99_us: float


def parse_load(output: str) -> Load:
    """What `report.lua` printed at the end of wrk's own report.

    Raises:
        ValueError: there is no such report, it has no requests, or some of them failed.
    """
    found = [line for line in output.splitlines() if line.startswith("{")]
    if len(found) != 1:
        raise ValueError(f"wrk gave no report: {output.strip()[-300:]}")
    report = json.loads(found[0])
    errors = {kind: count for kind, count in report["errors"].items() if count}
    if errors or not report["requests"]:
        raise ValueError(f"{report['requests']} requests, errors: {errors}")
    return Load(report["requests"], report["p50_us"], report["p99_us"])


def compared(turns: dict[str, list[Turn]], base: str, whose: str) -> dict[str, float]:
    """CPU per request of one sidecar next to `base`, the median of the ratios round by round; by variant."""
    return {
        name: median(one.cpu_us[whose] / other.cpu_us[whose] for one, other in zip(found, turns[base], strict=True))
        for name, found in turns.items()
    }


def added_latency(turns: dict[str, list[Turn]], base: str) -> dict[str, float]:
    """Microseconds that a request takes longer at p50 than in `base`: the median of the differences, by variant."""
    return {
        name: median(one.p50_us - other.p50_us for one, other in zip(found, turns[base], strict=True))
        for name, found in turns.items()
    }
