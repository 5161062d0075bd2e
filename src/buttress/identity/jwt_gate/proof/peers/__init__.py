"""Well-known libraries, before and after their advisories, each in one file that its maintainer can correct. In environments of their own, never in ours."""

from __future__ import annotations

import shlex
from pathlib import Path

from buttress.proof import Subject
from buttress.proof.parts import parts_folder

HERE = Path(__file__).parent
CRYPTO = "pip:cryptography==50.0.2"
RACED = "PyJWT 2.15.1"


def _python(name: str, part: str, file: str, factory: str = "factory", about: str = "") -> Subject:
    return Subject(name, f"{HERE / file}:{factory}", "peer", parts=(part, CRYPTO), scale="full", about=about)


def _node(name: str, version: str, about: str) -> Subject:
    return Subject(name, "cmd:" + shlex.join(["node", str(HERE / "jsonwebtoken.js"), str(parts_folder(name) / "node_modules")]), "peer", needs=("node",),
                   parts=(f"npm:jsonwebtoken@{version}",), scale="full", about=about)


SUBJECTS = (
    _python("Authlib 1.3.0", "pip:authlib==1.3.0", "authlib_jose.py", about="vulnerable: CVE-2024-37568"),
    _python("Authlib 1.3.1", "pip:authlib==1.3.1", "authlib_jose.py", about="guards by the first letters of the key"),
    _python("Authlib 1.9.10", "pip:authlib==1.9.10", "authlib_jose.py", about="fixed"),
    _python("PyJWT 2.3.0", "pip:pyjwt==2.3.0", "pyjwt.py", "over_ssh", about="vulnerable: CVE-2022-29217, by an OpenSSH key"),
    _python(RACED, "pip:pyjwt==2.15.1", "pyjwt.py", about="fixed"),
    _python("python-jose 3.3.0", "pip:python-jose==3.3.0", "python_jose.py", about="CVE-2024-33663, not reachable by PEM"),
    _python("python-jose 3.5.0", "pip:python-jose==3.5.0", "python_jose.py", about="fixed"),
    _python("joserfc 1.8.0", "pip:joserfc==1.8.0", "joserfc_jwt.py", about="keys have a type"),
    _node("jsonwebtoken 4.2.1", "4.2.1", "vulnerable: CVE-2015-9235"),
    _node("jsonwebtoken 8.5.1", "8.5.1", "vulnerable: CVE-2022-23541, with two algorithms"),
    _node("jsonwebtoken 9.0.3", "9.0.3", "fixed"),
    Subject("raw cryptography", f"{HERE / 'raw_cryptography.py'}:factory", "peer", scale="full", about="the signature alone, no rule"),
)
RACING = {
    RACED: f"{HERE / 'pyjwt.py'}:verifying", "Authlib 1.9.10": f"{HERE / 'authlib_jose.py'}:verifying", "joserfc 1.8.0": f"{HERE / 'joserfc_jwt.py'}:verifying",
    "raw cryptography": f"{HERE / 'raw_cryptography.py'}:verifying",
}
