"""A record to draw: one transferred request with every kind of mark."""

from __future__ import annotations

from dataclasses import replace

from cuecard.domain.call import Call, FinishReason, Mode, Usage
from cuecard.domain.outcome import Outcome, Route

REASONING = "Let us start at cell 4. Now cell 7 shows a red 3."


def call(role: str, mode: Mode, start_s: float, end_s: float, tokens: int = 1, **changed: object) -> Call:
    first = None if mode is Mode.WARM else start_s + (end_s - start_s) / 4
    reasoning = REASONING if mode is Mode.REASON else None
    made = Call(
        role, f"demo-{role}", mode, start_s, first, end_s, Usage(60, 0, tokens, 0), FinishReason.STOP, reasoning, "3"
    )
    return replace(made, **{"reasoning_end_s": end_s if reasoning else None} | changed)


CALLS = (
    call("small", Mode.REASON, 0.0, 0.2, 58),
    call("small", Mode.SHORT, 0.0, 0.03),
    call("large", Mode.SHORT, 0.0, 0.05),
    call("large", Mode.WARM, 0.1, 0.11, 0),
    call("large", Mode.READ, 0.2, 0.22),
)
OUTCOME = Outcome("3", Route.TRANSFERRED, "mutual", CALLS, 0.221, "the large model read", "eager")
