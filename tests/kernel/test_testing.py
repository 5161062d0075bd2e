"""The checks themselves: what a failure says, and that they need no test framework."""

from __future__ import annotations

import ast
import itertools
import threading
from pathlib import Path

import pytest

import buttress.testing
from buttress.kernel.idempotency import Done, InFlight, MemoryIdempotency, New
from buttress.testing import check_idempotency, clock, delta, idempotency, lease, outbox, rollout, store
from buttress.testing.promise import sentence


def test_all_that_is_broken_is_named_at_once():
    class BrokenTwice(MemoryIdempotency):
        def claim(self, key, fingerprint, lease_s):
            answer = super().claim(key, fingerprint, lease_s)
            return New(1) if isinstance(answer, InFlight) else answer

        def retire(self, before):
            return 0

    with pytest.raises(AssertionError) as failure:
        check_idempotency(BrokenTwice)
    for promise in (idempotency.a_held_key_is_in_flight, idempotency.retire_keeps_the_fact):
        assert f"- {sentence(promise)} But: " in str(failure.value)
    assert str(failure.value).startswith("Idempotency: ")


def test_an_implementation_that_raises_is_broken():
    class Raises(MemoryIdempotency):
        def retire(self, before):
            raise RuntimeError("not written yet")

    with pytest.raises(AssertionError, match="But: raised RuntimeError: not written yet"):
        check_idempotency(Raises)


def test_an_implementation_that_hangs_is_broken(monkeypatch):
    monkeypatch.setattr("buttress.testing.promise.WAIT_S", 0.2)
    forever = threading.Event()

    class Hangs(MemoryIdempotency):
        def claim(self, key, fingerprint, lease_s):
            if threading.current_thread() is not threading.main_thread():
                forever.wait(20)
            return Done(None)

    try:
        with pytest.raises(AssertionError, match="a call did not come back within"):
            idempotency.of_many_claims_one_is_new(idempotency.Case(Hangs))
    finally:
        forever.set()


def test_every_promise_is_a_sentence():
    for module in (clock, delta, idempotency, lease, outbox, rollout, store):
        groups = [value for name, value in vars(module).items() if name.isupper() and isinstance(value, tuple) and callable(value[0])]
        assert len(groups) >= 3
        for promise in itertools.chain(*groups):
            assert sentence(promise).endswith("."), promise.__name__


def test_every_promise_is_checked():
    """A function that takes a Case and is in no group would be forgotten."""
    for module in (clock, delta, idempotency, lease, outbox, rollout, store):
        groups = [value for name, value in vars(module).items() if name.isupper() and isinstance(value, tuple) and callable(value[0])]
        listed = {promise.__name__ for promise in itertools.chain(*groups)}
        written = {name for name, value in vars(module).items()
                   if getattr(value, "__module__", "") == module.__name__ and getattr(value, "__annotations__", None) == {"case": "Case", "return": "None"}}
        assert written == listed


def test_the_public_names():
    assert buttress.testing.__all__ == sorted(buttress.testing.__all__)
    for name in buttress.testing.__all__:
        assert callable(getattr(buttress.testing, name))


def test_no_test_framework_and_no_driver_is_imported():
    for file in Path(buttress.testing.__file__).parent.glob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        imported = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
        imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not {name for name in imported if name.split(".")[0] in ("pytest", "hypothesis", "unittest", "sqlite3", "psycopg")}, file.name
