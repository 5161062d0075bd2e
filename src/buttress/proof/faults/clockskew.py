"""A subject's clock that is wrong: stepped, drifting, frozen, or set back. On the virtual clock; the host's is never touched.

The driver and the world keep true time. All workers of the subject read the same wrong one: they live on one machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from buttress.kernel.errors import ButtressError, InvalidInput
from buttress.proof.contract import Case

if TYPE_CHECKING:
    from buttress.proof.trial import Trial


@dataclass(frozen=True)
class ClockSkew:
    """From ``after_s`` on: ``step_s`` (below 0: set back), then ``drift`` (0.01: one second too many in a hundred), or ``frozen``.

    For ``lasts_s`` seconds; then it is right again, at once, as after a correction by hand.
    """

    step_s: float = 0.0
    drift: float = 0.0
    frozen: bool = False
    after_s: float = 60.0
    lasts_s: float = float("inf")
    name: str = ""
    needs: tuple[str, ...] = ("virtual",)

    def __post_init__(self) -> None:
        if not self.step_s and not self.drift and not self.frozen:
            raise InvalidInput("step_s, drift, frozen", 0, "must say what is wrong with the clock")
        if self.after_s < 0 or self.lasts_s <= 0:
            raise InvalidInput("after_s, lasts_s", (self.after_s, self.lasts_s), "must be at least 0, and above 0")
        if not self.name:
            kind = "frozen" if self.frozen else f"stepped {self.step_s:+g} s" if self.step_s else f"drifting {self.drift:+.2%}"
            object.__setattr__(self, "name", f"clock {kind}")

    def skewed(self, elapsed_s: float) -> float:
        """How far the clock is off, ``elapsed_s`` seconds after the trial began."""
        since = elapsed_s - self.after_s
        if not 0 <= since < self.lasts_s:
            return 0.0
        return -since if self.frozen else self.step_s + self.drift * since

    def cases(self, clean_hits: Mapping[str, int]) -> Iterable[Case]:
        yield Case(self.name, during=self._during)

    @contextlib.contextmanager
    def _during(self, trial: Trial) -> Iterator[None]:
        clock: Any = trial.clock
        if not hasattr(clock, "skew"):
            raise ButtressError("the machine's own clock is never set", fix="use a scenario in virtual time")
        began, seen = clock.now(), [0.0]

        def skew(true: float) -> float:
            off = self.skewed(true - began)
            seen[0] = max(seen[0], abs(off))
            return true + off

        trial.hit = False
        clock.skew = skew
        clock.set(clock.now())
        try:
            yield
        finally:
            clock.skew = lambda true: true
            with contextlib.suppress(ValueError):  # the trial has closed it
                clock.set(clock.now())
        trial.hit = seen[0] > 0
        trial.record("fault", name=self.name, armed=1, hit=int(trial.hit), worst_s=seen[0])
