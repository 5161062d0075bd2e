"""Gateways that look right and are not, each with one flaw, for test_proof.py. What is honest in them is the proof's own subject."""

from __future__ import annotations

from buttress.identity.jwt_gate import Refused
from buttress.identity.jwt_gate.claims import Policy
from buttress.identity.jwt_gate.proof.subjects import Ours
from buttress.identity.jwt_gate.strict import loads, unbase64url


class Honest(Ours):
    pass


class AnswersAheadOfItsVerdict(Ours):
    """Forwards everything to the application and answers 401 afterwards where it should have refused: its status is spotless."""

    def request(self, id, authorization):
        status = super().request(id, authorization)
        if status != 200:
            self._upstream.get(id)
        return status


class RefusesEverybody(Ours):
    def request(self, id, authorization):
        return 401


class AnswersWithoutForwarding(Ours):
    """Says 200 and lets nobody through."""

    def request(self, id, authorization):
        return 200


class TakesUnsigned(Ours):
    def request(self, id, authorization):
        try:
            header = loads(unbase64url(authorization[7:].split(".")[0].encode()), 9)
        except Refused:
            return 401
        if isinstance(header, dict) and header.get("alg") == "none":
            return self._upstream.get(id)
        return super().request(id, authorization)


class FollowsTheHeaderKey(Ours):
    def request(self, id, authorization):
        from buttress.identity.jwt_gate.keys import KeyBinding

        try:
            signed, _, tail = authorization[7:].rpartition(".")
            header = loads(unbase64url(signed.split(".")[0].encode()), 9)
            KeyBinding("x", header["alg"], header["jwk"]).check(signed.encode(), unbase64url(tail.encode()))
        except Exception:
            return super().request(id, authorization)
        return self._upstream.get(id)


class NeverFetchesAgain(Ours):
    """Keeps its first key set for good: new keys are unknown, old ones never die."""

    def __init__(self, env):
        super().__init__(env)
        self._verifier.keys._set.ttl_s = float("inf")
        self._verifier.keys._set.may_fetch = lambda now, known=self._verifier.keys._set: known.fetched is None


class AsksForEachKid(Ours):
    def __init__(self, env):
        super().__init__(env)
        self._verifier.keys._set.may_fetch = lambda now: True
        self._verifier.keys._set.negative_s = 0


class FiveMinutesOfGrace(Ours):
    def __init__(self, env):
        super().__init__(env)
        self._verifier.policy = Policy(issuer=env.world["issuer"], audience=env.world["audience"], leeway_s=300)


class ClosesAtOnceInAnOutage(Ours):
    """Without a fresh key set nobody is let in."""

    def __init__(self, env):
        super().__init__(env)
        self._verifier.keys._set.stale_s = 0
        self._verifier.keys._set.ttl_s = 60


class KeepsVerdictsForGood(Ours):
    """Remembers a token that was genuine once, whatever the time and the keys say."""

    def __init__(self, env):
        super().__init__(env)
        self.known = set()

    def request(self, id, authorization):
        body = authorization[7:].split(".")[1] if authorization.count(".") == 2 else ""
        if body in self.known:
            return self._upstream.get(id)
        status = super().request(id, authorization)
        if status == 200:
            self.known.add(body)
        return status


