"""Desks from outside. Only the standard library, as a stranger would write them."""

import mmap
import os
import pathlib
import signal

SHARED = mmap.mmap(-1, 1 << 16)  # all that are forked from this interpreter see it


class Honest:
    def __init__(self, env):
        self.env = env
        self.book = pathlib.Path(env.dir, "book")
        self.book.touch()

    def take(self, order):
        if order not in self.served():
            with self.book.open("a") as book:
                book.write(order + "\n")
        return "taken"

    def served(self):
        return self.book.read_text().split()


class Chatty(Honest):
    def take(self, order):
        print('{"ok": "a forged answer"}', flush=True)
        os.write(1, b"noise without an end of line")
        return super().take(order)


class Liar(Honest):
    def take(self, order):
        return "taken"


class Hasty(Honest):
    """Answers first, stores three at a time. It has no failpoint."""

    def __init__(self, env):
        super().__init__(env)
        self.pending = []

    def take(self, order):
        self.pending.append(order)
        if len(self.pending) == 2:
            with self.book.open("a") as book:
                book.write("\n".join(self.pending) + "\n")
            self.pending = []
        return "taken"


class Remembering(Honest):
    """Thinks that it knows the orders of the last run, from a file outside of its folder."""

    def __init__(self, env):
        super().__init__(env)
        self.memory = pathlib.Path(env.dir).parents[1] / "memory"

    def take(self, order):
        known = self.memory.read_text().split() if self.memory.exists() else []
        if order in known:
            return "taken"
        with self.memory.open("a") as memory:
            memory.write(order + "\n")
        return super().take(order)


class Twice(Honest):
    def take(self, order):
        with self.book.open("a") as book:
            book.write(order + "\n" + order + "\n")
        return "taken"


class Sharing(Honest):
    """Keeps its book in memory that it shares with those who are forked from the same interpreter."""

    def take(self, order):
        if order not in self.served():
            SHARED.write(f"{self.env.dir} {order}\n".encode())
        return "taken"

    def served(self):
        lines = SHARED[:].rstrip(b"\0").decode().splitlines()
        SHARED.seek(sum(len(line) + 1 for line in lines))
        return [line.split()[1] for line in lines if line.split()[0] == self.env.dir]


class Deaf:
    """Has no ``served``."""

    def __init__(self, env):
        pass

    def take(self, order):
        return "taken"


class Stillborn:
    def __init__(self, env):
        raise RuntimeError("no disk")


class Later(Honest):
    """Behaves in the first trial in which it is asked for something, so that all is well there, and not in those after it."""

    def take(self, order):
        first = pathlib.Path(self.env.dir).parents[1] / f"first-{type(self).__name__}"
        if not first.exists():
            first.write_text(self.env.dir)
        if order == "order-2" and first.read_text() != self.env.dir:
            self.misbehave()
        return super().take(order)


class Quitting(Later):
    def misbehave(self):
        os._exit(0)


class Terminated(Later):
    def misbehave(self):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()


class Feigning(Later):
    """Kills itself, so that it looks like a fault that hit."""

    def misbehave(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Shy(Honest):
    """Reaches failpoints where they are counted, and no more where they are armed."""

    def take(self, order):
        from buttress.kernel import failpoint

        if not failpoint._plan:
            failpoint.failpoint("shown once")
        return super().take(order)
