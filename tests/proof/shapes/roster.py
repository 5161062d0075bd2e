"""Who must not pass, shape by shape: what each cheat does is told in ``outsiders``, which rule catches it is told here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from buttress.proof import Subject
from buttress.proof.faults import CrashAtCall

from . import batch, detector, document, page, service, simulation, verifier
from .cheat import Cheat, Shape, Stranger, command, lacking, python

ENDED = r"trials were void: crash · kill -9 after reply 1 to \w+: SubjectBroken: yours ended by itself"
AGAINST = "against == 0"
KILLED_AT_SYNCS = replace(service.PROOF, scenarios=(replace(service.PROOF.scenarios[0], faults=(CrashAtCall("sync", 2),)),), controls=())

SERVICE = Shape(
    service.PROOF, bad="naive", fails="nothing doubled", lacks=python("service.py", "Deaf"), without="served",
    strangers=(
        Stranger("prints", python("service.py", "Chatty")),
        Stranger("a command that prints between its answers", command("python", "service_stranger.py")),
        Stranger("node", command("node", "service_stranger.js"), tool="node"),
    ),
    cheats=(
        Cheat("liar", python("service.py", "Liar"), "nothing lost", "fail", "interval", AGAINST),
        Cheat("liar in shell", command("sh", "service_liar.sh"), "nothing lost", "fail", "interval", AGAINST, tool="sh"),
        Cheat("acknowledges before storing", python("service.py", "Hasty"), "nothing lost", "fail", "interval", AGAINST),
        Cheat("acknowledges before storing, in node", command("node", "service_hasty.js"), "nothing lost", "fail", "interval", AGAINST, tool="node"),
        Cheat("remembers an earlier run", python("service.py", "Remembering"), "nothing lost", "fail", "interval", AGAINST),
        Cheat("serves twice", python("service.py", "Twice"), "nothing doubled", "fail", "interval", AGAINST),
        Cheat("dies in its factory", python("service.py", "Stillborn"), "nothing lost", "unknown", "absent", "did not start: RuntimeError: no disk"),
        Cheat("ends in the middle", python("service.py", "Quitting"), "nothing lost", "unknown", "void", ENDED + r" \(exit 0\)"),
        Cheat("ends by SIGTERM", python("service.py", "Terminated"), "nothing lost", "unknown", "void", ENDED + r" \(signal 15\)"),
        Cheat("feigns a crash", python("service.py", "Feigning"), "nothing lost", "unknown", "void", ENDED + r" \(signal 9\)"),
        Cheat("hangs", command("python", "service_hangs.py"), "nothing lost", "unknown", "void", "did not answer in time", slow=True),
        Cheat("keeps its book in memory that outlives a kill", python("service.py", "Sharing"), "nothing lost", "fail", "interval", AGAINST),
        Cheat("shows its failpoints once", python("service.py", "Shy"), "nothing lost", "unknown", "hit", "did not hit: crash: kill -9 at shown once"),
        Cheat("is killed at its syncs, and never syncs", python("service.py", "Honest"), "nothing lost", "unknown", "armed", "^needs crash: no case of it could be armed$",
              proof=KILLED_AT_SYNCS, tool="strace"),
        Cheat("is killed at its syncs, where nothing can trace it", python("service.py", "Honest"), "nothing lost", "unknown", "armed", "^needs crash: ",
              proof=KILLED_AT_SYNCS, probe=lacking("strace")),
        Cheat("a machine that cannot kill", "", "nothing lost", "unknown", "needs", "^needs crash: there is no crash here", probe=lacking("crash")),
        Cheat("a baseline that does not fail", "", "nothing lost", "unknown", "negative control", "'asking again doubles' is asleep",
              proof=replace(service.PROOF, subjects=(Subject("naive", f"{service.__file__}:good", "baseline"), service.PROOF.subjects[1]))),
    ),
)

VERIFIER = Shape(
    verifier.PROOF, bad="naive", fails="forged admitted", lacks=python("verifier.py", "Closed"), without="admits",
    strangers=(Stranger("node", command("node", "verifier_stranger.js"), tool="node"),),
    cheats=(
        Cheat("admits everybody", python("verifier.py", "Gullible"), "forged admitted", "fail", "interval", AGAINST),
        Cheat("admits everybody, in shell", command("sh", "verifier_gullible.sh"), "forged admitted", "fail", "interval", AGAINST, tool="sh"),
        Cheat("guesses from the order", python("verifier.py", "Counting"), "forged admitted", "fail", "interval", AGAINST),
        Cheat("refuses everything", python("verifier.py", "Refusing"), "forged admitted", "unknown", "positive control, judged", "'the genuine are let in' is asleep"),
        Cheat("refuses everything, fast", python("verifier.py", "Refusing"), "CPU over the naive one", "unknown", "correct first", "only where the correctness claims pass"),
        Cheat("says neither yes nor no", python("verifier.py", "Truthy"), "forged admitted", "unknown", "positive control, judged", "'the genuine are let in' is asleep"),
        Cheat("raises at everything", python("verifier.py", "Raising"), "forged admitted", "unknown", "positive control, judged", "'the genuine are let in' is asleep"),
        Cheat("dies in its factory", python("verifier.py", "stillborn"), "forged admitted", "unknown", "absent", "did not start: OSError: no key"),
        Cheat("a reference that refuses the genuine", python("verifier.py", "Gullible"), "forged admitted", "unknown", "positive control, reference",
              "'the reference admits the genuine' is asleep", proof=replace(verifier.PROOF, subjects=(
                  verifier.PROOF.subjects[0], Subject("reference", f"{verifier.__file__}:deaf", "peer"), verifier.PROOF.subjects[2]))),
    ),
)

BATCH = Shape(
    batch.PROOF, bad="naive", fails="writes of an unchanged feed", lacks=python("batch.py", "Idle"), without="load",
    strangers=(Stranger("a command", command("python", "batch_stranger.py")), Stranger("file.py:factory", python("batch.py", "Honest"))),
    cheats=(
        Cheat("liar", python("batch.py", "Liar"), "wrong rows", "fail", "interval", AGAINST),
        Cheat("loads once", python("batch.py", "Once"), "wrong rows", "fail", "interval", AGAINST),
        Cheat("remembers an earlier run on disk", python("batch.py", "Remembering"), "wrong rows", "fail", "interval", AGAINST),
        Cheat("copies another trial's target", python("batch.py", "Copying"), "wrong rows", "fail", "interval", AGAINST),
        Cheat("never deletes", python("batch.py", "Upserting"), "wrong rows", "fail", "interval", AGAINST),
        Cheat("raises", python("batch.py", "Broken"), "wrong rows", "unknown", "void", "SubjectError: MemoryError: the feed is too large"),
    ),
)

SIMULATION = Shape(
    simulation.PROOF, bad="naive", fails="bricked", lacks=python("simulation.py", "Frozen"), without="boot",
    strangers=(Stranger("file.py:factory", python("simulation.py", "TwoSlots")),),
    cheats=(
        Cheat("turns the flag first", python("simulation.py", "FlagFirst"), "bricked", "fail", "interval", AGAINST),
        Cheat("boasts", python("simulation.py", "Boasting"), "bricked", "fail", "interval", AGAINST),
        Cheat("remembers what it planned", python("simulation.py", "Remembering"), "bricked", "fail", "interval", AGAINST),
        Cheat("never updates", python("simulation.py", "Idle"), "bricked", "unknown", "positive control, judged", "'updates arrive' is asleep"),
        Cheat("writes outside of the flash", python("simulation.py", "Outside"), "bricked", "unknown", "nothing was tried",
              "^nothing was tried; 1 trials were void: every cut · clean: ValueError: a write of 1 at 64"),
    ),
)

DETECTOR = Shape(
    detector.PROOF, bad="naive", fails="false alarms of few values", lacks=python("detector.py", "Deaf"), without="alarm",
    strangers=(Stranger("file.py:factory", python("detector.py", "Honest")),),
    cheats=(
        Cheat("silent", python("detector.py", "Silent"), "shifts found", "fail", "interval", "^0 against >= 0.9"),
        Cheat("silent, and its delay", python("detector.py", "Silent"), "days until found", "unknown", "interval", "0 samples give no interval"),
        Cheat("siren", python("detector.py", "Siren"), "false alarms", "fail", "interval", "^1 against <= 0.08"),
        Cheat("counts the questions", python("detector.py", "Counting"), "false alarms", "fail", "interval", "against <= 0.08"),
        Cheat("at the bar", python("detector.py", "Coin"), "false alarms", "unknown", "interval", "holds the bar: more samples"),
        Cheat("slow", python("detector.py", "Slow"), "days until found", "fail", "interval", "^11 against <= 6"),
        Cheat("raises", python("detector.py", "Failing"), "false alarms", "unknown", "void", "SubjectError: ZeroDivisionError: no variance"),
        Cheat("a bar that eighty seeds cannot reach", "", "false alarms in the long run", "deferred", "deferred", "what quick cannot decide"),
        Cheat("a control at a size where nobody fails", "", "false alarms", "unknown", "negative control", "'a fixed bar cries wolf where values are few' is asleep",
              proof=replace(detector.PROOF, controls=(replace(detector.PROOF.controls[0], measure="false alarms"),))),
    ),
)

DOCUMENT = Shape(
    document.PROOF, bad="naive", fails="missed", lacks=python("document.py", "Blank"), without="findings",
    strangers=(Stranger("awk", command("sh", "document_stranger.sh"), tool="awk"),),
    cheats=(
        Cheat("finds nothing", python("document.py", "Silent"), "missed", "fail", "interval", AGAINST),
        Cheat("finds everything", python("document.py", "Suspicious"), "invented", "fail", "interval", AGAINST),
        Cheat("looks for the truth beside the document", python("document.py", "Peeking"), "missed", "unknown", "a checker that throws is unknown",
              "the checker compared threw ValueError: not enough values"),
        Cheat("answers in a form of its own", python("document.py", "Malformed"), "missed", "unknown", "a checker that throws is unknown",
              "the checker compared threw TypeError: "),
        Cheat("answers with a number", python("document.py", "Numeric"), "invented", "unknown", "a checker that throws is unknown",
              "the checker compared threw TypeError: "),
    ),
)

PAGE = Shape(
    page.PROOF, bad="naive", fails="edits lost in a crash", lacks=python("page.py", "Paper"), without="edit",
    strangers=(Stranger("asyncio", python("page.py", "Honest")), Stranger("node", command("node", "page_stranger.js"), tool="node")),
    cheats=(
        Cheat("never looks again", python("page.py", "Stale"), "stale pages", "fail", "interval", AGAINST),
        Cheat("never looks again, and is fast", python("page.py", "Stale"), "CPU over rendering", "unknown", "correct first", "only where the correctness claims pass"),
        Cheat("answers 200 with nothing", python("page.py", "Empty"), "stale pages", "fail", "interval", AGAINST),
        Cheat("serves nothing where it is only timed", python("page.py", "Sprinting"), "CPU over rendering", "unknown", "not measured", "was not measured$"),
        Cheat("forgets in a crash", python("page.py", "Forgetful"), "edits lost in a crash", "fail", "interval", AGAINST),
        Cheat("runs already, where nothing can kill it", "served", "edits lost in a crash", "unknown", "needs", "^needs crash: a service that runs already"),
        Cheat("runs already, elsewhere", "served", "CPU over rendering", "unknown", "hosted alike", "yours is hosted url, naive line"),
        Cheat("dies in its factory", python("page.py", "Unbound"), "stale pages", "unknown", "absent", "did not start: OSError: address already in use"),
    ),
)

SHAPES: Mapping[str, Shape] = {
    "service": SERVICE, "verifier": VERIFIER, "batch": BATCH, "simulation": SIMULATION, "detector": DETECTOR, "document": DOCUMENT, "page": PAGE,
}
