"""What a desk knows of being one of several, whose parts of a rule come from a store. Pure."""

from dataclasses import dataclass, field

from pymesh.policy_api import Demand
from pymesh_controlplane.policy.quota import RateBook
from pymesh_controlplane.policy.slots import Book
from pymesh_controlplane.policy.store import Transfer


@dataclass(slots=True)
class Shared:
    """The store's side of a desk, kept up by its replica (replica.py).

    Attributes:
        replica: the name of this one. Sidecars repeat it to whomever they come to.
        problem: why nothing can be decided; empty when all is well.
        expected: slots by rule that the store or other replicas may still give. Added to what is `coming` in grants, so
            that requests wait a moment for them instead of being refused.
        exhausted: rules of which sidecars lack slots, and of which the store had none left when it was last asked: it
            is not asked again at once.
        transferred: what sidecars have brought along from other replicas since the last claim, by rule and replica.
        adrift: why the store gives nobody anything for now; empty while it does. What it gave us is good for a while
            yet, but tokens that are spent do not come back.
        dry: rates that have run out of tokens meanwhile: nobody can say whether there would be more.
    """

    replica: str
    problem: str = "the store of counts has not been reached yet"
    expected: dict[str, int] = field(default_factory=dict)
    exhausted: set[str] = field(default_factory=set)
    transferred: dict[str, dict[str, Transfer]] = field(default_factory=dict)
    adrift: str = ""
    dry: set[str] = field(default_factory=set)

    def expect(self, demand: Demand, book: Book) -> None:
        """A sidecar may want more than is ours: whether there is more is not known before the store has been asked."""
        if demand.rule not in self.exhausted and demand.wanted > max(demand.held, book.limit):
            self.expected[demand.rule] = max(1, self.expected.get(demand.rule, 0))

    def account_for(self, demand: Demand, origin: str, book: Book) -> None:
        """A sidecar has come with what it had from the replica `origin`: that is ours to account for, fit or not."""
        book.limit = max(book.limit, book.charged)
        if origin not in {"", self.replica}:
            transfers = self.transferred.setdefault(demand.rule, {})
            before = transfers.get(origin, Transfer(0, 0))
            transfers[origin] = Transfer(before.slots + max(demand.held, demand.in_use), before.sidecars + 1)

    def undecided(self, name: str, rule: str, rate: RateBook) -> bool:
        """Whether nobody can say if the sidecar could have tokens: they have run out since the store is silent.

        Once they have, it is so for all sidecars of the rule until the store has answered.
        """
        if not self.adrift:
            return False
        if rate.dry(name):
            self.dry.add(rule)
        return rule in self.dry
