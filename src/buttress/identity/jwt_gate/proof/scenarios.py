"""How gateways are loaded: the whole catalogue, valid tokens through a rotation, an outage of the key server, a clock that is wrong, random kids."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buttress.identity.jwt_gate import world
from buttress.identity.jwt_gate.probe.catalogue import CATALOGUE
from buttress.identity.jwt_gate.probe.forge import NotJudged, Workshop
from buttress.identity.jwt_gate.probe.forms import PublicForms, b64
from buttress.proof import Trial
from buttress.proof.process import SubjectError
from buttress.proof.trial import EPOCH, VirtualClock

ROTATED_AT, LASTS_S, PUBLISHED_S = 300.0, 600.0, 30.0
OUTAGE_S, HOUR = 300.0, 3600.0
SKEW_S, GRANTED_S = 120.0, 30.0


@dataclass(frozen=True)
class Size:
    """``valid`` tokens through the rotation, of which ``rsa`` are signed by RS256 (a signature of it costs the issuer a millisecond); ``kids`` at random."""

    valid: int
    rsa: int
    kids: int
    laps: int = 51
    lap_rounds: int = 8


def inputs(size: Size, seed: int, folder: Path) -> Mapping[str, str]:
    """The issuer's keys, and all valid tokens of the rotation: (issued at, algorithm, generation, token), the time since the start."""
    world.make_keys(folder)
    issuer, rng = world.Issuer(str(folder)), random.Random(f"{seed}/tokens")
    others = (size.valid - size.rsa) // 2
    lines = []
    for alg, count in (("RS256", size.rsa), ("ES256", others), ("Ed25519", size.valid - size.rsa - others)):
        for number in range(count):
            at = -200 + (LASTS_S + 200) * number / count
            lines.append([at, alg, issuer.token(alg, EPOCH + at, rng, int(at >= ROTATED_AT))])
    (folder / "tokens.json").write_text(json.dumps(sorted(lines)))
    return {"keys": str(folder), "tokens": str(folder / "tokens.json")}


@contextlib.contextmanager
def outside(trial: Trial) -> Iterator[Mapping[str, str]]:
    """A fresh key server and application for each trial."""
    simulated = world.Outside(trial, world.Issuer(trial.inputs["keys"]))
    trial.outside = simulated
    with simulated.serving() as addresses:
        yield addresses


def _turned(trial: Trial) -> VirtualClock:
    assert isinstance(trial.clock, VirtualClock)
    return trial.clock


class _Driver:
    """Sends requests, each with an id of its own, and says what each was."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.port, self.number = trial, trial.open(), 0
        self.issuer: world.Issuer = trial.outside.issuer
        self.takes = [alg for alg in world.ALGS if alg in self.port.takes()]
        if not self.takes:
            raise ValueError("the gateway takes none of RS256, ES256 and Ed25519")

    def send(self, token: str, must: str, **about: Any) -> None:
        """``must``: ``in`` (genuine), ``out`` (forged or not valid) or ``any``."""
        self.number += 1
        id = f"{must}-{self.number}"
        self.trial.record("fact", what="sent", id=id, must=must, at=self.trial.clock.now(), **about)
        with contextlib.suppress(SubjectError):  # an error is no answer: what counts is what arrived
            self.port.request(id=id, authorization=f"Bearer {token}")

    def genuine(self, alg: str, generation: int = 0, age_s: float = 0, **changes: Any) -> str:
        return self.issuer.token(alg, self.trial.clock.now() - age_s, self.trial.rng, generation, **changes)


def catalogue(trial: Trial) -> None:
    """Each mutation of the catalogue for each algorithm that the gateway takes, between two genuine tokens and beside garbage."""
    driver = _Driver(trial)
    for alg in driver.takes:
        public = PublicForms.of_jwk(driver.issuer.jwk(alg, 0))
        for mutation in CATALOGUE:
            workshop = Workshop(driver.genuine(alg), trial.clock.now(), public, driver.issuer.key(alg), trial.outside.base)
            try:
                token = workshop.make(mutation)
            except NotJudged:
                continue
            driver.send(workshop.genuine, "in", control=True)
            driver.send(token, "out", mutation=mutation.id, group=mutation.kind, alg=alg)
            driver.send(workshop.garbage(), "out", mutation="garbage", group="garbage", alg=alg)
            if isinstance(trial.clock, VirtualClock):
                trial.clock.advance(1.0)
        driver.send(driver.genuine(alg), "in", control=True)


def rotation(trial: Trial) -> None:
    """Valid tokens over ten minutes; after five the issuer signs with new keys. A token is used while it lives, so both kinds come for a while."""
    driver = _Driver(trial)
    begin, rng = trial.clock.now(), trial.rng
    tokens = [line for line in json.loads(Path(trial.inputs["tokens"]).read_text()) if line[1] in driver.takes]
    sends = sorted((max(0.0, at) + rng.uniform(0, 90), alg, token) for at, alg, token in tokens)
    published = signing = False
    for at, alg, token in sends:
        _turned(trial).to(begin + at)
        if not published and at >= ROTATED_AT - PUBLISHED_S:
            trial.outside.generations, published = (0, 1), True
        if not signing and at >= ROTATED_AT:
            signing = True
            trial.fault("the issuer's keys are rotated")
        driver.send(token, "in", alg=alg, valid=True)


def outage(trial: Trial) -> None:
    """The key server is down for five minutes, which must keep nobody out; later for three hours, in which keys grow too old to be used."""
    driver = _Driver(trial)
    begin, alg = trial.clock.now(), driver.takes[-1]
    public = PublicForms.of_jwk(driver.issuer.jwk(alg, 0))
    seconds = 0.0
    while seconds < 900:
        _turned(trial).to(begin + seconds)
        down = ROTATED_AT <= seconds < ROTATED_AT + OUTAGE_S
        if down and not trial.outside.down:
            trial.fault("key server down for five minutes")
        trial.outside.down = down
        token = driver.genuine(alg)
        driver.send(token, "in", alg=alg, valid=True)
        if seconds % 30 == 0:
            driver.send(Workshop(token, trial.clock.now(), public).garbage(), "out", mutation="garbage", group="garbage", alg=alg)
        seconds += 5
    trial.outside.down = True
    trial.fault("key server down for three hours")
    for minute in range(1, 181):
        _turned(trial).to(begin + 900 + 60 * minute)
        if 60 * minute > HOUR + 60:
            driver.send(driver.genuine(alg), "out", group="keys too old", alg=alg)


def clock(trial: Trial) -> None:
    """Tokens that are valid, or not, beyond what a clock that is off by 120 s and a grace of 30 s can excuse."""
    driver = _Driver(trial)
    beyond = SKEW_S + GRANTED_S + 5
    for _ in range(60):
        now = trial.clock.now()
        for alg in driver.takes:
            driver.send(driver.genuine(alg, age_s=SKEW_S + 1, exp=int(now + SKEW_S + 5)), "in", alg=alg, valid=True)
            driver.send(driver.genuine(alg, age_s=600, exp=int(now - beyond)), "out", group="expired", alg=alg)
            driver.send(driver.genuine(alg, age_s=200, nbf=int(now + beyond)), "out", group="not yet", alg=alg)
        _turned(trial).advance(5.0)


def kids(trial: Trial) -> None:
    """Random kids within one virtual second, as fast as a stranger can send them, and genuine tokens in between."""
    driver = _Driver(trial)
    alg = driver.takes[-1]
    driver.send(driver.genuine(alg), "in", alg=alg, valid=True)
    _turned(trial).advance(60.0)
    claims = b64(json.dumps({"iss": world.ISSUER, "aud": world.AUDIENCE, "sub": "x", "exp": int(trial.clock.now()) + 300}).encode())
    trial.fault("random kids", kids=trial.size.kids)
    signature = b64(bytes(range(64)))
    for number in range(trial.size.kids):
        header = b64(json.dumps({"alg": alg, "typ": "at+jwt", "kid": f"{trial.rng.getrandbits(64):x}"}).encode())
        driver.send(f"{header}.{claims}.{signature}", "out", group="random kid", alg=alg)
        _turned(trial).advance(1.0 / trial.size.kids)
        if number % 500 == 499:
            driver.send(driver.genuine(alg), "in", alg=alg, valid=True)
