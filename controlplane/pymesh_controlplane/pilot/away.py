"""Which of the mesh's own services are away although something relies on them, and what that means meanwhile. Pure."""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from pymesh import names
from pymesh.resources.policy import Check, ConcurrencyLimit, RateLimit
from pymesh.resources.resource import Key, holds
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.reporting import COLLECTOR

POLICY: Final = "policy"
# Rules that are named; of more it is said how many.
MAX_NAMED: Final = 5
# What sidecars do by a rule that they can ask nobody about; docs/policy.md has it at length.
_MEANWHILE: Final = {
    "Open": "let everything in",
    "Closed": "answer 503",
    "LastDecision": "go by the last decision",
}


class Away(NamedTuple):
    """A service that is away.

    Attributes:
        service: as in `policy.pymesh-system`.
        why: what pilot knows of it.
        means: what proxies do without it.
        remedy: what a person can do.
    """

    service: str
    why: str
    means: str
    remedy: str


def away(world: World) -> Iterator[Away]:
    """The services that are away."""
    if rules := list(_rules(world)):
        yield from _if_away(POLICY, world, "; ".join(_without_policy(rules)))
    if names.service_host(COLLECTOR, world.root_namespace) in world.services:  # else nobody reports to it
        lost = (
            "what proxies report waits, and is dropped when 2 MiB are full; pymesh requests, journey and graph lack it"
        )
        yield from _if_away(COLLECTOR, world, lost)


def still_away(before: Mapping[Away, float], world: World, now: float) -> dict[Away, float]:
    """The services that are away at `now`, and since when, if they were among those of `before` already."""
    since = {item.service: at for item, at in before.items()}
    return {item: since.get(item.service, now) for item in away(world)}


def _if_away(name: str, world: World, means: str) -> Iterator[Away]:
    host, place = names.service_host(name, world.root_namespace), f"-n {world.root_namespace}"
    see = f"pymesh ps {place} and pymesh logs {name} {place} say more; in a cluster kubectl {place} get pods"
    if host not in world.services:
        start = f"pymesh up starts it unless --without leaves it out; in a cluster pymesh install --only {name}"
        yield Away(f"{name}.{world.root_namespace}", "there is no such Service", means, start)
    elif not world.endpoints.get((host, names.PORT_MESH_GRPC)):
        yield Away(f"{name}.{world.root_namespace}", "none of its pods is ready", means, see)


def _rules(world: World) -> Iterator[tuple[Key, str]]:
    """The rules that the policy service answers for, and what is done without it."""
    for resource in world.resources.values():
        if holds(resource, RateLimit) or holds(resource, ConcurrencyLimit) or holds(resource, Check):
            spec = resource.value.spec
            mode = f"LastDecision, else {spec.otherwise}" if spec.failure_mode == "LastDecision" else spec.failure_mode
            yield resource.key, "dryRun" if spec.dry_run else mode


def _without_policy(rules: list[tuple[Key, str]]) -> Iterator[str]:
    for mode in sorted({mode for _, mode in rules}):
        keys = [str(key) for key, own in rules if own == mode]
        more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
        done = _MEANWHILE.get(mode.partition(",")[0], "refuse nobody")
        yield f"by {', '.join(keys[:MAX_NAMED])}{more} sidecars {done} ({mode})"
