"""Limits the cost of a request: no call, retry or rescue begins if its worst-case cost exceeds what is left.

The worst case of a call is that of `worst_case`, at the prices of its model.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from cuecard.domain.call import Usage
from cuecard.domain.errors import (
    BadInput,
    CostLimit,
    ModelBusy,
    ModelError,
    ModelRefused,
    ModelUnreachable,
    Unsupported,
)
from cuecard.gateway.config.pairs import Prices
from cuecard.gateway.upstream.pool import Pool, pool_of
from cuecard.gateway.upstream.worst_case import BYTES_PER_TOKEN, MOST_PIXELS, PIXELS_PER_TOKEN, WorstCase
from cuecard.gateway.wire.usage import Json, cost
from cuecard.gateway.wire.values import DATA, everything
from cuecard.models.base import Abilities, Event, Limits, Model, Weighing
from cuecard.models.prompt import Prompt

FREE = (ModelBusy, ModelRefused, ModelUnreachable, Unsupported)
"""Errors of calls that have computed nothing, and so cost nothing."""


@dataclass(eq=False)
class Reservation:
    """The worst-case cost of one running call, reserved from the budget."""

    role: str
    prompt_tokens: int
    most: float
    prices: Prices
    budget: CostBudget
    usage: Usage = field(default_factory=Usage)

    def again(self, error: ModelError) -> None:
        """Charge a failed call, and check that a retry fits the budget. Raises CostLimit."""
        self.budget.spent += self.cost(error)
        self.usage = Usage()
        self.budget.check(self, error)

    def cost(self, error: ModelError | None) -> float:
        """The cost of the call so far; a prompt that no server has counted is estimated by its length."""
        if self.usage == Usage() and isinstance(error, FREE):
            return 0.0
        prompt = self.prompt_tokens if self.usage.prompt_tokens is None else self.usage.prompt_tokens
        return cost(replace(self.usage, prompt_tokens=prompt), self.prices)


class CostBudget:
    """The remaining cost budget of one request."""

    def __init__(self, most: float, prices: Mapping[str, Prices]) -> None:
        self._most, self._prices = most, prices
        self.spent = 0.0
        self._held: list[Reservation] = []
        self._cases = WorstCase()

    def models(self, models: Mapping[str, Model]) -> Mapping[str, Model]:
        """The models, each limited by this budget; one without a pool gets a pool of its own."""
        pools = {role: model if isinstance(model, Pool) else pool_of(model) for role, model in models.items()}
        return {role: CostLimitedModel(pool, role, self) for role, pool in pools.items()}

    @contextmanager
    def call(self, role: str, prompt: Prompt, limits: Limits | None, more: str = "") -> Iterator[Reservation]:
        """Reserve the worst-case cost of a call while it runs, then charge what it has used. Raises CostLimit.

        `limits`: None if it decodes nothing.
        """
        prompt_tokens = self._cases.prompt_tokens(role, prompt, more)
        most = at_most(*self._cases.tokens(prompt_tokens, prompt, limits), self._prices[role])
        hold = Reservation(role, prompt_tokens, most, self._prices[role], self)
        self.check(hold)
        self._held.append(hold)
        failed: ModelError | None = None
        try:
            yield hold
        except ModelError as error:
            failed = error
            raise
        finally:
            self._held.remove(hold)
            if not isinstance(failed, CostLimit):
                self.spent += hold.cost(failed)
            self._cases.learn(role, hold.prompt_tokens, hold.usage)

    def check(self, hold: Reservation, cause: ModelError | None = None) -> None:
        """Raises CostLimit if the worst case exceeds what is left."""
        left = self._most - self.spent - sum(each.most for each in self._held if each is not hold)
        if hold.most <= left * (1 + 1e-9):
            return
        more = f"the next call of the {hold.role} model could cost {hold.most:.3g}"
        raise CostLimit(f"{more}, and {max(0.0, left):.3g} of max_cost {self._most:.3g} is left") from cause


def at_most(prompt_tokens: int, completion_tokens: int, prices: Prices) -> float:
    """The highest price of these tokens, with a cached or an uncached prompt."""
    used = Usage(prompt_tokens, None, completion_tokens)
    return max(cost(used, prices), cost(replace(used, cached_tokens=prompt_tokens), prices))


class CostLimitedModel:
    """A model that makes no call whose worst case exceeds its budget, and never warms a prompt."""

    def __init__(self, model: Pool, role: str, budget: CostBudget) -> None:
        self._model, self._role, self._budget = model, role, budget

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def abilities(self) -> Abilities:
        return replace(self._model.abilities, prefix_sessions=False)

    def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        """As `Model.stream`. Raises CostLimit."""
        return self._model.stream(prompt, limits, self._budget.call(self._role, prompt, limits))

    async def warm(self, prompt: Prompt) -> Usage:
        """As `Model.warm`; always raises Unsupported."""
        raise Unsupported(f"{self.name} reads nothing ahead where max_cost is set")

    async def score(self, prompt: Prompt, answer: str) -> float:
        """As `Model.score`. Raises CostLimit."""
        with self._budget.call(self._role, prompt, None, answer):
            return await self._model.score(prompt, answer)

    async def weigh(self, prompt: Prompt, answer: str, by: Weighing) -> tuple[tuple[tuple[str, float], ...], Usage]:
        """As `Weigher.weigh`. Raises CostLimit."""
        with self._budget.call(self._role, prompt, None, answer) as hold:
            weighed, hold.usage = await self._model.weigh(prompt, answer, by)
        return weighed, hold.usage

    def forget(self) -> None:
        self._model.forget()

    async def aclose(self) -> None:
        """Does nothing: the model serves other requests, too."""


def passed_tokens(body: Json) -> tuple[int, int | None]:
    """The most tokens that a request reads and generates if it is passed on unchanged; None: it sets no limit.

    An image counts as 16 megapixels.
    """
    tokens, several = body.get("max_completion_tokens") or body.get("max_tokens"), body.get("n") or 1
    data = [each for each in everything(body) if isinstance(each, str) and each[: len(DATA)].lower() == DATA]
    text = len(json.dumps(body, ensure_ascii=False).encode(errors="replace")) - sum(map(len, data))
    prompt_tokens = math.ceil(text / BYTES_PER_TOKEN) + len(data) * math.ceil(MOST_PIXELS / PIXELS_PER_TOKEN)
    if isinstance(tokens, int) and isinstance(several, int) and tokens >= 1 and several >= 1:
        return prompt_tokens, several * tokens
    return prompt_tokens, None


def check_passed(body: Json, prices: Prices, most: float) -> None:
    """Check the worst-case cost of a request that is passed on unchanged.

    Raises CostLimit, or BadInput if the request sets no limit of tokens.
    """
    prompt_tokens, answer_tokens = passed_tokens(body)
    if answer_tokens is None:
        message = "max_cost needs max_completion_tokens in what is passed on to one model"
        raise BadInput(message, "give it", param="max_completion_tokens")
    worst = at_most(prompt_tokens, answer_tokens, prices)
    if worst > most:
        raise CostLimit(f"this could cost {worst:.3g}, and max_cost is {most:.3g}")
