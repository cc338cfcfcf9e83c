"""What calls may spend: no call begins if its worst case exceeds the request's `max_cost`, or the key's budgets.

The worst case of a call is its estimated prompt, and every token that its limits allow, at the prices of its model. A
prompt is estimated at one token for every three bytes of its texts (in UTF-8), 16 for each message, and one for every
28 by 28 pixels of an image, 256 at least. If a server counts more than that in a call of the request, later estimates
are scaled up accordingly.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace

from cuecard.domain.call import Call, Mode, Usage
from cuecard.domain.errors import (
    BadInput,
    CostLimit,
    ModelBusy,
    ModelError,
    ModelRefused,
    ModelUnreachable,
    Unsupported,
)
from cuecard.domain.question import Image
from cuecard.gateway.admission.limits import Amount, Lease
from cuecard.gateway.tables import Prices, cost
from cuecard.gateway.wire.parameters import DATA, Json, everything
from cuecard.gateway.wire.request import TOKENS_PER_IMAGE
from cuecard.models.base import Abilities, Event, Finished, ForwardingModel, Limits, Model, Progress, Weighed, Weighing
from cuecard.models.images import decoding
from cuecard.models.pool import Pool, pool_of
from cuecard.models.prompt import Prompt

BYTES_PER_TOKEN, TOKENS_PER_MESSAGE, PIXELS_PER_TOKEN, MOST_PIXELS = 3, 16, 28 * 28, 2**24


def tokens_of_text(text: str) -> int:
    return math.ceil(len(text.encode(errors="replace")) / BYTES_PER_TOKEN)


def tokens_of_image(image: Image) -> int:
    header = decoding.header_of(image.data)
    return max(TOKENS_PER_IMAGE, math.ceil((header.pixels if header else MOST_PIXELS) / PIXELS_PER_TOKEN))


class WorstCase:
    """Estimates the worst cases of one request's calls."""

    def __init__(self) -> None:
        self._longer: dict[str, float] = {}
        """Role -> the ratio of prompt tokens that its server has counted to the estimate, at least 1."""
        self._images: dict[str, int] = {}

    def call(self, role: str, prompt: Prompt, limits: Limits | None, more: str, prices: Prices) -> RunningCall:
        """A call that is about to run; `limits`: None if it decodes nothing, `more`: a text after the prompt."""
        texts = sum(tokens_of_text(turn.text) for turn in prompt.turns) + tokens_of_text(prompt.opening)
        images = sum(self._of_image(image) for image in prompt.images)
        plain = texts + images + TOKENS_PER_MESSAGE * (len(prompt.turns) + 1)
        read = prompt_tokens = math.ceil(plain * self._longer.get(role, 1.0)) + tokens_of_text(more)
        written = 1
        if limits is not None:
            most = limits.of(prompt)
            written = most.answer_tokens
            if prompt.mode is Mode.REASON:  # a cut reasoning is sent again, closed, for its answer
                read, written = 2 * read + most.reasoning_tokens, 2 * written + most.reasoning_tokens
        return RunningCall(role, prices, prompt_tokens, Amount(read + written, at_most(read, written, prices)))

    def learn(self, call: RunningCall) -> None:
        """Compare the estimate of a prompt with what its server has counted."""
        counted, longer = call.usage.prompt_tokens, self._longer.get(call.role, 1.0)
        if counted and call.prompt_tokens and call.usage.completion_tokens is not None:
            self._longer[call.role] = max(longer, longer * counted / call.prompt_tokens)

    def _of_image(self, image: Image) -> int:
        if image.digest not in self._images:
            self._images[image.digest] = tokens_of_image(image)
        return self._images[image.digest]


@dataclass(eq=False)
class RunningCall:
    """A call, the most that it uses, and its usage so far; a prompt that no server has counted is estimated."""

    role: str
    prices: Prices
    prompt_tokens: int
    most: Amount
    usage: Usage = field(default_factory=Usage)
    budget: CostBudget | None = None
    """The budget that its retries are charged to."""

    def again(self, error: ModelError) -> None:
        """Charge a failed call, and check that a retry fits the budget. Raises CostLimit."""
        if self.budget is not None:
            self.budget.charge(self, error)
            self.usage = Usage()
            self.budget.check(self, error)

    @property
    def used(self) -> Amount:
        prompt_tokens = self.prompt_tokens if self.usage.prompt_tokens is None else self.usage.prompt_tokens
        price = cost(replace(self.usage, prompt_tokens=prompt_tokens), self.prices)
        return Amount(prompt_tokens + (self.usage.completion_tokens or 0), price)


def at_most(prompt_tokens: int, completion_tokens: int, prices: Prices) -> float:
    """The highest price of these tokens, with a cached or an uncached prompt."""
    used = Usage(prompt_tokens, None, completion_tokens)
    return max(cost(used, prices), cost(replace(used, cached_tokens=prompt_tokens), prices))


class CoveredModel(ForwardingModel):
    """A model whose calls each run inside a context: it reserves their worst case, and charges what they use."""

    def covered(
        self, prompt: Prompt, limits: Limits | None, more: str = ""
    ) -> AbstractAsyncContextManager[RunningCall]:
        """The context of a call; `limits` and `more` as in `WorstCase.call`."""
        raise NotImplementedError

    async def warm(self, prompt: Prompt) -> Usage:
        async with self.covered(prompt, None) as call:
            call.usage = await super().warm(prompt)
        return call.usage

    async def score(self, prompt: Prompt, answer: str) -> float:
        async with self.covered(prompt, None, answer):
            return await super().score(prompt, answer)

    async def weigh(self, prompt: Prompt, answer: str, by: Weighing) -> tuple[Weighed, Usage]:
        async with self.covered(prompt, None, answer) as call:
            weighed, call.usage = await super().weigh(prompt, answer, by)
        return weighed, call.usage

    async def aclose(self) -> None:
        """Does nothing: the model serves other requests, too."""


# --- the cost of a request --------------------------------------------------------------------------------------------

COSTLESS = (ModelBusy, ModelRefused, ModelUnreachable, Unsupported)
"""Errors of calls that have computed nothing, and so cost nothing."""


class CostBudget:
    """The remaining cost budget of one request."""

    def __init__(self, most: float, prices: Mapping[str, Prices]) -> None:
        self._most, self._prices = most, prices
        self.spent = 0.0
        self._running: list[RunningCall] = []
        self._cases = WorstCase()

    def models(self, models: Mapping[str, Model]) -> Mapping[str, Model]:
        """The models, each limited by this budget; one without a pool gets a pool of its own."""
        pools = {role: model if isinstance(model, Pool) else pool_of(model) for role, model in models.items()}
        return {role: CostLimitedModel(pool, role, self) for role, pool in pools.items()}

    @contextmanager
    def call(self, role: str, prompt: Prompt, limits: Limits | None, more: str = "") -> Iterator[RunningCall]:
        """Reserve the worst-case cost of a call while it runs, then charge what it has used. Raises CostLimit.

        `limits` and `more` as in `WorstCase.call`.
        """
        call = replace(self._cases.call(role, prompt, limits, more, self._prices[role]), budget=self)
        self.check(call)
        self._running.append(call)
        failed: ModelError | None = None
        try:
            yield call
        except ModelError as error:
            failed = error
            raise
        finally:
            self._running.remove(call)
            if not isinstance(failed, CostLimit):
                self.charge(call, failed)
            self._cases.learn(call)

    def charge(self, call: RunningCall, failed: ModelError | None) -> None:
        """Charge what a call has used, unless it failed before it computed anything."""
        if call.usage != Usage() or not isinstance(failed, COSTLESS):
            self.spent += call.used.cost

    def check(self, call: RunningCall, cause: ModelError | None = None) -> None:
        """Raises CostLimit if the worst case exceeds what is left."""
        left = self._most - self.spent - sum(each.most.cost for each in self._running if each is not call)
        if call.most.cost <= left * (1 + 1e-9):
            return
        more = f"the next call of the {call.role} model could cost {call.most.cost:.3g}"
        raise CostLimit(f"{more}, and {max(0.0, left):.3g} of max_cost {self._most:.3g} is left") from cause


class CostLimitedModel(CoveredModel):
    """A model that makes no call whose worst case exceeds its budget (CostLimit), and never warms a prompt."""

    def __init__(self, model: Pool, role: str, budget: CostBudget) -> None:
        super().__init__(model)
        self._pool, self._role, self._budget = model, role, budget

    @property
    def abilities(self) -> Abilities:
        return replace(self.model.abilities, prefix_sessions=False)

    @asynccontextmanager
    async def covered(self, prompt: Prompt, limits: Limits | None, more: str = "") -> AsyncIterator[RunningCall]:
        with self._budget.call(self._role, prompt, limits, more) as call:
            yield call

    def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        return self._pool.stream(prompt, limits, self._budget.call(self._role, prompt, limits))

    async def warm(self, prompt: Prompt) -> Usage:
        """As `Model.warm`; always raises Unsupported."""
        raise Unsupported(f"{self.name} reads nothing ahead where max_cost is set")


def charge(calls: Sequence[Call], prompt_tokens: int) -> int:
    """Tokens that are charged for calls: those counted by servers, and an estimate for prompts that are not.

    Some servers report a prompt's tokens only at the end: a call that is cancelled before is charged `prompt_tokens`.
    """
    total = 0
    for call in calls:
        prompt = call.usage.prompt_tokens
        total += prompt_tokens if prompt is None and call.cancelled else prompt or 0
        total += call.usage.completion_tokens or 0
    return total


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


# --- the budgets of a key ---------------------------------------------------------------------------------------------

NO_PRICES = Prices()
UNLIMITED_TOKENS = 16_384
"""Reserved for the answer to a request that is passed on and sets no limit of tokens."""


def leased(models: Mapping[str, Model], lease: Lease, prices: Mapping[str, Prices]) -> Mapping[str, Model]:
    """The models, their calls covered by the lease; as they are if it reserves nothing. `prices`: by role."""
    if lease.held is None:
        return models
    cases = WorstCase()
    return {role: LeasedModel(model, role, lease, prices.get(role, NO_PRICES), cases) for role, model in models.items()}


def estimate(prompt_tokens: int, limits: Limits, answer_tokens: int, prices: Mapping[str, Prices]) -> Amount:
    """What a request of a pair probably uses at most: two short calls, a reasoning, and a call that reads it."""
    read, written = 4 * prompt_tokens + limits.reasoning_tokens, 4 * answer_tokens + limits.reasoning_tokens
    both = [prices.get(role, NO_PRICES) for role in ("small", "large")]
    return Amount(read + written, sum(at_most(read, written, each) for each in both) / len(both))


def passed_estimate(body: Json, prices: Prices | None) -> Amount:
    """The most that a request that is passed on uses; without a limit of tokens it counts as UNLIMITED_TOKENS."""
    read, written = passed_tokens(body)
    written = UNLIMITED_TOKENS if written is None else written
    return Amount(read + written, at_most(read, written, prices or NO_PRICES))


class LeasedModel(CoveredModel):
    """A model whose calls are covered by a lease. All methods that call it raise BudgetReached."""

    def __init__(self, model: Model, role: str, lease: Lease, prices: Prices, cases: WorstCase) -> None:
        super().__init__(model)
        self._role, self._lease, self._prices, self._cases = role, lease, prices, cases

    @asynccontextmanager
    async def covered(self, prompt: Prompt, limits: Limits | None, more: str = "") -> AsyncIterator[RunningCall]:
        call = self._cases.call(self._role, prompt, limits, more, self._prices)
        async with self._lease.call(call.most) as used:
            try:
                yield call
            finally:
                self._cases.learn(call)
                used.append(call.used)

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        async with self.covered(prompt, limits) as call, aclosing(self.model.stream(prompt, limits)) as events:
            async for event in events:
                if isinstance(event, Progress | Finished):
                    call.usage = event.usage
                yield event
