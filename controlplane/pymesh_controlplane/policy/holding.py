"""The streams on which sidecars hold slots and tokens: who may open one, what is heard on it, and who is told what.

What is granted is the desk's to decide; whoever follows `news` has it decide, and wakes the streams here.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import grpc

from pymesh import names, policy_api
from pymesh.identity import Identity
from pymesh.policy_api import LeaseRequest
from pymesh_controlplane.pilot.server import RequestBudget, ServerContext, StreamError
from pymesh_controlplane.policy.desk import Desk
from pymesh_controlplane.policy.metrics import Counts
from pymesh_controlplane.policy.rules import Rules
from pymesh_controlplane.tasks import until_first_ends

log = logging.getLogger("pymesh.policy")

# Streams at once: one for each sidecar of a service with a limit that is leased.
MAX_STREAMS: Final = 4096
# Of them, those of one account whose pods no rule knows. A pod that was started a moment ago is one until its world is
# here; and names of pods are what their sidecars say, so that one certificate could take the place of all others.
MAX_UNKNOWN: Final = 16
# Requests of one stream: a report for every change of what it holds or wants, which sidecars throw together.
REQUEST_BURST: Final = 2_000
REQUEST_RATE: Final = 500


@dataclass(slots=True, eq=False)
class Stream:
    """The stream of one sidecar.

    Attributes:
        account: that the sidecar has proved to run as.
        wake: set when it is to be told something.
        ended: set when another stream has taken its place.
        half_closed: the sidecar has said all that it will; what it is told next is the last.
    """

    account: str
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    half_closed: bool = False


class Holding:
    """The streams, by pod (`pod.namespace`).

    Attributes:
        news: set when the desk has something to decide.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, desk: Desk, counts: Counts, clock: Callable[[], float]) -> None:
        self.news = asyncio.Event()
        self._desk = desk
        self._counts = counts
        self._clock = clock
        self._streams: dict[str, Stream] = {}
        self._due: set[str] = set()

    def tell(self, sidecars: Iterable[str]) -> None:
        """Tell `sidecars` what they have, with the next `wake`."""
        self._due.update(sidecars)

    def tell_all(self) -> None:
        """Tell every sidecar what it has, with the next `wake`."""
        self._due.update(self._streams)

    def wake(self) -> None:
        """Have those streams write that have something to say."""
        for name in self._due:
            if (stream := self._streams.get(name)) is not None:
                stream.wake.set()
        self._due.clear()

    async def hold(self, context: ServerContext, identity: Identity, in_force: Callable[[], Rules]) -> None:
        """Serve the stream of a sidecar that has proved to run as `identity`, by the rules that are `in_force`.

        Raises:
            StreamError: the sidecar is not who it says, or breaks the protocol; or there are too many streams.
        """
        in_force()
        first = await self._receive(context)
        if first is None:
            return
        rules = in_force()
        name = _sidecar(first, identity, rules)
        self._admit(name, str(identity), rules)
        stream = self._streams[name] = Stream(str(identity))
        log.info("%s holds leases", name)
        properly = False
        try:
            self._hear(name, first, identity, new=True)
            await until_first_ends(
                self._read(context, name, stream, identity), self._write(context, name, stream), _superseded(stream)
            )
            # Only the writer ends without an error: the sidecar has half-closed, or gRPC reports a broken stream as its
            # end. Only to a living one can anything be written.
            properly = self._streams.get(name) is stream and not context.cancelled()
        finally:
            if self._streams.get(name) is stream:
                del self._streams[name]
                self._desk.gone(name, self._clock(), properly=properly)
                self.news.set()
                log.info("%s %s", name, "has given its leases back" if properly else "was cut off")

    def _admit(self, name: str, account: str, rules: Rules) -> None:
        """Make room for a stream, in the place of the one that the sidecar had, or refuse it."""
        known = name in rules.owners
        if (other := self._streams.get(name)) is not None:
            if other.account != account and not known:  # whose pod it is, nobody but these two have said
                sentence = f"{name} holds leases as {other.account}"
                raise StreamError(grpc.StatusCode.PERMISSION_DENIED, sentence, "identity")
            other.ended.set()
        elif len(self._streams) >= MAX_STREAMS:
            sentence = f"{MAX_STREAMS} sidecars hold leases here: run more policy services, or fewer sidecars"
            raise StreamError(grpc.StatusCode.RESOURCE_EXHAUSTED, sentence, "streams")
        elif not known:
            self._admit_unknown(account, rules)

    def _admit_unknown(self, account: str, rules: Rules) -> None:
        """Refuse an account that has taken its part of the streams for pods of which nobody else has heard."""
        unknown = sum(stream.account == account and name not in rules.owners for name, stream in self._streams.items())
        if unknown >= MAX_UNKNOWN:
            sentence = f"{account} holds leases for {unknown} pods that are behind no rule: try again when they are"
            raise StreamError(grpc.StatusCode.RESOURCE_EXHAUSTED, sentence, "unknown")

    async def _read(self, context: ServerContext, name: str, stream: Stream, identity: Identity) -> None:
        budget = RequestBudget(self._clock(), REQUEST_BURST, REQUEST_RATE)
        while (request := await self._receive(context)) is not None:
            if not budget.take(self._clock()):
                sentence = f"more than {REQUEST_RATE} requests a second"
                raise StreamError(grpc.StatusCode.RESOURCE_EXHAUSTED, sentence, "flood")
            if stream.ended.is_set():
                break
            self._hear(name, request, identity, new=False)
        stream.half_closed = True
        stream.wake.set()
        await asyncio.Event().wait()  # the writer's end is the stream's: grpc.aio allows no write beside one cut short

    def _hear(self, name: str, request: LeaseRequest, identity: Identity, *, new: bool) -> None:
        known = self._desk.known
        self._counts.unknown_rules += sum(demand.rule not in known for demand in request.demands)
        self._desk.hear(name, str(identity), request, self._clock(), new=new)
        self._due.add(name)
        self.news.set()

    async def _write(self, context: ServerContext, name: str, stream: Stream) -> None:
        while True:
            await stream.wake.wait()
            stream.wake.clear()
            last = stream.half_closed
            if self._streams.get(name) is stream:
                await context.write(policy_api.encode_response(self._desk.respond(name, self._clock())))
            if last:
                return

    async def _receive(self, context: ServerContext) -> LeaseRequest | None:
        """The next report, None when the sidecar has said all it will."""
        try:
            async with asyncio.timeout(policy_api.SILENCE):
                data: object = await context.read()
        except TimeoutError as error:
            sentence = f"no report within {policy_api.SILENCE:g} s"
            raise StreamError(grpc.StatusCode.DEADLINE_EXCEEDED, sentence, "silent") from error
        if not isinstance(data, bytes):  # grpc.aio.EOF
            return None
        try:
            return policy_api.decode_request(data)
        except ValueError as error:
            raise StreamError(grpc.StatusCode.INVALID_ARGUMENT, str(error), "garbage") from error


def _sidecar(request: LeaseRequest, identity: Identity, rules: Rules) -> str:
    """The pod whose sidecar speaks, `pod.namespace`: one that runs as the caller has proved to be, as far as we know.

    Otherwise anyone in the namespace could take the place of a sidecar, and its slots from it.
    """
    try:
        node = names.NodeId.parse(request.node)
    except ValueError as error:
        raise StreamError(grpc.StatusCode.INVALID_ARGUMENT, str(error), "node") from error
    name = f"{node.pod}.{node.namespace}"
    if node.namespace != identity.namespace or rules.owners.get(name, str(identity)) != str(identity):
        sentence = f"the node says that it is pod {name}, and the caller has proved to be {identity}"
        raise StreamError(grpc.StatusCode.PERMISSION_DENIED, sentence, "identity")
    return name


async def _superseded(stream: Stream) -> None:
    await stream.ended.wait()
    raise StreamError(grpc.StatusCode.ABORTED, "the same sidecar has opened another stream", "superseded")
