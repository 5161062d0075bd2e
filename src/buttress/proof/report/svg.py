"""Chart primitives: x in per cent, y in pixels. The picture stretches, strokes and type never scale; no script, no ids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

MARKS = {
    "baseline": "M-4-4H4V4H-4Z", "peer": "M0-5.2 5.2 0 0 5.2-5.2 0Z",
    "buttress": "M-5 0A5 5 0 1 0 5 0 5 5 0 1 0-5 0Z", "yours": "M0-5.5 5.4 4.5H-5.4Z", "cross": "M-3.5-3.5 3.5 3.5M-3.5 3.5 3.5-3.5",
}


@dataclass(frozen=True)
class X:
    """From data to per cent. ``sym`` is log10(1 + v): a log scale with a place for 0."""

    low: float
    high: float
    left: float = 4.0
    right: float = 96.0
    kind: Literal["lin", "log", "sym"] = "lin"

    def _f(self, value: float) -> float:
        if self.kind == "log":
            return math.log10(max(value, 1e-12))
        return math.log10(1 + max(value, 0.0)) if self.kind == "sym" else value

    def __call__(self, value: float) -> float:
        a, b = self._f(self.low), self._f(self.high)
        at = 0.0 if a == b else (self._f(value) - a) / (b - a)
        return self.left + min(max(at, 0.0), 1.0) * (self.right - self.left)


def percent(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") + "%"


def pixels(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def svg(height: float, *parts: str, label: str = "", style: str = "", width: str = "100%") -> str:
    """A stretching picture. ``label`` is the finding with its numbers; without one it is hidden from readers."""
    role = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    styled = f' style="{style}"' if style else ""
    return f'<svg class="c" width="{width}" height="{pixels(height)}" {role}{styled}>{"".join(parts)}</svg>'


def line(x1: float, y1: float, x2: float, y2: float, cls: str) -> str:
    return f'<line x1="{percent(x1)}" y1="{pixels(y1)}" x2="{percent(x2)}" y2="{pixels(y2)}" class="{cls}"/>'


def rect(x1: float, x2: float, y: float, height: float, cls: str, title: str = "") -> str:
    tip = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect x="{percent(x1)}" y="{pixels(y)}" width="{percent(max(x2 - x1, 0.05))}" height="{pixels(height)}" class="{cls}">{tip}</rect>'


def text(x: float, y: float, words: str, cls: str = "", anchor: str = "start", dx: float = 0) -> str:
    attributes = (f' dx="{pixels(dx)}"' if dx else "") + (f' text-anchor="{anchor}"' if anchor != "start" else "") + (f' class="{cls}"' if cls else "")
    return f'<text x="{percent(x)}" y="{pixels(y)}"{attributes}>{escape(words)}</text>'


def mark(x: float, y: float, role: str, cls: str = "") -> str:
    return f'<svg x="{percent(x)}" y="{pixels(y)}" overflow="visible"><path d="{MARKS[role]}" class="{cls or "m-" + role}"/></svg>'


def interval(low: float, high: float, y: float, role: str, cap: float = 4) -> str:
    cls = f"l-{role} w2"
    return line(low, y, high, y, cls) + line(low, y - cap, low, y + cap, cls) + line(high, y - cap, high, y + cap, cls)


def poly(points: Sequence[tuple[float, float]], height: float, cls: str) -> str:
    path = " ".join(f"{a:.2f},{pixels(b)}" for a, b in points)
    return (f'<svg x="0%" width="100%" height="{pixels(height)}" viewBox="0 0 100 {pixels(height)}" preserveAspectRatio="none">'
            f'<polyline points="{path}" class="{cls}" vector-effect="non-scaling-stroke"/></svg>')
