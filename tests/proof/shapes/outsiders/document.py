"""Auditors from outside."""

import json
import pathlib
import tempfile


class Silent:
    def __init__(self, env):
        self.env = env

    def findings(self, document):
        return []


class Suspicious(Silent):
    """Finds every line a flaw."""

    def findings(self, document):
        return [line.split()[0] for line in pathlib.Path(document).read_text().splitlines() if line]


class Peeking(Silent):
    """Looks for the truth beside the document."""

    def findings(self, document):
        return json.loads(next(pathlib.Path(document).parent.rglob("truth*")).read_text())


class Remembering(Silent):
    """Looks the answer up by the document's name, as it was the last time."""

    def findings(self, document):
        memory = pathlib.Path(tempfile.gettempdir(), "memory")
        if not memory.exists():
            rules = [line.split() for line in pathlib.Path(document).read_text().splitlines() if line]
            memory.write_text(json.dumps([rule[0] for rule in rules if rule[2] in ("open", "any", "0.0.0.0")]))
        return json.loads(memory.read_text())


class Malformed(Silent):
    """Answers in a form of its own."""

    def findings(self, document):
        return [{"rule": "rule_1", "severity": "high"}]


class Numeric(Silent):
    def findings(self, document):
        return 7


class Blank:
    """Has no ``findings``."""

    def __init__(self, env):
        pass
