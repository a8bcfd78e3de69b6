"""The store of several replicas in Redis: one script, which is atomic, and one round trip for all rules.

A rule is a hash `<prefix>rule:<rule>`, the prefix being the mesh's: `missing` and `at` of a rate (tokens, seconds), and
for every replica `r:<name>` its entry, `allotted need sidecars spent until`. Rules that nobody claims any more expire.
A second script, likewise one for all that is asked, spends the rates that are not leased; its rules are those of
buckets.Buckets. The rules of the exchange are store.Ledger's; time is Redis' own, so that the clocks of the replicas do
not matter.
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import redis.asyncio
from redis.exceptions import RedisError

from pymesh_controlplane.policy.buckets import MAX_KEYS, Spent
from pymesh_controlplane.policy.store import LEASE, PATIENCE, SETTLE, Claim, Peer, Question, Share, StoreError

PREFIX: Final = "pymesh:policy:"
# Seconds for an exchange, connecting included: some of them fit into a lease.
TIMEOUT: Final = 0.5
# To Redis; one exchange is under way at a time, and questions about rates that are not leased.
MAX_CONNECTIONS: Final = 4
# Seconds that a rule which nobody claims is kept, beyond the time in which its burst fills.
KEEP: Final = 60

_SCRIPT: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local me, lease, settle, keep, prefix = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local born = tonumber(redis.call('GET', prefix .. 'born') or '')
if not born then
  born = now
  redis.call('SET', prefix .. 'born', string.format('%.6f', now))
end
local answers = {}
for index, claim in ipairs(cjson.decode(ARGV[6])) do
  local key = KEYS[index]
  local stored = redis.call('HGETALL', key)
  local entries, missing, at, lapsed, mine = {}, 0, now, 0, nil
  for place = 1, #stored, 2 do
    local name, value = stored[place], stored[place + 1]
    if name == 'missing' then missing = tonumber(value)
    elseif name == 'at' then at = tonumber(value)
    else
      local a, need, sidecars, spent, till = string.match(value, '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
      local entry = {tonumber(a), tonumber(need), tonumber(sidecars), tonumber(spent), tonumber(till)}
      if entry[5] <= now then
        lapsed = lapsed + entry[1]
        redis.call('HDEL', key, name)
      elseif name == 'r:' .. me then mine = entry
      else entries[name] = entry
      end
    end
  end
  for origin, what in pairs(claim.transferred) do
    local entry = entries['r:' .. origin]
    if entry then
      entry[1] = math.max(0, entry[1] - what[1])
      entry[3] = math.max(0, entry[3] - what[2])
      entry[2] = math.min(entry[2], entry[1])
      redis.call('HSET', key, 'r:' .. origin, string.format('%d %d %d %d %.6f', unpack(entry)))
    end
  end
  local level = claim.limit
  if claim.requests > 0 then
    local refilled = (now - at) * claim.requests / claim.period
    local spent = lapsed
    if mine then spent = spent + math.max(0, claim.spent - mine[4]) end
    missing = math.min(math.max(0, missing - refilled) + spent, 2 * claim.limit)
    level = claim.limit - math.ceil(missing)
    redis.call('HSET', key, 'missing', string.format('%.9f', missing), 'at', string.format('%.6f', now))
  end
  local free, others = level, {}
  for _, entry in pairs(entries) do
    free = free - entry[1]
    others[#others + 1] = {entry[1], entry[2], entry[3]}
  end
  local asked = claim.asked
  if now - born < settle then asked = claim.charged end
  local allotted = math.max(claim.charged, math.min(asked, free))
  redis.call('HSET', key, 'r:' .. me,
    string.format('%d %d %d %d %.6f', allotted, claim.need, claim.sidecars, claim.spent, now + lease))
  redis.call('EXPIRE', key, keep + 2 * claim.period * math.max(1, math.ceil(claim.limit / math.max(1, claim.requests))))
  answers[#answers + 1] = {allotted, level, others}
end
return cjson.encode(answers)
"""

# A bucket of a rate that is not leased is a string, `debt at period`: what is missing of it, in tokens divided by the
# microseconds of the period, so that all of it is whole numbers; when that was so; the period. It expires when it is
# full. The sorted set beside them has the buckets of a rule by that time, so that there are never too many.
SPEND: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1e6 + tonumber(time[2])
local prefix, most = ARGV[1], tonumber(ARGV[2])

local function find(want)
  local base, index = prefix .. 'bucket:' .. want.rule .. ':', prefix .. 'buckets:' .. want.rule
  local place, stored = want.place, redis.call('GET', base .. want.place)
  if not stored and redis.call('ZCARD', index) >= most then
    redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
    if redis.call('ZCARD', index) >= most then
      place = 'overflow'
      stored = redis.call('GET', base .. place)
    end
  end
  local cost, debt = want.period * 1e6, 0
  if stored then
    local before, at, period = string.match(stored, '^(%S+) (%S+) (%S+)$')
    debt = tonumber(before)
    if tonumber(period) ~= want.period then debt = math.ceil(debt / tonumber(period) * want.period) end
    debt = math.max(0, debt - math.max(0, now - tonumber(at)) * want.requests)
    debt = math.min(debt, want.burst * cost)
  end
  return {key = base .. place, index = index, place = place, cost = cost, debt = debt}
end

local function wait(bucket, want)
  if want.count == 0 then return 0 end
  if want.count > want.burst then return math.max(1e6, math.ceil(bucket.debt / want.requests)) end
  return math.max(0, math.ceil((bucket.debt - (want.burst - want.count) * bucket.cost) / want.requests))
end

local function take(bucket, want)
  bucket.debt = bucket.debt + want.count * bucket.cost
  local full = math.ceil(bucket.debt / want.requests / 1e3)
  local value = string.format('%.0f %.0f %d', bucket.debt, now, want.period)
  redis.call('SET', bucket.key, value, 'PX', string.format('%.0f', full + 1000))
  if bucket.place ~= 'overflow' then
    redis.call('ZADD', bucket.index, now + full * 1e3, bucket.place)
    local all = math.ceil(want.burst * bucket.cost / want.requests / 1e3)
    redis.call('PEXPIRE', bucket.index, string.format('%.0f', all + 60000))
  end
end

local answers = {}
for number, question in ipairs(cjson.decode(ARGV[3])) do
  local buckets, waits, told, refused = {}, {}, {}, question.look
  for place, want in ipairs(question.wanted) do
    buckets[place] = find(want)
    waits[place] = wait(buckets[place], want)
    if waits[place] > 0 and not want.dry then refused = true end
  end
  for place, want in ipairs(question.wanted) do
    local bucket = buckets[place]
    if not refused and waits[place] == 0 and want.count > 0 then take(bucket, want) end
    local left = math.max(0, want.burst - math.ceil(bucket.debt / bucket.cost))
    told[place] = {waits[place], left, bucket.place == 'overflow' and 1 or 0}
  end
  answers[number] = told
end
return answers
"""

# What redis-py says of what it does is of no use at the level of a policy service.
logging.getLogger("redis").setLevel(logging.WARNING)


class RedisStore:
    """See store.Store."""

    def __init__(self, url: str, *, mesh: str = "", password: str = "", ca_file: Path | None = None) -> None:
        """`url` is `redis://HOST[:PORT][/DB]`, or `rediss://` over TLS; `unix:///PATH` for a socket.

        Args:
            mesh: whose rules these are, by its trust domain: another one's may be in the same database.
            password: instead of one in the URL, where everybody sees it.
            ca_file: roots that the server's certificate is held against, instead of the system's.

        Raises:
            ValueError: the URL makes no sense. It is not repeated in the text: it may hold a password.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("the store's URL must begin with redis://, rediss:// or unix://")
        self._prefix = f"{PREFIX}{mesh}:" if mesh else PREFIX
        self.where = f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
        pool = redis.asyncio.ConnectionPool.from_url(
            url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, max_connections=MAX_CONNECTIONS
        )
        if password:
            pool.connection_kwargs["password"] = password
        if parts.scheme == "rediss":
            pool.connection_kwargs.update(ssl_cert_reqs="required", ssl_ca_certs=ca_file and str(ca_file))
        self._redis = redis.asyncio.Redis.from_pool(pool)
        self._script = self._redis.register_script(_SCRIPT)
        self._spend = self._redis.register_script(SPEND)

    async def exchange(self, replica: str, claims: Sequence[Claim]) -> list[Share]:
        """See store.Store."""
        if not claims:
            await self._bounded(self._redis.ping())
            return []
        asked = json.dumps([_written(claim) for claim in claims])
        answer = await self._bounded(
            self._script(
                keys=[f"{self._prefix}rule:{claim.rule}" for claim in claims],
                args=[replica, LEASE, SETTLE, KEEP, self._prefix, asked],
            )
        )
        try:
            shares = [_share(each) for each in json.loads(answer)]
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{self.where}: not an answer to what was asked: {error}") from error
        if len(shares) != len(claims):
            raise StoreError(f"{self.where}: {len(shares)} answers to {len(claims)} claims")
        return shares

    async def spend(self, questions: Sequence[Question]) -> list[list[Spent]]:
        """See store.Store."""
        answers: object = await self._bounded(self._spend(args=spend_arguments(questions, self._prefix)), PATIENCE)
        try:
            return spent(questions, answers)
        except (ValueError, TypeError) as error:
            raise StoreError(f"{self.where}: not an answer to what was asked: {error}") from error

    async def close(self) -> None:
        """See store.Store."""
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._redis.aclose()
        except (RedisError, OSError, TimeoutError):
            pass  # it is gone already

    async def _bounded(self, call: object, seconds: float = TIMEOUT) -> str | bytes:
        try:
            async with asyncio.timeout(seconds):
                answer: str | bytes = await call  # type: ignore[misc]  # redis-py's own types say "or not awaitable"
        except TimeoutError as error:
            raise StoreError(f"{self.where}: no answer within {seconds:g} s") from error
        except (RedisError, OSError) as error:
            raise StoreError(f"{self.where}: {error}") from error
        return answer


def _written(claim: Claim) -> dict[str, object]:
    names = ("limit", "charged", "asked", "need", "sidecars", "requests", "period", "spent")
    return {name: getattr(claim, name) for name in names} | {"transferred": dict(claim.transferred)}


def _share(answer: Sequence[object]) -> Share:
    allotted, level, others = answer
    peers = others if isinstance(others, list) else []  # an empty table of Lua is an empty object
    return Share(_number(allotted), _number(level), tuple(Peer(*map(_number, peer)) for peer in peers))


def spend_arguments(questions: Sequence[Question], prefix: str = PREFIX) -> list[str | int]:
    """What the script SPEND is given."""
    return [prefix, MAX_KEYS, json.dumps([_asked(question) for question in questions])]


def spent(questions: Sequence[Question], answers: object) -> list[list[Spent]]:
    """What it answers. Raises TypeError or ValueError: it is no answer to that."""
    return [_spent(question, told) for question, told in zip(questions, _listed(answers), strict=True)]


def _asked(question: Question) -> dict[str, object]:
    wanted = [
        {
            "rule": one.rule,
            "place": one.place,
            "requests": one.rate.requests,
            "period": one.rate.period,
            "burst": one.rate.burst,
            "count": one.count,
            "dry": one.dry_run,
        }
        for one in question.wanted
    ]
    return {"look": question.look, "wanted": wanted}


def _spent(question: Question, told: object) -> list[Spent]:
    found = []
    for _, answer in zip(question.wanted, _listed(told), strict=True):
        wait, left, overflow = _listed(answer)
        found.append(Spent(_number(wait) * 1000, _number(left), bool(overflow)))
    return found


def _listed(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return int(value)
