"""Outcomes: how one question was answered, with the whole trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

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
    STOPPED = "stopped"
    """The large model's answer stayed the same while the reasoning was being written, which was then stopped."""
    DIRECT = "direct"
    """One model answered alone, as the strategy meant it to."""
    ESCALATED = "escalated"
    """The cheap way was not sure enough, and the dear way answered."""
    JUDGED = "judged"
    """The large model answered after reading several drafts."""
    VOTED = "voted"
    """The most frequent of several sampled answers."""
    DEGRADED = "degraded"
    """A model failed and the other one's answer stands."""


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
    """The answer was cut by its limit."""
    kind: AnswerKind | None = None
    """The kind of answer that was asked for, given or guessed; None where the call names none."""
    answer_text: str | None = None
    """The option that was chosen, as the user labelled it: "B. Jupiter" or "2. Jupiter"; None for no choice."""
    outside_scope: str | None = None
    """Why the question is outside what the models were trained on, where they say what that is; None if it is not."""
    tokens: tuple[AnswerToken, ...] = ()
    """The answer's tokens, where a request wants them and the model gives them."""
    stopped_by: str | None = None
    """The client's stop text at which the answer was cut; None where nothing was cut, or a server did it."""

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
        """Seconds in which no call was running: the orchestration's own."""
        return max(0.0, self.total_s - self.busy_s)

    @property
    def handoff_s(self) -> float | None:
        """Seconds from the last token of the reasoning to the reader's first answer token; None if nothing was read."""
        first = next((c.first_token_s for c in self.calls if c.mode is Mode.READ and c.first_token_s is not None), None)
        ended = [c.reasoning_end_s for c in self.calls if c.reasoning_end_s is not None]
        return None if first is None or not ended else first - max(ended)
