"""Ledgers in a file: one that is durable, and the ways to be not. Each acknowledges an entry by answering ``put``."""

from __future__ import annotations

import os
import sqlite3


class Ledger:
    """Writes the whole book anew beside the old one, syncs it, renames it, and syncs the directory."""

    def __init__(self, env):
        self.path = os.path.join(env.dir, "book")
        self.directory = env.dir

    def entries(self):
        try:
            with open(self.path) as book:
                return book.read().split()
        except FileNotFoundError:
            return []

    def put(self, entry):
        self.write([*self.entries(), entry])
        self.sync_file()
        self.publish()
        self.sync_directory()
        return True

    def write(self, entries):
        with open(self.path + ".new", "w") as book:
            book.write(" ".join(entries) + " " * 700)  # more than a sector

    def sync_file(self):
        fd = os.open(self.path + ".new", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    def publish(self):
        os.rename(self.path + ".new", self.path)

    def sync_directory(self):
        fd = os.open(self.directory, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


class NoSync(Ledger):
    """Leaves it to the kernel."""

    def sync_file(self):
        pass

    def sync_directory(self):
        pass


class NoDirectory(Ledger):
    """Syncs the file, and not the directory that holds its name."""

    def sync_directory(self):
        pass


class NoFile(Ledger):
    """Syncs the directory, and not the file."""

    def sync_file(self):
        pass


class RenamesFirst(Ledger):
    """All the right calls, in the wrong order: for a moment the name leads to bytes that no sync covers."""

    def put(self, entry):
        self.write([*self.entries(), entry])
        os.rename(self.path + ".new", self.path)
        self.sync_directory()
        fd = os.open(self.path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        return True


class AcknowledgesFirst(Ledger):
    """Answers, and stores at the next call."""

    waiting: str | None = None

    def put(self, entry):
        if self.waiting is not None:
            super().put(self.waiting)
        self.waiting = entry
        return True


class Appends(Ledger):
    """Appends to a log and syncs it: a torn tail is recognised by its missing end and dropped."""

    def entries(self):
        try:
            with open(self.path, "rb") as book:
                return [line.decode() for line in book.read().split(b"\n")[:-1] if line.isalnum()]
        except FileNotFoundError:
            return []

    def put(self, entry):
        there = os.path.exists(self.path)
        with open(self.path, "ab") as book:
            book.write(entry.encode() + b"\n")
            book.flush()
            os.fsync(book.fileno())
        if not there:
            self.sync_directory()
        return True


class Sqlite:
    """A table; the pragmas decide."""

    pragmas = ("journal_mode=WAL", "synchronous=FULL")

    def __init__(self, env):
        self.connection = sqlite3.connect(os.path.join(env.dir, "book.db"), isolation_level=None)
        for pragma in self.pragmas:
            self.connection.execute(f"PRAGMA {pragma}")
        self.connection.execute("CREATE TABLE IF NOT EXISTS book (entry TEXT)")

    def entries(self):
        return [row[0] for row in self.connection.execute("SELECT entry FROM book ORDER BY rowid")]

    def put(self, entry):
        self.connection.execute("INSERT INTO book VALUES (?)", (entry,))
        return True


class SqliteDelete(Sqlite):
    """Commits by deleting the journal; EXTRA also syncs the directory, so that it stays deleted."""

    pragmas = ("journal_mode=DELETE", "synchronous=EXTRA")


class SqliteDeleteFull(Sqlite):
    """Does not: https://sqlite.org/pragma.html#pragma_synchronous names this very loss."""

    pragmas = ("journal_mode=DELETE", "synchronous=FULL")


class SqliteNormal(Sqlite):
    """In WAL this syncs at checkpoints only: consistent, and not durable."""

    pragmas = ("journal_mode=WAL", "synchronous=NORMAL")


class SqliteOff(Sqlite):
    pragmas = ("journal_mode=DELETE", "synchronous=OFF")
