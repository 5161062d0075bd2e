"""How a check is put together: one small function for each promise, whose docstring is the sentence that a failure quotes."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

C = TypeVar("C")
T = TypeVar("T")
WAIT_S = 20.0


def verify(subject: str, promises: Iterable[Callable[[C], None]], case: C) -> None:
    """Tries every promise, each on instances of its own, and raises one AssertionError that names all broken ones."""
    broken: list[str] = []
    first: Exception | None = None
    for promise in promises:
        try:
            promise(case)
        except Exception as error:
            what = str(error) if isinstance(error, AssertionError) else f"raised {type(error).__name__}: {error}"
            broken.append(f"- {sentence(promise)} But: {what}")
            first = first or error
    if broken:
        raise AssertionError("\n".join([f"{subject}: {len(broken)} broken", *broken])) from first


def sentence(promise: Callable[..., object]) -> str:
    """The promise in words, on one line."""
    return " ".join((inspect.getdoc(promise) or promise.__name__).split())


def expect(kept: object, seen: str) -> None:
    """Raises AssertionError with what was seen instead. Not a bare ``assert``: that one is gone under ``python -O``."""
    if not kept:
        raise AssertionError(seen)


def refused(error: type[Exception], what: str, call: Callable[..., object], *args: Any, **named: Any) -> None:
    """The call, named ``what`` in a failure, must raise this error and no other."""
    try:
        answer = call(*args, **named)
    except error:
        return
    except Exception as other:
        raise AssertionError(f"{what} raised {type(other).__name__} ({other}) instead of {error.__name__}") from other
    raise AssertionError(f"{what} was not refused ({error.__name__}): it answered {answer!r}")


class _RollBack(Exception):
    """Ends a transaction without a commit."""


@contextmanager
def rolled_back(transaction: AbstractContextManager[T]) -> Iterator[T]:
    """The block runs in this transaction, which then ends with an error and so without a commit."""
    try:
        with transaction as opened:
            yield opened
            raise _RollBack
    except _RollBack:
        pass


def together(*calls: Callable[[], object]) -> list[object]:
    """Runs all calls at once, a thread each; gives their answers, an error as itself. A call that hangs breaks a promise."""
    answers: list[object] = [None] * len(calls)
    start = threading.Barrier(len(calls))

    def run(place: int, call: Callable[[], object]) -> None:
        try:
            start.wait(WAIT_S)
            answers[place] = call()
        except Exception as error:
            answers[place] = error

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    expect(not any(thread.is_alive() for thread in threads), f"a call did not come back within {WAIT_S:.0f} s")
    return answers


def elsewhere(call: Callable[[], object]) -> object:
    """The answer of a call on another thread; raises what it raised."""
    answer = together(call)[0]
    if isinstance(answer, Exception):
        raise answer
    return answer
