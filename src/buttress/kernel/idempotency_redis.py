"""One effect per key on Redis or Valkey: claims in Lua, fenced. Weaker than a database, and by how much:

- An outcome is not in the effect's transaction: between the effect and ``settle`` a lost holder leaves a claim that comes
  again (New), unless it announced an intent (Unknown).
- What Redis acknowledged may be gone: after a crash up to its last fsync (``appendfsync``), after a failover what the replica
  had not seen, under ``maxmemory`` with an evicting policy any key at any time. A key that is gone is New: the effect happens
  again. Use ``noeviction`` and ``appendfsync always``, and a database where a doubled effect costs money.

A claim is one round trip; keys have no expiry. Times come from ``clock``, or from the server's TIME where it is None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from buttress.kernel.clock import Clock
from buttress.kernel.errors import MissingExtra, Unavailable
from buttress.kernel.failpoint import failpoint
from buttress.kernel.idempotency import (
    Claim,
    Done,
    InFlight,
    Mismatch,
    New,
    Unknown,
    check_claim,
    check_holder,
    check_intent,
    check_lease,
    check_payload,
    stale,
)

if TYPE_CHECKING:
    import redis

RETIRE_BATCH = 1000

# KEYS[1] the entry, KEYS[2] the settled ones by time. A hash: f fingerprint, n fence, u until, i intent, o outcome, s settled.
CLAIM = """
local now = tonumber(ARGV[1])
if ARGV[1] == '' then local t = redis.call('TIME') now = t[1] + t[2] / 1000000 end
local e = redis.call('HMGET', KEYS[1], 'f', 'n', 'u', 'i', 'o', 's')
if not e[1] then
  redis.call('HSET', KEYS[1], 'f', ARGV[2], 'n', 1, 'u', string.format('%.6f', now + ARGV[3]))
  return {'new', 1}
end
if e[1] ~= ARGV[2] then return {'mismatch', e[1]} end
if e[6] then return {'done', e[5]} end
if tonumber(e[3]) > now then return {'inflight', e[3]} end
local fence = redis.call('HINCRBY', KEYS[1], 'n', 1)
redis.call('HSET', KEYS[1], 'u', string.format('%.6f', now + ARGV[3]))
if e[4] then return {'unknown', fence, e[4]} end
return {'new', fence}
"""
# ARGV: now, fence, what (intend, renew, settle, release), value
UPDATE = """
local now = tonumber(ARGV[1])
if ARGV[1] == '' then local t = redis.call('TIME') now = t[1] + t[2] / 1000000 end
local e = redis.call('HMGET', KEYS[1], 'n', 's')
if e[1] ~= ARGV[2] or e[2] then return 0 end
if ARGV[3] == 'intend' then redis.call('HSET', KEYS[1], 'i', ARGV[4])
elseif ARGV[3] == 'renew' then redis.call('HSET', KEYS[1], 'u', string.format('%.6f', now + ARGV[4]))
elseif ARGV[3] == 'release' then redis.call('HDEL', KEYS[1], 'i') redis.call('HSET', KEYS[1], 'u', '0')
else
  redis.call('HDEL', KEYS[1], 'i')
  redis.call('HSET', KEYS[1], 'o', ARGV[4], 's', string.format('%.6f', now))
  redis.call('ZADD', KEYS[2], now, KEYS[1])
end
return 1
"""
RETIRE = """
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
for _, key in ipairs(old) do redis.call('HDEL', key, 'o') redis.call('ZREM', KEYS[1], key) end
return #old
"""


class RedisIdempotency:
    """``client`` is a redis-py client (``decode_responses`` off). ``namespace`` prefixes the keys, in one hash slot of a cluster."""

    def __init__(self, client: redis.Redis, namespace: str = "", *, clock: Clock | None = None) -> None:
        self._client = client
        self._clock = clock
        self._prefix = b"{buttress:" + namespace.encode() + b"}:"
        self._claim, self._update, self._retire = (client.register_script(lua) for lua in (CLAIM, UPDATE, RETIRE))

    @classmethod
    def from_url(cls, url: str, namespace: str = "", *, clock: Clock | None = None, timeout_s: float = 5.0) -> RedisIdempotency:
        """Connects at the first call. ``timeout_s`` bounds every wait."""
        try:
            import redis
        except ModuleNotFoundError as missing:
            raise MissingExtra("redis", "redis") from missing
        return cls(redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s), namespace, clock=clock)

    def claim(self, key: str, fingerprint: bytes, lease_s: float) -> Claim:
        check_claim(key, fingerprint, lease_s)
        kind, *rest = self._run(self._claim, [self._key(key)], [self._now(), fingerprint, lease_s])
        if kind == b"new":
            return New(int(rest[0]))
        if kind == b"done":
            return Done(rest[0] if rest else None)
        if kind == b"inflight":
            return InFlight(float(rest[0]))
        return Mismatch(rest[0]) if kind == b"mismatch" else Unknown(int(rest[0]), rest[1])

    def intend(self, key: str, fence: int, intent: bytes) -> None:
        check_intent(intent)
        failpoint("idempotency.intend")
        self._change(key, fence, "intend", intent)
        failpoint("idempotency.intended")

    def renew(self, key: str, fence: int, lease_s: float) -> None:
        check_lease(lease_s)
        self._change(key, fence, "renew", lease_s)

    def settle(self, key: str, fence: int, outcome: bytes | None) -> None:
        check_payload("outcome", outcome)
        if outcome is None:
            self._change(key, fence, "release", b"")
        else:
            self._change(key, fence, "settle", outcome)

    def retire(self, before: float) -> int:
        total = 0
        while True:
            count = int(self._run(self._retire, [self._settled()], [repr(before), RETIRE_BATCH]))
            total += count
            if count < RETIRE_BATCH:
                return total

    def _change(self, key: str, fence: int, what: str, value: object) -> None:
        check_holder(key, fence)
        if not self._run(self._update, [self._key(key), self._settled()], [self._now(), fence, what, value]):
            raise stale(key, fence)

    def _run(self, script: Any, keys: list[bytes], args: list[object]) -> Any:
        import redis

        try:
            return script(keys=keys, args=args)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise Unavailable(f"Redis: {type(error).__name__}", fix="whether it was written is not known: claim again") from error

    def _now(self) -> str:
        return "" if self._clock is None else f"{self._clock.now():.6f}"

    def _key(self, key: str) -> bytes:
        return self._prefix + b"k:" + key.encode()

    def _settled(self) -> bytes:
        return self._prefix + b"settled"
