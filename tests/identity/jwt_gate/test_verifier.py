"""The verifier: what it takes, each refusal with its code, and nothing but refusals for anything else."""

from __future__ import annotations

import base64
import json
import pickle
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buttress.identity.jwt_gate import (
    Issuers,
    KeyBinding,
    KeysUnavailable,
    Policy,
    Refused,
    StaticKeys,
    Verifier,
    world,
)
from buttress.identity.jwt_gate.probe.catalogue import CATALOGUE
from buttress.identity.jwt_gate.probe.forge import NotJudged, Workshop, token_of
from buttress.identity.jwt_gate.probe.forms import PublicForms
from buttress.identity.jwt_gate.refusal import KEY_RULES, RULES, KeyRefused
from buttress.identity.jwt_gate.strict import loads, loads_object, unbase64url
from buttress.kernel.clock import ManualClock
from buttress.kernel.errors import ButtressError, InvalidInput

from .conftest import NOW

SECRET = bytes(range(32))
HMAC = StaticKeys(world.ISSUER, [KeyBinding("h", "HS256", SECRET)])


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims_of(**changes):
    full = {"iss": world.ISSUER, "sub": "alice", "aud": world.AUDIENCE, "exp": int(NOW) + 300, "iat": int(NOW), **changes}
    return {name: value for name, value in full.items() if value is not ...}


def signed(payload, header=None):
    """A token of the HMAC key over exactly these bytes."""
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    head = header if isinstance(header, bytes) else json.dumps({"alg": "HS256", "typ": "at+jwt", "kid": "h", **(header or {})}).encode()
    import hmac

    text = f"{b64(head)}.{b64(raw)}"
    return f"{text}.{b64(hmac.digest(SECRET, text.encode(), 'sha256'))}"


@pytest.fixture
def judge(clock):
    def run(token, **policy):
        return Verifier(Policy(issuer=world.ISSUER, audience=world.AUDIENCE, **policy), HMAC, clock=clock, keep=0).verify(token)

    return run


def code(run, *args, **kwargs):
    with pytest.raises(Refused) as refused:
        run(*args, **kwargs)
    assert refused.value.section and str(refused.value)
    return refused.value.code


# -- what is taken


@pytest.mark.parametrize("alg", world.ALGS)
def test_a_genuine_token_is_taken_and_says_what_it_says(alg, verifier, token):
    claims = verifier.verify(token(alg, sub="alice", scope="read write"))
    assert (claims.issuer, claims.subject, claims.audience, claims.kid) == (world.ISSUER, "alice", (world.AUDIENCE,), world.kid_of(alg, 0))
    assert claims.scopes == {"read", "write"} and claims.get("client_id") == "shop" and claims.get("nothing", 7) == 7
    assert claims.expires == NOW + 300
    with pytest.raises(TypeError):
        claims.all["sub"] = "mallory"
    assert verifier.verify(token(alg).encode()).issuer == world.ISSUER


@pytest.mark.parametrize("changes", [{"aud": [world.AUDIENCE, "other"]}, {"nbf": NOW - 0.5}, {"exp": NOW + 0.5}, {"exp": NOW - 29}, {"iat": NOW + 29}, {"iat": ...},
                                     {"deep": [[[{"a": [1]}]]]}, {"name": "Zoë \U0001f600"}, {"jti": "x"}])
def test_what_the_rules_allow_is_taken(judge, changes):
    assert judge(signed(claims_of(**changes))).subject == "alice"


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "APPLICATION/AT+jwt"])
def test_types_are_media_types(judge, typ):
    assert judge(signed(claims_of(), {"typ": typ}))


def test_json_may_have_blanks_around_it(judge):
    assert judge(signed(b" \r\n" + json.dumps(claims_of()).encode() + b"\n "))


# -- what is refused


@pytest.mark.parametrize(("changes", "wanted"), [
    ({"exp": ...}, "claim_missing"), ({"exp": True}, "claim_type"), ({"exp": "1900000000"}, "claim_type"), ({"exp": None}, "claim_type"), ({"exp": [1]}, "claim_type"),
    ({"exp": NOW - 31}, "expired"), ({"exp": NOW - 30}, "expired"), ({"exp": -1e300}, "expired"), ({"nbf": NOW + 31}, "not_yet"), ({"nbf": False}, "claim_type"),
    ({"iat": NOW + 31}, "issued_in_future"), ({"iat": {}}, "claim_type"), ({"iss": ...}, "claim_missing"), ({"iss": world.ISSUER + "/"}, "issuer"),
    ({"iss": world.ISSUER[:-1]}, "issuer"), ({"iss": world.ISSUER.upper()}, "issuer"), ({"iss": [world.ISSUER]}, "claim_type"), ({"aud": ...}, "claim_missing"),
    ({"aud": world.AUDIENCE + "x"}, "audience"), ({"aud": world.AUDIENCE[:-1]}, "audience"), ({"aud": []}, "audience"), ({"aud": [world.AUDIENCE, 1]}, "claim_type"),
    ({"aud": {world.AUDIENCE: 1}}, "claim_type"), ({"aud": [world.AUDIENCE] * 33}, "claim_type"), ({"sub": ...}, "claim_missing"), ({"sub": ""}, "claim_type"),
    ({"sub": 1}, "claim_type"), ({"jti": 1}, "claim_type"), ({"nonce": "n"}, "other_kind"), ({"events": {}}, "other_kind"),
])
def test_each_claim_rule(judge, changes, wanted):
    assert code(judge, signed(claims_of(**changes))) == wanted


@pytest.mark.parametrize(("header", "wanted"), [
    ({"alg": "none"}, "alg_none"), ({"alg": "nOnE"}, "alg_none"), ({"alg": " none "}, "alg_none"), ({"alg": "RS256"}, "alg_mismatch"), ({"alg": "hs256"}, "alg_mismatch"),
    ({"alg": "HS512"}, "alg_mismatch"), ({"alg": 256}, "alg_missing"), ({"alg": None}, "alg_missing"), ({"jwk": {}}, "header_key"), ({"jku": "x"}, "header_key"),
    ({"x5u": ""}, "header_key"), ({"x5c": []}, "header_key"), ({"crit": []}, "crit"), ({"crit": ["b64"], "b64": True}, ("crit", "b64")), ({"b64": True}, "b64"), ({"zip": "DEF"}, "zip"),
    ({"cty": "JWT"}, "nested"), ({"typ": None}, "typ"), ({"typ": "JWT"}, "typ"), ({"typ": ["at+jwt"]}, "typ"), ({"kid": ""}, "kid_missing"), ({"kid": None}, "kid_missing"),
    ({"kid": "k" * 257}, "kid_missing"), ({"kid": "H"}, "kid_unknown"), ({"kid": "../h"}, "kid_unknown"), ({"x": [[[[1]]]]}, "too_deep"), ({"x": "x" * 2100}, "header_too_long"),
])
def test_each_header_rule(judge, header, wanted):
    found = code(judge, signed(claims_of(), header))
    assert found == wanted or found in wanted


@pytest.mark.parametrize(("raw", "wanted"), [
    (b'{"exp":1,"exp":2}', "duplicate_name"), (b'{"a":{"b":1,"b":1}}', "duplicate_name"), (b'{"a":1,"\\u0061":2}', "duplicate_name"), (b'{"exp":NaN}', "number"),
    (b'{"exp":Infinity}', "number"), (b'{"exp":1e400}', "number"), (b'{"x":-1e999}', "number"), (b"[]", "not_object"), (b"null", "not_object"), (b'"text"', "not_object"),
    (b"", "json"), (b"{", "json"), (b'{"a":1}x', "json"), (b"\xef\xbb\xbf{}", "json"), (b'{"a":"\xff"}', "json"), (b'{"a":"\\ud800"}', "json"), (b'{"a":"\n"}', "json"),
    (b"{'a':1}", "json"), (b'{"a":01}', "json"), (b'{"a":1,}', "json"), (b'{"a":' + b"[" * 17 + b"]" * 17 + b"}", "too_deep"), (b"[" * 3000 + b"]" * 3000, "too_deep"),
    (b'{"a":' + b"9" * 5000 + b"}", "json"),
])
def test_each_rule_about_json(judge, raw, wanted):
    assert code(judge, signed(raw)) == wanted


@pytest.mark.parametrize(("change", "wanted"), [
    (lambda t: "", "segments"), (lambda t: t.rpartition(".")[0], "segments"), (lambda t: t + ".", "segments"), (lambda t: t + "..", "encrypted"), (lambda t: t[:-1], None),
    (lambda t: t + "=", "base64"), (lambda t: t + "A", None), (lambda t: t + "\n", "base64"), (lambda t: " " + t, "base64"), (lambda t: t.replace(".", "\u3002"), "not_text"),
    (lambda t: "x" * 8193, "too_long"), (lambda t: t.rpartition(".")[0] + ".", "signature"), (lambda t: None, "not_text"), (lambda t: bytearray(t.encode()), "not_text"),
    (lambda t: b"\xff" + t.encode(), "base64"), (lambda t: "..", "json"),
])
def test_each_rule_about_the_compact_form(judge, change, wanted):
    found = code(judge, change(signed(claims_of())))
    assert wanted is None or found == wanted


def test_every_letter_of_a_genuine_token_counts(judge):
    """No other spelling: each letter put in the place of each of the last two of the signature is refused."""
    token = signed(claims_of())
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/="
    taken = {other for place in (-1, -2) for letter in letters if (other := token[: len(token) + place] + letter + token[len(token) + place + 1 :]) != token
             and not refuses(judge, other)}
    assert taken == set()


def refuses(run, token):
    try:
        run(token)
    except Refused:
        return True
    return False


def test_age_scopes_and_kinds_are_the_policys(judge):
    assert code(judge, signed(claims_of(iat=NOW - 700)), max_age_s=600) == "too_old"
    assert code(judge, signed(claims_of(iat=...)), max_age_s=600) == "claim_missing"
    assert judge(signed(claims_of(), {"typ": "JWT"}), typ={"jwt", ""})
    assert judge(signed(claims_of(), json.dumps({"alg": "HS256", "kid": "h"}).encode()), typ={"jwt", ""})
    assert judge(signed(claims_of(nonce="n")), other_kinds=())


@pytest.mark.parametrize("wrong", [{"issuer": ""}, {"audience": ""}, {"audience": frozenset()}, {"typ": set()}, {"typ": {"JWT"}}, {"leeway_s": -1}, {"leeway_s": 301},
                                   {"leeway_s": float("nan")}, {"max_age_s": 0}, {"required": ("iss",)}, {"max_token_bytes": 10}])
def test_a_policy_that_lets_too_much_in_is_no_policy(wrong):
    with pytest.raises(InvalidInput):
        Policy(**{"issuer": "https://i.example", "audience": "a", **wrong})


# -- several issuers


def test_no_key_of_one_issuer_judges_the_tokens_of_another(clock, issuer, token):
    other = "https://other.example"
    first = Verifier(Policy(issuer=world.ISSUER, audience=world.AUDIENCE), StaticKeys(world.ISSUER, [KeyBinding("es256-1", "ES256", issuer.key("ES256").public_key())]), clock=clock)
    second = Verifier(Policy(issuer=other, audience=world.AUDIENCE), StaticKeys(other, [KeyBinding("es256-1", "ES256", issuer.key("ES256", 1).public_key())]), clock=clock)
    both = Issuers([first, second])
    assert both.verify(token("ES256")).issuer == world.ISSUER
    claims = claims_of(iss=other)
    assert both.verify(token_of({"alg": "ES256", "typ": "at+jwt", "kid": "es256-1"}, claims, issuer.key("ES256", 1))).issuer == other
    assert code(both.verify, token_of({"alg": "ES256", "typ": "at+jwt", "kid": "es256-1"}, claims, issuer.key("ES256", 0))) == "signature"
    assert code(both.verify, token("ES256", iss="https://third.example")) == "issuer_unknown"
    for wrong in (None, "x", "a.b.c", "\u3002", "x" * 10_000, "a.b.c.d.e"):
        assert refuses(both.verify, wrong)


# -- verdicts that are kept


def test_a_kept_verdict_ends_with_the_token_the_keys_and_a_flush(verifier, token, clock, keys, bindings):
    one = token("ES256", exp=NOW + 40)
    assert verifier.verify(one) is verifier.verify(one)
    assert verifier.hits == 1
    clock.set(NOW + 41)
    verifier.verify(one)  # within the leeway, but judged anew
    assert verifier.hits == 1
    clock.set(NOW + 71)
    assert code(verifier.verify, one) == "expired"
    clock.set(NOW)
    two = token("ES256")
    verifier.verify(two)
    keys.replace([b for b in bindings if b.alg != "ES256"])
    assert code(verifier.verify, two) == "kid_unknown"


def test_a_revoked_token_is_refused_after_a_flush(policy, keys, clock, token):
    gone = set()
    verifier = Verifier(policy, keys, clock=clock, revoked=lambda claims: claims.get("jti") in gone)
    one = token("ES256", jti="one")
    verifier.verify(one)
    gone.add("one")
    verifier.verify(one)
    verifier.flush()
    assert code(verifier.verify, one) == "revoked"


def test_the_memory_is_bounded_and_only_the_genuine_enter(policy, keys, clock, token):
    verifier = Verifier(policy, keys, clock=clock, keep=10)
    genuine = [token("ES256") for _ in range(30)]
    for one in genuine:
        verifier.verify(one)
        assert refuses(verifier.verify, one[:-4] + "AAAA")
    assert len(verifier._kept) == 10
    assert len(verifier._headers) == 1
    verifier.verify(genuine[-1])
    assert verifier.hits == 1


def test_a_kept_verdict_does_not_outlive_the_window_of_its_key(policy, clock, token, issuer):
    keys = StaticKeys(world.ISSUER, [KeyBinding("es256-1", "ES256", issuer.key("ES256").public_key(), not_before=NOW - 5, not_after=NOW + 10)])
    verifier, one = Verifier(policy, keys, clock=clock), token("ES256")
    verifier.verify(one)
    clock.set(NOW + 10)
    assert code(verifier.verify, one) == "key_no_more"
    clock.set(NOW - 6)
    assert code(verifier.verify, one) == "key_not_yet"


def test_a_clock_that_is_set_back_finds_no_kept_verdict(verifier, token, clock):
    one = token("ES256")
    verifier.verify(one)
    clock.set(NOW - 20)
    verifier.verify(one)
    assert verifier.hits == 0


# -- errors


@pytest.mark.parametrize("rule", [*RULES])
def test_a_refusal_has_code_section_and_rule_and_survives_a_pickle(rule):
    error = Refused(rule, "exp")
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, again.section, str(again)) == (rule, RULES[rule][0], str(error))
    assert isinstance(error, ButtressError) and error.status == 401


def test_codes_are_unique_over_tokens_and_keys():
    assert not set(RULES) & set(KEY_RULES)
    again = pickle.loads(pickle.dumps(KeyRefused("hmac_short", "x")))
    assert again.code == "hmac_short" and KeysUnavailable("x").status == 503


# -- a fuzzer: refusals only, and no acceptance


fuzz = Verifier(Policy(issuer=world.ISSUER, audience=world.AUDIENCE), HMAC, clock=ManualClock(NOW))
json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3) |
                           st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8)


def only_refusals(token):
    try:
        fuzz.verify(token)
    except Refused:
        return False
    return True


@given(st.text(max_size=300) | st.binary(max_size=300) | st.text(alphabet="eyJ.AQ-_=", max_size=80))
@settings(max_examples=400, deadline=None)
def test_anything_at_all_is_refused(token):
    assert not only_refusals(token)


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "jwk", "b64", "x5c", "cty", "zip"]), json_values, max_size=6), st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_header_without_the_right_signature_is_refused(header, signature):
    token = f"{b64(json.dumps({'alg': 'HS256', 'kid': 'h', 'typ': 'at+jwt', **header}).encode())}.{b64(json.dumps(claims_of()).encode())}.{b64(signature)}"
    assert not only_refusals(token)


@given(st.dictionaries(st.sampled_from(["exp", "nbf", "iat", "aud", "iss", "sub", "jti", "nonce"]), json_values, min_size=1, max_size=4))
@settings(max_examples=400, deadline=None)
def test_signed_claims_of_any_type_raise_nothing_but_refusals(changes):
    only_refusals(signed(claims_of(**changes)))


@given(st.integers(0, 10_000), st.integers(1, 255), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_one_byte_changed_anywhere_is_refused(place, flip, rng):
    token = bytearray(signed(claims_of(jti=str(rng.random()))).encode())
    token[place % len(token)] ^= flip
    assert not only_refusals(bytes(token))


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode) | json_values.map(lambda v: json.dumps(v).encode())
       | st.dictionaries(st.text(max_size=4), json_values, max_size=5).map(lambda v: json.dumps(v, ensure_ascii=False).encode("utf-8", "surrogatepass")))
@settings(max_examples=600, deadline=None)
def test_the_short_way_through_json_gives_the_long_ways_answer(raw):
    def run(read):
        try:
            return read()
        except Refused as refused:
            return refused.code

    long = run(lambda: loads(raw, 16))
    short = run(lambda: loads_object(raw, 16))
    if isinstance(long, dict):
        assert short == long
    else:
        assert isinstance(short, str)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "\\u0061", "a,", "{"]), st.sampled_from(['1', '"x"', '","', '":"', '[1,2]', "{}", "true"])), min_size=1, max_size=4),
       st.sampled_from(["", " ", "\n"]))
@settings(max_examples=400, deadline=None)
def test_no_name_twice_however_it_is_written(members, blank):
    raw = ("{" + ",".join(f'"{name}"{blank}:{blank}{value}' for name, value in members) + "}").encode()
    names = [json.loads(f'"{name}"') for name, _ in members]
    if len(set(names)) == len(names):
        assert loads_object(raw, 16) == json.loads(raw)
    else:
        assert code(loads_object, raw, 16) == "duplicate_name"


@given(st.binary(max_size=40))
def test_base64url_has_one_spelling(raw):
    text = b64(raw).encode()
    assert unbase64url(text) == raw
    for other in (text + b"=", text + b"A" * 4, text[:-1] + b"+", b"\n" + text, text.replace(b"-", b"+").replace(b"_", b"/")):
        if other != text:
            try:
                assert unbase64url(other) != raw
            except Refused:
                pass


def test_a_mutant_of_a_mutant_is_refused_too(issuer, clock, policy, keys, token):
    """Two mutations at once: the header of one with the rest of another."""
    verifier, rng = Verifier(policy, keys, clock=clock), random.Random(5)
    made = Workshop(token("RS256"), NOW, PublicForms.of_jwk(issuer.jwk("RS256", 0)), issuer.key("RS256"), "http://127.0.0.1:9")
    tokens = []
    for mutation in CATALOGUE:
        if mutation.kind == "forgery":
            try:
                tokens.append(made.make(mutation))
            except NotJudged:
                continue
    for _ in range(400):
        one, two = rng.choice(tokens).split("."), rng.choice(tokens).split(".")
        mixed = ".".join([*one[: rng.randint(1, 2)], *two[rng.randint(1, 2) :]])
        assert refuses(verifier.verify, mixed) or mixed == made.genuine
