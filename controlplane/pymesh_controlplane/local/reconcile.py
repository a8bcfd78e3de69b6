"""What is missing between the pods that are wanted and those that there are. Pure: it decides, others act.

Source: Kubernetes, "Deployments" (maxSurge rounds up, maxUnavailable down; with both zero, one may be unavailable).
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pymesh_controlplane.local.podspec import Strategy

# Kubernetes' alphabet for names that it makes up: without vowels, so without words.
_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"

PodId = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A set of equal pods: a Deployment, or a single Pod (with `pod_name`).

    `template_hash` is what tells pods of the present template from older ones.
    """

    namespace: str
    name: str
    replicas: int
    template_hash: str
    strategy: Strategy
    pod_name: str = ""


@dataclass(frozen=True, slots=True)
class Existing:
    """A pod that there is; `owner` is the Deployment's or the Pod's own name."""

    namespace: str
    name: str
    owner: str
    template_hash: str
    ready: bool
    terminating: bool


@dataclass(frozen=True, slots=True)
class Create:
    """Make a pod of the present template of (namespace, owner)."""

    namespace: str
    owner: str
    name: str


@dataclass(frozen=True, slots=True)
class Delete:
    """End a pod and take it away."""

    namespace: str
    name: str


Action = Create | Delete


def template_hash(*parts: Mapping[str, Any] | str) -> str:
    """Ten characters that change when a pod template, or what else its pods are made of, changes."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return _letters(hashlib.sha256(text.encode()).digest(), 10)


def pod_name(deployment: str, template: str, ordinal: int) -> str:
    """Name of the pod number `ordinal` of a template: the same in every mesh that is given the same manifests."""
    digest = hashlib.sha256(f"{deployment}/{template}/{ordinal}".encode()).digest()
    return f"{deployment}-{_letters(digest, 5)}"


def _letters(digest: bytes, count: int) -> str:
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:count])


def plan(wanted: Iterable[Wanted], existing: Sequence[Existing]) -> list[Action]:
    """The next steps. Called again after every change: what has to wait for something is then planned.

    A pod's name is free again only when the pod is gone, so a Create never meets a pod that is still ending.
    """
    actions: list[Action] = []
    by_owner: dict[PodId, list[Existing]] = {}
    for pod in existing:
        by_owner.setdefault((pod.namespace, pod.owner), []).append(pod)
    for owner in wanted:
        actions += _plan_one(owner, by_owner.pop((owner.namespace, owner.name), []))
    orphans = (pod for pods in by_owner.values() for pod in pods if not pod.terminating)
    return actions + [Delete(pod.namespace, pod.name) for pod in orphans]


def _plan_one(owner: Wanted, pods: Sequence[Existing]) -> list[Action]:
    alive = [pod for pod in pods if not pod.terminating]
    new = [pod for pod in alive if pod.template_hash == owner.template_hash]
    old = [pod for pod in alive if pod.template_hash != owner.template_hash]
    surge, unavailable = _tolerance(owner)
    if owner.pod_name or owner.strategy.type == "Recreate":
        # All of the old are gone before the first of the new is made.
        missing = 0 if len(pods) > len(new) else owner.replicas - len(new)
        leaving = old
    else:
        missing = min(owner.replicas - len(new), owner.replicas + surge - len(alive))
        # What is not ready serves nobody: it goes first, and its going is never too much.
        broken = [pod for pod in old if not pod.ready]
        ready = sum(pod.ready for pod in alive)
        spare = max(0, ready - (owner.replicas - unavailable))
        leaving = broken + [pod for pod in old if pod.ready][:spare]
    surplus = sorted(new, key=lambda pod: (pod.ready, pod.name))[: max(0, len(new) - owner.replicas)]
    actions: list[Action] = [Delete(owner.namespace, pod.name) for pod in (*leaving, *surplus)]
    return actions + _creates(owner, missing, {pod.name for pod in pods})


def _creates(owner: Wanted, count: int, taken: set[str]) -> list[Action]:
    result: list[Action] = []
    ordinal = 0
    while len(result) < count:
        name = owner.pod_name or pod_name(owner.name, owner.template_hash, ordinal)
        if name not in taken:
            result.append(Create(owner.namespace, owner.name, name))
        elif owner.pod_name:
            break
        ordinal += 1
    return result


def _tolerance(owner: Wanted) -> tuple[int, int]:
    """How many pods more, and how many ready ones fewer, than wanted there may be meanwhile."""
    rolling = owner.strategy.rolling_update
    surge = _share(rolling.max_surge, owner.replicas, math.ceil)
    unavailable = _share(rolling.max_unavailable, owner.replicas, math.floor)
    return surge, unavailable if surge or unavailable else 1


def _share(value: int | str, replicas: int, rounded: Callable[[float], int]) -> int:
    if isinstance(value, int):
        return value
    return rounded(replicas * int(value.removesuffix("%")) / 100)
