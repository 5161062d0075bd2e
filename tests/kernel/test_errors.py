from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from buttress.kernel import errors
from buttress.kernel.errors import (
    ButtressError,
    InvalidInput,
    MissingExtra,
    SchemaMismatch,
    Stale,
    Unavailable,
    shorten,
)

EXAMPLES = [
    ButtressError("it broke", fix="mend it"),
    Unavailable("busy", fix="try again"),
    Stale("too late"),
    SchemaMismatch("newer", fix="update"),
    InvalidInput("limit", 0, "must be at least 1", fix="ask for one"),
    MissingExtra("psycopg", "postgres"),
]


def test_the_codes_are_stable():
    kinds = [error for error in vars(errors).values() if inspect.isclass(error) and issubclass(error, ButtressError)]
    codes = {error.code: error.__name__ for error in kinds}
    assert len(codes) == len(kinds), "two errors share a code"
    assert codes == {
        "buttress": "ButtressError",
        "invalid_input": "InvalidInput",
        "missing_extra": "MissingExtra",
        "unavailable": "Unavailable",
        "uncertain": "Uncertain",
        "rolled_back": "RolledBack",
        "stale": "Stale",
        "schema_mismatch": "SchemaMismatch",
    }


def test_an_error_says_what_was_wrong_and_what_to_do():
    assert str(ButtressError("it broke")) == "it broke"
    assert str(ButtressError("it broke", fix="mend it")) == "it broke (mend it)"
    assert ButtressError("it broke").fix == ""


def test_invalid_input_names_field_value_and_rule():
    error = InvalidInput("limit", 0, "must be at least 1", fix="ask for one")
    assert (error.field, error.value, error.rule, error.fix) == ("limit", 0, "must be at least 1", "ask for one")
    assert str(error) == "limit = 0: must be at least 1 (ask for one)"


def test_a_long_value_is_cut():
    assert shorten("x" * 100, 10) == "'xxxxxxxx…"
    assert len(shorten("x" * 100)) == 60
    assert shorten("x" * 58) == repr("x" * 58)
    assert len(str(InvalidInput("key", "x" * 10_000, "is long"))) < 100


def test_a_missing_extra_is_an_import_error_that_names_its_command():
    error = MissingExtra("psycopg", "postgres")
    assert isinstance(error, ImportError)
    assert error.extra == "postgres"
    assert str(error) == "the module psycopg is not installed (pip install 'buttress[postgres]')"


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_the_way_to_another_process(error):
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)
