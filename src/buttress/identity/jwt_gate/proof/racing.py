"""The race: CPU a verification, signature and claims, by algorithm. No verdict is kept; ours with its memory stands beside.

Each subject runs in a process of its own and measures its own CPU time; how many it took is checked.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Mapping
from typing import Any

from buttress.identity.jwt_gate import world
from buttress.identity.jwt_gate.probe.forge import token_of
from buttress.identity.jwt_gate.probe.forms import b64, jwk_of
from buttress.proof import Trial

TOKENS = 50
ROUNDS: Mapping[str, int] = {"rs256": 4, "es256": 2, "ed25519": 2, "hs256": 20}
_made: dict[str, tuple[str, list[str]]] = {}


def lap(trial: Trial, port: Any) -> Mapping[str, float]:
    """One lap: the four algorithms in turn, in microseconds a verification. A token that is not taken ends the lap."""
    found = {}
    for name, alg in (("rs256", "RS256"), ("es256", "ES256"), ("ed25519", "EdDSA"), ("hs256", "HS256")):  # EdDSA: the name that all of them know
        jwk, tokens = _workload(alg, trial.inputs["keys"])
        if not port.prepare(alg=alg, jwk=jwk, issuer=world.ISSUER, audience=world.AUDIENCE):
            continue
        rounds = ROUNDS[name] * trial.size.lap_rounds
        taken, cpu_s = port.verify(tokens=tokens, rounds=rounds)
        if taken != rounds * len(tokens):
            raise ValueError(f"{alg}: {taken} of {rounds * len(tokens)} genuine tokens taken")
        found[f"us_{name}"] = 1e6 * cpu_s / taken
    return found


def kept_lap(trial: Trial, port: Any) -> Mapping[str, float]:
    """The same of ours with its memory of verdicts: each token but the first time from there. Shown beside, never compared."""
    return {f"{name}_kept": value for name, value in lap(trial, port).items()}


def _workload(alg: str, keys: str) -> tuple[str, list[str]]:
    """The same tokens for all, made once: they live for a day of the machine's own time."""
    if alg not in _made:
        rng, now = random.Random(1), time.time()
        issuer = world.Issuer(keys)
        claims = [{"iss": world.ISSUER, "sub": f"user-{n}", "aud": world.AUDIENCE, "exp": int(now) + 86_400, "iat": int(now), "jti": f"{rng.getrandbits(64):016x}",
                   "client_id": "shop", "scope": "read"} for n in range(TOKENS)]
        if alg == "HS256":
            secret = os.urandom(32)
            tokens = [token_of({"alg": alg, "typ": "at+jwt", "kid": "hs256-1"}, c, secret) for c in claims]
            jwk = {"kty": "oct", "k": b64(secret), "kid": "hs256-1", "alg": alg}
        else:
            key = issuer.key("Ed25519" if alg == "EdDSA" else alg)
            tokens = [token_of({"alg": alg, "typ": "at+jwt", "kid": "k1"}, c, key) for c in claims]
            jwk = jwk_of(key.public_key(), kid="k1", alg=alg, use="sig")
        _made[alg] = (json.dumps(jwk), tokens)
    return _made[alg]
