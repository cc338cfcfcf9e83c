"""Outcomes: how one question was answered, with the whole trace; compared with the large model alone; as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from cuecard.domain.call import AnswerToken, Call, Mode, Usage
from cuecard.domain.question import AnswerKind


class Route(StrEnum):
    """How an answer came about; every question ends in exactly one."""

    AGREED = "agreed"
    """Both short answers were accepted as the same."""
    CONFIRMED = "confirmed"
    """The small model's reasoned answer equals the large model's short one."""
    TRANSFERRED = "transferred"
    """The large model answered after reading the small one's reasoning."""
    REVISED = "revised"
    """The large model answered after reading a reasoning of steps that it had accepted or rewritten."""
    STOPPED = "stopped"
    """The large model's answer stayed the same while the reasoning was being written, so the reasoning was stopped."""
    DIRECT = "direct"
    """One model answered alone, as the strategy intends."""
    ESCALATED = "escalated"
    """A cheaper answer was not confident enough, or the question looked hard: a more expensive call answered."""
    JUDGED = "judged"
    """The large model answered after reading several drafts."""
    VOTED = "voted"
    """The most frequent of several sampled answers."""
    DEGRADED = "degraded"
    """A model failed, the deadline passed, or an answer was unusable: the best remaining answer is given."""


class LatencyKind(StrEnum):
    """Where a latency comes from."""

    MEASURED = "measured"
    COMPOSED = "composed"
    ESTIMATED = "estimated"


@dataclass(frozen=True)
class Outcome:
    """One answered question: the answer, the route and why, and every call that was made for it."""

    answer: str
    route: Route
    strategy: str
    calls: tuple[Call, ...]
    total_s: float
    reason: str
    schedule: str | None = None
    confidence: float | None = None
    latency_kind: LatencyKind = LatencyKind.MEASURED
    truncated: bool = False
    """The answer was cut at its token limit."""
    kind: AnswerKind | None = None
    """The requested kind of answer, given or guessed; None if unknown."""
    answer_text: str | None = None
    """The chosen option with the user's label: "B. Jupiter" or "2. Jupiter"; None if there is none."""
    outside_scope: str | None = None
    """Why the question is outside the scope that a model declares (its training tasks); None if it is not."""
    tokens: tuple[AnswerToken, ...] = ()
    """The answer's tokens, if the request wants them and the model gives them."""
    stopped_by: str | None = None
    """The client's stop text at which the answer was cut; None if it was not cut, or a server cut it."""

    @property
    def usage(self) -> Mapping[str, Usage]:
        """Tokens per model, over all calls: cancelled and failed ones included."""
        total: dict[str, Usage] = {}
        for call in self.calls:
            total[call.model] = total.get(call.model, Usage()) + call.usage
        return total

    @property
    def busy_s(self) -> float:
        """Seconds in which at least one call was running."""
        total = until = 0.0
        for call in sorted(self.calls, key=lambda call: call.start_s):
            total += max(0.0, call.end_s - max(until, call.start_s))
            until = max(until, call.end_s)
        return total

    @property
    def overhead_s(self) -> float:
        """Seconds in which no call was running: the orchestration overhead."""
        return max(0.0, self.total_s - self.busy_s)

    @property
    def handoff_s(self) -> float | None:
        """Seconds from the last token of the reasoning to the reader's first answer token; None if nothing was read."""
        first = next((c.first_token_s for c in self.calls if c.mode is Mode.READ and c.first_token_s is not None), None)
        ended = [c.reasoning_end_s for c in self.calls if c.reasoning_end_s is not None]
        return None if first is None or not ended else first - max(ended)


# --- comparison with the large model alone, estimated -----------------------------------------------------------------


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
        """One line: the latency of the large model alone, and whether this request was faster; None if unknown."""
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
    """How one time compares with another, both rounded as printed."""
    if seconds(took_s) == seconds(other_s):
        return "as fast as"
    return "faster than" if took_s < other_s else "slower than"


def compare_with_large(outcome: Outcome) -> LatencyComparison:
    """The latency of a request and of the large model alone, as far as the request's own calls show the latter."""
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
    """Milliseconds below one second: 12 ms, 340 ms, 2.4 s, 31 s."""
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"


def reasoning_alone_s(outcome: Outcome) -> float | None:
    """Estimated seconds for the large model to reason alone; None if this request does not show it.

    Its TTFT in this request, then as many tokens as the small model generated, each at the large model's time per token
    in its short answers.
    """
    written = next((c for c in outcome.calls if c.role == "small" and c.reasoning_end_s is not None), None)
    spoken = [
        c
        for c in outcome.calls
        if c.role == "large" and c.mode in (Mode.SHORT, Mode.READ) and c.first_token_s is not None
    ]
    known = [pace for call in spoken if (pace := s_per_token(call)) is not None]
    own = None if written is None else s_per_token(written)
    if written is None or own is None or not known:
        return None
    # short answers have one or two tokens, so their pace is rough; a large model is not faster than a small one
    pace, ttft_s = max(own, sum(known) / len(known)), (spoken[0].first_token_s or 0.0) - spoken[0].start_s
    return ttft_s + (written.usage.completion_tokens or 0) * pace


def s_per_token(call: Call) -> float | None:
    """Seconds from the first token to the end of the call, per token: each of them costs one forward pass."""
    if call.first_token_s is None or not call.usage.completion_tokens:
        return None
    return (call.end_s - call.first_token_s) / call.usage.completion_tokens


# --- outcomes as plain data, for JSON ---------------------------------------------------------------------------------


def outcome_as_object(outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain data, every call included."""
    names = "answer answer_text kind truncated outside_scope route reason strategy schedule confidence"
    return {
        **_attributes(outcome, names),
        "latency": {"total_s": outcome.total_s, "handoff_s": outcome.handoff_s, "kind": outcome.latency_kind},
        "gain": _attributes(compare_with_large(outcome), "short_s reasoning_s faster_than_short faster_than_reasoning"),
        "usage": {model: usage_as_object(usage) for model, usage in outcome.usage.items()},
        "calls": [call_as_object(call) for call in outcome.calls],
    }


def usage_as_object(usage: Usage) -> dict[str, int | None]:
    """Token counts by name; None if not observed."""
    return asdict(usage)


def call_as_object(call: Call) -> dict[str, Any]:
    """One call: role and model, times, usage, finish reason, and its texts."""
    return {
        **_attributes(call, "role model mode start_s first_token_s reasoning_end_s end_s"),
        **usage_as_object(call.usage),
        **_attributes(call, "finish_reason cancelled reasoning answer answer_logprob error"),
    }


def _attributes(value: object, names: str) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names.split()}
