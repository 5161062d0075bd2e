"""The verbs of jwt_gate. A token comes from a file, from stdin or from a command, never from an argument: arguments stand in process lists."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from buttress.identity.jwt_gate.claims import Policy
    from buttress.identity.jwt_gate.jwks import JwksProvider
    from buttress.identity.jwt_gate.keys import Keys
    from buttress.identity.jwt_gate.probe.forge import Workshop
    from buttress.identity.jwt_gate.probe.forms import PublicForms

FINDING, UNTOLD = 1, 2
TOKEN_MAX = 65_536


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def cli() -> None:
    """Bearer tokens that cannot be confused: probe a gateway, verify a token, serve a sidecar."""


# -- where tokens and keys come from


def read_token(source: str) -> str:
    """``@FILE``, or ``-`` for stdin. A token as an argument is refused: it would stand in the process list and the shell's history."""
    if source == "-":
        text = sys.stdin.read(TOKEN_MAX)
    elif source.startswith("@"):
        try:
            with open(source[1:], encoding="ascii") as file:
                text = file.read(TOKEN_MAX)
        except (OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(f"the file cannot be read: {type(error).__name__}") from None
    else:
        raise click.BadParameter("a token is never an argument: @FILE, or - for stdin")
    if not text.strip():
        raise click.BadParameter("it is empty")
    return text.strip()


def token_source(valid: str | None, command: str | None) -> Callable[[], str]:
    """A function that gives a token which is valid now: from a command each time, else the same one."""
    if bool(valid) == bool(command):
        raise click.UsageError("name one of --valid @FILE, --valid - and --valid-cmd")
    if valid:
        token = read_token(valid)
        return lambda: token
    import shlex
    import subprocess
    import time

    argv = shlex.split(command or "")
    kept: list[Any] = [0.0, ""]

    def run() -> str:
        now = time.monotonic()
        if not kept[1] or now - kept[0] > 20:  # a token may live five minutes: a new one every twenty seconds is sure to be valid
            try:
                done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise click.UsageError(f"--valid-cmd failed: {type(error).__name__}") from None
            if done.returncode != 0 or not done.stdout.strip():
                raise click.UsageError(f"--valid-cmd ended with {done.returncode} and printed {len(done.stdout)} letters")
            kept[0], kept[1] = now, done.stdout.strip()
        return str(kept[1])

    return run


def public_forms(jwks: str | None, pubkey: str | None, cert: str | None, kid: object) -> PublicForms | None:
    """The issuer's public key, from a JWK set (file or URL), a PEM file, or a certificate."""
    import json

    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    from buttress.identity.jwt_gate.probe.forms import PublicForms
    from buttress.identity.jwt_gate.source import FileSource, HttpsSource, is_loopback

    try:
        certificate = None
        if cert:
            with open(cert, "rb") as file:
                raw = x509.load_pem_x509_certificate(file.read())
            certificate = raw.public_bytes(serialization.Encoding.DER)
            if not jwks and not pubkey:
                return PublicForms(raw.public_key(), certificate=certificate)
        if pubkey:
            with open(pubkey, "rb") as file:
                return PublicForms(serialization.load_pem_public_key(file.read()), certificate=certificate)
        if jwks:
            from urllib.parse import urlsplit

            host = urlsplit(jwks).hostname or ""
            document = json.loads(HttpsSource(jwks, (host,), loopback_http=is_loopback(host))() if "://" in jwks else FileSource(jwks)())
            chosen = [key for key in document["keys"] if key.get("kid") == kid] or document["keys"]
            forms = PublicForms.of_jwk(chosen[0])
            forms.certificate = certificate or forms.certificate
            return forms
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise click.UsageError(f"the public key cannot be read: {type(error).__name__}") from None
    return None


def private_key(path: str | None) -> Any:
    """The issuer's own key, PEM without a password."""
    if not path:
        return None
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        with open(path, "rb") as file:
            return load_pem_private_key(file.read(), None)
    except (OSError, ValueError, TypeError) as error:
        raise click.UsageError(f"the issuer's key cannot be read: {type(error).__name__}") from None


def material_options(command: Any) -> Any:
    """What mutations are made of."""
    for option in reversed((
        click.option("--valid", metavar="@FILE|-", help="A genuine token: from a file, or from stdin."),
        click.option("--valid-cmd", metavar="COMMAND", help="A command that prints a genuine token: it may live for five minutes only."),
        click.option("--jwks", metavar="FILE|URL", help="The issuer's key set."),
        click.option("--pubkey", metavar="PEM", help="Or its public key."),
        click.option("--cert", metavar="PEM", help="The issuer's certificate, where it has one."),
        click.option("--sign", "signing", metavar="KEY", help="The issuer's own private key (PEM, of a test system): the mutations that only it can sign."),
    )):
        command = option(command)
    return command


# -- probe


@cli.command()
@click.option("--url", required=True, help="A resource behind the gateway that the genuine token may GET.")
@material_options
@click.option("--expect", multiple=True, metavar="SIGN", help="How let in looks: 200, status:200,204, header:Name=text, body:text (all must hold; default 200).")
@click.option("--refuse", multiple=True, metavar="SIGN", help="How refused looks (any; default status:400,401,403,413,414,431).")
@click.option("--method", type=click.Choice(["GET", "HEAD", "OPTIONS"]), default="GET", show_default=True, help="One that changes nothing.")
@click.option("--header", default="Authorization", show_default=True, help="The header that carries the token.")
@click.option("--prefix", default="Bearer ", show_default=True, help="What stands before the token in it.")
@click.option("--rate", type=click.FloatRange(0), default=0.0, show_default=True, metavar="N", help="At most so many requests a second; 0: no limit.")
@click.option("--bracket", type=click.IntRange(1, 20), default=1, show_default=True, metavar="N", help="Mutations between two positive controls.")
@click.option("--only", multiple=True, metavar="ID", help="These mutations only (an id, or a beginning such as hmac.).")
@click.option("--callback", is_flag=True, help="Serve a key set of nobody's on a loopback port, for jku and x5u (loopback targets only).")
@click.option("--allow-host", "allowed", multiple=True, metavar="HOST", help="Another host than this machine.")
@click.option("--i-own-this-gateway", "consent", is_flag=True, help="You may probe it: it is yours, or its owner asked you to.")
@click.option("--junit", metavar="FILE", help="Writes JUnit: a mutation is a testcase.")
@click.option("--sarif", metavar="FILE", help="Writes SARIF; needs --anchor.")
@click.option("--anchor", metavar="FILE", help="The file of your repository that findings point at, e.g. the gateway's configuration.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--every", is_flag=True, help="Lists what was refused, too.")
def probe(url: str, valid: str | None, valid_cmd: str | None, jwks: str | None, pubkey: str | None, cert: str | None, signing: str | None,
          expect: tuple[str, ...], refuse: tuple[str, ...], method: str, header: str, prefix: str, rate: float, bracket: int, only: tuple[str, ...],
          callback: bool, allowed: tuple[str, ...], consent: bool, junit: str | None, sarif: str | None, anchor: str | None, as_json: bool, every: bool) -> None:
    """Does your gateway let in what nobody signed? VULNERABLE (exit 1), SAFE (0) or INCONCLUSIVE (2), and how far the answer reaches.

    For owners: loopback, or a host that is named and whose owner consents. Only requests that change nothing are sent.
    """
    import contextlib
    import json
    import time
    from urllib.parse import urlsplit

    from buttress import __version__
    from buttress.identity.jwt_gate.probe import report
    from buttress.identity.jwt_gate.probe.callback import serving
    from buttress.identity.jwt_gate.probe.forge import Workshop
    from buttress.identity.jwt_gate.probe.judge import Probe
    from buttress.identity.jwt_gate.probe.target import REFUSALS, Condition, Signs, Target, check_allowed
    from buttress.identity.jwt_gate.source import is_loopback
    from buttress.kernel.errors import InvalidInput

    if sarif and not anchor:
        raise click.UsageError("--sarif needs --anchor FILE: GitHub refuses results without a place")
    try:
        check_allowed(url, allowed, consent)
        signs = Signs(tuple(Condition(text) for text in expect or ("200",)), tuple(Condition(text) for text in refuse or (REFUSALS,)))
        target = Target(url, method=method, header=header, prefix=prefix, rate=rate)
        tokens = token_source(valid, valid_cmd)
        first = Workshop(tokens(), time.time())
    except InvalidInput as wrong:
        raise click.UsageError(str(wrong)) from None
    if callback and not is_loopback(urlsplit(url).hostname or ""):
        raise click.UsageError("--callback serves on loopback, where only a gateway on this machine can reach it")
    public, issuer_key = public_forms(jwks, pubkey, cert, first.header.get("kid")), private_key(signing)
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(serving()) if callback else ""

        def renew() -> Workshop:
            return Workshop(tokens(), time.time(), public, issuer_key, base)

        found = Probe(target.send, renew, signs, url=url, mutations=chosen(only), bracket=bracket, say=_live(as_json)).run()
    if as_json:
        click.echo(json.dumps(report.as_json(found)))
    else:
        click.echo(report.text(found, every=every))
    for path, text in ((junit, report.junit(found)), (sarif, report.sarif(found, anchor or "", __version__))):
        if path:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
    sys.exit(found.exit)


def chosen(only: tuple[str, ...]) -> Any:
    """The mutations whose id is, or begins with, one of ``only``."""
    from buttress.identity.jwt_gate.probe.catalogue import CATALOGUE

    found = tuple(m for m in CATALOGUE if not only or any(m.id == name or m.id.startswith(name) for name in only))
    if not found:
        raise click.UsageError(f"no mutation is called {', '.join(only)}: buttress jwt_gate catalogue lists them")
    return found


def _live(quiet: bool) -> Callable[[int, int, Any], None]:
    """A live line on stderr, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        return lambda done, of, finding: None

    def say(done: int, of: int, finding: Any) -> None:
        name = f"{finding.mutation.id}: {finding.outcome}" if finding is not None else ""
        sys.stderr.write(f"\r\033[K{done} of {of}  {name}" + ("\r\033[K" if done == of else ""))
        sys.stderr.flush()

    return say


@cli.command()
@click.argument("prefix", required=False, default="")
@click.option("--make", metavar="ID", help="Prints the token of one mutation, made of --valid: for a reproduction by hand.")
@material_options
@click.option("--json", "as_json", is_flag=True, help="One JSON array on stdout.")
def catalogue(prefix: str, make: str | None, valid: str | None, valid_cmd: str | None, jwks: str | None, pubkey: str | None, cert: str | None,
              signing: str | None, as_json: bool) -> None:
    """The mutations: id, what it is, section or CVE, and what it needs. PREFIX: only ids that begin so."""
    import json
    import time

    from buttress.identity.jwt_gate.probe.catalogue import BY_ID, CATALOGUE, NEEDS
    from buttress.identity.jwt_gate.probe.forge import NotJudged, Workshop
    from buttress.kernel.errors import InvalidInput

    if make:
        if make not in BY_ID:
            raise click.UsageError(f"no mutation is called {make}")
        try:
            token = token_source(valid, valid_cmd)()
            kid = Workshop(token, time.time()).header.get("kid")
            click.echo(Workshop(token, time.time(), public_forms(jwks, pubkey, cert, kid), private_key(signing)).make(BY_ID[make]))
        except (NotJudged, InvalidInput) as wrong:
            raise click.UsageError(str(wrong)) from None
        return
    shown = [m for m in CATALOGUE if m.id.startswith(prefix)]
    if as_json:
        click.echo(json.dumps([{"id": m.id, "title": m.title, "section": m.section, "kind": m.kind, "needs": list(m.needs)} for m in shown]))
        return
    for m in shown:
        click.echo(f"{m.id:<22} {m.kind:<8} {m.title}  [{m.section}]" + (f"  needs {', '.join(NEEDS[n] for n in m.needs)}" if m.needs else ""))
    click.echo(f"{len(shown)} mutations")


# -- verify and serve


def keys_options(command: Any) -> Any:
    """Whose tokens, for whom, and by which keys."""
    for option in reversed((
        click.option("--issuer", required=True, help="The issuer, letter by letter as in iss."),
        click.option("--audience", required=True, multiple=True, help="Who we are in aud (may be repeated)."),
        click.option("--jwks", metavar="FILE|URL", help="The issuer's key set; https, its host is pinned."),
        click.option("--key", "key_file", metavar="FILE", help="Or one key: PEM or JWK."),
        click.option("--key-env", metavar="NAME", help="Or a variable that holds the secret of an HMAC algorithm, as base64url."),
        click.option("--kid", default="", help="With --key and --key-env: its name."),
        click.option("--alg", default="", help="With --key and --key-env: its algorithm; with --jwks: of RSA keys that name none."),
        click.option("--typ", multiple=True, default=("at+jwt",), show_default=True, help="Accepted types (may be repeated; '' for none)."),
        click.option("--leeway", type=float, default=30.0, show_default=True, metavar="S", help="For exp, nbf and iat."),
        click.option("--loopback-http", is_flag=True, help="Plain http for --jwks, on loopback only."),
    )):
        command = option(command)
    return command


def make_policy(issuer: str, audience: tuple[str, ...], typ: tuple[str, ...], leeway: float) -> Policy:
    """From the options. Raises InvalidInput."""
    from buttress.identity.jwt_gate.claims import Policy

    return Policy(issuer=issuer, audience=frozenset(audience), typ=frozenset(typ), leeway_s=leeway)


def make_keys(issuer: str, jwks: str | None, key_file: str | None, key_env: str | None, kid: str, alg: str, loopback_http: bool) -> tuple[Keys, JwksProvider | None]:
    """From the options. Raises click.UsageError naming what is wrong."""
    from buttress.identity.jwt_gate.jwks import JwksProvider
    from buttress.identity.jwt_gate.keys import KeyBinding, StaticKeys, read_key_file
    from buttress.identity.jwt_gate.strict import unbase64url
    from buttress.kernel.errors import ButtressError

    if sum(map(bool, (jwks, key_file, key_env))) != 1:
        raise click.UsageError("name one of --jwks, --key and --key-env")
    try:
        if jwks:
            bound = {"RSA": alg} if alg else {}
            provider = JwksProvider(issuer, url=jwks, alg_of=bound, loopback_http=loopback_http) if "://" in jwks else JwksProvider(issuer, file=jwks, alg_of=bound)
            return provider, provider
        if key_file:
            with open(key_file, "rb") as file:
                return StaticKeys(issuer, [read_key_file(file.read(TOKEN_MAX), kid, alg)]), None
        secret = os.environ.get(key_env or "")
        if not secret:
            raise click.UsageError(f"the environment holds no {key_env}")
        return StaticKeys(issuer, [KeyBinding(kid, alg, unbase64url(secret.encode()))]), None
    except (ButtressError, OSError) as error:
        raise click.UsageError(f"the keys cannot be used: {error}") from None


@cli.command()
@click.argument("token", metavar="@FILE|-")
@keys_options
@click.option("--at", type=float, metavar="EPOCH", help="Judge as of that time, in seconds since the epoch (default: now).")
@click.option("--show", is_flag=True, help="Prints the claims of a genuine token. They may hold personal data.")
def verify(token: str, issuer: str, audience: tuple[str, ...], jwks: str | None, key_file: str | None, key_env: str | None, kid: str, alg: str,
           typ: tuple[str, ...], leeway: float, loopback_http: bool, at: float | None, show: bool) -> None:
    """Is this token genuine, and for us? Exit 0 genuine, 1 refused, 2 the keys cannot be had."""
    import json

    from buttress.identity.jwt_gate.refusal import KeysUnavailable, Refused
    from buttress.identity.jwt_gate.verifier import Verifier
    from buttress.kernel.clock import ManualClock, SystemClock
    from buttress.kernel.errors import InvalidInput

    text = read_token(token)
    keys, _ = make_keys(issuer, jwks, key_file, key_env, kid, alg, loopback_http)
    try:
        policy = make_policy(issuer, audience, typ, leeway)
    except InvalidInput as wrong:
        raise click.UsageError(str(wrong)) from None
    try:
        claims = Verifier(policy, keys, clock=SystemClock() if at is None else ManualClock(at), keep=0).verify(text)
    except Refused as refused:
        click.echo(f"refused: {refused.code}: {refused} [{refused.section}]")
        sys.exit(FINDING)
    except KeysUnavailable as closed:
        click.echo(f"could not tell: {closed}")
        sys.exit(UNTOLD)
    click.echo(f"genuine: kid {claims.kid}, valid until {claims.expires:.0f}")
    if show:
        click.echo(json.dumps(dict(claims.all), indent=1))


@cli.command()
@keys_options
@click.option("--scope", "scopes", multiple=True, help="A scope that the token must have (may be repeated); else 403.")
@click.option("--forward", multiple=True, metavar="CLAIM=x-header", help="Claims that go on as response headers (default: sub and scope).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen: a loopback address.")
@click.option("--port", type=click.IntRange(1, 65_535), default=8101, show_default=True, help="Where to listen.")
@click.option("--metrics-token-env", metavar="NAME", help="A variable that holds the bearer credential of /metrics and /state.")
def serve(issuer: str, audience: tuple[str, ...], jwks: str | None, key_file: str | None, key_env: str | None, kid: str, alg: str, typ: tuple[str, ...],
          leeway: float, loopback_http: bool, scopes: tuple[str, ...], forward: tuple[str, ...], host: str, port: int, metrics_token_env: str | None) -> None:
    """The sidecar: GET /verify for nginx auth_request; /healthz, /metrics and /state beside. It listens on loopback only."""
    import logging

    import uvicorn

    from buttress.identity.jwt_gate.app import SidecarConfig, create_app
    from buttress.identity.jwt_gate.source import is_loopback
    from buttress.identity.jwt_gate.verifier import Verifier
    from buttress.kernel.errors import InvalidInput

    if not is_loopback(host):
        raise click.UsageError("--host must be a loopback address: the sidecar belongs beside its proxy")
    secret = os.environ.get(metrics_token_env) if metrics_token_env else None
    if metrics_token_env and not secret:
        raise click.UsageError(f"the environment holds no {metrics_token_env}")
    pairs = [pair.partition("=") for pair in forward]
    if not all(equal for _, equal, _ in pairs):
        raise click.UsageError("--forward must be CLAIM=x-header")
    keys, provider = make_keys(issuer, jwks, key_file, key_env, kid, alg, loopback_http)
    try:
        named: dict[str, Any] = {"forward": {claim: header.lower() for claim, _, header in pairs}} if pairs else {}
        config = SidecarConfig(metrics_token=secret, scopes=frozenset(scopes), **named)
        app = create_app(Verifier(make_policy(issuer, audience, typ, leeway), keys), config, provider)
    except InvalidInput as wrong:
        raise click.UsageError(str(wrong)) from None
    logging.basicConfig(level=logging.WARNING)
    uvicorn.run(app, host=host, port=port, access_log=False, server_header=False, limit_concurrency=1024, timeout_graceful_shutdown=10)
