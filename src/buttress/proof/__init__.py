"""The proof harness. A proof is a value; ``run`` turns it into a history on disk and verdicts.

A system's ``proof.py`` needs the names here and the faults: ``Crash``, ``CrashAtCall``, ``Pause``, ``Proxy``.
"""

from __future__ import annotations

from buttress.proof.contract import (
    Case,
    Checker,
    Claim,
    Control,
    Env,
    Estimate,
    Fault,
    Figure,
    Proof,
    Race,
    Scenario,
    Subject,
    Unmeasured,
)
from buttress.proof.history import History
from buttress.proof.process import SubjectDied, SubjectError, SubjectPaused
from buttress.proof.trial import Trial

__all__ = ["Case", "Checker", "Claim", "Control", "Env", "Estimate", "Fault", "Figure", "History", "Proof", "Race", "Scenario",
           "Subject", "SubjectDied", "SubjectError", "SubjectPaused", "Trial", "Unmeasured"]
