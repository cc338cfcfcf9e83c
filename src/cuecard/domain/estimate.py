"""What another way would have cost, estimated from a request's own calls."""

from __future__ import annotations

from dataclasses import dataclass

from cuecard.domain.call import Call, Mode
from cuecard.domain.outcome import Outcome, Route


@dataclass(frozen=True)
class LatencyComparison:
    """Seconds of a request, and of the large model alone: its short answer (measured), its reasoning (estimated)."""

    took_s: float
    short_s: float | None
    reasoning_s: float | None

    @property
    def faster_than_short(self) -> bool | None:
        return None if self.short_s is None else self.took_s < self.short_s

    @property
    def faster_than_reasoning(self) -> bool | None:
        return None if self.reasoning_s is None else self.took_s < self.reasoning_s

    def sentence(self) -> str | None:
        """One line: what the large model alone takes, and whether this request gained; None where nothing is known."""
        alone = [
            *([] if self.short_s is None else [f"{seconds(self.short_s)} short (measured)"]),
            *([] if self.reasoning_s is None else [f"{seconds(self.reasoning_s)} with reasoning (estimated)"]),
        ]
        gained = [
            f"{beside(self.took_s, other)} its {what}"
            for other, what in ((self.reasoning_s, "reasoning"), (self.short_s, "short answer"))
            if other is not None
        ]
        return f"the large model alone: {', '.join(alone)}: {', '.join(gained)}" if alone else None


def beside(took_s: float, other_s: float) -> str:
    """How one time compares with another, as both are printed."""
    if seconds(took_s) == seconds(other_s):
        return "as fast as"
    return "faster than" if took_s < other_s else "slower than"


def compare_with_large(outcome: Outcome) -> LatencyComparison:
    """What a request took beside what the large model would have taken alone, as far as its own calls show."""
    short = next((c for c in outcome.calls if c.role == "large" and c.mode is Mode.SHORT and _whole(c)), None)
    alone = len(outcome.calls) == 1 and short is not None  # this is the large model alone
    return LatencyComparison(
        outcome.total_s,
        None if short is None or alone else short.end_s - short.start_s,
        None if outcome.route is Route.DEGRADED else reasoning_alone_s(outcome),
    )


def _whole(call: Call) -> bool:
    return not call.cancelled and call.error is None


def seconds(value: float) -> str:
    """In a unit that leaves two digits: 12 ms, 0.34 s, 2.4 s, 31 s."""
    if value < 0.1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def reasoning_alone_s(outcome: Outcome) -> float | None:
    """Estimated seconds of the large model reasoning by itself, None where this request does not show it.

    Its time to first token in this request, and then as many tokens as the small model wrote, each at the large model's
    own pace as seen in its short answers.
    """
    written = next((c for c in outcome.calls if c.role == "small" and c.reasoning_end_s is not None), None)
    spoken = [
        c
        for c in outcome.calls
        if c.role == "large" and c.mode in (Mode.SHORT, Mode.READ) and c.first_token_s is not None
    ]
    if written is None or not spoken or written.first_token_s is None or not written.usage.completion_tokens:
        return None
    first = spoken[0]
    per_token = [s_per_token(call) for call in spoken]
    known = [seconds for seconds in per_token if seconds is not None]
    pace = s_per_token(written)
    if not known or pace is None or first.first_token_s is None:
        return None
    # a short answer is a token or two, so its pace is a rough reading; a large model's is not below a small one's
    return first.first_token_s - first.start_s + written.usage.completion_tokens * max(pace, sum(known) / len(known))


def s_per_token(call: Call) -> float | None:
    """Seconds from the first token to the end of the call, per token: each of them costs one forward pass."""
    if call.first_token_s is None or not call.usage.completion_tokens:
        return None
    return (call.end_s - call.first_token_s) / call.usage.completion_tokens
