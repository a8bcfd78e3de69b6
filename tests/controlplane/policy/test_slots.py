"""The lease book: the sum never passes the limit, whatever the order of messages, and nobody starves."""

from collections import deque
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pymesh_controlplane.policy.slots import Book, Holder, fair_shares


def granted(book: Book) -> dict[str, int]:
    return {name: holder.grant for name, holder in book.holders.items()}


def exchange(book: Book, name: str, *, wanted: int, in_use: int = 0, now: float = 0.0) -> None:
    """A report of a sidecar that has applied everything, and what comes of it."""
    holder = book.holders.get(name, Holder())
    nonce = max(holder.unseen, default=0)
    book.report(name, max(holder.grant, in_use), in_use, wanted, nonce)
    book.allot(now)
    book.sent(name, nonce + 1)


def test_who_is_alone_has_all_slots() -> None:
    """So that no request of it waits."""
    book = Book(100)
    exchange(book, "a", wanted=0)
    assert granted(book) == {"a": 100}


def test_idle_slots_are_asked_back_for_who_needs_some_and_spread_evenly() -> None:
    """b asks for one, and gets its half, once a has given it back."""
    book = Book(100)
    exchange(book, "a", wanted=0)
    exchange(book, "b", wanted=1)
    assert granted(book) == {"a": 49, "b": 0}, "a has not given them back yet"
    exchange(book, "a", wanted=0)
    assert granted(book) == {"a": 49, "b": 50}


def test_who_lacks_slots_hears_of_idle_ones_that_are_on_their_way() -> None:
    """Those in use are not: nobody knows when their requests end."""
    book = Book(10)
    exchange(book, "a", wanted=0)
    exchange(book, "b", wanted=1)
    assert book.coming("b") == 6, "a has 10, and is left with 4"
    assert book.coming("a") == 0
    exchange(book, "a", wanted=0)
    assert book.coming("b") == 0
    busy = Book(10)
    exchange(busy, "a", wanted=20, in_use=10)
    exchange(busy, "b", wanted=1)
    assert busy.coming("b") == 0


def test_slots_in_use_stay_until_their_requests_end() -> None:
    """b's share comes to it as a's requests end."""
    book = Book(10)
    exchange(book, "a", wanted=20, in_use=10)
    exchange(book, "b", wanted=20)
    assert granted(book) == {"a": 5, "b": 0}
    exchange(book, "a", wanted=20, in_use=7)
    assert granted(book) == {"a": 5, "b": 3}
    exchange(book, "a", wanted=20, in_use=5)
    assert granted(book) == {"a": 5, "b": 5}


def test_as_long_as_everyone_has_what_it_wants_nothing_moves() -> None:
    """Wants that come and go within the grants change no grant."""
    book = Book(100)
    exchange(book, "a", wanted=0)
    exchange(book, "b", wanted=1)
    exchange(book, "a", wanted=0)
    for wanted in (50, 3, 40, 0):
        exchange(book, "a", wanted=wanted, in_use=wanted)
        exchange(book, "b", wanted=50 - wanted)
        assert granted(book) == {"a": 50, "b": 50}


def test_one_slot_goes_round() -> None:
    """Two sidecars that always want the one slot get it in turns, each until its request ends."""
    book, turns, in_use = Book(1), [], {"a": 0, "b": 0}
    for now in range(20):
        for name in ("a", "b"):
            has_one = name in book.holders and book.holders[name].grant > 0
            in_use[name] = int(has_one and not in_use[name])
            turns += [name] * in_use[name]
            exchange(book, name, wanted=5, in_use=in_use[name], now=now)
            assert sum(in_use.values()) <= 1
    assert len(turns) >= 10
    assert abs(turns.count("a") - turns.count("b")) <= 1


def test_a_lower_limit_takes_back_what_is_over_it() -> None:
    """First nobody is granted more, then all have their share."""
    book = Book(100)
    exchange(book, "a", wanted=60, in_use=60)
    exchange(book, "b", wanted=40)
    for name, used in (("a", 60), ("b", 40)):
        exchange(book, name, wanted=used, in_use=used)
    book.limit = 10
    book.allot(1.0)
    assert granted(book) == {"a": 5, "b": 5}
    exchange(book, "c", wanted=10)
    assert book.holders["c"].grant == 0


def test_a_broken_stream_keeps_its_slots_for_a_while() -> None:
    """And a sidecar that comes back within it goes on with what it says it has."""
    book = Book(10)
    exchange(book, "a", wanted=6, in_use=6)
    exchange(book, "b", wanted=4)
    exchange(book, "a", wanted=6, in_use=6)
    book.leave("a", until=2.0)
    exchange(book, "b", wanted=10)
    assert not book.expire(1.9)
    assert book.holders["b"].grant <= 10 - 6
    book.reconnected("a")
    book.report("a", 6, 6, 6, 0)
    assert not book.expire(5.0)
    book.leave("a", until=7.0)
    assert book.expire(7.0)
    exchange(book, "b", wanted=10)
    assert granted(book) == {"b": 10}


def test_a_stream_that_was_ended_properly_releases_at_once() -> None:
    """A sidecar that goes says so."""
    book = Book(10)
    exchange(book, "a", wanted=10, in_use=10)
    exchange(book, "b", wanted=10)
    book.leave("a", until=None)
    book.allot(0.0)
    assert granted(book) == {"b": 10}


def test_after_a_start_others_may_hold_what_nobody_knows_of() -> None:
    """Until they are back, or had the time, no sidecar gets more than it came with."""
    book = Book(100)
    book.settle(2.0, frozenset({"a", "b"}))
    exchange(book, "a", wanted=90, in_use=30, now=0.1)
    assert granted(book) == {"a": 30}
    exchange(book, "b", wanted=10, in_use=70, now=0.2)
    assert book.settled(0.2), "everyone is there"
    late = Book(100)
    late.settle(2.0, frozenset({"a", "b"}))
    exchange(late, "a", wanted=90, in_use=30, now=0.1)
    late.allot(2.0)
    assert granted(late) == {"a": 100}


def test_what_came_back_over_the_limit_is_not_added_to() -> None:
    """Open while we were away: 130 in the app, and the limit is 100."""
    book = Book(100)
    exchange(book, "a", wanted=130, in_use=130)
    exchange(book, "b", wanted=50)
    assert granted(book) == {"a": 50, "b": 0}


def test_responses_that_are_never_acknowledged_do_not_pile_up() -> None:
    """And the most of them counts on."""
    book = Book(100)
    book.report("a", 0, 0, 90, 0)
    book.allot(0.0)
    for nonce in range(1, 1000):
        book.sent("a", nonce)
    assert len(book.holders["a"].unseen) <= 64
    assert book.holders["a"].charge == 100


_NEEDS = st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.integers(0, 200), st.integers(0, 50)), min_size=1)


@given(st.integers(0, 200), _NEEDS)
def test_shares_are_fair(limit: int, needs: dict[str, tuple[int, int]]) -> None:
    """All that can be used is used; who gets less than it needs gets as much as anyone, but for one slot."""
    holders = {name: Holder(wanted=need, grant=grant) for name, (need, grant) in needs.items()}
    shares = fair_shares(limit, holders)
    assert shares.keys() == holders.keys()
    assert sum(shares.values()) == min(limit, sum(need for need, _ in needs.values()))
    for name, share in shares.items():
        assert 0 <= share <= holders[name].need
        if share < holders[name].need:
            assert share >= max(shares.values()) - 1


# --- Any order of anything ------------------------------------------------------------------------------------------


@dataclass
class Sidecar:
    """A sidecar as the protocol wants it, with what is on the way to and from it."""

    may: int = 0  # requests that it lets in
    in_use: int = 0
    wanted: int = 0
    seen: int = 0
    nonce: int = 0  # of the service's side of the stream
    connected: bool = False
    requests: deque[tuple[int, int, int, int]] = field(default_factory=deque)
    responses: deque[tuple[int, int]] = field(default_factory=deque)

    @property
    def held(self) -> int:
        return max(self.may, self.in_use)

    def send(self) -> None:
        self.requests.append((self.held, self.in_use, self.wanted, self.seen))


class Leases(RuleBasedStateMachine):
    """Sidecars and the service, with delays on every way, broken streams, restarts and changing limits.

    A stream breaks for a sidecar when it breaks for the service, and what was on its way is lost. Sidecars go on with
    what they have (LastDecision), which the service knows of for RETURN_GRACE seconds: they return within.
    """

    GRACE = 2.0
    SETTLE = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.sidecars = {name: Sidecar() for name in "abc"}
        self.out = 0  # the most that may be in the apps now

    @initialize(limit=st.integers(1, 20))
    def start(self, limit: int) -> None:
        self.book = Book(limit)
        self.out = limit

    def used(self) -> int:
        return sum(sidecar.held for sidecar in self.sidecars.values())

    def possible(self) -> int:
        """What it comes to when sidecars apply what is on its way to them."""
        return sum(max([each.held, *(slots for _, slots in each.responses)]) for each in self.sidecars.values())

    def decide(self) -> None:
        self.out = max(self.book.limit, min(self.out, self.possible()))
        for name in self.book.allot(self.now):
            self.respond(name)

    def respond(self, name: str) -> None:
        sidecar = self.sidecars[name]
        sidecar.nonce += 1
        sidecar.responses.append((sidecar.nonce, self.book.sent(name, sidecar.nonce)))

    @rule(name=st.sampled_from("abc"), wanted=st.integers(0, 30))
    def want(self, name: str, wanted: int) -> None:
        sidecar = self.sidecars[name]
        sidecar.wanted = wanted
        if sidecar.connected:
            sidecar.send()

    @rule(name=st.sampled_from("abc"), more=st.integers(1, 10))
    def requests_arrive(self, name: str, more: int) -> None:
        sidecar = self.sidecars[name]
        sidecar.in_use = max(sidecar.in_use, min(sidecar.may, sidecar.in_use + more))

    @rule(name=st.sampled_from("abc"), fewer=st.integers(1, 10))
    def requests_end(self, name: str, fewer: int) -> None:
        sidecar = self.sidecars[name]
        sidecar.in_use = max(0, sidecar.in_use - fewer)
        if sidecar.connected:
            sidecar.send()

    @rule(name=st.sampled_from("abc"))
    def request_is_read(self, name: str) -> None:
        sidecar = self.sidecars[name]
        if sidecar.requests:
            self.book.report(name, *sidecar.requests.popleft())
            self.decide()
            self.respond(name)

    @rule(name=st.sampled_from("abc"))
    def response_is_applied(self, name: str) -> None:
        sidecar = self.sidecars[name]
        if sidecar.responses:
            sidecar.seen, sidecar.may = sidecar.responses.popleft()
            sidecar.send()

    @rule(name=st.sampled_from("abc"))
    def connect(self, name: str) -> None:
        sidecar = self.sidecars[name]
        if not sidecar.connected:
            sidecar.connected, sidecar.seen, sidecar.nonce = True, 0, 0
            self.book.reconnected(name)
            self.book.report(name, sidecar.held, sidecar.in_use, sidecar.wanted, 0)
            self.decide()
            self.respond(name)

    @precondition(lambda self: any(sidecar.connected for sidecar in self.sidecars.values()))
    @rule(data=st.data(), properly=st.booleans())
    def stream_ends(self, data: st.DataObject, properly: bool) -> None:
        name = data.draw(st.sampled_from([name for name, each in self.sidecars.items() if each.connected]))
        sidecar = self.sidecars[name]
        sidecar.connected = False
        sidecar.requests.clear()
        sidecar.responses.clear()
        if properly:
            sidecar.may = sidecar.in_use = 0
        self.book.leave(name, None if properly else self.now + self.GRACE)
        self.decide()

    @rule(seconds=st.floats(0.1, 1.9))
    def time_passes(self, seconds: float) -> None:
        """Who has lost its stream comes back in time."""
        self.now += seconds
        for name, sidecar in self.sidecars.items():
            if not sidecar.connected and sidecar.held:
                self.connect(name)
        if self.book.expire(self.now):
            self.decide()

    @rule(limit=st.integers(1, 20))
    def the_limit_changes(self, limit: int) -> None:
        self.book.limit = limit
        self.decide()

    @rule()
    def the_service_starts_anew(self) -> None:
        self.book = Book(self.book.limit)
        self.book.settle(self.now + self.SETTLE, frozenset(self.sidecars))
        for sidecar in self.sidecars.values():
            sidecar.connected = False
            sidecar.requests.clear()
            sidecar.responses.clear()

    @invariant()
    def never_more_than_the_limit(self) -> None:
        """Nor, after it was lowered, more than there were and were on their way."""
        assert self.used() <= self.possible() <= self.out


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_what_was_asked_back_is_not_granted_again_while_more_is_out_than_there_is() -> None:
    """A sidecar may have given it up, and the service not have heard of that."""
    book = Book(4)
    for name in "abab":
        exchange(book, name, wanted=2)
    assert granted(book) == {"a": 2, "b": 2}
    book.limit = 1
    book.allot(0.0)
    asked_back = {name: book.sent(name, 90) for name in "ab"}
    assert sum(asked_back.values()) <= 1
    book.limit = 3
    book.allot(0.0)
    assert {name: book.sent(name, 91) for name in "ab"} == asked_back


@given(st.integers(1, 50), st.lists(st.integers(0, 80), min_size=1, max_size=6))
def test_in_the_end_everyone_has_its_share(limit: int, wants: list[int]) -> None:
    """Some rounds of reports, with requests that end, and each has what is fair of what it wants."""
    book = Book(limit)
    names = [f"s{number}" for number in range(len(wants))]
    for _ in range(4):
        for name, wanted in zip(names, wants, strict=True):
            exchange(book, name, wanted=wanted)
    fair = fair_shares(limit, book.holders)
    assert all(book.holders[name].grant >= min(fair[name], limit // len(names)) for name in names)
    assert sum(granted(book).values()) <= limit
