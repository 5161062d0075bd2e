"""The report's pictures, where they could break: many subjects, and many of one value."""

from __future__ import annotations

from buttress.proof.report.figures import dots


def test_as_many_subjects_as_there_are_find_their_place():
    subjects = {f"a subject with a long name, number {n}": {"role": "peer", "measures": {"wrong": {"value": 1422.0}}} for n in range(12)}
    drawn = dots({"measure": "wrong"}, {**subjects, "ours": {"role": "buttress", "measures": {"wrong": {"value": 0.0}}}})
    assert all(name in drawn for name in subjects)
