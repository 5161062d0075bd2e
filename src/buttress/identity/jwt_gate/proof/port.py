"""The port: what any gateway must be able to do to be judged."""

from __future__ import annotations

from typing import Protocol


class Gateway(Protocol):
    """A gateway in front of an application. ``env.world`` holds ``issuer``, ``audience``, and the URLs ``jwks`` and ``application``.

    Access tokens are RFC 9068: typ ``at+jwt``, signed by RS256, ES256 or Ed25519, with a kid. Let in what is signed by a key of the key
    server that names the token's algorithm, is of ``issuer``, for ``audience``, and valid now; 30 seconds may be granted, either
    way. Refuse all else with a 4xx, and let nothing of it reach the application.

    The issuer rotates: a new key stands in the document for 30 seconds or more before it signs, the old one for five minutes after its
    last signature. Ask the key server at most once in 10 seconds, whatever comes in. When it is down, a key may be used for an
    hour after it was last fetched, and no longer; five minutes of outage must keep nobody out.
    """

    def takes(self) -> list[str]:
        """The algorithms that it takes, of RS256, ES256 and Ed25519. The proof signs with these."""
        ...

    def request(self, id: str, authorization: str) -> int:
        """One request with this Authorization header. Let in: GET ``application``/``id``, and answer its status; else 401."""
        ...


class Verifying(Protocol):
    """For the race: one library's verification, signature and claims."""

    def prepare(self, alg: str, jwk: str, issuer: str, audience: str) -> bool:
        """Takes the one key, as the JSON of a JWK. False: this library lacks the algorithm."""
        ...

    def verify(self, tokens: list[str], rounds: int) -> list[float]:
        """Verifies each token, ``rounds`` times over, no verdict kept. [tokens taken, CPU seconds of this process]."""
        ...
