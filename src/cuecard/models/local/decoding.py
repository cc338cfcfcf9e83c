"""Sampling of the next token, and tokens as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from cuecard.answers.reasoning_parser import ReasoningParser, Start
from cuecard.domain.call import Mode
from cuecard.models.base import Event, Limits
from cuecard.models.prompt import Prompt
from cuecard.models.reasoning_events import ReasoningEvents, RepetitionDetector, tags_of


class TokenDecoder:
    """Tokens to text as it becomes certain (a character may take several), split into reasoning and answer."""

    def __init__(self, tokenizer: Any, prompt: Prompt) -> None:
        style, reasons = prompt.style, prompt.mode is Mode.REASON
        self.parser = ReasoningParser(
            Start.INSIDE if reasons and style.opening else Start.OUTSIDE,
            reasons=reasons,
            prose=reasons and style.in_prose,
            brief=prompt.is_brief,
            readable=prompt.answered_by,
            closing=(style.closing.strip(),) if style.opening else (),
            tags=tags_of(style),
        )
        self._events, self._tokenizer = ReasoningEvents(self.parser, reasons=reasons), tokenizer
        self._repetition = RepetitionDetector() if reasons else None
        self._ids: list[int] = []
        self._shown = 0

    @property
    def repeats(self) -> bool:
        """The reasoning is a loop."""
        return self._repetition is not None and self._repetition.found

    def feed(self, token: int) -> Iterator[Event]:
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        if not text.endswith("\ufffd"):
            fresh, self._shown = text[self._shown :], len(text)
            if self._repetition is not None and not self.parser.answering:
                self._repetition.feed(fresh)
            yield from self._events.of(self.parser.feed(fresh))
            # what came before a token that is text by itself does not change how the next ones are spelled
            if "\ufffd" not in (alone := self._tokenizer.decode([token])):
                self._ids, self._shown = [token], len(alone)

    def rest(self, *, whole: bool = True) -> Iterator[Event]:
        """What was held back. `whole`: the model ended its turn by itself."""
        text = self._tokenizer.decode(self._ids)[self._shown :]
        self._shown += len(text)
        yield from self._events.of([*self.parser.feed(text), *self.parser.end(whole=whole)])

    def close(self) -> Iterator[Event]:
        """The reasoning is over."""
        yield from self._events.close()


def chance(limits: Limits, device: torch.device) -> torch.Generator:
    """A call's own source of randomness."""
    generator = torch.Generator(device)
    if limits.seed is not None:
        generator.manual_seed(limits.seed)
    else:
        generator.seed()
    return generator


def choose(logits: torch.Tensor, limits: Limits, generator: torch.Generator) -> tuple[int, float]:
    """(vocabulary,) -> the next token and its log probability before temperature.

    Greedy, or drawn from the `top_k` likeliest, those at least `min_p` times as likely as the first, and the nucleus.
    """
    logits = logits.float()
    if limits.temperature == 0:
        token = int(logits.argmax())
    else:
        chances, order = torch.softmax(logits / limits.temperature, -1).sort(descending=True)
        if wanted := dict(limits.extras.sampling):
            chances[int(wanted.get("top_k", len(chances))) :] = 0
            chances[chances < wanted.get("min_p", 0.0) * chances[0]] = 0
            chances /= chances.sum()
        chances[chances.cumsum(0) - chances >= limits.top_p] = 0
        token = int(order[torch.multinomial(chances, 1, generator=generator)])
    return token, float(torch.log_softmax(logits, -1)[token])
