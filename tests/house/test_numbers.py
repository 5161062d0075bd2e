"""Numbers in a README are those of the committed results, and a result that cannot vouch for the code beside it says so."""

from __future__ import annotations

import json

import pytest

from .checkout import ROOT, SYSTEMS


def test_the_documents_say_what_their_sources_say(docs):
    assert docs.check() == []


def test_a_committed_result_is_of_the_code_beside_it(docs, system):
    """Absent is allowed: an experimental system may have no accepted run yet. Stale or unreadable is not."""
    for suffix in ("", ".race"):
        standing = docs.committed(system, ROOT, suffix)
        assert standing.result is None or standing.sentence == "", standing.sentence
        assert (ROOT / "proofs" / f"{system.name}{suffix}.json").exists() == (standing.result is not None), standing.sentence


# -- what the block says, on a result of our own making; one system is as good as another


@pytest.fixture
def some():
    if not SYSTEMS:
        pytest.skip("needs a system")
    return SYSTEMS[0]



NUMBER = {"value": None, "interval": None, "n": None}


def made_result(system, docs, **changes):
    """A small result of the present schema."""
    measures = {"wrong": {"value": 7.0, "interval": None, "n": 50, "unit": "answers"}, "ms": {"value": 11.8, "interval": [10.9, 13.6], "n": 15, "unit": "ms"}}

    def subject(role, verdict, **more):
        return {"role": role, "about": "", "absent": "", "hosted": "in-process", "parts": [], "voids": 0, "unhit": [],
                "verdicts": {"wrong answers": verdict}, "measures": measures, **more}

    def claim(name, measure, bar, **more):
        return {"name": name, "measure": measure, "value": 0.0, "unit": "answers", "bar": bar, "over": None, "verdict": "pass", "subject": "buttress",
                "interval": None, "n": 50, "why": "", **more}

    return {
        "schema": docs.results.SCHEMA, "system": system.name, "scale": "full", "seed": 7, "verdict": "unknown", "judged": "buttress", "as": "",
        "headline": "wrong answers", "hurts": "", "labels": ["Time virtual"], "finding": "No answer was wrong.", "figures": [], "figures_thinned": False,
        "claims": [
            claim("wrong answers", "wrong", "== 0"),
            claim("latency", "ms", "< 20", value=11.8, interval=[10.9, 13.6], unit="ms", verdict="unknown", why="13 of 15 | laps"),
            claim("speed", "ms", ">= 1", unit="×", over="a peer", value=1.5, interval=[1.4, 1.6], n=15),
            claim("on another store", "wrong", "== 0", subject="buttress on Postgres", value=None, n=None, verdict="deferred"),
        ],
        "subjects": {"buttress": subject("buttress", "pass"), "the way that broke": subject("baseline", "fail"),
                     "a peer": subject("peer", "fail"), "absent": subject("peer", "", absent="needs redis: none is here", measures={}, verdicts={})},
        "controls": [{"name": "c", "subject": "a", "kind": "negative", "bar": "> 0", "awake": True, "guards": [], "why": "", "value": 7.0, "interval": None, "n": 50}],
        "faults": {"kill -9": {"armed": 12, "hit": 12, "by": {}}}, "deferred": [], "errors": [], "trials": 40, "records": 400, "wall_s": 1.5,
        "races": [{"name": "http", "laps": 15, "better": {"events_per_s": "more"},
                   "subjects": {"buttress": {"events_per_s": {"value": 3210.0, "interval": [3100.0, 3300.0], "n": 15}},
                                "a peer": {"events_per_s": {"value": 9000.0, "interval": [8000.0, 9900.0], "n": 15}}},
                   "ratios": {"a peer": {"events_per_s": {"value": 0.36, "interval": [0.31, 0.41], "n": 15}}}}],
        "environment": {"version": "0.1.0", "commit": "0123456789ab", "clean": True, "digest": docs.results.digest(system.folder), "date": "2026-01-02T03:04:05Z",
                        "python": "3.11.7", "sqlite": "3.40.1", "system": "Debian 12, x86_64", "cores": 2, "memory_gib": 15.6, "load": 0.4, "native": "none",
                        "command": "buttress prove"},
        **changes,
    }


@pytest.fixture
def put(tmp_path, docs, some):
    """``put(result)`` commits a result (or raw text) in a root of its own, and gives the block that a README would hold."""
    def write(result=None, suffix="", **changes):
        place = tmp_path / "proofs" / f"{some.name}{suffix}.json"
        place.parent.mkdir(exist_ok=True)
        place.write_text(result if isinstance(result, str) else json.dumps(result or made_result(some, docs, **changes)))
        return docs.numbers(some, tmp_path)

    return write


def test_a_claim_is_shown_with_bar_measure_and_verdict(put):
    block = put()
    assert "| wrong answers | = 0 answers | 0, counted of 50 | ● pass |" in block
    assert "| latency | < 20 ms | 11.8 ms (10.9 – 13.6) | ◌ unknown |" in block
    assert "| speed, over a peer | ≥ 1 × | 1.5 × (1.4 – 1.6) | ● pass |" in block
    assert "| on another store, about buttress on Postgres | = 0 answers | not measured | ◷ deferred |" in block
    assert "- latency: 13 of 15 | laps." in block


def test_the_others_stand_beside(put):
    block = put()
    assert "| the same, of the others | the way that broke (baseline) | a peer (peer) | absent (peer) |" in block
    assert "| wrong answers | 7, counted of 50, ✕ fail | 7, counted of 50, ✕ fail | not measured |" in block
    assert "- absent did not run: needs redis: none is here." in block


def test_where_it_was_measured_is_said(put, some):
    block = put()
    for words in ("2026-01-02", "`0123456789ab`", "seed 7", "Debian 12, x86_64, 2 cores, 15.6 GiB", "faults armed 12, hit 12", "controls awake 1 of 1",
                  "Time virtual.", f"`buttress prove {some.name} --scale full`"):
        assert words in block
    assert "with changes" not in block
    assert "with changes" in put(environment={**made_environment(put), "clean": False})


def made_environment(put):
    return {"commit": "0123456789ab", "digest": "", "date": "2026-01-02T03:04:05Z", "python": "3.11.7", "sqlite": "3.40.1", "system": "Debian 12", "cores": 2,
            "memory_gib": 15.6, "load": 0.4}


def test_in_a_race_a_subject_that_failed_does_not_count(put):
    put()
    block = put(suffix=".race", correctness={"buttress": "pass", "a peer": "pass"})
    assert "| ~~a peer~~ | ✕ fail | does not count | 0.36 × (0.31 – 0.41) |" in block, "the committed proof has the last word on correctness"
    assert "| buttress | ● pass | 3,210 (3,100 – 3,300) |  |" in block


def test_a_race_without_a_proof_says_what_it_knew_of_correctness(put):
    block = put(suffix=".race", correctness={"buttress": "pass"}, subjects={
        name: {**subject, "verdicts": {}} for name, subject in json.loads(json.dumps({
            "buttress": {"role": "buttress", "absent": "", "voids": 0, "measures": {}}, "a peer": {"role": "peer", "absent": "", "voids": 0, "measures": {}}})).items()})
    assert "| a peer | not proven here | 9,000 (8,000 – 9,900) |" in block


@pytest.fixture
def sentences(put, docs, some, tmp_path):
    """What is said of a result that is absent, truncated, of another schema, of another shape, stale; and of one that is fine."""
    absent = docs.numbers(some, tmp_path)
    good = json.dumps(made_result(some, docs))
    said = {"absent": absent, "truncated": put(good[: len(good) // 2]), "schema": put(schema=0), "shape": put(claims=[{"name": "half a claim"}])}
    said["stale"] = put(environment={**made_result(some, docs)["environment"], "digest": "sha256:0"})
    said["fine"] = put()
    return {state: block.strip().split("\n")[0] for state, block in said.items()}


def test_each_thing_that_is_wrong_with_a_result_has_a_sentence_of_its_own(sentences, some):
    assert len({sentence for state, sentence in sentences.items() if state != "shape"}) == 5
    assert "No run at full size is committed yet" in sentences["absent"]
    assert "is truncated or no JSON" in sentences["truncated"]
    assert "does not match schema" in sentences["schema"]
    assert "does not match schema" in sentences["shape"]
    assert "stale" in sentences["stale"]
    for state in ("absent", "truncated", "schema", "shape", "stale"):
        assert f"`buttress prove {some.name} --scale full --accept`" in sentences[state], "each says what would settle it"
    assert "--accept" not in sentences["fine"]


def test_only_a_stale_result_is_still_shown(put, docs, some):
    good = json.dumps(made_result(some, docs))
    assert "| wrong answers |" in put(environment={**made_result(some, docs)["environment"], "digest": "sha256:0"})
    for broken in (good[: len(good) // 2], json.dumps({"schema": 0}), json.dumps(made_result(some, docs, claims=[{"name": "half a claim"}]))):
        assert "| wrong answers |" not in put(broken)


def test_the_same_sources_give_the_same_bytes(put):
    assert put() == put()


def test_the_strip_chart_is_a_file_that_needs_nothing_else(docs, some, tmp_path):
    lane = {"subject": "buttress", "up": [], "down": [], "doubled": 0, "lost": 0, "notes": []}
    axis = {"name": "virtual time", "rules": [], "segments": [{"from": 0, "to": 10, "x0": 1, "x1": 99}], "ticks": [[0, "0 h", True], [10, "10 h", True]]}
    points = {"axis": axis, "faults": [{"name": "kill", "about": "", "at": [1, 2], "armed": 2, "hit": 2}], "lanes": [lane]}
    figure = {"name": "strip", "kind": "strip", "title": "Wrong effects over 10 hours", "caption": "", "points": points}
    (tmp_path / "proofs").mkdir()
    (tmp_path / "proofs" / f"{some.name}.json").write_text(json.dumps(made_result(some, docs, figures=[figure])))
    picture = docs.strip(some, tmp_path)
    assert picture.startswith("<svg xmlns=")
    assert "Wrong effects over 10 hours" in picture
    assert "prefers-color-scheme:dark" in picture
    assert "href" not in picture
    assert "url(" not in picture
    assert docs.strip(some, tmp_path / "nowhere") == ""


@pytest.mark.xdist_group("checkout")
def test_check_names_each_file_that_differs(checkout):
    """In a copy: a page changed by hand, a page without its block, a picture whose result is gone."""
    checkout("python", "scripts/docs.py")
    changed = {checkout.folder / "docs" / "reference" / "cli.md": "changed by hand\n", checkout.folder / "README.md": "# No finder here\n"}
    for system in SYSTEMS[:1]:
        if not (ROOT / "proofs" / f"{system.name}.json").exists():
            changed[checkout.folder / "docs" / "pictures" / f"{system.name}.svg"] = "<svg/>"
    kept = {path: path.read_text() for path in changed if path.exists()}
    try:
        for path, text in changed.items():
            path.write_text(text)
        done = checkout("python", "scripts/docs.py", "--check")
    finally:
        for path in changed:
            if path in kept:
                path.write_text(kept[path])
            else:
                path.unlink(missing_ok=True)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    for path in changed:
        assert any(line.startswith(f"{path.relative_to(checkout.folder)} ") for line in lines), done.stdout + done.stderr
    assert "docs/reference/cli.md differs from its sources: make docs" in lines
    assert any(line.startswith("README.md has no place for its finder") for line in lines)


def test_the_finder_leads_from_every_phrase_to_a_page_that_is_there(docs):
    block = docs.finder(SYSTEMS, ROOT / "README.md", ROOT)
    for system in SYSTEMS:
        assert all(phrase in block for phrase in system.finds)
    assert docs.finder([], ROOT / "README.md", ROOT).strip() == "There is no system yet."
