"""External effects: put into the outbox in the handler's transaction, sent afterwards, each under a key that never changes.

To a ``keyed`` callee a message that may have been sent is simply sent again, for as long as the callee remembers keys. For the
others each send is announced first (``Idempotency.intend``), so that after a crash only the one that was really under way is in
doubt: ``lookup`` asks the callee, ``at_most_once`` and ``at_least_once`` list the doubt and err on the side that was chosen.
"""

from __future__ import annotations

import hashlib
import logging
import random
from dataclasses import dataclass, field
from math import inf
from urllib.parse import quote

import msgspec

from buttress.backend.webhooks.callee import Callee, Effect, NotSent, Rejected
from buttress.backend.webhooks.event import Event
from buttress.backend.webhooks.gaps import DeadEffect, DoubtOutcome, Gaps
from buttress.kernel.clock import Clock
from buttress.kernel.errors import ButtressError, InvalidInput, Stale
from buttress.kernel.failpoint import failpoint
from buttress.kernel.idempotency import Done, InFlight, Mismatch, New, SqlIdempotency, Unknown
from buttress.kernel.outbox import Dead, Message, PayloadDiffers, Retry, Sent, SqlOutbox, Verdict
from buttress.kernel.store import Store, Tx

KEY_MAX_CHARS = 255
PAYLOAD_MAX_BYTES = 1 << 20
NOTE_MAX_BYTES = 4096
FAILURES_MAX = 3
REJECTED = "rejected: "
AT_ONCE_S = 1e-9  # below the resolution of a time since the epoch: the lease ends now, the intent stays
log = logging.getLogger("buttress.webhooks")


def backoff_s(attempt: int, base_s: float, max_s: float, rng: random.Random) -> float:
    """Exponential, from half of it to all of it: many that failed together do not come back together."""
    return float(min(max_s, base_s * 2.0 ** min(attempt - 1, 40)) * (0.5 + 0.5 * rng.random()))


def reason_of(error: BaseException) -> str:
    """What may be stored and logged about a failure: our own message, else the kind and place. Texts of others may hold personal data."""
    if isinstance(error, InvalidInput):
        return f"{error.code}: {error.field}: {error.rule}"[:200]
    if isinstance(error, ButtressError):
        return f"{error.code}: {error.message}"[:200]
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    place = f" at {at.tb_frame.f_code.co_name}:{at.tb_lineno}" if at is not None else ""
    return f"{type(error).__name__}{place}"[:200]


def reference(endpoint: str, event: Event, key: str, effect: str) -> str:
    """The key of one effect, unique over endpoints, accounts and modes; at most 255 characters of printable ASCII."""
    scope = [quote(endpoint, safe="")]
    if event.account is not None:
        scope.append(f"account={quote(event.account, safe='')}")
    if event.mode:
        scope.append(event.mode)
    whole = "/".join([*scope, f"{quote(key, safe='')}:{effect}"])
    return whole if len(whole) <= KEY_MAX_CHARS else f"sha256-{hashlib.sha256(whole.encode()).hexdigest()}:{effect}"


@dataclass(frozen=True)
class Wanted:
    """An effect that a handler asked for, checked. ``key`` is what the callee will see."""

    event: Event
    name: str
    key: str
    body: bytes
    lane: str | None


class Effects:
    """The effects of one endpoint: ``put`` joins a handler's transaction, ``work`` sends what is due."""

    def __init__(self, store: Store, endpoint: str, gaps: Gaps, *, clock: Clock, rng: random.Random, lease_s: float = 60.0,
                 max_attempts: int = 84, retry_base_s: float = 5.0, retry_max_s: float = 3600.0) -> None:
        self._store = store
        self._endpoint = endpoint
        self._gaps = gaps
        self._clock = clock
        self._rng = rng
        self._lease_s = lease_s
        self._max_attempts = max_attempts
        self._retry_base_s = retry_base_s
        self._retry_max_s = retry_max_s
        self._outbox = SqlOutbox(store, clock=clock)
        self._prefix = f"webhooks/{endpoint}/"
        self._callees: dict[str, Callee] = {}
        self._streams: list[str] = []
        self._sends: dict[str, SqlIdempotency] = {}

    def register(self, name: str, callee: Callee) -> None:
        """``name`` is the effect that ``ctx.effect`` names."""
        if name in self._callees:
            raise InvalidInput("callee", name, "is registered already")
        if callee.timeout_s > self._lease_s / 2:
            raise InvalidInput("timeout_s", callee.timeout_s, f"must be at most half of the lease of {self._lease_s:g} s")
        self._callees[name] = callee
        self._streams.append(self._prefix + name)
        self._sends[name] = self._sends_of(name)

    def _name(self, stream: str) -> str:
        return stream[len(self._prefix):]

    def _sends_of(self, name: str) -> SqlIdempotency:
        return SqlIdempotency(self._store, self._prefix + name, clock=self._clock)

    def wanted(self, event: Event, name: str, key: str, payload: object, lane: str | None) -> Wanted:
        """Checks what a handler asks for. Raises InvalidInput."""
        if name not in self._callees:
            raise InvalidInput("effect", name, "has no callee", fix="register it: inbox.callee(name, keyed(send))")
        for what, text in (("key", key), ("in_order", "-" if lane is None else lane)):
            if not isinstance(text, str) or not text:
                raise InvalidInput(what, type(text).__name__, "must be text and not empty")
        if not isinstance(payload, dict):
            raise InvalidInput("payload", type(payload).__name__, "must be a dict")
        body = msgspec.json.encode(payload, order="deterministic")
        if len(body) > PAYLOAD_MAX_BYTES:
            raise InvalidInput("payload", f"{len(body)} bytes", f"must be at most {PAYLOAD_MAX_BYTES} bytes as JSON")
        return Wanted(event, name, reference(self._endpoint, event, key, name), body,
                      None if lane is None else reference(self._endpoint, event, lane, name))

    def hold(self) -> None:
        """In the open transaction, before anything else is locked in it: effects of all callees here may then be put in any order."""
        self._outbox.hold(self._streams)

    def put(self, tx: Tx, wanted: Wanted) -> None:
        """In the open transaction. The same key again is the same effect; with another payload it is an alarm, and not sent."""
        stream, now = self._prefix + wanted.name, self._clock.now()
        try:
            self._outbox.put(stream, wanted.key, wanted.body, due=now, lane=wanted.lane)
        except PayloadDiffers as refused:
            if self._gaps.alarm(tx, "effect", wanted.event, wanted.key, hashlib.sha256(wanted.body).digest(), now, refused.first, wanted.body):
                log.warning("an effect key came with another payload", extra={"endpoint": self._endpoint, "effect": wanted.name})

    # -- sending

    def work(self, limit: int) -> int:
        """Sends up to ``limit`` effects that are due. Returns how many were taken."""
        check_limit(limit)
        messages = self._outbox.take(limit, self._lease_s, self._streams)
        if not messages:
            return 0
        failpoint("effect.taken")
        batch = self._announce(messages)
        failures: dict[str, int] = {}
        for message in messages:
            name = self._name(message.stream)
            callee = self._callees[name]
            if failures.get(name, 0) >= FAILURES_MAX:  # it is down: the rest of its batch need not find out one by one
                batch.settled.append((message, self._later(message, "callee is failing", None, None), False))
            elif self._clock.now() > message.until - callee.timeout_s:  # too late to begin: the lease could end under the send
                batch.settled.append((message, Retry(self._clock.now(), "the batch took too long"), False))
            else:
                verdict = self._send_keyed(batch, message, name, callee) if callee.kind == "keyed" else self._send_once(message, name, callee)
                failures[name] = failures.get(name, 0) + 1 if _no_answer(verdict) else 0
        self._settle_batch(batch)
        return len(messages)

    def _announce(self, messages: list[Message]) -> _Batch:
        """Durable before anything is sent to a keyed callee that forgets keys: since when each message is being tried."""
        batch = _Batch(self._clock.now())
        keyed = [(self._name(message.stream), message.key) for message in messages if self._forgets(message)]
        if keyed:
            with self._store.transaction() as tx:
                batch.since = {key: self._gaps.trying(tx, name, key, batch.began) for name, key in keyed}
        return batch

    def _forgets(self, message: Message) -> bool:
        callee = self._callees[self._name(message.stream)]
        return callee.kind == "keyed" and callee.remembers_s < inf

    def _settle_batch(self, batch: _Batch) -> None:
        if not batch.settled:
            return
        with self._store.transaction() as tx:
            for message, verdict, happened in batch.settled:
                name, since = self._name(message.stream), batch.since.get(message.key)
                if not self._settle(message, verdict):
                    continue  # its new holder counts by what is written, and says what becomes of it
                if since is not None and (happened or (happened is False and since == batch.began)):
                    self._gaps.tried(tx, name, message.key)
                elif since is not None and isinstance(verdict, Dead):  # this attempt, or one before, may have happened
                    self._gaps.doubt(tx, name, message.key, message.fence, self._clock.now(), "given_up", verdict.error)
        failpoint("effect.settled")

    def _send_keyed(self, batch: _Batch, message: Message, name: str, callee: Callee) -> Verdict:
        since = batch.since.get(message.key)
        happened: bool | None = False
        if since is not None and self._clock.now() + callee.timeout_s - since > callee.remembers_s:
            verdict: Verdict = Dead("in doubt for longer than the callee remembers keys")
        else:
            try:
                verdict, happened = Sent(_note(callee.send(self._effect(message, name)))), True
            except Rejected as refused:
                verdict = Dead(f"{REJECTED}{refused.message}"[:200])
            except NotSent as error:
                verdict = self._later(message, reason_of(error), error.after_s, None)
            except Exception as error:  # whatever else: it may have happened
                verdict, happened = self._later(message, reason_of(error), None, True), None
            else:
                failpoint("effect.called")
        batch.settled.append((message, verdict, happened))
        return verdict

    def _send_once(self, message: Message, name: str, callee: Callee) -> Verdict | None:
        """One send to a callee that honours no key. Returns the verdict that it settled, or None: another sender has it."""
        sends = self._sends[name]
        began = self._clock.now()
        claim = sends.claim(message.key, hashlib.sha256(message.payload).digest(), self._lease_s)
        if isinstance(claim, Done):
            return self._close(message, name, Sent(claim.outcome or b""))
        if isinstance(claim, InFlight):
            return self._close(message, name, Retry(claim.until, "in flight elsewhere"), failed=False)
        if isinstance(claim, Mismatch):
            return self._close(message, name, Dead("the key is known with another payload"))
        if isinstance(claim, Unknown):
            verdict = self._resolve(message, name, callee, claim)
            if verdict is not None:
                return verdict
        sends.intend(message.key, claim.fence, b"attempt %d" % message.attempt)
        failpoint("effect.intended")
        if self._clock.now() > began + self._lease_s - callee.timeout_s:  # paused since: somebody else may hold it by now
            return self._withdraw(message, name, claim.fence)
        return self._send_intended(message, name, callee, claim.fence)

    def _resolve(self, message: Message, name: str, callee: Callee, claim: Unknown) -> Verdict | None:
        """A former holder announced this send and was lost. None: send it now."""
        if callee.kind == "lookup":
            assert callee.find is not None
            try:
                found = callee.find(message.key)
                evidence = _note(found)
            except Exception as error:
                return self._doubtful(message, name, callee, claim.fence, f"look-up failed: {reason_of(error)}")
            return None if found is None else self._close(message, name, Sent(evidence), fence=claim.fence, outcome=evidence)
        if callee.kind == "at_most_once":
            return self._close(message, name, Dead("in doubt: not sent again"), fence=claim.fence, doubt="not_sent_again")
        with self._store.transaction() as tx:
            self._gaps.doubt(tx, name, message.key, claim.fence, self._clock.now(), "sent_again", "its sender was lost")
        return None

    def _send_intended(self, message: Message, name: str, callee: Callee, fence: int) -> Verdict | None:
        try:
            note = _note(callee.send(self._effect(message, name)))
        except Rejected as refused:
            return self._close(message, name, Dead(f"{REJECTED}{refused.message}"[:200]), fence=fence)
        except NotSent as error:
            return self._close(message, name, self._later(message, reason_of(error), error.after_s, False), fence=fence)
        except Exception as error:
            return self._doubtful(message, name, callee, fence, reason_of(error))
        failpoint("effect.called")
        return self._close(message, name, Sent(note), fence=fence, outcome=note)

    def _withdraw(self, message: Message, name: str, fence: int) -> Verdict | None:
        """Nothing was sent, and it is too late to: said so if the fence still holds, else left to whoever has it."""
        return self._close(message, name, Retry(self._clock.now(), "too late to send"), fence=fence)

    def _doubtful(self, message: Message, name: str, callee: Callee, fence: int, reason: str) -> Verdict | None:
        """No answer that says. What follows is the kind's choice."""
        if callee.kind == "at_most_once":
            return self._close(message, name, Dead(f"in doubt: {reason}"), fence=fence, doubt="not_sent_again", keep_intent=True)
        verdict = self._later(message, reason, callee.timeout_s, True)
        if callee.kind == "at_least_once":
            return self._close(message, name, verdict, fence=fence, doubt="sent_again" if isinstance(verdict, Retry) else "given_up")
        return self._close(message, name, verdict, fence=fence, doubt="given_up" if isinstance(verdict, Dead) else None, keep_intent=True)

    def _close(self, message: Message, name: str, verdict: Verdict, *, fence: int | None = None, outcome: bytes | None = None,
               doubt: DoubtOutcome | None = None, keep_intent: bool = False, failed: bool = True) -> Verdict | None:
        """Settles the send and its message in one commit. A lost lease is a fact to be listed, not an error to be raised."""
        with self._store.transaction() as tx:
            if fence is not None and not self._settle_send(tx, message, name, fence, outcome, keep_intent or doubt == "not_sent_again"):
                return None
            if doubt is not None:
                assert fence is not None and not isinstance(verdict, Sent)
                self._gaps.doubt(tx, name, message.key, fence, self._clock.now(), doubt, verdict.error)
            self._settle(message, verdict)
        failpoint("effect.settled")
        return verdict if failed else None

    def _settle_send(self, tx: Tx, message: Message, name: str, fence: int, outcome: bytes | None, keep_intent: bool) -> bool:
        sends = self._sends[name]
        try:
            if keep_intent:
                sends.renew(message.key, fence, AT_ONCE_S)  # no wait for the lease: the next claim finds Unknown
            else:
                sends.settle(message.key, fence, outcome)
        except Stale:
            if outcome is not None:  # it was sent, but under a lease that had passed on: whoever has it may send it, too
                self._gaps.doubt(tx, name, message.key, fence, self._clock.now(), "sent_again", "sent after its lease had passed")
            return False
        return True

    def _settle(self, message: Message, verdict: Verdict) -> bool:
        """False: another sender has the message by now."""
        try:
            self._outbox.settle(message, verdict)
        except Stale:  # taken again meanwhile: its new holder finds by the key what became of it
            log.warning("a sender outlived its lease", extra={"endpoint": self._endpoint})
            return False
        if not isinstance(verdict, Sent):
            level, what = (logging.ERROR, "an effect was given up") if isinstance(verdict, Dead) else (logging.INFO, "an effect will be tried again")
            log.log(level, what, extra={"endpoint": self._endpoint, "effect": self._name(message.stream), "attempt": message.attempt,
                                        "reason": verdict.error})
        return True

    def _later(self, message: Message, reason: str, after_s: float | None, doubted: bool | None) -> Verdict:
        if message.attempt >= self._max_attempts:
            return Dead(reason)
        wait_s = max(backoff_s(message.attempt, self._retry_base_s, self._retry_max_s, self._rng), min(after_s or 0.0, self._retry_max_s))
        return Retry(self._clock.now() + wait_s, reason, doubted)

    @staticmethod
    def _effect(message: Message, name: str) -> Effect:
        return Effect(name, message.key, msgspec.json.decode(message.payload), message.attempt)

    # -- operation

    def next_due(self) -> float | None:
        """When the next effect with a callee here is due."""
        return self._outbox.next_due(self._streams)

    def pending(self) -> int:
        """How many effects wait, also those whose callee is registered elsewhere."""
        return sum(self._outbox.backlog(stream).pending for stream in self._outbox.streams(self._prefix))

    def dead(self, limit: int) -> list[DeadEffect]:
        """Effects that were given up, callee by callee, oldest first."""
        found = [DeadEffect(self._name(stream), one.message.key, one.message.attempt, one.error)
                 for stream in self._outbox.streams(self._prefix) for one in self._outbox.dead(stream, limit)]
        return found[:limit]

    def retire(self, before: float) -> None:
        """Drops the answers of callees settled before that time, never the fact that they were given."""
        for sends in self._sends.values():
            sends.retire(before)

    def replay(self, effect: str, key: str | None = None) -> int:
        """Makes one dead effect due again, or all of that name; not one that a later effect of its lane has overtaken."""
        return self._outbox.replay(self._prefix + effect, None if key is None else [key])

    def resolve(self, effect: str, key: str, *, happened: bool) -> int:
        """Somebody found out. A dead or waiting effect is then closed as sent, or sent again. Returns how many doubts were closed.

        Raises ButtressError, and changes nothing, while a sender holds it. One that a later effect of its lane has overtaken
        stays dead (``overtaken``).
        """
        stream, sends = self._prefix + effect, self._sends_of(effect)
        with self._store.transaction() as tx:
            closed = self._gaps.resolve(tx, effect, key, self._clock.now())
            if not closed:
                return 0
            for waiting in self._waiting(tx, stream, key):
                if happened:
                    self._known(sends, waiting, happened)
                    self._outbox.settle(waiting, Sent(b"resolved"))
            for one in self._outbox.dead(stream, 1, key=key):
                self._known(sends, one.message, happened)
                if happened:
                    self._outbox.mark_sent(one.message, b"resolved")
                elif not self._outbox.replay(stream, [key]):
                    log.warning("an effect that did not happen stays dead: a later one of its lane was or may have been sent",
                                extra={"endpoint": self._endpoint, "effect": effect})
        return closed

    def overtaken(self, effect: str, key: str) -> bool:
        """Whether a dead effect cannot go out any more, because a later one of its lane was or may have been sent."""
        return any(one.overtaken for one in self._outbox.dead(self._prefix + effect, 1, key=key))

    def _waiting(self, tx: Tx, stream: str, key: str) -> list[Message]:
        """The message of that key if it is still to be sent, locked, so that no sender can take it until this commit."""
        lock = " FOR UPDATE" if tx.dialect == "postgres" else ""
        rows = tx.all("SELECT epoch, seq, payload, attempt, doubted, fence, until FROM buttress_outbox WHERE stream = ? AND key = ? "
                      f"AND state = 'pending'{lock}", (stream, key))
        if any(until > self._clock.now() for *_, until in rows):
            raise self._held()
        return [Message(stream, epoch, seq, key, bytes(payload), attempt, bool(doubted), fence, until)
                for epoch, seq, payload, attempt, doubted, fence, until in rows]

    def _known(self, sends: SqlIdempotency, message: Message, happened: bool) -> None:
        claim = sends.claim(message.key, hashlib.sha256(message.payload).digest(), self._lease_s)
        if isinstance(claim, InFlight):
            raise self._held()
        if isinstance(claim, New | Unknown):
            sends.settle(message.key, claim.fence, b"resolved" if happened else None)

    def _held(self) -> ButtressError:
        return ButtressError("a sender holds this effect", fix=f"try again in {self._lease_s:g} s")


@dataclass
class _Batch:
    """What was taken at ``began``: since when keyed messages are being tried, and what became of those settled together.

    ``happened``: True, False (not by this attempt), or None (not known).
    """

    began: float
    since: dict[str, float] = field(default_factory=dict)
    settled: list[tuple[Message, Verdict, bool | None]] = field(default_factory=list)


def check_limit(limit: int) -> None:
    """How many are taken at once: at least one."""
    if limit < 1:
        raise InvalidInput("limit", limit, "must be at least 1")


def _note(answer: object) -> bytes:
    """What is kept of an answer. A response object would be taken for success whatever it says, so only bytes or None will do."""
    if answer is not None and not isinstance(answer, bytes):
        raise InvalidInput("send, find", type(answer).__name__, "must return bytes or None, and raise where it did not succeed")
    return (answer or b"")[:NOTE_MAX_BYTES]


def _no_answer(verdict: Verdict | None) -> bool:
    """Whether the callee seems to be down: neither success nor a refusal."""
    return isinstance(verdict, Retry) or (isinstance(verdict, Dead) and not verdict.error.startswith(REJECTED))
