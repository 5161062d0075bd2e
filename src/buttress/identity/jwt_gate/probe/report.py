"""A report as text, JSON, JUnit and SARIF, and how to see a finding again. No token stands in any of them."""

from __future__ import annotations

import json
import shlex
from typing import Any
from xml.sax.saxutils import quoteattr

from buttress.identity.jwt_gate.probe.judge import Finding, Report

NAME = "buttress jwt_gate probe"


def reproduction(finding: Finding, url: str, method: str = "GET", header: str = "Authorization", prefix: str = "Bearer ") -> str:
    """A curl line that sends the same mutation. The token is made on the spot from yours, and stands nowhere."""
    made = f"buttress jwt_gate catalogue --make {finding.mutation.id} --valid @token.txt"
    more = "".join({"public key": " --jwks keys.json", "public RSA key": " --jwks keys.json", "certificate": " --cert issuer.pem"}.get(need, "")
                   for need in finding.mutation.needs)
    more += " --sign issuer-key.pem" if any(need.startswith("issuer key") for need in finding.mutation.needs) else ""
    verb = "" if method == "GET" else f"-X {method} "
    return f'{made}{more} | sed {shlex.quote(f"s/^/{header}: {prefix}/")} | curl -s -o /dev/null -w "%{{http_code}}\\n" {verb}-H @- {shlex.quote(url)}'


def text(report: Report, *, every: bool = False) -> str:
    """For people: the verdict first, then what was let in, then what could not be told or judged."""
    lines = [f"{report.verdict}: {report.sentence} ({report.requests} requests)"]
    for finding in report.of("let in"):
        lines += [f"  ✕ {finding.mutation.id}: {finding.mutation.title} [{finding.mutation.section}] {finding.mutation.kind}",
                  f"      {reproduction(finding, report.url)}"]
    lines += [f"  ? {f.mutation.id}: {f.why}" for f in report.of("unclear")]
    if every:
        lines += [f"  ● {f.mutation.id}: refused, {f.status}" for f in report.of("refused")]
    missing: dict[str, list[str]] = {}
    for finding in report.of("not judged"):
        missing.setdefault(finding.why, []).append(finding.mutation.id)
    lines += [f"  ◌ not judged, {why} ({len(ids)}): {' '.join(ids)}" for why, ids in missing.items()]
    return "\n".join(lines)


def as_json(report: Report) -> dict[str, Any]:
    """The report as one JSON object; its findings in the order of the catalogue."""
    return {"schema": 1, "verdict": report.verdict, "sentence": report.sentence, "url": report.url, "requests": report.requests,
            "judged": report.judged, "of": len(report.findings),
            "findings": [{"id": f.mutation.id, "title": f.mutation.title, "section": f.mutation.section, "kind": f.mutation.kind, "needs": list(f.mutation.needs),
                          "outcome": f.outcome, "status": f.status or None, "why": f.why} for f in report.findings]}


def junit(report: Report) -> str:
    """A mutation is a testcase: let in is a failure, unclear an error, not judged is skipped with what it needs. The verdict is one, too."""
    cases = []
    if report.verdict == "INCONCLUSIVE":
        cases.append(f'<testcase classname={quoteattr(NAME)} name="controls"><error message={quoteattr(report.sentence)}/></testcase>')
    for f in report.findings:
        name = f"<testcase classname={quoteattr(NAME)} name={quoteattr(f'{f.mutation.id}: {f.mutation.title}')}"
        tag = {"let in": "failure" if f.mutation.kind != "spelling" else "", "unclear": "error", "not judged": "skipped", "refused": ""}[f.outcome]
        said = f.why or f"let in ({f.status}) [{f.mutation.section}]"
        cases.append(f"{name}><{tag} message={quoteattr(said)}/></testcase>" if tag else f"{name}/>")
    failures = sum(f.outcome == "let in" and f.mutation.kind != "spelling" for f in report.findings)
    errors = len(report.of("unclear")) + (report.verdict == "INCONCLUSIVE")
    head = f'<testsuite name={quoteattr(NAME)} tests="{len(cases)}" failures="{failures}" errors="{errors}" skipped="{len(report.of("not judged"))}">'
    return f'<?xml version="1.0" encoding="utf-8"?>\n<testsuites>{head}{"".join(cases)}</testsuite></testsuites>\n'


def sarif(report: Report, anchor: str, version: str) -> str:
    """SARIF 2.1.0. Each result points at ``anchor``, a file of the repository (the gateway's configuration): GitHub refuses results without a place."""
    place = {"physicalLocation": {"artifactLocation": {"uri": anchor}, "region": {"startLine": 1}}}
    shown = [f for f in report.findings if f.outcome in ("let in", "unclear")]
    rules = [{"id": f.mutation.id, "name": f.mutation.id.replace(".", "_"), "shortDescription": {"text": f.mutation.title},
              "fullDescription": {"text": f"{f.mutation.title} ({f.mutation.section})"}, "helpUri": "https://www.rfc-editor.org/rfc/rfc8725",
              "properties": {"tags": ["security"], "security-severity": {"forgery": "9.8", "misuse": "6.5", "spelling": "3.1"}[f.mutation.kind]}} for f in shown]
    results = []
    for number, f in enumerate(shown):
        level = "note" if f.outcome == "unclear" or f.mutation.kind == "spelling" else "error" if f.mutation.kind == "forgery" else "warning"
        said = f"Let in: {f.mutation.title} ({f.mutation.section}). See it again: {reproduction(f, report.url)}" if f.outcome == "let in" else \
            f"Could not be told: {f.mutation.title}: {f.why}"
        results.append({"ruleId": f.mutation.id, "ruleIndex": number, "level": level, "message": {"text": said}, "locations": [place],
                        "partialFingerprints": {"mutation/v1": f.mutation.id}})
    run = {"tool": {"driver": {"name": NAME, "version": version, "informationUri": "https://github.com/buttress/buttress", "rules": rules}}, "results": results,
           "properties": {"verdict": report.verdict, "reach": report.sentence}}
    return json.dumps({"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}, indent=1) + "\n"
