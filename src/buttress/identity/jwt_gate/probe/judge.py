"""The verdict: each mutation between a positive and a garbage control, so that a 401 counts only where the genuine token passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from buttress.identity.jwt_gate.probe.catalogue import CATALOGUE, Mutation
from buttress.identity.jwt_gate.probe.forge import NotJudged, Workshop
from buttress.identity.jwt_gate.probe.target import Answer, Signs

Outcome = Literal["let in", "refused", "unclear", "not judged"]
Verdict = Literal["VULNERABLE", "SAFE", "INCONCLUSIVE"]
EXIT = {"SAFE": 0, "VULNERABLE": 1, "INCONCLUSIVE": 2}
Send = Callable[[str], Answer]


@dataclass(frozen=True)
class Finding:
    """What became of one mutation. ``why`` holds no token."""

    mutation: Mutation
    outcome: Outcome
    status: int = 0
    why: str = ""


@dataclass(frozen=True)
class Report:
    """The verdict and its reach."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    sentence: str
    requests: int
    url: str

    @property
    def exit(self) -> int:
        return EXIT[self.verdict]

    def of(self, outcome: Outcome) -> list[Finding]:
        return [f for f in self.findings if f.outcome == outcome]

    @property
    def judged(self) -> int:
        return len(self.findings) - len(self.of("not judged")) - len(self.of("unclear"))


class Probe:
    """``Probe(send, renew, ...).run()``. ``renew`` gives a Workshop with a genuine token that is valid now: it is asked whenever one may have expired.

    Each group of ``bracket`` mutations stands between two positive controls and holds a garbage control; the smaller, the surer.
    """

    def __init__(self, send: Send, renew: Callable[[], Workshop], signs: Signs, *, url: str = "", mutations: Sequence[Mutation] = CATALOGUE, bracket: int = 1,
                 say: Callable[[int, int, Finding | None], None] = lambda done, of, finding: None) -> None:
        self._send, self._renew, self._signs, self._url = send, renew, signs, url
        self._mutations, self._bracket, self._say = tuple(mutations), max(1, bracket), say
        self._requests = 0

    def run(self) -> Report:
        """All mutations, in their order. Never raises for what the gateway answers."""
        workshop = self._renew()
        if (reading := self._ask(workshop.genuine)) != "in":
            return self._early(f"the genuine token was not let in ({reading}): its refusals say nothing about the others")
        if (reading := self._ask(workshop.garbage())) == "in":
            return self._early("garbage was let in: this URL is not protected, or --expect tells nothing apart")
        if reading == "unclear":
            return self._early("whether garbage was refused cannot be told: --refuse must name its sign")
        findings: list[Finding] = []
        made: list[tuple[Mutation, str]] = []
        done = 0
        for mutation in self._mutations:
            if why := workshop.missing(mutation):
                findings.append(Finding(mutation, "not judged", why=why))
                done += 1
                self._say(done, len(self._mutations), None)
                continue
            made.append((mutation, ""))
            if len(made) == self._bracket:
                findings += self._group([m for m, _ in made])
                done += len(made)
                self._say(done, len(self._mutations), findings[-1])
                made = []
        if made:
            findings += self._group([m for m, _ in made])
            self._say(len(self._mutations), len(self._mutations), findings[-1])
        order = {mutation.id: number for number, mutation in enumerate(self._mutations)}
        return self._report(tuple(sorted(findings, key=lambda f: order[f.mutation.id])))

    def _group(self, mutations: Sequence[Mutation]) -> list[Finding]:
        """Positive, the mutations, garbage, positive. A control that fails takes the judgement of its group; it is tried once more."""
        for attempt in (1, 2):
            workshop = self._renew()
            before = self._ask(workshop.genuine)
            found = [self._one(workshop, mutation) for mutation in mutations]
            garbage = self._ask(workshop.garbage())
            after = self._ask(workshop.genuine)
            if (before, garbage, after) == ("in", "out", "in"):
                if attempt == 1 and any(f.outcome == "unclear" for f in found):
                    continue
                return found
        why = f"controls failed around it: genuine {before}, garbage {garbage}, genuine {after}"
        return [f if f.outcome in ("not judged",) else Finding(f.mutation, "unclear", f.status, why) for f in found]

    def _one(self, workshop: Workshop, mutation: Mutation) -> Finding:
        try:
            token = workshop.make(mutation)
        except NotJudged as why:
            return Finding(mutation, "not judged", why=why.message)
        self._requests += 1
        answer = self._send(token)
        reading = self._signs.read(answer)
        if reading == "unclear":
            return Finding(mutation, "unclear", answer.status, answer.problem or f"status {answer.status} is neither let in nor refused")
        return Finding(mutation, "let in" if reading == "in" else "refused", answer.status)

    def _ask(self, token: str) -> str:
        self._requests += 1
        return self._signs.read(self._send(token))

    def _early(self, why: str) -> Report:
        return Report("INCONCLUSIVE", tuple(Finding(m, "not judged", why="the controls failed") for m in self._mutations), why, self._requests, self._url)

    def _report(self, findings: tuple[Finding, ...]) -> Report:
        in_ = [f for f in findings if f.outcome == "let in" and f.mutation.kind != "spelling"]
        spelled = [f for f in findings if f.outcome == "let in" and f.mutation.kind == "spelling"]
        unclear = [f for f in findings if f.outcome == "unclear"]
        judged = len(findings) - len(unclear) - sum(f.outcome == "not judged" for f in findings)
        reach = f"{judged} of {len(findings)} judged"
        also = f"; {len(spelled)} other spellings of a genuine token taken" if spelled else ""
        if in_:
            return Report("VULNERABLE", findings, f"{len(in_)} let in that must be refused; {reach}{also}", self._requests, self._url)
        if unclear or not judged:
            return Report("INCONCLUSIVE", findings, f"{len(unclear)} could not be told; {reach}{also}", self._requests, self._url)
        return Report("SAFE", findings, f"none let in; {reach}{also}", self._requests, self._url)
