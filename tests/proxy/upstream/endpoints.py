"""Endpoints of one cluster, for tests."""

from collections.abc import Iterable

from pymesh_proxy.upstream.endpoint import Endpoint, Health, Membership


def endpoints(*weights: int) -> list[Endpoint]:
    """One for each weight: 10.0.0.0:80, 10.0.0.1:80 ..."""
    membership = Membership()
    return [
        Endpoint(f"10.0.0.{number}", 80, weight=weight, membership=membership) for number, weight in enumerate(weights)
    ]


def fail(*them: Endpoint) -> None:
    """Let them be unhealthy."""
    _mark(them, Health.FAILED_EDS_HEALTH, on=True)


def heal(*them: Endpoint) -> None:
    """Let them be healthy again."""
    _mark(them, Health.FAILED_EDS_HEALTH, on=False)


def degrade(*them: Endpoint) -> None:
    """Let them be degraded."""
    _mark(them, Health.DEGRADED_EDS_HEALTH, on=True)


def _mark(them: Iterable[Endpoint], flag: Health, *, on: bool) -> None:
    for endpoint in them:
        endpoint.mark(flag, on=on)
