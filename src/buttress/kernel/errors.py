"""One root for every error: what was wrong, and what to do about it.

Codes are stable and part of the public API: a caller may branch on ``error.code``, never on the text.
"""

from __future__ import annotations

from typing import Any


class ButtressError(Exception):
    """Root of all errors. ``code`` is stable; ``fix`` says what to do and may be empty."""

    code = "buttress"

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} ({self.fix})" if self.fix else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(kind: type[ButtressError], args: tuple[Any, ...], state: dict[str, Any]) -> ButtressError:
    """An error as it was, in another process: its constructor may take other arguments than it keeps."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class InvalidInput(ButtressError):
    """Input that breaks a rule: names the field, the value (shortened) and the rule. Raised before anything is written."""

    code = "invalid_input"

    def __init__(self, field: str, value: object, rule: str, *, fix: str = "") -> None:
        self.field = field
        self.value = value
        self.rule = rule
        super().__init__(f"{field} = {shorten(value)}: {rule}", fix=fix)


class MissingExtra(ButtressError, ImportError):
    """A part that was not installed. Its ``fix`` is the command that installs it."""

    code = "missing_extra"

    def __init__(self, module: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"the module {module} is not installed", fix=f"pip install 'buttress[{extra}]'")


class Unavailable(ButtressError):
    """A store or a server does not answer in time. Nothing was written; try again."""

    code = "unavailable"


class Uncertain(ButtressError):
    """The answer to a commit was lost: whether it was written is not known. Ask by key before you act again."""

    code = "uncertain"


class RolledBack(ButtressError):
    """A transaction that had failed inside was ended as if it had not: nothing of it was written."""

    code = "rolled_back"


class Stale(ButtressError):
    """A holder whose lease has passed to another (a lower fence). Its work must be thrown away, not retried."""

    code = "stale"


class SchemaMismatch(ButtressError):
    """A store written by a newer release, or by another system."""

    code = "schema_mismatch"


def shorten(value: object, limit: int = 60) -> str:
    """``repr`` cut to ``limit`` characters. For rules on values that are no secret; callers never pass one."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def check_text(field: str, text: object, max_bytes: int) -> None:
    """Raises InvalidInput unless it is Unicode text of 1 to ``max_bytes`` bytes without NUL. Its value is not shown."""
    size = -1
    if isinstance(text, str):
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            size = -1
    if not 1 <= size <= max_bytes or "\0" in str(text):
        raise InvalidInput(field, type(text).__name__, f"must be Unicode text of 1 to {max_bytes} bytes without NUL")
