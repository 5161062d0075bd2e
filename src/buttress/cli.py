"""The command line: list, show, prove, race, report, doctor, new, and each system's own verbs.

Only click and tomllib are imported at the top; everything else inside the handlers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buttress import __version__

if TYPE_CHECKING:
    from buttress.index import System
    from buttress.proof.contract import Proof, Subject

BUILT_IN = ("list", "show", "prove", "race", "report", "doctor", "new")


class Root(click.Group):
    """Built-in commands first; any other word is a system, whose verbs are loaded when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(BUILT_IN)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        command = super().get_command(ctx, name)
        if command is not None:
            return command
        import importlib

        from buttress.index import UnknownSystem, system

        try:
            found = system(name)
        except UnknownSystem as unknown:
            raise click.UsageError(f"{unknown.message} ({unknown.fix}); commands: {', '.join(BUILT_IN)}") from unknown
        group: click.Command = importlib.import_module(f"{found.package}.cli").cli
        return group


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, invoke_without_command=True)
@click.version_option(__version__, prog_name="buttress")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Forty parts for problems that break in production, each with a proof that you can rerun.

    `buttress list` shows the systems, `buttress SYSTEM --help` the verbs of one.
    Exit codes: 0 pass, 1 a finding, 2 could not tell, 64 usage, 70 the harness broke.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@cli.command("list")
@click.option("--constraint", type=click.Choice(["scale", "latency", "compliance", "cost"]), help="Only systems where this had to break.")
@click.option("--find", "phrase", help="Only systems whose name, summary or search phrases hold these words.")
@click.option("--all", "everything", is_flag=True, help="Also systems of other distributions.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array on stdout.")
def list_(constraint: str | None, phrase: str | None, everything: bool, as_json: bool) -> None:
    """The systems: name, constraint, maturity and what each is for."""
    from buttress.index import systems

    chosen = [s for s in systems(everything=everything) if constraint in (None, s.constraint) and _holds(s, phrase)]
    if as_json:
        import json

        keys = ("name", "wing", "constraint", "headline", "unit", "direction", "summary", "finds", "maturity", "since", "verbs", "extras")
        click.echo(json.dumps([{key: getattr(s, key) for key in keys} for s in chosen]))
        return
    if not chosen:
        click.echo("No system." if not (constraint or phrase) else "No system matches.")
    wing = ""
    for s in chosen:
        if s.wing != wing:
            wing = s.wing
            click.echo(click.style(wing, bold=True))
        click.echo(f"  {s.name:<18} {s.constraint:<11} {s.maturity:<13} {s.summary}")


def _holds(system: System, phrase: str | None) -> bool:
    text = " ".join((system.name, system.summary, *system.finds)).lower()
    return phrase is None or all(word in text for word in phrase.lower().split())


@cli.command()
@click.argument("name")
@click.option("--port", is_flag=True, help="The Protocol that a subject of your own must have, with templates.")
def show(name: str, port: bool) -> None:
    """What a system is, and what its last proof said."""
    from buttress.index import system

    found = system(name)
    if port:
        from buttress.proof.templates import port_text

        click.echo(port_text(load_proof(found)))
        return
    click.echo(f"{found.name} ({found.wing}), {found.maturity} since {found.since}\n\n{found.summary}\n")
    click.echo(f"constraint  {found.constraint}\nheadline    {found.headline} ({found.unit}, {found.direction})")
    click.echo(f"verbs       {', '.join(found.verbs) or 'none'}\ninstall     pip install 'buttress[{found.name}]'")
    click.echo(f"peers       {', '.join(found.peers) or 'none'}\nread        {found.package}/README.md\nprove       buttress prove {found.name}")
    from buttress.proof.result import accepted, latest

    for what, result in (("accepted", accepted(found.name)), ("last here", latest(found.name))):
        if result is not None:
            click.echo(f"{what:<11} {result['verdict']}: {result['finding']} ({result['scale']}, {result['environment']['date']})")


def load_proof(found: System) -> Proof:
    """The Proof value of a system. A missing part becomes MissingExtra with the command that installs it."""
    import importlib

    from buttress.kernel.errors import MissingExtra

    try:
        module = importlib.import_module(f"{found.package}.proof")
    except ModuleNotFoundError as missing:
        if missing.name and not missing.name.startswith("buttress"):
            raise MissingExtra(missing.name, "prove") from missing
        raise
    proof: Proof = module.PROOF
    return proof


@cli.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every system, cheapest first.")
@click.option("--budget", type=float, metavar="S", help="With --all: seconds; what does not fit is listed as not run.")
@click.option("--scale", type=click.Choice(["quick", "full"]), default="quick", show_default=True, help="quick: seconds; full: the case's own size.")
@click.option("--seed", type=int, default=7, show_default=True, help="Reproduces inputs and injections.")
@click.option("--subject", metavar="S", help="Yours: module:factory, file.py:factory, cmd:ARGV or a URL.")
@click.option("--url", metavar="U", help="Yours: a service that runs already, or with --start the one that is started.")
@click.option("--start", metavar="ARGV", help="Starts a service (no shell) that answers at --url; {name} is a simulator's address, {postgres} a fresh database.")
@click.option("--ready", metavar="PATH", default="/", help="With --start: the path that answers when it is up.")
@click.option("--world-port", type=int, metavar="N", help="Fixes the simulators' ports, printed in order.")
@click.option("--claim", "claims", multiple=True, metavar="NAME", help="Judges only this claim (may be repeated).")
@click.option("--as", "label", default="", metavar="LABEL", help="What was judged: an image digest, a commit.")
@click.option("--peer", "peers", multiple=True, metavar="NAME", help="Only these peers (default: all that are there).")
@click.option("--no-races", is_flag=True, help="Leaves speed unmeasured.")
@click.option("--accept", is_flag=True, help="With --scale full on a clean tree: writes proofs/NAME.json.")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Also as JUnit XML: a claim is a testcase.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a system on stdout, nothing else.")
@click.pass_context
def prove(ctx: click.Context, /, names: tuple[str, ...], everything: bool, budget: float | None, as_json: bool, junit: Path | None, **options: Any) -> None:
    """Reruns a system's number, on ours or on yours.

    Writes result.json, history.jsonl.gz and report.html under the state folder. Exit 0 pass, 1 fail, 2 unknown.
    """
    from buttress.proof import session

    if everything == bool(names):
        raise click.UsageError("name one system or more, or --all")
    alone = [key for key in ("subject", "url", "start", "claims", "peers", "accept", "label", "no_races", "world_port") if options[key]]
    if everything and alone:
        raise click.UsageError(f"--all takes every system as it is: without --{alone[0].replace('_', '-').removesuffix('s')}")
    if budget is not None and (not everything or budget <= 0):
        raise click.UsageError("--budget goes with --all, and is above 0 seconds")
    if junit is not None and not junit.parent.is_dir():
        raise click.UsageError(f"--junit: no folder {junit.parent}")
    if everything:
        from buttress.index import systems

        plan = [(s.name, s.quick_s, s.maturity) for s in systems()]
        ctx.exit(session.prove_all(plan, scale=options["scale"], seed=options["seed"], budget_s=budget, as_json=as_json, junit=junit))
    from buttress.index import system

    chosen = [(found, load_proof(found)) for found in (system(name) for name in names)]
    yours = subject_from(options)
    if yours is not None and len(chosen) > 1:
        raise click.UsageError("a subject of your own goes with one system")
    command = "buttress " + " ".join(_quoted(word) for word in sys.argv[1:])
    ctx.exit(session.prove_some(
        [session.Job(proof, found.folder, found.maturity) for found, proof in chosen], scale=options["scale"], seed=options["seed"],
        subject=yours, claims=options["claims"], peers=options["peers"] or None, races=not options["no_races"], label=options["label"],
        accept=options["accept"], world_port=options["world_port"], as_json=as_json, junit=junit, command=command, probe=probe(),
    ))


def probe() -> Any:
    """Capabilities of the machine, and of the real servers that can be started on it."""
    from buttress.proof.faults.capabilities import Capability, capability
    from buttress.servers import server_capability

    def look(name: str) -> Capability:
        found = server_capability(name)
        return capability(name) if found is None else Capability(name, *found)

    return look


def subject_from(options: dict[str, Any]) -> Subject | None:
    """The user's own subject, from --subject, --url and --start."""
    import shlex

    from buttress.proof.contract import Subject

    given, url, start = options["subject"], options["url"], options["start"]
    if given and (url or start):
        raise click.UsageError("--subject stands alone; --start goes with --url")
    if start and not url:
        raise click.UsageError("--start needs --url, where the service will answer")
    if url:
        if not url.startswith(("http://", "https://")):
            raise click.UsageError("--url must begin with http:// or https://")
        try:
            argv = tuple(shlex.split(start)) if start else ()
        except ValueError as error:
            raise click.UsageError(f"--start: {error}") from error
        from buttress.servers import SERVERS

        needs = tuple(name for name in SERVERS if any(f"{{{name}}}" in word for word in argv))  # a fresh database for each trial
        return Subject("yours", url, "yours", needs=needs, start=argv, ready=options["ready"])
    if not given:
        return None
    if not given.startswith(("cmd:", "http://", "https://")) and ":" not in given:
        raise click.UsageError("--subject must be module:factory, file.py:factory, cmd:ARGV or a URL")
    if given.split(":")[0].endswith(".py"):
        place, _, attribute = given.rpartition(":")
        if not Path(place).is_file():
            raise click.UsageError(f"--subject: no file {place}")
        given = f"{Path(place).resolve()}:{attribute}"
    return Subject("yours", given, "yours")


def _quoted(word: str) -> str:
    import shlex

    return shlex.quote(word)


@cli.command()
@click.argument("name")
@click.option("--peer", "peers", multiple=True, metavar="NAME", help="Only these peers (default: all that are there).")
@click.option("--laps", type=click.IntRange(6, 1000), default=31, show_default=True, help="Laps of each subject; a median needs 6.")
@click.option("--scale", type=click.Choice(["quick", "full"]), default="full", show_default=True, help="The size whose races run.")
@click.option("--seed", type=int, default=7, show_default=True, help="Reproduces inputs.")
@click.option("--accept", is_flag=True, help="On a clean tree: writes proofs/NAME.race.json.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
@click.pass_context
def race(ctx: click.Context, name: str, peers: tuple[str, ...], laps: int, scale: str, seed: int, accept: bool, as_json: bool) -> None:
    """Runs the races only, on the machine alone, and prints ratios beside each subject's last correctness verdict."""
    from buttress.index import system
    from buttress.proof import session

    found = system(name)
    ctx.exit(session.race(session.Job(load_proof(found), found.folder, found.maturity), peers=peers or None, laps=laps, scale=scale,
                          seed=seed, accept=accept, as_json=as_json, command="buttress " + " ".join(sys.argv[1:]), probe=probe()))


@cli.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to write (default: the state folder).")
@click.argument("names", nargs=-1)
def report(names: tuple[str, ...], out: Path | None) -> None:
    """Joins the stored results into one page."""
    from buttress.index import system, systems
    from buttress.proof import session

    chosen = [system(name).name for name in names] or [s.name for s in systems()]
    click.echo(str(session.report(chosen, out)))


@cli.command()
@click.option("--fetch", "fetch", metavar="NAME", help="Brings a peer's own parts into the state folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array on stdout.")
@click.pass_context
def doctor(ctx: click.Context, fetch: str | None, as_json: bool) -> None:
    """What this machine can do for a proof, why not, and the command that would provide it."""
    from buttress.proof.faults.capabilities import Capability, capabilities
    from buttress.servers import SERVERS, server_capability

    if fetch:
        from buttress.index import systems
        from buttress.proof import parts

        peers = {s.name: s.parts for found in systems() for s in load_proof(found).subjects if s.parts}
        if fetch not in peers:
            raise click.UsageError(f"no peer is called {fetch!r}; there is {', '.join(sorted(peers)) or 'none'}")
        click.echo(str(parts.fetch(fetch, peers[fetch], say=click.echo)))
        return
    found_all = [Capability(name, *(server_capability(name) or (False, "no probe", ""))) for name in SERVERS] + capabilities()
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps([asdict(c) for c in found_all]))
        return
    for c in found_all:
        mark = click.style("yes", fg="green") if c.there else click.style("no ", fg="yellow")
        click.echo(f"{mark} {c.name:<18} {c.reason}" + (f"  [{c.provide}]" if c.provide and not c.there else ""))


@cli.command()
@click.argument("wing")
@click.argument("name")
@click.option("--constraint", type=click.Choice(["scale", "latency", "compliance", "cost"]), default="cost", show_default=True,
              help="What had to break.")
@click.option("--root", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="The checkout (default: here).")
def new(wing: str, name: str, constraint: str, root: Path) -> None:
    """Lays out a new system: the files that every system has, and its first tests."""
    from buttress.scaffold import lay_out

    for path in lay_out(root, wing, name, constraint):
        click.echo(f"wrote {path}")
    click.echo("then: make docs")
