"""What happened, on disk: ``history.jsonl.gz``, one record a line, each with the number of its trial.

Kinds: ``trial`` (its head), ``op`` (a call on the port: ok, fail or info), ``fact`` (seen by the world), ``fault``,
``tally`` (many trials folded), ``gauge``, ``lap``, ``end``. A history is re-read lazily, as often as a checker likes.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

Record = dict[str, Any]
HEAD = ("subject", "scenario", "case")
BEFORE = len(b'{"trial":')  # each line begins with the number of its trial


class HistoryWriter:
    """Appends records from any thread. The head of a trial is written once; its records carry only the number."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = 0
        self._file: gzip.GzipFile | None = gzip.GzipFile(path, "wb", compresslevel=1)
        self._lock = threading.Lock()
        self._encode = msgspec.json.Encoder(enc_hook=str).encode

    def write(self, record: Record) -> None:
        line = self._encode(record) + b"\n"
        with self._lock:
            if self._file is not None:
                self._file.write(line)
                self.records += 1

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


class History:
    """A view of the records on disk. Void trials are left out; each record shows subject, scenario and case of its trial."""

    def __init__(self, path: Path, keep: Callable[[Record], bool] | None = None, voids: frozenset[int] = frozenset(),
                 heads: tuple[Mapping[str, Any], ...] = ()) -> None:
        self._path = path
        self._keep = keep
        self._voids = voids
        self._heads = heads

    def __iter__(self) -> Iterator[Record]:
        decode = msgspec.json.Decoder(dict).decode
        heads: dict[int, Record] = {}
        others = set(self._voids)  # trials whose lines are passed over unread
        with gzip.open(self._path, "rb") as lines:
            for line in lines:
                number = int(line[BEFORE : line.index(b",", BEFORE)])
                if number in others:
                    continue
                record: Record = decode(line)
                if record["kind"] == "trial":
                    heads[number] = {key: record[key] for key in HEAD}
                    if any(heads[number][key] != value for equal in self._heads for key, value in equal.items()):
                        others.add(number)
                        continue
                record.update(heads.get(number, {}))
                if self._keep is None or self._keep(record):
                    yield record

    def where(self, **equal: Any) -> History:
        """The records whose fields equal these, e.g. ``where(kind="fact", scenario="crash")``."""
        before, fields = self._keep, {key: value for key, value in equal.items() if key not in HEAD}

        def keep(record: Record) -> bool:
            return (before is None or before(record)) and all(record.get(key) == value for key, value in fields.items())

        head = {key: value for key, value in equal.items() if key in HEAD}
        return History(self._path, keep if fields else before, self._voids, (*self._heads, head) if head else self._heads)

    def without(self, voids: frozenset[int]) -> History:
        return History(self._path, self._keep, self._voids | voids, self._heads)

    def trials(self) -> Iterator[list[Record]]:
        """The records of each trial together. Trials follow each other in the file; laps of a race do not."""
        batch: list[Record] = []
        for record in self:
            if batch and batch[0]["trial"] != record["trial"]:
                yield batch
                batch = []
            batch.append(record)
        if batch:
            yield batch
