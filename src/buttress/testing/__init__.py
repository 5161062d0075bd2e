"""Conformance checks for the kernel's protocols: plain functions, for everyone who writes an adapter. No test framework.

Each takes a callable that gives a fresh instance, tries every promise of the protocol, and raises one AssertionError that
names each broken one. The whole test file of a new backend::

    from buttress.testing import check_idempotency

    def test_mine(database):
        check_idempotency(lambda clock: MyIdempotency(database.empty(), clock=clock),
                          reopen=lambda mine, clock: MyIdempotency(mine.database.reopened(), clock=clock),
                          transaction=lambda mine: mine.database.begin())

What is left out is not checked: an adapter that joins transactions, or outlives its process, should hand in the callable
that shows it.
"""

from __future__ import annotations

from buttress.testing.clock import check_clock
from buttress.testing.delta import check_delta
from buttress.testing.idempotency import check_idempotency
from buttress.testing.lease import check_leases
from buttress.testing.outbox import check_outbox
from buttress.testing.rollout import check_rollout
from buttress.testing.store import check_store

__all__ = ["check_clock", "check_delta", "check_idempotency", "check_leases", "check_outbox", "check_rollout", "check_store"]
