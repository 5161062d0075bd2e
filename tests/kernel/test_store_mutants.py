"""Stores that are wrong on purpose: each breaks a promise, and the check of that promise must find it."""

from __future__ import annotations

import itertools
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest

from buttress.kernel.errors import SchemaMismatch
from buttress.kernel.store import sqlite as sqlite_store
from buttress.kernel.store.sqlite import SqliteStore, SqliteTx
from buttress.testing import check_store
from buttress.testing import store as conformance
from buttress.testing.promise import sentence, verify


def commit_early(store):
    """Commits what the caller has open, and goes on in a transaction of its own."""
    tx = getattr(store._local, "tx", None)
    if tx is not None:
        tx.connection.execute("COMMIT")
        tx.connection.execute("BEGIN IMMEDIATE")


class CommitsTheInner(SqliteStore):
    """An inner block commits by itself."""

    @contextmanager
    def transaction(self):
        inner = getattr(self._local, "tx", None) is not None
        with super().transaction() as tx:
            yield tx
        if inner:
            commit_early(self)


class LetsAnybodyCommit(SqliteStore):
    """Runs whatever it is given."""

    @contextmanager
    def transaction(self):
        with super().transaction() as tx, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite_store, "check_statement", lambda sql: None)
            yield tx


class SwallowsErrors(SqliteStore):
    """An error inside a transaction is not told."""

    @contextmanager
    def transaction(self):
        try:
            with super().transaction() as tx:
                yield tx
        except LookupError:
            pass


class CommitsDespiteErrors(SqliteStore):
    """An error inside a transaction does not undo it."""

    @contextmanager
    def transaction(self):
        with super().transaction() as tx:
            try:
                yield tx
            except LookupError:
                commit_early(self)
                raise


class OneFailsAll(SqliteStore):
    """An item that fails takes what the others wrote with it."""

    def submit(self, work):
        try:
            return super().submit(work)
        except LookupError:
            super().submit(lambda tx: tx.execute("DELETE FROM check_notes"))
            raise


class KeepsFailedItems(SqliteStore):
    """What a failed item wrote stays."""

    def submit(self, work):
        def quiet(tx):
            try:
                return work(tx), None
            except LookupError as error:
                return None, error

        value, error = super().submit(quiet)
        if error:
            raise error
        return value


class SubmitsInside(SqliteStore):
    """submit inside a transaction runs there, and claims to be durable."""

    def submit(self, work):
        tx = getattr(self._local, "tx", None)
        return work(tx) if tx is not None else super().submit(work)


class TakesANewerStore(SqliteStore):
    """Writes its own older version over a newer store."""

    def setup(self, *schemas):
        try:
            super().setup(*schemas)
        except SchemaMismatch:
            pass


class SetsUpOneByOne(SqliteStore):
    """Leaves the first schema behind, half done, when the second is refused."""

    def setup(self, *schemas):
        for schema in schemas:
            super().setup(schema)
            with self.transaction() as tx:
                if len(schemas) > 1:
                    tx.execute("DELETE FROM buttress_schema WHERE name = ?", (schema.name,))


class MigratesInOneStep(SqliteStore):
    """Applies the last step only."""

    def setup(self, *schemas):
        super().setup(*(replace(schema, migrations={n: schema.migrations.get(n, ()) if n == schema.version - 1 else ()
                                                    for n in range(1, schema.version)}) for schema in schemas))


class EmptiesItsTables(SqliteStore):
    """setup makes the tables anew."""

    def setup(self, *schemas):
        super().setup(*schemas)
        with self.transaction() as tx:
            if any(schema.name == "check.notes" for schema in schemas):
                tx.execute("DELETE FROM check_notes")


class OpensAgain(SqliteStore):
    """A closed store opens itself again."""

    def close(self):
        super().close()
        self._closed = False
        self._local = threading.local()


class CountsNothing(SqliteStore):
    """execute does not say how many rows it changed."""

    @contextmanager
    def transaction(self):
        with super().transaction() as tx:
            tx.execute = lambda sql, params=(): min(SqliteTx.execute(tx, sql, params), 1)
            yield tx


class CommitsWhatItJoined(SqliteStore):
    """Commits the transaction of its caller."""

    @contextmanager
    def join(self, connection):
        with super().join(connection) as tx:
            yield tx
            commit_early(self)


class JoinsAnything(SqliteStore):
    """Takes what is no connection for its own."""

    @contextmanager
    def join(self, connection):
        if isinstance(connection, str) or connection is None:
            yield None
            return
        with super().join(connection) as tx:
            yield tx


class OtherSpeech(SqliteStore):
    """Says that it is the other one."""

    dialect = "postgres"


class AnswersNothing(SqliteStore):
    """submit does not give the answer of the work."""

    def submit(self, work):
        super().submit(work)


class TextForBytes(SqliteStore):
    """Stores bytes as text."""

    @contextmanager
    def transaction(self):
        with super().transaction() as tx:
            tx.execute = lambda sql, params=(): SqliteTx.execute(
                tx, sql, tuple(value.decode("latin-1").encode() if isinstance(value, bytes) else value for value in params))
            yield tx


class ForgetsOnRestart(SqliteStore):
    """Keeps the last write in memory."""

    def close(self):
        if not self._closed:
            with self.transaction() as tx:
                if tx.one("SELECT 1 FROM sqlite_master WHERE name = 'check_notes'"):
                    tx.execute("DELETE FROM check_notes WHERE id = 2")
        super().close()


class NeverCommits(SqliteStore):
    """Acknowledges what it does not write."""

    @contextmanager
    def transaction(self):
        with super().transaction() as tx:
            yield tx
            if tx.one("SELECT 1 FROM sqlite_master WHERE name = 'check_notes'"):
                tx.execute("DELETE FROM check_notes")


class RollsBackQuietly(SqliteStore):
    """After a failed statement nothing is written, and nobody is told at the end."""

    @contextmanager
    def transaction(self):
        with super().transaction() as tx:
            failed = []

            def execute(sql, params=()):
                try:
                    return SqliteTx.execute(tx, sql, params)
                except Exception as error:
                    failed.append(error)
                    raise

            tx.execute = execute
            yield tx
            if failed:
                tx.connection.execute("ROLLBACK")
                tx.connection.execute("BEGIN IMMEDIATE")


MUTANTS = [
    (CommitsTheInner, conformance.an_open_transaction_is_joined),
    (LetsAnybodyCommit, conformance.nobody_inside_ends_the_transaction),
    (SwallowsErrors, conformance.an_error_undoes_everything),
    (CommitsDespiteErrors, conformance.an_error_undoes_everything),
    (OneFailsAll, conformance.submit_gives_each_its_own),
    (KeepsFailedItems, conformance.submit_gives_each_its_own),
    (SubmitsInside, conformance.submit_refuses_a_transaction),
    (TakesANewerStore, conformance.a_newer_store_is_refused),
    (TakesANewerStore, conformance.a_gap_in_the_migrations_is_refused),
    (SetsUpOneByOne, conformance.setup_is_whole),
    (MigratesInOneStep, conformance.a_migration_is_applied_once),
    (EmptiesItsTables, conformance.setup_twice_is_setup_once),
    (OpensAgain, conformance.a_closed_store_is_closed),
    (CountsNothing, conformance.statements_answer),
    (CommitsWhatItJoined, conformance.join_leaves_the_commit_to_its_owner),
    (JoinsAnything, conformance.join_refuses_what_it_cannot_keep),
    (OtherSpeech, conformance.it_knows_its_time_and_dialect),
    (AnswersNothing, conformance.submit_answers),
    (TextForBytes, conformance.values_come_back_as_they_were),
    (ForgetsOnRestart, conformance.what_was_committed_outlives_the_process),
    (NeverCommits, conformance.a_block_that_ends_is_committed),
    (RollsBackQuietly, conformance.what_ends_well_is_there),
]


@pytest.fixture
def case(request, tmp_path, sqlite_stores):
    mutant, number = request.param, itertools.count()

    def reopen(store):
        store.close()
        return mutant(store.path)

    return conformance.Case(lambda: mutant(tmp_path / f"mutant-{next(number)}.db"), reopen, sqlite_stores.foreign)


@pytest.mark.parametrize(("case", "promise"), MUTANTS, indirect=["case"])
def test_a_mutant_is_found(case, promise):
    with pytest.raises(AssertionError, match=": 1 broken\n"):
        verify("Mutant", [promise], case)


@pytest.mark.parametrize(("case", "promise"), [MUTANTS[0], (ForgetsOnRestart, conformance.what_was_committed_outlives_the_process),
                                               (CommitsWhatItJoined, conformance.join_leaves_the_commit_to_its_owner)], indirect=["case"])
def test_the_whole_check_names_the_promise(case, promise):
    with pytest.raises(AssertionError) as failure:
        check_store(case.maker, reopen=case.reopen, foreign=case.foreign)
    assert f"- {sentence(promise)} But: " in str(failure.value)


def test_every_promise_was_seen_broken():
    assert {promise for _, promise in MUTANTS} == set(conformance.promises(conformance.Case(None, reopen=True, foreign=True)))
