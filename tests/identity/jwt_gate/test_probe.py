"""The probe: its verdicts, its reach, its secrets; and the version matrix of libraries that were really vulnerable."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import time
import xml.etree.ElementTree as ET

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from buttress.identity.jwt_gate import Refused, Verifier, world
from buttress.identity.jwt_gate.cli import cli
from buttress.identity.jwt_gate.probe.catalogue import BY_ID, CATALOGUE
from buttress.identity.jwt_gate.probe.forge import Workshop
from buttress.identity.jwt_gate.probe.forms import PublicForms
from buttress.identity.jwt_gate.probe.judge import Probe
from buttress.identity.jwt_gate.probe.target import Answer, Condition, Signs, Target, check_allowed
from buttress.identity.jwt_gate.proof import peers
from buttress.kernel.clock import SystemClock
from buttress.kernel.errors import InvalidInput
from buttress.proof.parts import fetched, parts_folder, python_of

from .planted import secret_is, signature_alone, unsigned


@pytest.fixture
def now_token(issuer):
    rng = random.Random(2)
    return lambda alg="RS256", **changes: issuer.token(alg, time.time(), rng, **changes)


@pytest.fixture
def strict(policy, keys):
    verifier = Verifier(policy, keys, clock=SystemClock())

    def accepts(token):
        try:
            verifier.verify(token)
        except Refused:
            return False
        return True

    return accepts


@pytest.fixture
def files(tmp_path, issuer, now_token):
    (tmp_path / "token.txt").write_text(now_token())
    (tmp_path / "jwks.json").write_bytes(issuer.document((0,)))
    (tmp_path / "key.pem").write_bytes(issuer.key("RS256").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return tmp_path


def run(*args, stdin=None):
    result = CliRunner().invoke(cli, ["probe", *args], input=stdin)
    return result.exit_code, result.output


# -- verdicts


def test_ours_is_safe_and_the_reach_is_named(serve_gateway, strict, files):
    url = serve_gateway(strict)
    code, said = run("--url", url, "--valid", f"@{files}/token.txt", "--jwks", f"{files}/jwks.json")
    assert code == 0
    assert "SAFE: none let in; " in said
    assert f"of {len(CATALOGUE)} judged" in said and "not judged, needs issuer key: --sign KEY (46)" in said


def test_with_the_issuers_key_and_a_callback_all_is_judged_but_what_fits_no_such_key(serve_gateway, strict, files):
    url = serve_gateway(strict)
    code, said = run("--url", url, "--valid", f"@{files}/token.txt", "--jwks", f"{files}/jwks.json", "--sign", f"{files}/key.pem", "--callback", "--bracket", "10", "--json")
    report = json.loads(said)
    assert (code, report["verdict"]) == (0, "SAFE")
    assert {f["id"] for f in report["findings"] if f["outcome"] == "not judged"} <= {"alg.polymorphic", "base64.alphabet"}


def test_a_confused_gateway_is_vulnerable(serve_gateway, strict, files, issuer):
    public = PublicForms.of_jwk(issuer.jwk("RS256", 0))
    flaw = secret_is(form="pkcs1.none")

    class Place:
        pass

    place = Place()
    place.public = public

    def accepts(token):
        with contextlib.suppress(Exception):
            return strict(token) or flaw(token, place)
        return False

    code, said = run("--url", serve_gateway(accepts), "--valid", f"@{files}/token.txt", "--jwks", f"{files}/jwks.json", "--only", "hmac.")
    assert code == 1
    assert "VULNERABLE: 1 let in that must be refused" in said
    assert "✕ hmac.pkcs1.none" in said and "catalogue --make hmac.pkcs1.none --valid @token.txt --jwks keys.json" in said


def test_misuse_is_found_with_the_issuers_key_alone(serve_gateway, strict, files, issuer):
    class Place:
        key, alg = issuer.key("RS256"), "RS256"

    def accepts(token):
        with contextlib.suppress(Exception):
            return strict(token) or signature_alone(token, Place)
        return False

    args = ("--url", serve_gateway(accepts), "--valid", f"@{files}/token.txt", "--only", "exp.")
    assert run(*args)[0] == 2, "nothing could be made: no SAFE without a judgement"
    code, said = run(*args, "--sign", f"{files}/key.pem")
    assert code == 1 and "exp.past" in said


@pytest.mark.parametrize(("accepts", "why"), [(lambda token: False, "the genuine token was not let in"), (lambda token: True, "garbage was let in")])
def test_without_controls_there_is_no_verdict(serve_gateway, files, accepts, why):
    code, said = run("--url", serve_gateway(accepts), "--valid", f"@{files}/token.txt")
    assert code == 2 and "INCONCLUSIVE" in said and why in said


def test_a_rate_limit_is_no_refusal(files, serve, strict):
    """After forty requests everything is 429: what came later is not called safe."""
    seen = []

    def answer(path, headers):
        seen.append(1)
        if len(seen) > 40:
            return 429, {}, b""
        return (200, {}, b"in") if strict(headers.get("Authorization", "")[7:]) else (401, {}, b"out")

    code, said = run("--url", serve(answer), "--valid", f"@{files}/token.txt")
    assert code == 2 and "controls failed around it" in said


def test_gateways_that_answer_200_to_a_refusal_are_told_apart(serve, strict, files):
    def answer(path, headers):
        return (200, {"X-User": "alice"}, b"welcome") if strict(headers.get("Authorization", "")[7:]) else (200, {}, b"please log in")

    url = serve(answer)
    base = ("--url", url, "--valid", f"@{files}/token.txt", "--only", "none.")
    assert run(*base)[0] == 2
    assert run(*base, "--expect", "body:welcome", "--refuse", "body:log in")[0] == 0
    assert run(*base, "--expect", "header:X-User=alice", "--refuse", "body:log in")[0] == 0
    assert run(*base, "--expect", "nonsense")[0] != 0


def test_a_spelling_is_told_and_is_no_vulnerability(serve_gateway, strict, files):
    def accepts(token):
        return strict(token) or strict(token.replace("?", "").replace(" ", "").rstrip("="))

    code, said = run("--url", serve_gateway(accepts), "--valid", f"@{files}/token.txt", "--only", "base64.")
    assert code == 0 and "other spellings of a genuine token taken" in said


# -- secrets, files and hosts


def test_a_token_is_never_an_argument_and_stands_nowhere(serve_gateway, files, issuer, tmp_path):
    token = (files / "token.txt").read_text()
    url = serve_gateway(lambda given: given == token or unsigned(given, None) if given.count(".") == 2 else False)
    assert run("--url", url, "--valid", token)[0] == 2
    assert "never an argument" in run("--url", url, "--valid", token)[1]
    junit, sarif = tmp_path / "junit.xml", tmp_path / "out.sarif"
    code, said = run("--url", url, "--valid", f"@{files}/token.txt", "--only", "none.", "--junit", str(junit), "--sarif", str(sarif), "--anchor", "nginx.conf", "--every")
    assert code == 1
    for text in (said, junit.read_text(), sarif.read_text()):
        for part in token.split("."):
            assert part not in text
        assert "eyJ" not in text
    suite = ET.fromstring(junit.read_text())[0]
    assert int(suite.get("failures")) >= 1 and len(suite) == int(suite.get("tests"))
    run_of = json.loads(sarif.read_text())["runs"][0]
    assert run_of["results"] and all(r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "nginx.conf" for r in run_of["results"])
    assert all(run_of["tool"]["driver"]["rules"][r["ruleIndex"]]["id"] == r["ruleId"] for r in run_of["results"])
    assert "--sarif needs --anchor" in run("--url", url, "--valid", f"@{files}/token.txt", "--sarif", str(sarif))[1]


def test_the_token_from_stdin_and_from_a_command(serve_gateway, strict, files):
    url, token = serve_gateway(strict), (files / "token.txt").read_text()
    assert run("--url", url, "--valid", "-", "--only", "none.", stdin=token)[0] == 0
    assert run("--url", url, "--valid-cmd", f"cat {files}/token.txt", "--only", "none.")[0] == 0
    assert "ended with 1" in run("--url", url, "--valid-cmd", "false")[1]
    assert "name one of" in run("--url", url)[1]


def test_a_reproduction_makes_the_same_mutation(serve_gateway, files, strict):
    made = CliRunner().invoke(cli, ["catalogue", "--make", "hmac.spki.lf", "--valid", f"@{files}/token.txt", "--jwks", f"{files}/jwks.json"]).output.strip()
    public = PublicForms.of_jwk(json.loads((files / "jwks.json").read_text())["keys"][0])

    class Place:
        pass

    Place.public = public
    assert secret_is(form="spki.lf")(made, Place)
    assert "needs public key" in CliRunner().invoke(cli, ["catalogue", "--make", "hmac.spki.lf", "--valid", f"@{files}/token.txt"]).output


@pytest.mark.parametrize("url", ["https://api.example/", "http://192.0.2.1/", "http://localhost.evil.example/", "ftp://127.0.0.1/", "http://u:p@127.0.0.1/"])
def test_other_hosts_are_not_probed_unasked(url, files):
    with pytest.raises(InvalidInput):
        check_allowed(url, (), True)
    assert run("--url", url, "--valid", f"@{files}/token.txt")[0] == 2


def test_another_host_needs_its_name_and_consent():
    with pytest.raises(InvalidInput):
        check_allowed("https://api.example/", ("api.example",), False)
    check_allowed("https://api.example/", ("API.example",), True)
    check_allowed("http://127.0.0.1:1/", (), False)
    check_allowed("http://[::1]/", (), False)


def test_the_rate_is_kept():
    waited = []
    target = Target("http://127.0.0.1:9/", rate=2, timeout_s=0.2, sleep=waited.append)
    for _ in range(3):
        assert target.send("x").problem
    assert len(waited) == 2 and all(0.2 < s <= 0.5 for s in waited)
    with pytest.raises(InvalidInput):
        Target("http://127.0.0.1/", method="POST")


@pytest.mark.parametrize(("text", "holds"), [("200", True), ("201", False), ("status:200,204", True), ("header:X-A", True), ("header:X-A=b", True), ("header:X-A=z", False),
                                             ("header:X-B", False), ("body:come", True), ("body:go", False)])
def test_conditions(text, holds):
    assert Condition(text).holds(Answer(200, {"x-a": "abc"}, "welcome")) is holds


@pytest.mark.parametrize("text", ["", "ok", "status:", "status:9", "header:", "body:", "20"])
def test_conditions_that_are_none(text):
    with pytest.raises(InvalidInput):
        Condition(text)


def test_no_answer_is_no_refusal():
    assert Signs().read(Answer(0, problem="timeout")) == "unclear"
    assert Signs().read(Answer(500)) == "unclear"
    assert Signs((Condition("200"),), (Condition("body:no"),)).read(Answer(200, {}, "no")) == "unclear"


# -- the other verbs


def test_verify_says_genuine_refused_or_could_not_tell(files, now_token):
    def verify(*args):
        result = CliRunner().invoke(cli, ["verify", *args, "--issuer", world.ISSUER, "--audience", world.AUDIENCE])
        return result.exit_code, result.output

    code, said = verify(f"@{files}/token.txt", "--jwks", f"{files}/jwks.json")
    assert code == 0 and said.startswith("genuine: kid rs256-1")
    (files / "old.txt").write_text(now_token(exp=int(time.time()) - 100))
    code, said = verify(f"@{files}/old.txt", "--jwks", f"{files}/jwks.json")
    assert code == 1 and "refused: expired" in said and "RFC 7519 4.1.4" in said
    assert verify(f"@{files}/token.txt", "--jwks", f"{files}/none.json")[0] == 2
    assert verify(f"@{files}/token.txt", "--key", f"{files}/key.pem", "--kid", "rs256-1", "--alg", "RS256")[0] == 2
    assert '"client_id": "shop"' in verify(f"@{files}/token.txt", "--jwks", f"{files}/jwks.json", "--show")[1]


def test_the_catalogue_is_listed():
    said = CliRunner().invoke(cli, ["catalogue", "none."]).output
    assert "none.title" in said and said.rstrip().endswith("11 mutations")
    assert len(json.loads(CliRunner().invoke(cli, ["catalogue", "--json"]).output)) == len(CATALOGUE)


# -- libraries that were really vulnerable, as gateways


SUBJECTS = {subject.name: subject for subject in peers.SUBJECTS}
SPKI, PKCS1, SSH = "spki.lf", "pkcs1.lf", "ssh.none"
MATRIX = [
    ("Authlib 1.3.0", "RS256", SPKI, "VULNERABLE"), ("Authlib 1.3.0", "RS256", PKCS1, "VULNERABLE"), ("Authlib 1.3.0", "RS256", SSH, "VULNERABLE"),
    ("Authlib 1.3.0", "ES256", SSH, "VULNERABLE"), ("Authlib 1.3.1", "RS256", SPKI, "SAFE"), ("Authlib 1.3.1", "RS256", "spki.newline_first", "VULNERABLE"),
    ("Authlib 1.3.1", "RS256", "spki.blank_first", "VULNERABLE"), ("Authlib 1.3.1", "RS256", "spki.comment_first", "VULNERABLE"), ("Authlib 1.9.10", "RS256", SPKI, "SAFE"),
    ("PyJWT 2.3.0", "ES256", SSH, "VULNERABLE"), ("PyJWT 2.15.1", "RS256", SPKI, "SAFE"), ("PyJWT 2.15.1", "ES256", "spki.lf", "SAFE"),
    ("python-jose 3.3.0", "ES256", SSH, "INCONCLUSIVE"), ("python-jose 3.5.0", "RS256", SPKI, "SAFE"),
    ("jsonwebtoken 8.5.1", "RS256", SPKI, "VULNERABLE"), ("jsonwebtoken 8.5.1", "RS256", PKCS1, "VULNERABLE"), ("jsonwebtoken 4.2.1", "RS256", SPKI, "VULNERABLE"),
    ("jsonwebtoken 4.2.1", "RS256", PKCS1, "VULNERABLE"), ("jsonwebtoken 8.5.1", "-", SPKI, "SAFE"), ("jsonwebtoken 9.0.3", "RS256", SPKI, "SAFE"),
    ("joserfc 1.8.0", "RS256", SPKI, "SAFE"),
]


@contextlib.contextmanager
def library_gateway(name, alg, key_file):
    """A gateway process around that library, in its own environment."""
    subject = SUBJECTS[name]
    if subject.parts and not fetched(name, subject.parts):
        pytest.skip(f"needs its own parts: buttress doctor --fetch '{name}'")
    algs = "-" if alg == "-" else f"{alg},HS256"
    if name.startswith("jsonwebtoken"):
        if shutil.which("node") is None:
            pytest.skip("needs node: apt-get install nodejs")
        argv = ["node", str(peers.HERE / "jsonwebtoken.js"), str(parts_folder(name) / "node_modules"), str(key_file), algs]
    else:
        file = subject.factory.rsplit("/", 1)[1].partition(".")[0]
        argv = [str(python_of(name)), str(peers.HERE / "gateway.py"), file, str(key_file), algs]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), process.stderr.read()
        yield url
    finally:
        process.kill()
        process.communicate(timeout=10)


@pytest.mark.parametrize(("name", "alg", "form", "verdict"), MATRIX, ids=lambda v: str(v))
def test_the_version_matrix(name, alg, form, verdict, issuer, tmp_path, now_token):
    signer = "RS256" if alg == "-" else alg
    public = PublicForms.of_jwk(issuer.jwk(signer, 0))
    (tmp_path / "key").write_bytes(public[form])
    with library_gateway(name, alg, tmp_path / "key") as url:
        target = Target(url)
        report = Probe(target.send, lambda: Workshop(now_token(signer), time.time(), public), Signs(), url=url, bracket=8).run()
    assert report.verdict == verdict, report.sentence + " " + " ".join(f"{f.mutation.id}({f.outcome},{f.status})" for f in report.findings if f.outcome in ("let in", "unclear"))
    if verdict == "VULNERABLE":
        let_in = {f.mutation.id for f in report.of("let in")}
        assert f"hmac.{form}" in let_in or any(id.startswith("hmac.") for id in let_in)
        assert all(BY_ID[id].kind != "misuse" for id in let_in)


def test_an_empty_key_takes_none(issuer, now_token):
    """jsonwebtoken 8.5.1 takes ``none`` where its key is empty; it can verify nothing genuine by it, so the probe says INCONCLUSIVE."""
    with library_gateway("jsonwebtoken 8.5.1", "-", "empty") as url:
        target = Target(url)
        made = Workshop(now_token(), time.time())
        assert target.send(made.make(BY_ID["none.none"])).status == 200
        assert Probe(target.send, lambda: made, Signs(), url=url).run().verdict == "INCONCLUSIVE"


