"""What is in force of a source, from one reading to the next; on disk, too, if there is a place for it."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from pymesh.errors import ConfigError
from pymesh.resources.kubernetes import Secret
from pymesh.resources.resource import holds
from pymesh_controlplane.pilot.model import Problem, Severity, World
from pymesh_controlplane.sources.last_good import LastGood
from pymesh_controlplane.sources.ledger import Contents, Ledger

FORGOTTEN: Final = "what was in force before this start is not known"
NOT_KEPT: Final = "after a restart what is in force now will not be known"


class InForce:
    """Makes worlds out of what a source reads; tells whether one is news.

    Args:
        ledger: decides what comes into force.
        last_good: where what is in force is kept, so that it is known to the next process; by default nowhere.
    """

    def __init__(self, ledger: Ledger, last_good: LastGood | None = None) -> None:
        self._ledger = ledger
        self._last_good = last_good
        self._forgotten: tuple[Problem, ...] = ()
        self._last: World | None = None

    @property
    def world(self) -> World | None:
        """The newest world; None before the first `update`."""
        return self._last

    def update(self, contents: Contents, now: datetime, troubles: tuple[Problem, ...] = ()) -> World | None:
        """The world after `contents` was read, at the time `now`; None if it is the one of last time.

        It parses, judges and writes, so it is for a thread, one call at a time.

        Args:
            troubles: what kept the source from reading all there is.
        """
        if self._last is None and self._last_good is not None:
            found, errors = self._last_good.load()
            self._ledger.remember(found)
            self._forgotten = tuple(Problem.of(error, Severity.WARNING, FORGOTTEN) for error in errors)
        world = self._ledger.update(contents, now)
        problems = [*troubles, *world.problems, *self._forgotten]
        if self._last_good is not None:
            try:
                self._last_good.save(self._ledger.written())
            except ConfigError as error:
                problems.append(Problem.of(error, Severity.WARNING, NOT_KEPT))
        last, self._last = self._last, replace(world, problems=tuple(problems))
        return None if last is not None and _are_same(last, self._last) else self._last


def _are_same(one: World, other: World) -> bool:
    """Whether both say the same. A revision has of Secrets only what may be seen: they are compared themselves."""
    return (one.revision, one.problems) == (other.revision, other.problems) and _secrets(one) == _secrets(other)


def _secrets(world: World) -> list[Mapping[str, object]]:
    return [resource.raw for resource in world.resources.values() if holds(resource, Secret)]
