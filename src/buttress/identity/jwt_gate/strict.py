"""Strict base64url and strict JSON: one spelling for one value, no name twice, nothing deep, nothing infinite."""

from __future__ import annotations

import json
import math
from binascii import Error as _Base64Error
from binascii import a2b_base64
from typing import Any, NoReturn

import msgspec

from buttress.identity.jwt_gate.refusal import Refused

# '-' and '_' become '+' and '/'; what only other alphabets have becomes '!', which no decoder takes.
_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")
# By the letters beyond a multiple of four: the padding that the decoder wants, and what the last letter may be: its lowest 4 or 2
# bits must be zero. One letter too many is no base64; no text at all is the empty one.
_ENDS = ((b"", bytes(range(256))), (b"", b""), (b"==", b"AQgw"), (b"=", b"AEIMQUYcgkosw048"))


def unbase64url(text: bytes) -> bytes:
    """The bytes of a base64url segment in its one canonical spelling. Raises Refused ``base64``."""
    padding, last = _ENDS[len(text) & 3]
    try:
        if text[-1:] in last:  # of nothing, b"" is in everything
            return a2b_base64(text.translate(_TO_STANDARD) + padding, strict_mode=True)
    except _Base64Error:
        pass
    raise Refused("base64")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Refused("duplicate_name")
    return made


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # 1e400
        raise Refused("number")
    return number


def _constant(_: str) -> NoReturn:  # NaN, Infinity
    raise Refused("number")


_decoder: Any = json.JSONDecoder(object_pairs_hook=_once, parse_float=_finite, parse_constant=_constant)
_scan = _decoder.scan_once  # one value from a place on: what ``decode`` does, without its search for blanks
_BLANK = " \t\n\r"


def loads(raw: bytes, depth_max: int) -> Any:
    """A JSON text in UTF-8. Raises Refused ``json``, ``duplicate_name``, ``number`` or ``too_deep``."""
    try:
        text = raw.decode()
        value, end = _scan(text, len(text) - len(text.lstrip(_BLANK)))
        if end != len(text) and text[end:].strip(_BLANK):
            raise Refused("json")
        if "\\u" in text:  # half of a surrogate pair is no text: it could be neither logged nor sent on
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, StopIteration):
        raise Refused("json") from None
    except RecursionError:
        raise Refused("too_deep") from None
    if raw.count(b"{") + raw.count(b"[") > depth_max and _depth(value, depth_max) > depth_max:
        raise Refused("too_deep")
    return value


_quick = msgspec.json.Decoder(dict).decode


def loads_object(raw: bytes, depth_max: int) -> dict[str, Any]:
    """The same, of an object. Raises Refused ``not_object`` as well.

    Flat objects take a shorter way to the same answer: with one brace there is one object, and as it has at most one member more
    than there are commas, as many names as members means that none stands twice. All else is read by ``loads``.
    """
    if raw.count(b"{") == 1 and raw.count(b"[") < depth_max:
        try:
            flat: dict[str, Any] = _quick(raw)
        except (msgspec.DecodeError, ValueError, RecursionError):
            pass
        else:
            if raw.count(b",") < len(flat):
                return flat
    value = loads(raw, depth_max)
    if type(value) is not dict:
        raise Refused("not_object")
    return value


def _depth(value: Any, limit: int) -> int:
    """How deep objects and arrays are nested, counted up to one beyond ``limit``."""
    level, depth = [value], 0
    while level and depth <= limit:
        inner = [item for item in level if isinstance(item, (dict, list))]
        depth += bool(inner)
        level = [leaf for item in inner for leaf in (item.values() if isinstance(item, dict) else item)]
        if not inner:
            break
    return depth
