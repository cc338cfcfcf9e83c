"""Numbers and texts formatted for display; colours of modes."""

from __future__ import annotations

import math
import unicodedata

from cuecard.domain.call import Mode
from cuecard.domain.outcome import LatencyKind
from cuecard.latency.breakeven import Crossing

# After Okabe and Ito: distinct with any colour vision, and 3:1 or better against white and near-black pages.
MODES = {
    Mode.SHORT: "#0072b2",
    Mode.REASON: "#c14e00",
    Mode.READ: "#008060",
    Mode.PROBE: "#009e73",
    Mode.REPAIR: "#a8323e",
    Mode.WARM: "#767d88",
    Mode.GRADE: "#8a6d00",
    Mode.SCORE: "#b0568a",
    Mode.WEIGH: "#3f8f8b",
}
HOW = {
    LatencyKind.MEASURED: "timed live in this run",
    LatencyKind.COMPOSED: "put together from calls timed in this run",
    LatencyKind.ESTIMATED: "from simulated models in virtual time",
}


def duration(seconds: float) -> str:
    """Milliseconds below one second: 0.0312 -> `31 ms`, 0.0042 -> `4.2 ms`, 2.417 -> `2.42 s`."""
    thousandths = seconds * 1000
    if thousandths >= 999.5:  # would round to 1000 ms
        return f"{seconds:.2f} s"
    return f"{thousandths:.1f} ms" if 0 < thousandths < 9.95 else f"{thousandths:.0f} ms"


def crossing(point: Crossing) -> str:
    """`83 (81 to 86)`; `any` for an infinite number of tokens."""
    if point.low is None or point.high is None or amount(point.low) == amount(point.high):
        return amount(point.tokens)
    return f"{amount(point.tokens)} ({amount(point.low)} to {amount(point.high)})"


def amount(tokens: float) -> str:
    """4.74 -> `4.7`, 1305.6 -> `1,306`, infinite -> `any`."""
    if math.isinf(tokens):
        return "any"
    return f"{tokens:.1f}" if 0 < tokens < 20 else f"{tokens:,.0f}"


def percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def plain(text: str) -> str:
    """One line without control characters, so that a model's text cannot steer a terminal."""
    spaced = " ".join(text.split())
    return "".join(c for c in spaced if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
