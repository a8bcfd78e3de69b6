"""What a pod's containers amount to: phase, readiness, and why it is not ready, in words. Pure.

Source: Kubernetes, "Pod Lifecycle" (phase, conditions); the words of `reason` are those of `kubectl get pods`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pymesh_controlplane.local.containers import ContainerStatus

Phase = Literal["Pending", "Running", "Succeeded", "Failed"]


@dataclass(frozen=True, slots=True)
class PodStatus:
    """What there is to say about a pod; `reason` is a word or two, `message` a sentence, empty when all is well.

    `lasting` are the containers that run as long as the pod: native sidecars, and all that are not for its start.
    """

    phase: Phase
    ready: bool
    initialised: bool
    reason: str
    message: str
    containers: tuple[ContainerStatus, ...]
    init_containers: tuple[ContainerStatus, ...]
    terminating: bool
    lasting: tuple[ContainerStatus, ...]

    @property
    def serving(self) -> bool:
        """Whether its containers are ready, even if it is about to end."""
        return self.initialised and all(container.ready for container in self.lasting)

    @property
    def restarts(self) -> int:
        """Of all containers."""
        return sum(container.restarts for container in (*self.init_containers, *self.containers))


def summarise(
    init: tuple[ContainerStatus, ...],
    main: tuple[ContainerStatus, ...],
    native: Sequence[bool],
    waiting_for: str,
    terminating: bool,
) -> PodStatus:
    """The status of a pod.

    Args:
        init: its init containers, in order; `native` says which of them are sidecars that stay.
        main: its containers.
        waiting_for: what it needs before the first container can start; empty once it has that.
        terminating: whether it is being stopped.
    """
    staying = [status for status, stays in zip(init, native, strict=True) if stays]
    initialised = all(
        status.started if stays else status.exit_code == 0 for status, stays in zip(init, native, strict=True)
    )
    ready = initialised and not terminating and all(status.ready for status in (*staying, *main))
    phase = _phase(init, main, initialised=initialised)
    reason, message = _reason(init, main, native, phase, waiting_for)
    if terminating:
        reason = "Terminating"
    return PodStatus(phase, ready, initialised, reason, message, main, init, terminating, (*staying, *main))


def _phase(init: Sequence[ContainerStatus], main: Sequence[ContainerStatus], *, initialised: bool) -> Phase:
    if any(status.state == "terminated" and status.exit_code != 0 for status in init):
        return "Failed"
    if all(status.state == "terminated" for status in main):
        return "Succeeded" if all(status.exit_code == 0 for status in main) else "Failed"
    started = any(status.state != "waiting" or status.restarts or status.message for status in main)
    return "Running" if initialised and started else "Pending"


def _reason(
    init: Sequence[ContainerStatus],
    main: Sequence[ContainerStatus],
    native: Sequence[bool],
    phase: Phase,
    waiting_for: str,
) -> tuple[str, str]:
    if waiting_for:
        return "ContainerCreating", waiting_for
    for index, (status, stays) in enumerate(zip(init, native, strict=True)):
        if status.exit_code == 0 or (stays and status.started):
            continue
        words = status.reason if status.message and status.reason else f"{index}/{len(init)}"
        return f"Init:{words}", f"{status.name}: {status.message}" if status.message else ""
    troubled = [status for status in main if status.state == "terminated" and status.exit_code != 0]
    troubled += [status for status in main if status.state == "waiting"]
    if troubled and phase != "Succeeded":
        first = troubled[0]
        return first.reason, f"{first.name}: {first.message}" if first.message else ""
    if phase == "Succeeded":
        return "Completed", ""
    lasting = [*(status for status, stays in zip(init, native, strict=True) if stays), *main]
    unready = [status for status in lasting if not status.ready and status.state == "running"]
    message = "; ".join(f"{status.name} not ready: {status.message or 'not asked yet'}" for status in unready)
    return "Running", message
