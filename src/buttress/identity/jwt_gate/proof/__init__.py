"""The proof of jwt_gate: the gateway that broke, known libraries before and after their advisories, ours, and yours."""

from __future__ import annotations

from typing import Any

from buttress.identity.jwt_gate.probe.catalogue import CATALOGUE
from buttress.identity.jwt_gate.proof import checkers, peers
from buttress.identity.jwt_gate.proof.port import Gateway, Verifying
from buttress.identity.jwt_gate.proof.racing import kept_lap, lap
from buttress.identity.jwt_gate.proof.scenarios import Size, catalogue, clock, inputs, kids, outage, outside, rotation
from buttress.identity.jwt_gate.proof.subjects import at_url
from buttress.proof import Claim, Control, Figure, Proof, Race, Scenario, Subject
from buttress.proof.contract import Measured
from buttress.proof.faults import ClockSkew
from buttress.proof.verdict import count

HERE = "buttress.identity.jwt_gate.proof.subjects"
SKEWS = (ClockSkew(step_s=120.0, after_s=30.0, name="clock +120 s"), ClockSkew(step_s=-120.0, after_s=30.0, name="clock -120 s"))


def scenarios(size: Size) -> tuple[Scenario, ...]:
    """In this process for ours and the baseline; the others in processes and environments of their own."""
    found = []
    for roles, processes in ((("baseline", "buttress", "yours"), False), (("peer",), True)):
        found += [
            Scenario(checkers.CATALOGUE, catalogue, roles=roles, processes=processes),  # type: ignore[arg-type]
            Scenario(checkers.ROTATION, rotation, roles=roles, processes=processes),  # type: ignore[arg-type]
            Scenario(checkers.OUTAGE, outage, roles=roles, processes=processes),  # type: ignore[arg-type]
            Scenario(checkers.CLOCK, clock, SKEWS, roles=roles, processes=processes),  # type: ignore[arg-type]
            Scenario(checkers.KIDS, kids, roles=roles, processes=processes),  # type: ignore[arg-type]
        ]
    return (*found, Scenario(checkers.SERVICE, catalogue, virtual=False, hosting=("service", "url")))


def nothing_let_in(size: Any) -> Measured:
    return count(0, len(CATALOGUE))


PROOF = Proof(
    system="jwt_gate",
    port=Gateway,
    subjects=(
        Subject("two algorithms", f"{HERE}:naive", "baseline", about="RS256 and HS256, chosen by the header"),
        *peers.SUBJECTS,
        Subject("buttress", f"{HERE}:buttress", "buttress", about="one (issuer, kid), one algorithm"),
    ),
    scenarios=scenarios,
    checkers=(checkers.verdicts, checkers.fetches),
    claims=(
        Claim("forged tokens let in, of the whole catalogue", "forged", "== 0", "tokens", perfect=nothing_let_in),
        Claim("valid tokens refused, through rotation, outage and a wrong clock", "false_rejects", "== 0", "tokens", needs=("virtual",),
              perfect=lambda size: count(0, size.valid)),
        Claim("expired or future tokens let in, clock off by 120 s", "untimely", "== 0", "tokens", needs=("virtual",), perfect=lambda size: count(0, 100)),
        Claim("let in on keys older than an hour and a minute", "too_old", "== 0", "tokens", needs=("virtual",), perfect=lambda size: count(0, 100)),
        Claim("tokens with a random kid let in", "random_in", "== 0", "tokens", needs=("virtual",), perfect=lambda size: count(0, size.kids)),
        Claim("requests at the key server in any 10 seconds", "fetches_an_interval", "<= 1", "requests", needs=("virtual",), perfect=lambda size: count(1, 10)),
        Claim("CPU of an RS256 verification, over PyJWT", "us_rs256", "<= 0.5", "×", over=peers.RACED, scale="full"),
        Claim("CPU of an RS256 verification, over the bare signature", "us_rs256", "<= 1.4", "×", over="raw cryptography", scale="full"),
        Claim("CPU of an HS256 verification, over PyJWT", "us_hs256", "<= 0.25", "×", over=peers.RACED, scale="full"),
    ),
    controls=(
        Control("two algorithms must let a forged token in", "two algorithms", "forged", "> 0"),
        Control("two algorithms must ask the key server too often", "two algorithms", "fetches_an_interval", "> 1"),
        Control("two algorithms must use keys that are too old", "two algorithms", "too_old", "> 0"),
        Control("two algorithms must let untimely tokens in", "two algorithms", "untimely", "> 0"),
        *(Control(f"{name} must let a forged token in", name, "forgeries", "> 0", guards=("forged tokens let in, of the whole catalogue",), scale="full")
          for name in ("Authlib 1.3.0", "PyJWT 2.3.0", "jsonwebtoken 8.5.1")),
        Control("every genuine token around the catalogue is let in", "judged", "genuine_refused", "== 0", kind="positive"),
        Control("two algorithms lets the genuine in", "two algorithms", "genuine_refused", "== 0", kind="positive"),
    ),
    sizes={"quick": Size(valid=5_000, rsa=300, kids=2_000), "full": Size(valid=100_000, rsa=6_000, kids=10_000)},
    inputs=inputs,
    world=outside,
    races=(
        Race("verify", lap, port=Verifying, scale="full", better={f"us_{name}": "less" for name in ("rs256", "es256", "ed25519", "hs256")},
             factories={"buttress": f"{HERE}:verifying", **peers.RACING}),
        Race("verdicts kept", kept_lap, port=Verifying, scale="full", better={f"us_{name}_kept": "less" for name in ("rs256", "es256", "ed25519", "hs256")},
             factories={"buttress": f"{HERE}:verifying_kept"}),
    ),
    from_url=at_url,
    findings={
        "pass": "No forged token was let in, and no valid one refused: not through a rotation, not in an outage, not under a wrong clock.",
        "fail": "Confused: {forged} forged tokens let in, {false_rejects} valid ones refused, {untimely} untimely ones let in.",
        "unknown": "{forged} forged tokens let in, {false_rejects} valid ones refused; not all of it could be told.",
    },
    figures=(
        Figure("what was let in", "matrix", "Tokens let in that must be refused, by family of mutation", "", checkers.where,
               {"pass": "A key that carries its algorithm cannot be confused"}),
    ),
    labels=("Issuer, key server and application simulated", "Time virtual", "Keys and tokens made for the run"),
    hurts="A gateway took RS256 and HS256. The public key is public: whoever signs with it by HMAC is let in as anybody. Scanners had looked and found nothing.",
    headline="forged tokens let in",
)
