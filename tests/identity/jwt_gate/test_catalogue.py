"""Each mutation has a verifier that takes it, is refused by ours for the reason that it is about, and says where the rule stands."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from buttress.identity.jwt_gate import KeyBinding, Policy, Refused, StaticKeys, Verifier, world
from buttress.identity.jwt_gate.probe.callback import serving
from buttress.identity.jwt_gate.probe.catalogue import BY_ID, CATALOGUE, ISSUER_ED, NEEDS
from buttress.identity.jwt_gate.probe.forge import NotJudged, Workshop
from buttress.identity.jwt_gate.probe.forms import PublicForms

from .conftest import NOW
from .planted import Planted, flaw_of


@pytest.fixture(scope="module")
def callback():
    with serving() as base:
        yield base


@pytest.fixture
def workshop(issuer, token, callback):
    """``workshop("RS256")``: all that a mutation may need, around a genuine token."""
    def make(alg):
        genuine = token(alg)
        while len(genuine.rpartition(".")[2]) and not set(genuine.rpartition(".")[2]) & {"-", "_"}:  # so that its other alphabet differs
            genuine = token(alg)
        return Workshop(genuine, NOW, PublicForms.of_jwk(issuer.jwk(alg, 0)), issuer.key(alg), callback)

    return make


def alg_for(mutation):
    return "Ed25519" if ISSUER_ED in mutation.needs else "RS256"


@pytest.mark.parametrize("mutation", CATALOGUE, ids=lambda m: m.id)
def test_each_mutation_is_taken_by_the_flaw_that_it_is_about_and_by_nobody_else(mutation, workshop, issuer, verifier):
    made = workshop(alg_for(mutation))
    forged = made.make(mutation)

    def strict(token):
        try:
            verifier.verify(token)
        except Refused:
            return False
        return True

    assert not strict(forged), "ours takes it"
    flaw = flaw_of(mutation)
    assert flaw is not None, "no planted verifier is about it"
    planted = Planted(flaw, strict=strict, public=made.public, key=made.issuer_key, alg=made.alg, kid=made.header["kid"])
    assert planted.accepts(made.genuine)
    assert planted.accepts(forged), "its flaw does not take it"
    assert not planted.accepts(made.garbage()), "its flaw takes garbage: then it says nothing about the mutation"


# id or family: the code of ours. What is not listed here is refused as `alg_mismatch` (the header names what the key is not bound to).
REASONS = {
    "none": "alg_none", "none.empty": "alg_missing", "none.null": "alg_missing", "none.list": "alg_missing", "none.absent": "alg_missing", "none.two_segments": "segments",
    "signature": "signature", "signature.two_segments": "segments", "psychic.rsa": "signature",
    "jwk": "header_key", "x5c": "header_key", "jku": "header_key", "x5u": "header_key", "kid.url": "kid_unknown", "kid": "kid_unknown",
    "kid.absent": "kid_missing", "kid.list": "kid_missing", "kid.object": "kid_missing", "kid.number": "kid_missing", "kid.long": "kid_missing",
    "base64": "base64", "json": "segments", "segments": "segments", "jwe": "encrypted", "json.dual": "base64",
    "exp": "claim_type", "exp.past": "expired", "exp.absent": "claim_missing", "exp.infinite": "number", "exp.nan": "number",
    "nbf.future": "not_yet", "nbf.text": "claim_type", "iat.future": "issued_in_future", "iat.text": "claim_type",
    "aud": "audience", "aud.absent": "claim_missing", "aud.object": "claim_type", "iss": "issuer", "iss.absent": "claim_missing", "iss.list": "claim_type",
    "sub.absent": "claim_missing", "sub.number": "claim_type", "typ": "typ", "cty": "nested", "crit": "crit", "b64.plain": "b64", "zip": "zip",
    "twice": "duplicate_name", "header.deep": "too_deep", "header.large": "header_too_long", "claims.array": "not_object", "claims.utf8": "json",
}


@pytest.mark.parametrize("mutation", CATALOGUE, ids=lambda m: m.id)
def test_ours_refuses_each_for_the_reason_that_it_is_about(mutation, workshop, verifier):
    wanted = REASONS.get(mutation.id) or REASONS.get(mutation.id.split(".")[0], "alg_mismatch")
    with pytest.raises(Refused) as refused:
        verifier.verify(workshop(alg_for(mutation)).make(mutation))
    if mutation.id == "b64.critical":
        assert refused.value.code in ("crit", "b64")
    else:
        assert refused.value.code == wanted


@pytest.mark.parametrize("alg", ["ES256", "Ed25519"])
def test_no_algorithm_of_ours_takes_any_of_it(alg, workshop, verifier):
    made = workshop(alg)
    taken, skipped = [], 0
    for mutation in CATALOGUE:
        try:
            verifier.verify(made.make(mutation))
            taken.append(mutation.id)
        except Refused:
            pass
        except NotJudged:
            skipped += 1
    assert taken == []
    assert skipped < 30


def test_a_confused_key_is_never_a_secret_of_ours(issuer):
    """The guard itself: every form of every key of the catalogue is refused as the secret of an HMAC algorithm."""
    from buttress.identity.jwt_gate import KeyRefused

    for alg in world.ALGS:
        forms = PublicForms.of_jwk(issuer.jwk(alg, 0))
        for mutation in CATALOGUE:
            if mutation.recipe != "hmac_public" or mutation.args["form"].startswith("n."):
                continue
            try:
                secret = forms[mutation.args["form"]]
            except KeyError:
                continue
            with pytest.raises(KeyRefused) as refused:
                KeyBinding("k", mutation.args.get("alg", "HS256"), secret)
            assert refused.value.code in ("hmac_public", "hmac_short"), mutation.id
            assert refused.value.code == "hmac_public", mutation.id


def test_the_catalogue_is_as_large_as_it_says_and_names_its_rules():
    assert 120 <= len(CATALOGUE) == len(BY_ID) <= 160
    assert Counter(m.kind for m in CATALOGUE)["forgery"] >= 80
    for mutation in CATALOGUE:
        assert re.match(r"(RFC \d{4} [\d.]+|FIPS|CVE-)", mutation.section), mutation.id
        assert re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)*", mutation.id)
        assert set(mutation.needs) <= set(NEEDS)


def test_without_material_a_mutation_is_not_judged_and_says_what_it_wants(token):
    bare = Workshop(token("RS256"), NOW)
    told = {m.id: bare.missing(m) for m in CATALOGUE}
    assert told["hmac.spki.lf"] == "needs public key: --jwks or --pubkey"
    assert told["exp.past"] == "needs issuer key: --sign KEY"
    assert told["none.none"] == ""
    with pytest.raises(NotJudged):
        bare.make(BY_ID["exp.past"])


def test_policy_and_keys_of_another_issuer_do_not_go_together(bindings):
    from buttress.kernel.errors import InvalidInput

    with pytest.raises(InvalidInput):
        Verifier(Policy(issuer="https://a.example", audience="x"), StaticKeys(world.ISSUER, bindings))
