"""Models whose calls a reservation of the key's budgets covers: no call begins if its worst case cannot be reserved."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import cast

from cuecard.domain.call import Usage
from cuecard.gateway.admission.state import Amount, Lease
from cuecard.gateway.config.pairs import Prices
from cuecard.gateway.upstream.cost_limit import at_most, passed_tokens
from cuecard.gateway.upstream.worst_case import WorstCase
from cuecard.gateway.wire.usage import Json, cost
from cuecard.models.base import Abilities, Event, Finished, Limits, Model, Progress, Weigher, Weighing
from cuecard.models.prompt import Prompt

FREE = Prices()
UNLIMITED_TOKENS = 16_384
"""Reserved for the answer to a request that is passed on and sets no limit of tokens."""


def leased(models: Mapping[str, Model], lease: Lease, prices: Mapping[str, Prices]) -> Mapping[str, Model]:
    """The models, their calls covered by the lease; as they are if it reserves nothing. `prices`: by role."""
    if lease.held is None:
        return models
    cases = WorstCase()
    return {role: LeasedModel(model, role, lease, prices.get(role, FREE), cases) for role, model in models.items()}


def estimate(prompt_tokens: int, limits: Limits, answer_tokens: int, prices: Mapping[str, Prices]) -> Amount:
    """What a request of a pair probably uses at most: two short calls, a reasoning, and a call that reads it."""
    read, written = 4 * prompt_tokens + limits.reasoning_tokens, 4 * answer_tokens + limits.reasoning_tokens
    both = [prices.get(role, FREE) for role in ("small", "large")]
    return Amount(read + written, sum(at_most(read, written, each) for each in both) / len(both))


def passed_estimate(body: Json, prices: Prices | None) -> Amount:
    """The most that a request that is passed on uses; without a limit of tokens it counts as UNLIMITED_TOKENS."""
    read, written = passed_tokens(body)
    written = UNLIMITED_TOKENS if written is None else written
    return Amount(read + written, at_most(read, written, prices or FREE))


@dataclass
class RunningCall:
    """The usage of a call so far; a prompt that no server has counted is estimated."""

    usage: Usage = field(default_factory=Usage)


class LeasedModel:
    """A model whose calls are covered by a lease. All methods that call it raise BudgetReached."""

    def __init__(self, model: Model, role: str, lease: Lease, prices: Prices, cases: WorstCase) -> None:
        self._model, self._role, self._lease, self._prices, self._cases = model, role, lease, prices, cases

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def abilities(self) -> Abilities:
        return self._model.abilities

    @asynccontextmanager
    async def _covered(self, prompt: Prompt, limits: Limits | None, more: str = "") -> AsyncIterator[RunningCall]:
        estimated, call = self._cases.prompt_tokens(self._role, prompt, more), RunningCall()
        read, written = self._cases.tokens(estimated, prompt, limits)
        async with self._lease.call(Amount(read + written, at_most(read, written, self._prices))) as used:
            try:
                yield call
            finally:
                usage = call.usage
                self._cases.learn(self._role, estimated, usage)
                prompt_tokens = estimated if usage.prompt_tokens is None else usage.prompt_tokens
                whole = replace(usage, prompt_tokens=prompt_tokens)
                used.append(Amount(prompt_tokens + (usage.completion_tokens or 0), cost(whole, self._prices)))

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        """As `Model.stream`."""
        async with self._covered(prompt, limits) as call, aclosing(self._model.stream(prompt, limits)) as events:
            async for event in events:
                if isinstance(event, Progress | Finished):
                    call.usage = event.usage
                yield event

    async def warm(self, prompt: Prompt) -> Usage:
        """As `Model.warm`."""
        async with self._covered(prompt, None) as call:
            call.usage = await self._model.warm(prompt)
        return call.usage

    async def score(self, prompt: Prompt, answer: str) -> float:
        """As `Model.score`."""
        async with self._covered(prompt, None, answer):
            return await self._model.score(prompt, answer)

    async def weigh(self, prompt: Prompt, answer: str, by: Weighing) -> tuple[tuple[tuple[str, float], ...], Usage]:
        """As `Weigher.weigh`."""
        async with self._covered(prompt, None, answer) as call:
            weighed, call.usage = await cast(Weigher, self._model).weigh(prompt, answer, by)
        return weighed, call.usage

    def forget(self) -> None:
        self._model.forget()

    async def aclose(self) -> None:
        """Does nothing: the model serves other requests, too."""
