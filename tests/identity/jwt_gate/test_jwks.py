"""Keys over the network: how often they are asked for, how long they are used, and what of a document is taken."""

from __future__ import annotations

import json
import threading
import time

import pytest

from buttress.identity.jwt_gate import JwksProvider, KeyRefused, KeysUnavailable, Refused, Verifier, world
from buttress.identity.jwt_gate.jwks import NEGATIVE_MAX, read_document
from buttress.identity.jwt_gate.keys import Pending
from buttress.identity.jwt_gate.source import FileSource, HttpsSource
from buttress.kernel.errors import InvalidInput

from .conftest import NOW, jwks_answer

KID = world.kid_of("ES256", 0)


class Server:
    """A key server in memory that counts."""

    def __init__(self, issuer):
        self.issuer, self.generations, self.down, self.asked = issuer, (0,), False, 0

    def __call__(self):
        self.asked += 1
        if self.down:
            raise KeysUnavailable("down")
        return self.issuer.document(self.generations)


@pytest.fixture
def server(issuer):
    return Server(issuer)


def unknown(keys, kid, now):
    with pytest.raises(Refused) as refused:
        keys.find(kid, now)
    return refused.value.code


def test_keys_are_fetched_once_and_served(server, provider):
    keys = provider(server)
    for second in range(300):
        assert keys.find(KID, NOW + second)[0].kid == KID
    assert server.asked == 1


def test_stale_keys_are_served_while_they_are_fetched_anew_and_no_longer_than_an_hour(server, provider, clock):
    keys = provider(server)
    keys.find(KID, NOW)
    server.down = True
    for second in range(300, 3600, 5):
        clock.set(NOW + second)
        assert keys.find(KID, clock.now())
    assert server.asked == 1 + 3300 // 10
    clock.set(NOW + 3600)
    with pytest.raises(KeysUnavailable):
        keys.find(KID, clock.now())
    server.down = False
    clock.set(NOW + 3610)
    assert keys.find(KID, clock.now())


def test_an_outage_at_the_start_lets_nobody_in_and_is_not_hammered(server, provider, clock):
    keys = provider(server)
    server.down = True
    for tenth in range(100):
        clock.set(NOW + tenth / 10)
        with pytest.raises(KeysUnavailable):
            keys.find(KID, clock.now())
    assert server.asked == 1


def test_random_kids_cost_one_fetch_an_interval(server, provider, clock):
    keys = provider(server)
    for number in range(20_000):
        clock.set(NOW + number / 1000)
        assert unknown(keys, f"kid-{number}", clock.now()) == "kid_unknown"
    assert server.asked == 2
    assert len(keys._set._missing) <= NEGATIVE_MAX


def test_a_kid_that_nobody_had_is_not_asked_for_again_at_once(server, provider, clock):
    keys = provider(server, ttl_s=100_000)
    unknown(keys, "ghost", NOW)
    for second in range(11, 60):
        clock.set(NOW + second)
        unknown(keys, "ghost", clock.now())
    assert server.asked == 1
    clock.set(NOW + 61)
    unknown(keys, "ghost", clock.now())
    assert server.asked == 2


def test_a_new_key_is_found_when_it_is_first_seen_and_an_old_one_goes_with_the_document(server, provider, clock):
    keys = provider(server)
    keys.find(KID, NOW)
    epoch = keys.epoch
    server.generations = (0, 1)
    clock.set(NOW + 11)
    assert keys.find(world.kid_of("ES256", 1), clock.now())[0].kid == world.kid_of("ES256", 1)
    assert keys.find(KID, clock.now())
    assert keys.epoch == epoch + 1
    server.generations = (1,)
    clock.set(NOW + 400)
    keys.find(KID, clock.now())  # served while it is fetched
    assert unknown(keys, KID, clock.now()) == "kid_unknown"


def test_a_kept_verdict_ends_when_a_rotation_removes_its_key(server, provider, clock, policy, token):
    keys = provider(server)
    verifier, one = Verifier(policy, keys, clock=clock, keep_s=3600), token("ES256", exp=NOW + 5000)
    verifier.verify(one)
    server.generations = (1,)
    clock.set(NOW + 301)
    verifier.verify(one)
    with pytest.raises(Refused) as refused:
        verifier.verify(one)
    assert refused.value.code == "kid_unknown"


def test_kept_verdicts_end_with_the_keys_in_an_outage(server, provider, clock, policy, token):
    keys = provider(server)
    verifier, one = Verifier(policy, keys, clock=clock, keep_s=3600), token("ES256", exp=NOW + 9000)
    verifier.verify(one)
    server.down = True
    clock.set(NOW + 3599)
    verifier.verify(one)
    clock.set(NOW + 3600)
    with pytest.raises(KeysUnavailable):
        verifier.verify(one)


def test_a_clock_that_is_set_back_makes_keys_no_younger_than_now(server, provider, clock):
    keys = provider(server)
    keys.find(KID, NOW)
    server.down = True
    clock.set(NOW - 86_400)
    assert keys.find(KID, clock.now())
    clock.set(NOW - 86_400 + 3600)
    with pytest.raises(KeysUnavailable):
        keys.find(KID, clock.now())


def test_one_fetch_serves_all_that_wait(issuer, provider):
    began, go = threading.Event(), threading.Event()
    asked, found = [], []

    def fetch():
        asked.append(1)
        began.set()
        assert go.wait(10)
        return issuer.document((0,))

    keys = provider(fetch)
    threads = [threading.Thread(target=lambda: found.append(keys.find(KID, NOW)[0].kid)) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert began.wait(10)
    with pytest.raises(Pending):
        keys.find(KID, NOW, wait=False)
    go.set()
    for thread in threads:
        thread.join(10)
    assert (found, len(asked)) == ([KID] * 8, 1)


def test_whatever_a_source_raises_is_an_outage(provider):
    def broken():
        raise ZeroDivisionError

    keys = provider(broken)
    with pytest.raises(KeysUnavailable) as closed:
        keys.find(KID, NOW)
    assert "ZeroDivisionError" in str(closed.value)
    assert keys.state["usable"] is False and keys.refresh() is False


# -- documents


def changed(issuer, **members):
    keys = json.loads(issuer.document((0,)))["keys"]
    keys[1].update(members)
    return {"keys": [{n: v for n, v in key.items() if v is not ...} for key in keys]}


@pytest.mark.parametrize(("document", "wanted"), [
    (lambda i: b"", "document"), (lambda i: b"[]", "document"), (lambda i: b'{"keys":{}}', "document"), (lambda i: b'{"keys":[1]}', "document"),
    (lambda i: b'{"keys":[],"keys":[]}', "document"), (lambda i: b" " * 65_537, "document_size"), (lambda i: {"keys": [{}] * 33}, "document_size"),
    (lambda i: {"keys": [i.jwk("ES256", 0)] * 2}, "document_twice"), (lambda i: changed(i, kid=world.kid_of("RS256", 0)), "document_twice"),
    (lambda i: changed(i, d="AA"), "key_private"), (lambda i: {"keys": [{"kty": "oct", "k": "A" * 43, "kid": "s", "alg": "HS256"}]}, "document_secret"),
    (lambda i: changed(i, x="AAAA"), "key_form"), (lambda i: changed(i, alg="ES384"), "ec_curve"),
])
def test_a_doubtful_document_is_refused_whole(issuer, document, wanted):
    made = document(issuer)
    with pytest.raises(KeyRefused) as refused:
        read_document(made if isinstance(made, bytes) else json.dumps(made).encode(), 32, {})
    assert refused.value.code == wanted


def test_a_refused_document_leaves_the_last_good_one(server, provider, clock, issuer):
    bodies = [issuer.document((0,)), json.dumps({"keys": [issuer.jwk("ES256", 0)] * 2}).encode()]
    keys = provider(lambda: bodies.pop(0))
    keys.find(KID, NOW)
    clock.set(NOW + 301)
    assert keys.find(KID, clock.now())
    assert "document_twice" in keys.state["problem"]


@pytest.mark.parametrize("members", [{"use": "enc"}, {"key_ops": ["encrypt"]}, {"kid": ...}, {"alg": ...}, {"kty": "AKP"}, {"alg": "ECDH-ES"}])
def test_keys_of_other_uses_are_left_out(issuer, members):
    found = read_document(json.dumps(changed(issuer, **members)).encode(), 32, {})
    assert set(found) == {world.kid_of("RS256", 0), world.kid_of("Ed25519", 0)}


def test_a_key_without_alg_is_bound_by_the_configuration_alone(issuer):
    body = json.dumps(changed(issuer, alg=...)).encode()
    assert read_document(body, 32, {"EC": "ES256"})[KID].alg == "ES256"
    assert read_document(body, 32, {KID: "ES256"})[KID].alg == "ES256"
    with pytest.raises(KeyRefused):
        read_document(issuer.document((0,)), 32, {KID: "ES384"})


# -- sources


@pytest.mark.parametrize(("url", "hosts"), [
    ("http://issuer.example/jwks", ("issuer.example",)), ("http://127.0.0.1/jwks", ("127.0.0.1",)), ("https://other.example/jwks", ("issuer.example",)),
    ("https://issuer.example.evil.example/", ("issuer.example",)), ("https://issuer.example@evil.example/", ("issuer.example",)), ("ftp://issuer.example/", ("issuer.example",)),
    ("https://user:x@issuer.example/", ("issuer.example",)), ("https://issuer.example/#f", ("issuer.example",)), ("file:///etc/passwd", ("",)),
])
def test_where_documents_may_not_come_from(url, hosts):
    with pytest.raises(InvalidInput):
        HttpsSource(url, hosts)


def source(base, **options):
    return HttpsSource(f"{base}/jwks.json", ("127.0.0.1",), loopback_http=True, **options)


def test_a_document_over_http(serve, issuer):
    base = serve(jwks_answer(issuer.document((0,))))
    assert source(base)() == issuer.document((0,))


@pytest.mark.parametrize(("answer", "why"), [
    ((302, {"Location": "/other"}, b""), "redirects are not followed"), ((307, {"Location": "http://127.0.0.1:1/"}, b""), "redirects are not followed"), ((500, {}, b""), "500"),
    ((200, {"Content-Type": "text/html"}, b"{}"), "JSON"), ((200, {"Content-Type": "application/json"}, b" " * 65_537), "64 kB"),
])
def test_what_is_no_document(serve, answer, why):
    asked = []

    def answers(path, headers):
        asked.append(path)
        return answer

    with pytest.raises(KeysUnavailable) as closed:
        source(serve(answers))()
    assert why in str(closed.value) and asked == ["/jwks.json"]


def test_a_server_that_sends_a_letter_at_a_time_meets_one_deadline():
    import socket

    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def drip():
        connection, _ = listener.accept()
        with connection:
            for letter in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000:
                try:
                    connection.send(bytes([letter]))
                except OSError:
                    return
                if stop.wait(0.05):
                    return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    began = time.monotonic()
    with pytest.raises(KeysUnavailable) as closed:
        HttpsSource(f"http://127.0.0.1:{listener.getsockname()[1]}/", ("127.0.0.1",), loopback_http=True, timeout_s=0.5)()
    assert "more than 0.5 s" in str(closed.value) and time.monotonic() - began < 10
    stop.set()
    thread.join(5)
    listener.close()


def test_a_file(tmp_path, issuer, clock):
    path = tmp_path / "jwks.json"
    with pytest.raises(KeysUnavailable):
        FileSource(path)()
    path.write_bytes(issuer.document((0,)))
    keys = JwksProvider(world.ISSUER, file=str(path), clock=clock)
    assert keys.refresh() and keys.find(KID, NOW)
    path.write_bytes(b" " * 70_000)
    with pytest.raises(KeysUnavailable):
        FileSource(path)()


@pytest.mark.parametrize("wrong", [{"url": "", "file": ""}, {"file": "x"}, {"ttl_s": 0}, {"min_refresh_s": 0}, {"max_keys": 0}, {"timeout_s": 0}, {"stale_while_revalidate_s": -1},
                                   {"ttl_s": float("nan")}])
def test_a_configuration_without_limits_is_refused(wrong):
    with pytest.raises(InvalidInput):
        JwksProvider(world.ISSUER, **{"url": "https://issuer.example/", "allowed_hosts": ("issuer.example",), **wrong})
