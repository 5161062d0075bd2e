"""A gate for bearer tokens that cannot be confused: one (issuer, kid) is exactly one algorithm, whatever a header says.

    from buttress.identity.jwt_gate import KeyBinding, Policy, Refused, StaticKeys, Verifier

    keys = StaticKeys("https://issuer.example", [KeyBinding("2027-01", "HS256", bytes(range(32)))])
    verifier = Verifier(Policy(issuer="https://issuer.example", audience="api"), keys)
    try:
        print(verifier.verify("eyJhbGciOiJub25lIn0.e30.").subject)
    except Refused as refused:
        print(refused.code, refused.section)  # alg_none RFC 8725 3.2
"""

from typing import TYPE_CHECKING

from buttress.kernel.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Claims": "claims", "Issuers": "verifier", "JwksProvider": "jwks", "JwtGate": "gate", "KeyBinding": "keys", "KeyRefused": "refusal",
        "KeysUnavailable": "refusal", "Policy": "claims", "Refused": "refusal", "StaticKeys": "keys", "Verifier": "verifier", "create_app": "app",
    },
    extra="jwt_gate",
)

if TYPE_CHECKING:
    from buttress.identity.jwt_gate.app import create_app as create_app
    from buttress.identity.jwt_gate.claims import Claims as Claims
    from buttress.identity.jwt_gate.claims import Policy as Policy
    from buttress.identity.jwt_gate.gate import JwtGate as JwtGate
    from buttress.identity.jwt_gate.jwks import JwksProvider as JwksProvider
    from buttress.identity.jwt_gate.keys import KeyBinding as KeyBinding
    from buttress.identity.jwt_gate.keys import StaticKeys as StaticKeys
    from buttress.identity.jwt_gate.refusal import KeyRefused as KeyRefused
    from buttress.identity.jwt_gate.refusal import KeysUnavailable as KeysUnavailable
    from buttress.identity.jwt_gate.refusal import Refused as Refused
    from buttress.identity.jwt_gate.verifier import Issuers as Issuers
    from buttress.identity.jwt_gate.verifier import Verifier as Verifier
