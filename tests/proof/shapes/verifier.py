"""Shape 2, a pure function: a gate that admits tokens. No forged one is admitted; the genuine one is let in."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from buttress.proof import Claim, Control, Env, History, Proof, Race, Scenario, Subject, SubjectError, Trial
from buttress.proof.contract import Measured
from buttress.proof.verdict import count

KEY, OTHER_KEY = "c0ffee", "decaf0"


class Gate(Protocol):
    def admits(self, token: str) -> bool: ...


class Naive:
    """Compares as much of the signature as it was given: an empty one is a prefix of every other."""

    def __init__(self, env: Env) -> None:
        self._key = env.world["key"]

    def admits(self, token: str) -> bool:
        payload, _, signature = token.partition(".")
        return sign(payload, self._key).startswith(signature)


class Good(Naive):
    def admits(self, token: str) -> bool:
        payload, _, signature = token.partition(".")
        return hmac.compare_digest(sign(payload, self._key), signature)


@dataclass(frozen=True)
class Size:
    genuine: int
    laps: int = 7


def sign(payload: str, key: str) -> str:
    return hmac.new(key.encode(), payload.encode(), hashlib.sha256).hexdigest()


def forgeries(payload: str) -> list[str]:
    genuine = sign(payload, KEY)
    return [f"{payload}.", payload, f"{payload}.{genuine[:16]}", f"{payload}x.{genuine}", f"{payload}.{sign(payload, OTHER_KEY)}",
            f"{payload}.{genuine.upper()}", f"{payload}.{genuine}{genuine}", f".{genuine}"]


def drive(trial: Trial) -> None:
    gate = trial.open()
    payloads = [f"user-{trial.rng.randrange(10**6)}" for _ in range(trial.size.genuine)]
    cases = [(f"{p}.{sign(p, KEY)}", True) for p in payloads] + [(token, False) for p in payloads for token in forgeries(p)]
    trial.rng.shuffle(cases)
    for token, genuine in cases:
        try:
            admitted = gate.admits(token) is True
        except SubjectError:
            admitted = False
        trial.record("fact", genuine=genuine, admitted=admitted)


def admitted(history: History) -> Mapping[str, Measured]:
    facts = history.where(kind="fact")
    genuine, forged = ([f["admitted"] for f in facts.where(genuine=which)] for which in (True, False))
    return {"forged admitted": count(sum(forged), len(forged)), "genuine refused": count(len(genuine) - sum(genuine), len(genuine))}


@contextlib.contextmanager
def world(trial: Trial) -> Iterator[Mapping[str, str]]:
    yield {"key": KEY}


def lap(trial: Trial, gate: Gate) -> Mapping[str, float]:
    for number in range(40):
        gate.admits(token=f"user-{number}.{sign(f'user-{number}', KEY)}")
    return {}


PROOF = Proof(
    system="verifier", port=Gate,
    subjects=(Subject("naive", f"{__file__}:naive", "baseline"), Subject("reference", f"{__file__}:good", "peer"),
              Subject("good", f"{__file__}:good", "buttress")),
    scenarios=(Scenario("tokens", drive),),
    checkers=(admitted,),
    world=world,
    races=(Race("gate", lap),),
    claims=(Claim("forged admitted", "forged admitted", "== 0", "tokens", perfect=lambda size: count(0, size.genuine)),
            Claim("CPU over the naive one", "gate.cpu_s", "<= 20", "×", over="naive", speed=True)),
    controls=(Control("the naive gate lets some in", "naive", "forged admitted", "> 0", guards=("forged admitted",)),
              Control("the genuine are let in", "judged", "genuine refused", "== 0", "positive", guards=("forged admitted",)),
              Control("the reference admits the genuine", "reference", "genuine refused", "== 0", "positive", guards=("forged admitted",))),
    sizes={"quick": Size(20)},
)


def naive(env: Env) -> Naive:
    return Naive(env)


def good(env: Env) -> Good:
    return Good(env)


def deaf(env: Env) -> Good:
    """A reference whose key is another: it refuses the genuine."""
    return Good(Env(env.dir, env.seed, {"key": OTHER_KEY}, env.clock))
