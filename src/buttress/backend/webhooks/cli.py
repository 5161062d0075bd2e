"""The verbs of webhooks. Secrets come from the environment, by the names of their variables; never from arguments."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from buttress.backend.webhooks.inbox import Inbox
    from buttress.backend.webhooks.signature import Verifier
    from buttress.kernel.store import Store

SCHEMES = ("standard", "stripe", "github", "shopify")
FINDING, UNTOLD = 1, 2
CONNECTIONS_MAX = 1024
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Verbs(click.Group):
    """A store that does not answer is exit code 2: could not tell."""

    def invoke(self, ctx: click.Context) -> Any:
        from buttress.kernel.errors import SchemaMismatch, Unavailable

        try:
            return super().invoke(ctx)
        except (Unavailable, SchemaMismatch) as error:
            click.echo(f"buttress webhooks: {error}", err=True)
            ctx.exit(UNTOLD)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def cli() -> None:
    """Webhooks in, each effect once: receive, look, replay, backfill."""


def store_options(command: Any) -> Any:
    """What every verb that opens a store asks for."""
    command = click.option("--endpoint", default="default", show_default=True, help="Which endpoint of the store.")(command)
    return click.option("--store", "place", required=True, envvar="BUTTRESS_WEBHOOKS_STORE", metavar="FILE|URL",
                        help="A SQLite file, or postgresql://... [env: BUTTRESS_WEBHOOKS_STORE]")(command)


def open_store(place: str, *, make: bool = False) -> Store:
    """A SQLite file or a Postgres database. ``make`` False: a file that is not there is a mistake, not a new store."""
    if place.startswith(("postgresql://", "postgres://")):
        from buttress.kernel.store.postgres import PostgresStore

        return PostgresStore(place)
    from buttress.kernel.store.sqlite import SqliteStore

    if not make and not os.path.exists(place):
        raise click.BadParameter(f"there is no file {place}", param_hint="--store")
    return SqliteStore(place)


def operate(place: str, endpoint: str) -> Inbox:
    """An inbox for looking and repairing: its verifier's secret is random, so it would let nobody in."""
    import secrets

    from buttress.backend.webhooks.inbox import Inbox
    from buttress.backend.webhooks.signature import Verifier

    return Inbox(open_store(place), Verifier.stripe(secrets.token_hex(32)), endpoint=endpoint)


def make_verifier(scheme: str, variables: tuple[str, ...], tolerance_s: float = 300) -> Verifier:
    """From secrets in the environment."""
    from buttress.backend.webhooks.signature import Verifier

    missing = [name for name in variables if not os.environ.get(name)]
    if missing or not variables:
        raise click.UsageError(f"the environment holds no {', '.join(missing)}" if missing else "--secret-env is missing")
    secrets = [os.environ[name] for name in variables]
    if scheme == "standard":
        return Verifier.standard(secrets, tolerance_s=tolerance_s)
    if scheme == "stripe":
        return Verifier.stripe(secrets, tolerance_s=tolerance_s)
    return Verifier.github(secrets) if scheme == "github" else Verifier.shopify(secrets)


# -- receiving


@cli.command()
@click.argument("target", required=False, metavar="[MODULE:NAME]")
@click.option("--store", "place", metavar="FILE|URL", envvar="BUTTRESS_WEBHOOKS_STORE", help="Without a target: where to store.")
@click.option("--endpoint", default="default", show_default=True, help="Without a target: the path, and the name in the store.")
@click.option("--scheme", type=click.Choice(SCHEMES), default="standard", show_default=True, help="Without a target: who signs.")
@click.option("--secret-env", "variables", multiple=True, metavar="NAME", help="A variable that holds an active secret (may be repeated).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Another address only behind TLS.")
@click.option("--port", type=click.IntRange(1, 65_535), default=8100, show_default=True, help="Where to listen.")
@click.option("--metrics-token-env", metavar="NAME", help="A variable that holds the bearer credential of /metrics.")
@click.option("--receive-only", is_flag=True, help="No handlers, no effects: another process does the work.")
def serve(target: str | None, place: str | None, endpoint: str, scheme: str, variables: tuple[str, ...], host: str, port: int,
          metrics_token_env: str | None, receive_only: bool) -> None:
    """Receives over HTTP: POST /<endpoint>, acknowledged after the commit; /healthz and /metrics.

    MODULE:NAME is your Inbox (with its handlers), a mapping of paths to inboxes, or a function that returns one. Without it
    events are only stored, for a worker elsewhere.
    """
    import logging

    import uvicorn

    from buttress.backend.webhooks.app import AppConfig, JsonLines, create_app
    from buttress.backend.webhooks.inbox import Inbox

    if target:
        inboxes = _load(target)
    elif place:
        inboxes, receive_only = Inbox(open_store(place, make=True), make_verifier(scheme, variables), endpoint=endpoint), True
    else:
        raise click.UsageError("name MODULE:NAME, or --store, --scheme and --secret-env")
    token = os.environ.get(metrics_token_env) if metrics_token_env else None
    if metrics_token_env and not token:
        raise click.UsageError(f"the environment holds no {metrics_token_env}")
    if host not in ("127.0.0.1", "::1", "localhost") and not token:
        raise click.UsageError("another --host than this machine needs --metrics-token-env: /metrics would be open to all")
    lines = logging.StreamHandler()
    lines.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[lines], force=True)
    app = create_app(inboxes, AppConfig(metrics_token=token, work=not receive_only))
    uvicorn.run(app, host=host, port=port, access_log=False, log_config=None, server_header=False, limit_concurrency=CONNECTIONS_MAX,
                timeout_graceful_shutdown=10)


def _load(target: str) -> Any:
    import importlib

    module, _, name = target.partition(":")
    if not module or not name:
        raise click.UsageError("the target must be MODULE:NAME")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as missing:
        raise click.UsageError(f"{target}: {missing}") from missing
    return found() if callable(found) and not isinstance(found, Mapping) else found


@cli.command()
@click.option("--scheme", type=click.Choice(SCHEMES), default="standard", show_default=True, help="Who signed.")
@click.option("--secret-env", "variables", multiple=True, metavar="NAME", help="A variable that holds an active secret (may be repeated).")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header of the delivery (may be repeated).")
@click.option("--at", type=float, metavar="EPOCH", help="Judge as of that time, in seconds since the epoch (default: now).")
@click.option("--tolerance", type=float, default=300, show_default=True, metavar="S", help="How far the signed time may be off, either way.")
@click.argument("body", type=click.File("rb"))
def verify(scheme: str, variables: tuple[str, ...], headers: tuple[str, ...], at: float | None, tolerance: float, body: IO[bytes]) -> None:
    """Is this delivery genuine? BODY is a file with the raw bytes, or - for stdin. Exit 0 genuine, 1 refused."""
    import time

    from buttress.backend.webhooks.signature import Refused

    verifier = make_verifier(scheme, variables, tolerance)
    pairs = [header.partition(":") for header in headers]
    if not all(colon for _, colon, _ in pairs):
        raise click.UsageError("a header must be 'NAME: VALUE'")
    try:
        event = verifier.verify({name.strip(): value.strip() for name, _, value in pairs}, body.read(), time.time() if at is None else at)
    except Refused as refused:
        click.echo(f"refused: {refused.code} (HTTP {refused.status}): {refused}")
        sys.exit(FINDING)
    click.echo(f"genuine: {event.type or 'no type'} {event.id}" + (f" ({event.problem})" if event.problem else ""))


# -- looking and repairing


@cli.command()
@store_options
@click.argument("event_id", required=False)
@click.option("--body", "with_body", is_flag=True, help="With EVENT_ID: its payload, too. It may hold personal data.")
@click.option("--check", is_flag=True, help="Exit 1 when something wants looking at.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def inspect(place: str, endpoint: str, event_id: str | None, with_body: bool, check: bool, as_json: bool) -> None:
    """What waits, what was given up, what is in doubt; or where one event stands."""
    from dataclasses import asdict

    inbox = operate(place, endpoint)
    if event_id is not None:
        entries = inbox.find(event_id)
        for entry in entries:
            _print(_shown(asdict(entry), with_body), as_json)
        if not entries:
            click.echo("not stored", err=True)
            sys.exit(FINDING)
        return
    backlog, report = inbox.backlog(), inbox.gap_report()
    counts = {"waiting_events": backlog.events, "waiting_effects": backlog.effects, "missed": len(report.missed), "stuck": len(report.stuck),
              "dead_events": len(report.dead), "dead_effects": len(report.dead_effects), "alarms": len(report.alarms), "doubts": len(report.doubts),
              "ignored": dict(report.ignored)}
    if as_json:
        lists = ("missed", "stuck", "dead", "dead_effects", "alarms", "doubts")
        _print({**counts, "lists": {name: [_shown(asdict(item), False) for item in getattr(report, name)] for name in lists}}, True)
    else:
        _print(counts, False)
    if check and not report.clean:
        sys.exit(FINDING)


def _shown(row: dict[str, Any], with_body: bool) -> dict[str, Any]:
    """Without payloads, unless they are asked for; bytes as text."""
    hidden = {"fingerprint"} if with_body else {"fingerprint", "body", "first", "other"}
    return {name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for name, value in row.items() if name not in hidden}


def _print(row: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        import json

        click.echo(json.dumps(row))
        return
    width = max(map(len, row))
    for name, value in row.items():
        if value is not None and value != {}:
            click.echo(f"{name:<{width}}  {value}")


@cli.command()
@store_options
@click.argument("event_ids", nargs=-1)
@click.option("--ignored", metavar="TYPE", help="All events of a type that had no handler when they were handled.")
def replay(place: str, endpoint: str, event_ids: tuple[str, ...], ignored: str | None) -> None:
    """Makes events due again. Their effects keep their keys, so nothing is doubled."""
    if bool(event_ids) == bool(ignored):
        raise click.UsageError("name event ids, or --ignored TYPE")
    inbox = operate(place, endpoint)
    count = inbox.revive("ignored", ignored) if ignored else sum(inbox.replay(event_id) for event_id in event_ids)
    click.echo(f"{count} due again")


@cli.group()
def dlq() -> None:
    """Dead letters: events and effects that were given up, and effects in doubt."""


@dlq.command("list")
@store_options
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many at most.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def dlq_list(place: str, endpoint: str, limit: int, as_json: bool) -> None:
    """Lists them, oldest first, without payloads."""
    report = operate(place, endpoint).gap_report(limit)
    rows = [{"what": "event", "id": e.id, "type": e.type, "account": e.account, "livemode": e.livemode, "attempt": e.attempt, "error": e.error}
            for e in report.dead]
    rows += [{"what": "effect", "effect": d.effect, "key": d.key, "attempt": d.attempt, "error": d.error} for d in report.dead_effects]
    rows += [{"what": "doubt", "effect": d.effect, "key": d.key, "outcome": d.outcome, "reason": d.reason} for d in report.doubts]
    for row in rows:
        if as_json:
            _print(row, True)
        else:
            click.echo("  ".join(str(value) for value in row.values() if value is not None))
    if not rows and not as_json:
        click.echo("none")


@dlq.command("replay")
@store_options
@click.option("--events", is_flag=True, help="All dead events.")
@click.option("--type", "event_type", metavar="TYPE", help="With --events: only of this type.")
@click.option("--effect", metavar="NAME", help="Dead effects of this name.")
@click.option("--key", metavar="KEY", help="With --effect: only this one.")
def dlq_replay(place: str, endpoint: str, events: bool, event_type: str | None, effect: str | None, key: str | None) -> None:
    """Makes dead letters due again. What is in doubt stays so: resolve it."""
    if events == bool(effect) or (event_type and not events) or (key and not effect):
        raise click.UsageError("name --events [--type TYPE], or --effect NAME [--key KEY]")
    inbox = operate(place, endpoint)
    count = inbox.revive("dead", event_type) if events else inbox.replay_effect(effect or "", key)
    click.echo(f"{count} due again")


@dlq.command("resolve")
@store_options
@click.argument("effect")
@click.argument("key")
@click.option("--happened/--did-not-happen", default=None, help="What you found out at the callee.")
def dlq_resolve(place: str, endpoint: str, effect: str, key: str, happened: bool | None) -> None:
    """Closes a doubt by evidence: counts the effect as sent, or sends it again unless a later one of its lane went out."""
    if happened is None:
        raise click.UsageError("say --happened or --did-not-happen")
    inbox = operate(place, endpoint)
    closed = inbox.resolve(effect, key, happened=happened)
    click.echo(f"{closed} closed")
    if closed and not happened and inbox.overtaken(effect, key):
        click.echo("it stays dead: a later effect of its lane was or may have been sent, and this one would undo it")
    if not closed:
        sys.exit(FINDING)


@cli.command()
@store_options
@click.option("--since", required=True, metavar="AGO|TIME", help="Such as 72h or 30d, or ISO 8601 with an offset.")
@click.option("--url", metavar="URL", help="The provider's list, in the shape of https://api.stripe.com/v1/events.")
@click.option("--key-env", metavar="NAME", help="With --url: the variable that holds the API key.")
@click.option("--file", "lines", type=click.File("r"), help="Or JSON lines: API events, or {id, type, body}; - for stdin.")
def backfill(place: str, endpoint: str, since: str, url: str | None, key_env: str | None, lines: IO[str] | None) -> None:
    """Finds events that were never delivered in the provider's own list, and stores them by the same path."""
    import time

    from buttress.backend.webhooks.listing import json_lines, stripe_list

    start = _since(since, time.time())
    if (url is None) == (lines is None) or (url is not None and not (key_env and os.environ.get(key_env))):
        raise click.UsageError("name --url with --key-env (a variable that is set), or --file")
    events = stripe_list(url, os.environ[key_env or ""], start) if url else json_lines(lines or ())
    found = operate(place, endpoint).backfill(events, start)
    click.echo(f"{found.missed} were never delivered and are stored now, {found.known} were known, {found.older} older")


def _since(text: str, now: float) -> float:
    if match := re.fullmatch(r"(\d{1,6})([smhd])", text):
        return now - int(match[1]) * UNITS[match[2]]
    from buttress.backend.webhooks.event import to_epoch

    epoch = to_epoch(text)
    if epoch is None:
        raise click.BadParameter("must be like 72h or 30d, or ISO 8601 with an offset", param_hint="--since")
    return epoch


@cli.command()
@click.option("--dialect", type=click.Choice(["postgres", "sqlite"]), default="postgres", show_default=True, help="Whose types.")
def schema(dialect: Any) -> None:
    """The SQL of the tables. In Postgres nothing is created unasked: run it there before the first start."""
    from buttress.backend.webhooks.inbox import SCHEMAS

    click.echo("\n".join(each.sql(dialect) for each in SCHEMAS), nl=False)
