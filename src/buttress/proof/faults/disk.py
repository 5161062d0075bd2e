"""What a disk holds after a power cut. A kill -9 leaves the page cache and proves nothing about durability; this does.

``Disk`` replays the operations of a program (writes, truncates, syncs, renames, ...) and answers what may be found afterwards: all
that a completed sync covers, and of the rest an arbitrary subset by sectors, the last write torn. A name is durable only once
its directory was synced, whatever was synced in the file: POSIX promises no more (fsync(2): "it does not necessarily ensure that
the entry in the directory containing the file has also reached disk").

The operations come from a program that calls ``Disk`` itself, or from a recording of its system calls by strace, which sees
any program in any language. What is written through a memory map is not seen.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from buttress.kernel.errors import ButtressError, InvalidInput

SECTOR_BYTES = 512
WRITE_MAX_BYTES = 16 << 20  # a longer single write is not recorded whole, and then nothing is judged
Tear = Literal["nothing", "everything", "last torn", "random"]
TEARS: tuple[Tear, ...] = ("nothing", "everything", "last torn", "random")


Piece = tuple[int, bytes] | int  # a write (offset, data), or a new length


@dataclass
class _Content:
    """One file's bytes: what a sync has covered, and what came after it, in order, each with the number of its operation."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, Piece]] = field(default_factory=list)
    size: int = 0

    @property
    def pieces(self) -> list[Piece]:
        return [piece for _, piece in self.pending]

    def change(self, number: int, piece: Piece) -> None:
        self.pending.append((number, piece))
        self.size = piece if isinstance(piece, int) else max(self.size, piece[0] + len(piece[1]))

    def current(self) -> bytearray:
        return _applied(bytearray(self.durable), self.pieces)

    def sync(self, mark: int) -> None:
        self.durable = _applied(self.durable, [piece for number, piece in self.pending if number <= mark])
        self.pending = [(number, piece) for number, piece in self.pending if number > mark]


@dataclass
class Disk:
    """Files of one folder, by relative path. ``sector_bytes`` are written whole or not at all; 512 or 4,096."""

    sector_bytes: int = SECTOR_BYTES
    _contents: list[_Content] = field(default_factory=list)
    _names: dict[str, int] = field(default_factory=dict)  # as the program sees them
    _durable_names: dict[str, int] = field(default_factory=dict)
    _renamed: list[tuple[int, str, int | None]] = field(default_factory=list)  # (operation, path, content or None: gone), in order
    _number: int = 0

    def __post_init__(self) -> None:
        if self.sector_bytes not in (512, 4096):
            raise InvalidInput("sector_bytes", self.sector_bytes, "must be 512 or 4096")

    @classmethod
    def of(cls, files: Mapping[str, bytes], sector_bytes: int = SECTOR_BYTES) -> Disk:
        """A disk on which these files are durable."""
        disk = cls(sector_bytes)
        for path, data in files.items():
            disk._names[path] = disk._durable_names[path] = len(disk._contents)
            disk._contents.append(_Content(bytearray(data), size=len(data)))
        return disk

    # -- what a program does

    def create(self, path: str) -> None:
        """Makes an empty file, if it is not there."""
        if path not in self._names:
            self._names[path] = len(self._contents)
            self._contents.append(_Content())
            self._renamed.append((self._next(), path, self._names[path]))

    def write(self, path: str, offset: int, data: bytes) -> None:
        self._content(path).change(self._next(), (offset, data))

    def append(self, path: str, data: bytes) -> None:
        self.write(path, self.size(path), data)

    def truncate(self, path: str, size: int) -> None:
        self._content(path).change(self._next(), size)

    def mark(self) -> int:
        """Where a sync begins: what comes while it runs is none of its business."""
        return self._number

    def sync(self, path: str, mark: int | None = None) -> None:
        """Of a file: its bytes. Of a directory ("" is the folder itself): the names in it. Up to ``mark``, or all so far."""
        mark = self._number if mark is None else mark
        if path in self._names:
            self._content(path).sync(mark)
            return
        kept = []
        for number, name, content in self._renamed:
            if os.path.dirname(name) != path or number > mark:
                kept.append((number, name, content))
            elif content is None:
                self._durable_names.pop(name, None)
            else:
                self._durable_names[name] = content
        self._renamed = kept

    def rename(self, old: str, new: str) -> None:
        """One change of names: of the two a cut leaves one, unless they lie in different directories."""
        content = self._names.pop(old)
        self._names[new] = content
        number = self._next()
        self._renamed += [(number, new, content), (number, old, None)]

    def unlink(self, path: str) -> None:
        if self._names.pop(path, None) is not None:
            self._renamed.append((self._next(), path, None))

    def _next(self) -> int:
        self._number += 1
        return self._number

    def __contains__(self, path: str) -> bool:
        return path in self._names

    def size(self, path: str) -> int:
        """In bytes, as the program sees it."""
        return self._content(path).size

    def read(self, path: str) -> bytes:
        """As the program sees it."""
        return bytes(self._content(path).current())

    def files(self) -> dict[str, bytes]:
        """All files as the program sees them."""
        return {path: self.read(path) for path in self._names}

    def _content(self, path: str) -> _Content:
        if path not in self._names:
            raise InvalidInput("path", path, "is no file of this disk")
        return self._contents[self._names[path]]

    # -- what is left

    @property
    def unsynced(self) -> int:
        """Writes and changes of names that no sync covers: of these a cut may take any."""
        return sum(len(content.pending) for content in self._contents) + len(self._renamed)

    def after_cut(self, tear: Tear, rng: random.Random) -> dict[str, bytes]:
        """Files as they may be found: nothing of what was not synced, all of it, all but a part of the last write, or an arbitrary part."""
        names = dict(self._durable_names)
        last = {"nothing": 0, "random": rng.randint(0, self._number)}.get(tear, self._number)
        for number, path, content in self._renamed:  # names are journalled: their changes come in order, and stop somewhere
            if number > last:
                break
            if content is None:
                names.pop(path, None)
            else:
                names[path] = content
        return {path: bytes(self._left(self._contents[content], tear, rng)) for path, content in names.items()}

    def _left(self, content: _Content, tear: Tear, rng: random.Random) -> bytearray:
        if tear == "nothing" or not content.pending:
            return bytearray(content.durable)
        if tear == "everything":
            return content.current()
        if tear == "last torn":
            *before, last = content.pieces
            torn = [] if isinstance(last, int) else list(self._sectors(last))
            return _applied(bytearray(content.durable), [*before, *torn[: len(torn) // 2]])
        survived: list[Piece] = []
        for piece in content.pieces:
            parts: list[Piece] = [piece] if isinstance(piece, int) else list(self._sectors(piece))
            survived += [part for part in parts if rng.random() < 0.5]
        return _applied(bytearray(content.durable), survived)

    def _sectors(self, change: tuple[int, bytes]) -> Iterator[tuple[int, bytes]]:
        offset, data = change
        at = 0
        while at < len(data):
            size = min(self.sector_bytes - (offset + at) % self.sector_bytes, len(data) - at)
            yield offset + at, data[at : at + size]
            at += size


def _applied(data: bytearray, changes: Iterable[Piece]) -> bytearray:
    for change in changes:
        if isinstance(change, int):
            del data[change:]
            data.extend(bytes(change - len(data)))
        else:
            offset, piece = change
            if offset > len(data):
                data.extend(bytes(offset - len(data)))
            data[offset : offset + len(piece)] = piece
    return data


# -- recordings


TRACED = ("openat,open,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,fsync,fdatasync,sync_file_range,"
          "rename,renameat,renameat2,unlink,unlinkat,lseek,mkdir,mkdirat,rmdir,link,linkat,msync,io_uring_enter,copy_file_range,sendfile")
UNSEEN = ("link", "linkat", "io_uring_enter", "copy_file_range", "sendfile")  # they would write past the recording
_LINE = re.compile(r"^(\d+) +(?:<\.\.\. (\w+) resumed>(.*)|(\w+)\((.*))$", re.DOTALL)
_RESULT = re.compile(r"^(.*)\)\s+= (-?\w+|\?)(.*)$", re.DOTALL)
_FD = re.compile(r"^(\d+|AT_FDCWD)<([^>]*)>")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


class Recording:
    """What a process and its children did to the files of ``folder``, from strace's log (``-f -y -xx``, whole strings).

    ``cwd`` is where the process was started: paths without a directory begin there.
    """

    def __init__(self, folder: str, before: Mapping[str, bytes], sector_bytes: int = SECTOR_BYTES, cwd: str = "/") -> None:
        self.disk = Disk.of(before, sector_bytes)
        self._folder = os.path.realpath(folder)
        self._cwd = cwd
        self._began: dict[str, int] = {}
        self._offsets: dict[tuple[str, str, str], int] = {}
        self._appending: set[tuple[str, str, str]] = set()
        self._pending: dict[str, tuple[str, str]] = {}

    def replay(self, log: Path) -> Recording:
        """All calls of the log, in the order in which they returned. One that a kill interrupted counts as done, and not synced."""
        with open(log, encoding="ascii", errors="replace") as lines:
            for line in lines:
                self._take(line.rstrip("\n"))
        for pid, (name, args) in self._pending.items():
            if name not in ("fsync", "fdatasync", "sync_file_range"):
                self._done(pid, name, args, 1 << 62)
        self._pending.clear()
        return self

    def _take(self, line: str) -> None:
        found = _LINE.match(line)
        if found is None:
            return
        pid, resumed, rest, name, args = found.groups()
        if resumed:
            name, before = self._pending.pop(pid, (resumed, ""))
            args = before + rest
        if args.endswith("<unfinished ...>"):
            self._pending[pid] = (name, args.removesuffix("<unfinished ...>"))
            self._began[pid] = self.disk.mark()
            return
        answered = _RESULT.match(args)
        if answered is None or answered[2] == "?":
            self._pending[pid] = (name, answered[1] if answered else args)
        elif not answered[2].startswith("-"):
            self._done(pid, name, answered[1], int(answered[2], 0), answered[2] + answered[3])

    def _done(self, pid: str, name: str, args: str, returned: int, result: str = "") -> None:
        if name in ("openat", "open", "creat"):
            self._opened(pid, name, args, result)
        elif name in ("rename", "renameat", "renameat2", "unlink", "unlinkat"):
            self._named(name, args)
        elif (fd := _FD.match(args)) and (path := self._inside(_text(fd[2]))) is not None:
            self._changed(pid, name, fd[1], path, args[fd.end() :], returned)

    def _opened(self, pid: str, name: str, args: str, result: str) -> None:
        """A created file is a new name; a truncated one is empty. Each descriptor begins at offset 0."""
        fd = re.match(r"(\d+)<([^>]*)>", result)
        path = self._inside(_text(fd[2])) if fd else None
        if fd is None or path is None:
            return
        if ("O_CREAT" in args or name == "creat") and "O_DIRECTORY" not in args:
            self.disk.create(path)
        if "O_TRUNC" in args or name == "creat":
            self.disk.truncate(path, 0)
        key = (pid, fd[1], path)
        self._offsets[key] = 0
        self._appending.discard(key)
        if "O_APPEND" in args:
            self._appending.add(key)

    def _named(self, name: str, args: str) -> None:
        paths = [self._inside(path) for path in _paths(args, self._cwd)]
        if name.startswith("rename") and len(paths) == 2 and paths[0] is not None and paths[1] is not None:
            if paths[0] in self.disk:
                self.disk.rename(paths[0], paths[1])
        elif name.startswith("unlink") and paths and paths[0] is not None and "AT_REMOVEDIR" not in args:
            self.disk.unlink(paths[0])

    def _changed(self, pid: str, name: str, fd: str, path: str, rest: str, returned: int) -> None:
        if name in UNSEEN:
            raise ButtressError(f"the recording does not see what {name} writes", fix="a power cut of this subject cannot be judged")
        key = self._owner(pid, fd, path)
        if name in ("fsync", "fdatasync"):
            self.disk.sync(path, self._began.pop(pid, None))
        elif path not in self.disk:
            return
        elif name == "ftruncate":
            self.disk.truncate(path, int(rest.split(",")[1]))
        elif name == "fallocate":
            mode, offset, size = rest.strip(", ").split(",")[:3]
            if mode.strip() == "0" and self.disk.size(path) < int(offset) + int(size):
                self.disk.truncate(path, int(offset) + int(size))
        elif name == "lseek":
            self._offsets[key] = returned
        elif name in ("pwrite64", "pwritev", "pwritev2"):
            at = int(rest.rsplit(",", 2 if name == "pwritev2" else 1)[1])
            self.disk.write(path, at, _data(rest)[:returned])
        elif name in ("write", "writev"):
            data = _data(rest)[:returned]
            if key in self._appending:
                self.disk.append(path, data)
            else:
                start = self._offsets.get(key, 0)
                self.disk.write(path, start, data)
                self._offsets[key] = start + len(data)

    def _owner(self, pid: str, fd: str, path: str) -> tuple[str, str, str]:
        """A child or thread writes on the descriptor that another one opened, and at the offset that they share."""
        own = (pid, fd, path)
        return own if own in self._offsets else next((key for key in reversed(self._offsets) if key[1:] == (fd, path)), own)

    def _inside(self, path: str) -> str | None:
        path = os.path.normpath(path.removesuffix("(deleted)"))
        if path == self._folder:
            return ""
        return os.path.relpath(path, self._folder) if path.startswith(self._folder + os.sep) else None


def cut(state: Path, before: Mapping[str, bytes], logs: Iterable[Path], tear: Tear, rng: random.Random) -> int:
    """Makes ``state`` what a disk may hold after the recorded calls and the cut. Returns how many operations were at its mercy."""
    recording = Recording(str(state), before, cwd=os.getcwd())
    for log in logs:
        recording.replay(log)
    unsynced = recording.disk.unsynced
    write_folder(state, recording.disk.after_cut(tear, rng))
    return unsynced


def _text(escaped: str) -> str:
    """strace's \\x2f\\x74 to text; what is not escaped stays."""
    if not escaped.startswith("\\x"):
        return escaped
    return bytes.fromhex(escaped.replace("\\x", "")).decode("utf-8", "surrogateescape")


def _data(args: str) -> bytes:
    pieces = []
    for found in _STRING.finditer(args):
        if found[2]:
            raise ButtressError("the recording cut a write short", fix="let strace print whole strings")
        pieces.append(bytes.fromhex(found[1].replace("\\x", "")))
    return b"".join(pieces)


def _paths(args: str, cwd: str) -> list[str]:
    """The paths of a call, made absolute by the directory descriptor before each."""
    found, at = [], 0
    for string in _STRING.finditer(args):
        path = _text(string[1])
        directory = re.findall(r"<([^>]*)>", args[at : string.start()])
        found.append(os.path.join(_text(directory[-1]) if directory else cwd, path))
        at = string.end()
    return found


def folder_files(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Makes the folder hold exactly these files."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and str(path.relative_to(folder)) not in files:
            path.unlink()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
