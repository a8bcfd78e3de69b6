"""Who decides about a leased rule: the policy service, the rule's failure mode while that is away, or nobody. Pure."""

import enum

from pymesh.policy_api import Grant


class Mode(enum.Enum):
    """What is done while the policy service is away (`failureMode`, and, without LAST_DECISION, `otherwise`)."""

    OPEN = "OPEN"
    CLOSED = "CLOSED"
    LAST_DECISION = "LAST_DECISION"


class Standing:
    """What is known of the policy service, as far as one rule goes.

    Attributes:
        away: why nothing is heard of the service; empty while it answers.
        problem: why the service grants nothing, in its words: no such rule, not this sidecar's.
        granted: there was a grant: a last decision.
        in_vain: a request has waited in vain for the service to know the rule.
        in_force: the configuration has the rule; whoever still comes by one that has left is let in.
        down: the failure mode decides, by `mode`: LAST_DECISION only where there was one.
    """

    __slots__ = ("_configured", "_otherwise", "away", "down", "granted", "in_force", "in_vain", "mode", "problem")

    def __init__(self, mode: Mode, otherwise: Mode) -> None:
        self.away = self.problem = ""
        self.granted = self.in_vain = False
        self.configure(mode, otherwise)

    def configure(self, mode: Mode, otherwise: Mode) -> None:
        """The rule is in force, with these modes."""
        self._configured, self._otherwise, self.in_force = mode, otherwise, True
        self.decide()

    def retire(self) -> None:
        """The rule is not in force any more: we hear nothing of it, and what was granted goes to others."""
        self.in_force, self.granted, self.away = False, False, ""
        self.decide()

    def hear(self, grant: Grant, *, in_time: bool) -> None:
        """The service has answered; not `in_time` it stays away."""
        if in_time:
            self.away = ""
        self.problem = grant.problem
        if not grant.problem:
            self.granted, self.in_vain = True, False

    def decide(self) -> None:
        """See `down`, by what is known now."""
        last = self._configured is Mode.LAST_DECISION
        self.mode = self._otherwise if last and not self.granted else self._configured
        unknown = bool(self.problem) and (self.in_vain or self.granted)
        self.down = self.in_force and (bool(self.away) or unknown)

    @property
    def reason(self) -> str:
        """Why nobody can say whether a request may come in."""
        return self.away or self.problem or "the policy service has not answered"
