"""What another way would have cost, estimated from a request's own calls."""

from __future__ import annotations

from cuecard.domain.call import Call, Mode
from cuecard.domain.outcome import Outcome


def reasoning_alone_s(outcome: Outcome) -> float | None:
    """Estimated seconds of the large model reasoning by itself, None where this request does not tell.

    Its time to first token in this request, and then as many tokens as the small model wrote, each at the large model's
    own pace as seen in its short answers.
    """
    written = next((c for c in outcome.calls if c.mode is Mode.REASON and c.role == "small" and not c.cancelled), None)
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
