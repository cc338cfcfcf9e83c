"""Speed-up from decoding several calls of a local model in a batch, and whether each text is the same as alone.

Each call reasons about another held-out board, with one call at a time and with several. Figures: total seconds, with
prefill; texts that differ; the largest difference of the answer's log probability; tokens that were decided alone
because the two highest logits were close. Every second round runs the batch sizes in reverse order.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import aclosing
from typing import Any

from common import pair, save
from cuecard.demo import boards
from cuecard.domain.question import Question
from cuecard.models.base import AnswerDelta, Finished, Limits, Model, ReasoningDelta
from cuecard.models.local import fused_decoder
from cuecard.models.prompt import reason

SIZES = (1, 2, 4, 8, 16)
QUESTIONS, ROUNDS = 48, 2
Reply = tuple[str, float, int]


async def reply(model: Model, question: Question) -> Reply:
    """(text, log probability of the answer, tokens)."""
    text, end = "", None
    async with aclosing(model.stream(reason(question, model.abilities.style), Limits())) as events:
        async for event in events:
            if isinstance(event, ReasoningDelta | AnswerDelta):
                text += event.text
            elif isinstance(event, Finished):
                end = event
    assert end is not None
    return text, end.answer_logprob or 0.0, end.usage.completion_tokens or 0


async def all_of(model: Model, questions: list[Question], size: int) -> tuple[float, list[Reply]]:
    """Seconds for all questions with at most `size` calls at once, and the replies."""
    model.forget()
    room = asyncio.Semaphore(size)

    async def one(question: Question) -> Reply:
        async with room:
            return await reply(model, question)

    began = time.perf_counter()
    replies = await asyncio.gather(*map(one, questions))
    return time.perf_counter() - began, replies


def counted() -> Counter[str]:
    """A counter of tokens decoded in batches (`tokens`) and of those decided alone (`alone`), from now on."""
    counts, whole = Counter[str](), fused_decoder.are_close

    def close(logits: Any) -> list[bool]:
        near = whole(logits)
        counts.update(tokens=len(near), alone=sum(near))
        return near

    fused_decoder.are_close = close
    return counts


async def measured(model: Model, counts: Counter[str]) -> dict[str, Any]:
    questions = [exercise.question for exercise in boards.exercises(QUESTIONS * ROUNDS, 11)]
    await reply(model, questions[0])
    counts.clear()
    took, differing, apart, tokens = Counter[int](), Counter[int](), 0.0, 0
    for turn in range(ROUNDS):
        some = questions[turn * QUESTIONS : (turn + 1) * QUESTIONS]
        _, alone = await all_of(model, some, 1)
        for size in SIZES if turn % 2 == 0 else SIZES[::-1]:
            seconds, replies = await all_of(model, some, size)
            took[size] += seconds
            differing[size] += sum(one[0] != other[0] for one, other in zip(alone, replies, strict=True))
            apart = max(apart, *(abs(one[1] - other[1]) for one, other in zip(alone, replies, strict=True)))
        tokens += sum(each[2] for each in alone)
    return {
        "tokens": tokens,
        "tokens_decoded_in_batches": counts["tokens"],
        "decided_alone": counts["alone"],
        "largest_difference_of_log_probabilities": apart,
        "at_once": {
            size: {
                "seconds": took[size],
                "tokens_per_s": tokens / took[size],
                "speed_up": took[1] / took[size],
                "texts_that_differ": differing[size],
            }
            for size in SIZES
        },
    }


async def measure() -> dict[str, Any]:
    figures: dict[str, Any] = {"questions": QUESTIONS * ROUNDS}
    counts = counted()
    for role, model in pair().items():
        figures[role] = await measured(model, counts)
        print(role, figures[role], flush=True)
        await model.aclose()
    return figures


if __name__ == "__main__":
    print(save("batching", asyncio.run(measure())))
