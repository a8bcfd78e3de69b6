"""The policy service: checks (yes or no) and leases (slots, tokens), by the rules of the newest world.

Everything that is decided is decided in `checks` and `desk`; here are the clock and the counters, and in `holding` the
streams. One task brings the grants up to date, for all that was heard meanwhile, and wakes the streams that have
something to say.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import grpc
import grpc.aio
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from google.protobuf.message import DecodeError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pymesh import policy_api
from pymesh.identity import Identity
from pymesh_controlplane.pilot.model import World
from pymesh_controlplane.pilot.server import Authenticate, Origin, ServerContext, StreamError
from pymesh_controlplane.pilot.status import Json, configz
from pymesh_controlplane.policy import checks, http_check, pages, ratelimit
from pymesh_controlplane.policy.buckets import nanoseconds
from pymesh_controlplane.policy.desk import Desk
from pymesh_controlplane.policy.holding import Holding
from pymesh_controlplane.policy.metrics import Counts, PolicyMetrics
from pymesh_controlplane.policy.questions import Questions
from pymesh_controlplane.policy.replica import Replica
from pymesh_controlplane.policy.rules import Rules, Slots, replicas_of, rules_of
from pymesh_controlplane.policy.sources import sources_of
from pymesh_controlplane.policy.store import Store, StoreError
from pymesh_controlplane.policy.till import Till
from pymesh_controlplane.sources.base import Source

log = logging.getLogger("pymesh.policy")

# Seconds between two looks at the clock when nobody says anything.
TICK: Final = 0.25
# Seconds between two claims of our part of every rule, at most, and at least: when sidecars lack something.
CLAIM_EVERY: Final = 0.5
CLAIM_SOONEST: Final = 0.03
# Seconds between two while there was nothing for them.
CLAIM_EXHAUSTED: Final = 0.1
# Seconds by which such a look may be late; a process that was later has stood still.
STANDSTILL: Final = 1.0


class PolicyService:
    """The rules in force, what was spent and what is held.

    Args:
        clock: seconds that never go back.
        store: what this replica of the service shares with others; None if there are no others.
    """

    def __init__(self, source: Source, clock: Callable[[], float], store: Store | None = None) -> None:
        self.counts = Counts()
        self.desk = Desk()
        self._store = store
        self._replica = Replica(self.desk, uuid.uuid4().hex) if store is not None else None
        self._claim = asyncio.Event()
        self._till = Till(store, self._claim.set) if store is not None else None
        self.questions = Questions(self.counts, clock, self._till)
        self.questions.python.loaded = self._renew
        self._source = source
        self._clock = clock
        self._world: World | None = None
        self._rules: Rules | None = None
        self._configured: Rules | None = None
        self._holding = Holding(self.desk, self.counts, clock)
        self._store_problem = ""

    @property
    def world(self) -> World | None:
        """The newest world, if what it says is in force, or was refused; None while checks are being loaded."""
        return self._world if self.questions.python.tried == self.questions.python.offered else None

    def waiting(self) -> str:
        """Why no question can be answered yet; "" when they can."""
        return "" if self._rules is not None else "waiting for the configuration to be read"

    async def run(self) -> None:
        """Follow the source and keep the grants up to date, until cancelled."""
        async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._decide())
            tasks.create_task(self.questions.python.run())
            if self._store is not None and self._replica is not None and self._till is not None:
                tasks.create_task(self._share(self._store, self._replica, self._till))
                tasks.create_task(self._till.run())
                stack.push_async_callback(self._store.close)

    def handlers(self, authenticate: Authenticate) -> tuple[grpc.GenericRpcHandler, ...]:
        """The gRPC services, for callers whom `authenticate` tells. Messages stay bytes: garbage is ours to refuse."""

        def unary(answer: Callable[[bytes, Identity], Awaitable[bytes]]) -> "grpc.RpcMethodHandler[bytes, bytes]":
            async def call(data: bytes, context: ServerContext) -> bytes:
                origin = Origin(context.peer())
                try:
                    origin = await authenticate(context)
                    return await answer(data, _identity(origin))
                except StreamError as error:
                    self._refuse(error, origin)
                    await context.abort(error.code, str(error))

            return grpc.unary_unary_rpc_method_handler(call)

        async def hold(_: object, context: ServerContext) -> None:
            origin = Origin(context.peer())
            try:
                origin = await authenticate(context)
                await self._holding.hold(context, _identity(origin), self._in_force)
            except StreamError as error:
                self._refuse(error, origin)
                await context.abort(error.code, str(error))

        return (
            grpc.method_handlers_generic_handler(
                policy_api.CHECK_SERVICE, {policy_api.CHECK_METHOD: unary(self._check)}
            ),
            grpc.method_handlers_generic_handler(ratelimit.SERVICE, {ratelimit.METHOD: unary(self._rate_limit)}),
            grpc.method_handlers_generic_handler(
                policy_api.SERVICE, {policy_api.METHOD: grpc.stream_stream_rpc_method_handler(hold)}
            ),
        )

    def http(self, identify: http_check.Identify) -> Starlette:
        """Checks in the form of HTTP."""
        return http_check.application(identify, self._check, lambda error: self._refuse(error, Origin("HTTP")))

    def collector(self) -> PolicyMetrics:
        """What is shown at /metrics."""
        return PolicyMetrics(self.counts, self.desk, self.questions.limits)

    def routes(self) -> list[Route]:
        """The pages /policy and, as pilot's, /debug/configz."""

        async def page(_: Request) -> Response:
            return JSONResponse(self.status())

        async def config(_: Request) -> Response:
            # In a thread: a digest of each of thousands of resources takes longer than a question may wait.
            return JSONResponse(await asyncio.to_thread(configz, self.world))

        return [Route("/policy", page), Route("/debug/configz", config)]

    def status(self) -> Json:
        """Rules in force, and what is granted, held and refused by them."""
        rules = pages.status(self._rules or Rules(), self.desk, self.questions.limits, self.counts)
        return {**rules, "python": pages.python(self.questions.python)}

    # --- Rules -----------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        async for world in self._source.watch():
            self._put(world)

    def _put(self, world: World) -> None:
        replicas, self.counts.replicas = self.counts.replicas, replicas_of(world)
        if self._store is None and self.counts.replicas > max(1, replicas):
            log.warning("%d replicas without a store: every limit holds for each of them alone", self.counts.replicas)
        self.questions.python.offer(sources_of(world))
        if (rules := rules_of(world)) != self._configured:
            self._configured = rules
            self._renew()
        self._world = world

    def _renew(self) -> None:
        """Other rules, or other checks in Python, are to be in force: both together are what an epoch names."""
        if (configured := self._configured) is None:
            return
        digest, before, now = self.questions.python.digest, self._rules, self._clock()
        rules = replace(configured, epoch="-".join(part for part in (configured.epoch, digest) if part))
        self.desk.put(rules, now, first=before is None)
        self.questions.limits.put(rules, nanoseconds(now))
        if before is None or rules.epoch != before.epoch:
            log.info("rules in force: %s (epoch %s)", ", ".join(rules.by_name) or "none", rules.epoch or "none")
            self._holding.tell_all()  # sidecars forget at once what was said by others
        self._rules = rules
        self._holding.news.set()

    async def _decide(self) -> None:
        last = self._clock()
        while True:
            try:
                async with asyncio.timeout(TICK):
                    await self._holding.news.wait()
            except TimeoutError:
                pass  # time alone changes things, too
            self._holding.news.clear()
            now = self._clock()
            if now - last > TICK + STANDSTILL:
                log.warning("stood still for %.1f s: asking sidecars anew what they hold", now - last)
                self.desk.stood_still(now)
            last = now
            self._check_lease(now)
            self._holding.tell(self.desk.decide(now))
            self._holding.wake()
            if self._replica is not None and self._replica.wants_more:
                self._claim.set()

    async def _share(self, store: Store, replica: Replica, till: Till) -> None:
        """Claim our part of every rule, again and again; a store that is away is asked on."""
        while True:
            self._claim.clear()
            started, away = self._clock(), self.desk.problem
            claims = replica.claims()
            try:
                shares = await store.exchange(replica.name, claims)
            except StoreError as error:
                self.counts.store_failures += 1
                if not self._store_problem:
                    log.warning("the store is away: %s", error)
                self._store_problem = str(error)
                till.lost(str(error))
            else:
                if self._store_problem:
                    log.info("the store is back")
                self._store_problem = till.problem = ""
                self._holding.tell(replica.take(claims, shares, started))
                if away:
                    self._holding.tell_all()
                self._holding.news.set()
            await asyncio.sleep(CLAIM_SOONEST)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout((CLAIM_EXHAUSTED if replica.exhausted else CLAIM_EVERY) - CLAIM_SOONEST):
                    await self._claim.wait()

    def _check_lease(self, now: float) -> None:
        """What the store gave us has lapsed, and may be others' by now: nothing is decided until it is back."""
        if self._replica is not None and self._replica.lapse(self._store_problem or "no answer in time", now):
            log.warning("%s: every rule's failure mode decides", self.desk.problem)
            self._holding.tell_all()

    # --- Checks ----------------------------------------------------------------------------------------------------

    async def _check(self, data: bytes, identity: Identity) -> bytes:
        rules = self._in_force()
        try:
            attributes = CheckRequest.FromString(data).attributes
            asked = checks.asked_rules(attributes)
        except (DecodeError, ValueError) as error:
            raise StreamError(grpc.StatusCode.INVALID_ARGUMENT, str(error), "garbage") from error
        for name in asked:
            rule = rules.by_name.get(name)
            if rule is None:
                self.counts.unknown_rules += 1
            elif isinstance(rule.limit, Slots):
                sentence = f"{name} counts requests at once: hold slots of it with {policy_api.PATH}"
                raise StreamError(grpc.StatusCode.INVALID_ARGUMENT, sentence, "slots")
            else:
                _may_ask(name, identity, rules)
        decision = await self.questions.decide(asked, attributes, rules)
        return checks.answer(decision, rules, for_grpc=checks.speaks_grpc(attributes)).SerializeToString()

    async def _rate_limit(self, data: bytes, identity: Identity) -> bytes:
        rules = self._in_force()
        try:
            request = RateLimitRequest.FromString(data)
            response = await self.questions.rate_limit(
                request, rules, lambda rule: _may_ask(rule.name, identity, rules)
            )
        except (DecodeError, ValueError) as error:
            raise StreamError(grpc.StatusCode.INVALID_ARGUMENT, str(error), "garbage") from error
        return response.SerializeToString()

    # --- Both ------------------------------------------------------------------------------------------------------

    def _in_force(self) -> Rules:
        if self._rules is None:
            raise StreamError(grpc.StatusCode.UNAVAILABLE, "the rules have not been read yet", "starting")
        return self._rules

    def _refuse(self, error: StreamError, origin: Origin) -> None:
        self.counts.refused[error.reason] += 1
        log.warning("%s (%s) was refused: %s", origin.address, origin.identity or "not known", error)


def _may_ask(name: str, identity: Identity, rules: Rules) -> None:
    """Refuse whoever could only spend what is others'."""
    if str(identity) not in rules.accounts[name]:
        sentence = f"{identity} runs no workload behind the targets of {name}"
        raise StreamError(grpc.StatusCode.PERMISSION_DENIED, sentence, "identity")


def _identity(origin: Origin) -> Identity:
    if origin.identity is None:
        raise StreamError(grpc.StatusCode.UNAUTHENTICATED, "show a certificate of this mesh", "unauthenticated")
    return origin.identity
