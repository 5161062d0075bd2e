"""Subjects for the tests of the harness itself, hosted as ``subjects.py:NAME``. The standard library, and failpoints."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

IMPORTS = os.environ.get("COUNT_IMPORTS_IN")
if IMPORTS:
    with open(IMPORTS, "a") as counter:
        counter.write(f"{os.getpid()}\n")


class Echo:
    """A port of many methods; each test declares the ones that it calls."""

    def __init__(self, env):
        self.env = env
        self.barriers = {}
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.calls = []

    def echo(self, value=None):
        return value

    def about(self):
        return {"dir": self.env.dir, "seed": self.env.seed, "world": dict(self.env.world), "worker": self.env.worker, "now": self.env.clock.now(),
                "pid": os.getpid(), "group": os.getpgid(0)}

    def now(self):
        return self.env.clock.now()

    def meet(self, parties):
        """Returns when that many calls are inside at once."""
        with self.lock:
            barrier = self.barriers.setdefault(parties, threading.Barrier(parties))
        return barrier.wait(10)

    def wait(self):
        return self.released.wait(10)

    def release(self):
        self.released.set()
        return "released"

    def note(self, what):
        self.calls.append(what)
        return list(self.calls)

    def large(self, size):
        return "x" * size

    def odd(self):
        return {1, 2}

    def fail(self, text):
        raise ValueError(text)

    def quit(self, code=0):
        print("these are my last words", file=sys.stderr, flush=True)
        os._exit(code)

    def leave(self):
        sys.exit(0)

    def signal(self, number):
        os.kill(os.getpid(), number)
        signal.pause()

    def hang(self):
        threading.Event().wait()

    def step(self, name):
        from buttress.kernel.failpoint import failpoint

        failpoint(name)
        return [name, self.env.clock.now()]

    def burn(self, seconds):
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass
        return time.process_time()

    def child(self, *, burn=0.0, own_group=False, orphan=False):
        """Starts a process that ends neither at the end of its input nor at SIGTERM. Returns its pid when it is ready."""
        code = (f"import os, signal, sys, time\nif {orphan} and os.fork(): sys.exit()\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                f"until = time.process_time() + {burn!r}\nwhile time.process_time() < until: pass\nprint(os.getpid(), flush=True)\nsignal.pause()")
        started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=own_group)
        if orphan:
            started.wait()
        return int(started.stdout.readline())

    def daemon(self):
        """Forks twice, executes nothing, and leaves the session: what it holds in its memory is a child of nobody's. Returns its pid."""
        read, write = os.pipe()
        if not (child := os.fork()):
            os.setsid()
            if not os.fork():
                os.write(write, str(os.getpid()).encode())
                signal.pause()
            os._exit(0)
        os.waitpid(child, 0)
        return int(os.read(read, 20))

    def shadowed(self):
        """Which modules of the harness's folder can be imported by their bare name."""
        import importlib.util

        return [name for name in ("contract", "verdict", "trial", "host", "result") if importlib.util.find_spec(name)]

    def draw(self):
        return random.random()

    def say(self, text):
        print(text, flush=True)
        os.write(1, text.encode())
        return "said"


class Journal:
    """Stores lines, each written and synced, or, as ``Lazy``, kept in memory."""

    def __init__(self, env):
        self.file = os.open(os.path.join(env.dir, "journal"), os.O_RDWR | os.O_CREAT | os.O_APPEND)

    def append(self, line):
        from buttress.kernel.failpoint import failpoint

        failpoint("before")
        os.write(self.file, line.encode() + b"\n")
        os.fsync(self.file)
        failpoint("after")
        return "stored"

    def lines(self):
        return os.pread(self.file, 1 << 20, 0).decode().split()


class Lazy(Journal):
    def append(self, line):
        return "stored"


class QuitsAfterItsReply(Journal):
    """Ends by itself right after its third answer."""

    def __init__(self, env):
        super().__init__(env)
        self.answers = 0

    def append(self, line):
        self.answers += 1
        if self.answers == 3:
            threading.Timer(0.05, os._exit, (0,)).start()
        return super().append(line)


class Fragile(Journal):
    """Does not come up again on a folder that it has used."""

    def __init__(self, env):
        super().__init__(env)
        if self.lines():
            raise RuntimeError("the journal is locked")


class Unready:
    def __init__(self, env):
        raise RuntimeError("no disk")


class KilledAtItsStart(Echo):
    def __init__(self, env):
        from buttress.kernel.failpoint import failpoint

        failpoint("opening")
        super().__init__(env)
