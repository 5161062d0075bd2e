"""Loaders from outside."""

import json
import pathlib


class Honest:
    def __init__(self, env):
        self.env = env
        self.last = pathlib.Path(env.dir, "last")

    def load(self, feed):
        last = json.loads(self.last.read_text()) if self.last.exists() else {}
        self.write(last, json.loads(pathlib.Path(feed).read_text()))

    def write(self, last, now):
        with open(self.env.world["target"], "a") as target:
            for key in sorted(last.keys() | now.keys()):
                if last.get(key) != now.get(key):
                    target.write(json.dumps([key, now.get(key)]) + "\n")
        self.last.write_text(json.dumps(now))


class Liar(Honest):
    def load(self, feed):
        print("loaded", feed)


class Once(Honest):
    """Takes every feed after the first for unchanged."""

    def load(self, feed):
        if not self.last.exists():
            super().load(feed)


class Remembering(Honest):
    """Keeps what it has loaded outside of its folder, so that a fresh target finds it idle."""

    def __init__(self, env):
        super().__init__(env)
        self.last = pathlib.Path(env.dir).parents[1] / "last"


class Keeping(Honest):
    """Keeps what it has loaded in its module's memory."""

    kept = {}

    def load(self, feed):
        now = json.loads(pathlib.Path(feed).read_text())
        self.write(type(self).kept, now)
        type(self).kept = now


class Copying(Honest):
    """Copies the target of another trial instead of loading."""

    def load(self, feed):
        for other in sorted(pathlib.Path(self.env.dir).parents[1].glob("trial-*/target.jsonl")):
            if str(other) != self.env.world["target"]:
                pathlib.Path(self.env.world["target"]).write_text(other.read_text())


class Upserting(Honest):
    """Never deletes."""

    def write(self, last, now):
        super().write({key: value for key, value in last.items() if key in now}, now)


class Idle:
    """Has no ``load``."""

    def __init__(self, env):
        pass


class Broken(Honest):
    """Loads the first trial's feeds, and none of a later trial."""

    def load(self, feed):
        first = pathlib.Path(self.env.dir).parents[1] / "first"
        if not first.exists():
            first.write_text(self.env.dir)
        if first.read_text() != self.env.dir:
            raise MemoryError("the feed is too large")
        super().load(feed)
