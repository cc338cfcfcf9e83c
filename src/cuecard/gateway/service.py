"""A served pair: its models, and the strategy and policy of each request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind
from cuecard.gateway.config.config import PAIR, unknown_model, virtual_models
from cuecard.gateway.config.pairs import EFFORTS, PairTable, Prices, Upstream
from cuecard.gateway.upstream.cost_limit import CostBudget
from cuecard.gateway.upstream.pool import Pool
from cuecard.gateway.wire.parameters import Unknown, settled
from cuecard.gateway.wire.request import ParsedRequest
from cuecard.gateway.wire.values import reading
from cuecard.models.base import Model
from cuecard.strategies import card_selection
from cuecard.strategies.policy import Policy, policy_with
from cuecard.strategies.run import known

PARAMS = {
    "answer_tokens": "max_completion_tokens",
    "deadline_s": "cuecard.max_latency_ms",
    **{name: name for name in ("temperature", "top_p", "seed")},
}
"""Setting -> the request parameter that sets it; the `cuecard` object has the other settings."""
FROM_TABLE = (*("aliases", "strategy", "free_form", "pass_to", "prices", "efforts", "max_cost", "unknown_parameters"),)


@dataclass(frozen=True)
class RequestPlan:
    """How a request will be answered."""

    strategy: str
    policy: Policy
    max_cost: float | None = None
    """In the currency of the prices."""
    ignored: tuple[str, ...] = ()
    """Parameters of the request that have no effect."""


class Occupancy:
    """Whether any client's request is running, over all pairs."""

    def __init__(self) -> None:
        self.idle, self.busy = asyncio.Event(), asyncio.Event()
        """Set while no client's request is running; set while some are."""
        self.idle.set()
        self._under_way = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Encloses a client's request while it is running."""
        self._under_way += 1
        self.idle.clear()
        self.busy.set()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self.busy.clear()
                self.idle.set()


@dataclass(eq=False)
class Service:
    """One pair: models in their roles, and the default settings of its requests."""

    models: Mapping[str, Model]
    _: KW_ONLY
    name: str = PAIR
    aliases: Collection[str] = ()
    occupancy: Occupancy = field(default_factory=Occupancy)
    strategy: str = "mutual"
    free_form: str = "transfer"
    """The strategy of questions with a free-text answer."""
    policy: Policy = field(default_factory=Policy)
    pass_to: str | None = None
    """The role that gets requests that a pair cannot answer; None: they are refused."""
    prices: Mapping[str, Prices] = field(default_factory=dict)
    """By role, of roles that have prices."""
    efforts: Mapping[str, int] = field(default_factory=lambda: EFFORTS)
    """`reasoning_effort` -> reasoning tokens."""
    max_cost: float | None = None
    """In the currency of the prices; None: no limit."""
    unknown_parameters: str = Unknown.IGNORE
    """A value of `Unknown`."""

    def __post_init__(self) -> None:
        """Raises BadInput for an unknown strategy."""
        known(self.strategy), known(self.free_form)
        self.virtual = virtual_models(self.name)
        self.concrete = {model.name: role for role, model in self.models.items() if role in ("small", "large")}
        self.under_way = 0
        """Requests that hold this pair's models."""
        self._when_over: Callable[[], None] | None = None

    @classmethod
    def configured(
        cls, name: str, table: PairTable, pool: Callable[[Sequence[Upstream], str], Pool], occupancy: Occupancy
    ) -> Service:
        """The pair that a configuration describes; `pool` returns the model of a role.

        Raises BadInput, MissingExtra.
        """
        pools, policy = {role: pool(ones, role) for role, ones in table.roles.items()}, table.policy_of(Policy())
        card_selection.check(policy.cut, pools)
        policy.accept_of(pools)
        same = {each: getattr(table, each) for each in FROM_TABLE}
        return cls(pools, name=name, policy=policy, occupancy=occupancy, **same)

    @property
    def served(self) -> list[Model]:
        """Every model; of a pool, the models of its replicas."""
        pools = [model.replicas if isinstance(model, Pool) else [] for model in self.models.values()]
        alone = [model for model in self.models.values() if not isinstance(model, Pool)]
        return [*alone, *(replica.model for replicas in pools for replica in replicas)]

    def role_of(self, name: str) -> str | None:
        """The role of a model by its own name; None for a name of the pair, or an unknown one."""
        return None if name in self.virtual or name in self.aliases else self.concrete.get(name)

    @property
    def known_as(self) -> list[str]:
        """All names of this pair, and of its models."""
        return [*self.virtual, *self.aliases, *self.concrete]

    def plan(self, parsed: ParsedRequest) -> RequestPlan:
        """Strategy and policy of a request, from its `cuecard` object, its model's name, or the configuration.

        Raises BadInput, UnknownModel.
        """
        settings, most_s = dict(parsed.settings), self.policy.deadline_s
        if most_s is not None and "deadline_s" in settings:
            settings["deadline_s"] = min(most_s, settings["deadline_s"])
        wanted, max_cost = settings.pop("strategy", None), self.limited(settings.pop("max_cost", None))
        if (effort := settings.pop("effort", None)) is not None:
            settings.setdefault("budget", self._budget(effort))
        if parsed.model in self.virtual or parsed.model in self.aliases:
            named, schedule = self.virtual.get(parsed.model, (None, None))
            is_free = parsed.question.kind is AnswerKind.FREE_TEXT
            strategy = wanted or named or (self.free_form if is_free else self.strategy)
            if schedule is not None:
                settings.setdefault("schedule", schedule)
        elif (role := self.role_of(parsed.model)) is not None:
            strategy = f"reason:{role}" if "budget" in settings else f"short:{role}"
        else:
            raise unknown_model(parsed.model, self.known_as)
        with reading("cuecard.strategy"):
            known(strategy)
        policy = self._policy(settings)
        with reading("cuecard.accept"):
            policy.accept_of(self.models)
        policy, ignored = self._with_parameters(policy, parsed, strategy)
        return RequestPlan(strategy, policy, max_cost, ignored)

    def _policy(self, settings: Mapping[str, Any]) -> Policy:
        """The policy with a request's settings. Raises BadInput; its `param` is the setting that makes it invalid."""
        try:
            return policy_with(self.policy, **settings)
        except BadInput as error:
            for name in settings:
                with suppress(BadInput):
                    policy_with(self.policy, **{each: settings[each] for each in settings if each != name})
                    error.param = PARAMS.get(name, f"cuecard.{name}")
                    break
            raise

    def _budget(self, effort: str) -> int:
        """The reasoning tokens of an effort. Raises BadInput."""
        if effort not in self.efforts:
            hint = f"there are: none, {', '.join(self.efforts)}"
            raise BadInput(f"unknown reasoning_effort {effort!r}", hint, param="reasoning_effort")
        return self.efforts[effort]

    def limited(self, wanted: float | None) -> float | None:
        """The most that a request may cost: the lower of the pair's limit and its own. Raises BadInput."""
        limits = [limit for limit in (self.max_cost, wanted) if limit is not None]
        if limits and (unpriced := [role for role in self.models if role not in self.prices]):
            message = f"max_cost needs the prices of all models, and there are none for: {', '.join(unpriced)}"
            hint = "leave it out, or write prices = { prompt = …, completion = … } under each model in cuecard.toml"
            raise BadInput(message, hint, param="cuecard.max_cost")
        return min(limits, default=None)

    def models_for(self, plan: RequestPlan) -> Mapping[str, Model]:
        """The models, limited to what the request may cost."""
        if plan.max_cost is None:
            return self.models
        return CostBudget(plan.max_cost, self.prices).models(self.models)

    def _with_parameters(self, policy: Policy, parsed: ParsedRequest, strategy: str) -> tuple[Policy, tuple[str, ...]]:
        """The policy with the request's parameters, and the names of parameters that have no effect."""
        large_honours = "large" in self.models and "logit_bias" in self.models["large"].abilities.honours
        honoured = {name for model in self.models.values() for name in model.abilities.honours}
        if strategy.endswith(":small") or strategy == "vote" or not large_honours:
            honoured.discard("logit_bias")
        extras, ignored = settled(parsed.parameters, Unknown(self.unknown_parameters), honoured)
        return replace(policy, limits=replace(policy.limits, extras=extras)), ignored

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Encloses a client's request while it is running: until it ends, the models stay open."""
        self.under_way += 1
        try:
            with self.occupancy.at_work():
                yield
        finally:
            self.under_way -= 1
            if not self.under_way and self._when_over is not None:
                self._when_over()

    @property
    def is_retired(self) -> bool:
        """Whether the pair is no longer served."""
        return self._when_over is not None

    def retire(self, when_over: Callable[[], None]) -> None:
        """Stop serving the pair; `when_over` is called when its last request has ended, immediately if none runs."""
        self._when_over = when_over
        if not self.under_way:
            when_over()
