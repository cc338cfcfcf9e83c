"""A pair behind the wire: which strategy a request gets, and what of its work a client may hear."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from cuecard.domain.call import Call
from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import Outcome
from cuecard.domain.question import AnswerKind
from cuecard.gateway.client_view import Hear, Visible
from cuecard.gateway.config import virtual_models
from cuecard.gateway.config.config import EFFORTS, PairTable, Prices, Upstream
from cuecard.gateway.upstream.cost_limit import Purse
from cuecard.gateway.upstream.pool import Pool
from cuecard.gateway.wire.chat import Asked
from cuecard.gateway.wire.parameters.table import Unknown, settled
from cuecard.models.base import Model
from cuecard.strategies import card_selection
from cuecard.strategies.policy import Policy, policy_with
from cuecard.strategies.run import answer as run
from cuecard.strategies.run import known


@dataclass(frozen=True)
class Plan:
    """How a request is going to be answered."""

    strategy: str
    policy: Policy
    max_cost: float | None = None
    """In the currency of the prices."""
    ignored: tuple[str, ...] = ()
    """Parameters of the request that change nothing."""


class Occupancy:
    """Whether clients' requests are under way, whichever pair answers them."""

    def __init__(self) -> None:
        self.idle, self.busy = asyncio.Event(), asyncio.Event()
        """No client's request is under way; some are."""
        self.idle.set()
        self._under_way = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While a client's request is under way."""
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


class Service:
    """One pair: models in their roles, and what holds where a request does not say."""

    def __init__(
        self,
        models: Mapping[str, Model],
        *,
        strategy: str = "mutual",
        free_form: str = "transfer",
        policy: Policy | None = None,
        pass_to: str | None = None,
        prices: Mapping[str, Prices] | None = None,
        name: str = virtual_models.PAIR,
        aliases: Collection[str] = (),
        efforts: Mapping[str, int] = EFFORTS,
        max_cost: float | None = None,
        occupancy: Occupancy | None = None,
        unknown_parameters: str = Unknown.IGNORE,
    ) -> None:
        self._unknown = Unknown(unknown_parameters)
        known(strategy), known(free_form)
        self.name, self.aliases, self.virtual = name, aliases, virtual_models.virtual(name)
        self.efforts, self.max_cost = efforts, max_cost
        self.pass_to = pass_to
        """The role that gets what is beyond a pair; None: it is refused."""
        self.prices = prices or {}
        """By role; of roles that have any."""
        self.models, self.strategy, self.free_form = models, strategy, free_form
        self.policy = policy or Policy()
        self.concrete = {model.name: role for role, model in models.items() if role in ("small", "large")}
        self.occupancy = occupancy or Occupancy()
        self.under_way = 0
        """Requests that hold this pair's models."""
        self._when_over: Callable[[], None] | None = None

    @classmethod
    def configured(
        cls,
        name: str,
        table: PairTable,
        pool: Callable[[Sequence[Upstream], str], Pool],
        occupancy: Occupancy | None = None,
    ) -> Service:
        """The pair that a configuration describes; `pool` makes, or has, the model of a role.

        Raises BadInput, MissingExtra.
        """
        pools, policy = {role: pool(ones, role) for role, ones in table.roles.items()}, table.policy_of(Policy())
        card_selection.check(policy.cut, pools)
        return cls(
            pools,
            strategy=table.strategy,
            free_form=table.free_form,
            policy=policy,
            pass_to=table.pass_to,
            prices=table.prices,
            unknown_parameters=table.unknown_parameters,
            name=name,
            aliases=table.aliases,
            efforts=table.efforts,
            max_cost=table.max_cost,
            occupancy=occupancy,
        )

    @property
    def served(self) -> list[Model]:
        """Every model itself; of a pool, every replica's."""
        models = self.models.values()
        return [one for model in models for one in (_replicas(model) if isinstance(model, Pool) else [model])]

    def role_of(self, name: str) -> str | None:
        """The role of the model that is named itself; None: the pair is."""
        return None if name in self.virtual or name in self.aliases else self.concrete.get(name)

    @property
    def known_as(self) -> list[str]:
        """Whatever a request may call this pair, and its models."""
        return [*self.virtual, *self.aliases, *self.concrete]

    def plan(self, asked: Asked) -> Plan:
        """Strategy and policy of a request: of its `cuecard` object, its model's name, or the configuration.

        Raises BadInput, UnknownModel.
        """
        settings, most_s = dict(asked.settings), self.policy.deadline_s
        if most_s is not None and "deadline_s" in settings:
            settings["deadline_s"] = min(most_s, settings["deadline_s"])
        wanted, max_cost = settings.pop("strategy", None), self.limited(settings.pop("max_cost", None))
        if (effort := settings.pop("effort", None)) is not None:
            settings.setdefault("budget", self._budget(effort))
        if asked.model in self.virtual or asked.model in self.aliases:
            named, schedule = self.virtual.get(asked.model, (None, None))
            strategy = wanted or named or self._default(asked)
            if schedule is not None:
                settings.setdefault("schedule", schedule)
        elif (role := self.role_of(asked.model)) is not None:
            strategy = f"reason:{role}" if "budget" in settings else f"short:{role}"
        else:
            raise virtual_models.unknown(asked.model, self.known_as)
        known(strategy)
        policy, ignored = self._with_parameters(policy_with(self.policy, **settings), asked, strategy)
        return Plan(strategy, policy, max_cost, ignored)

    def _budget(self, effort: str) -> int:
        """The reasoning tokens of an effort. Raises BadInput."""
        if effort not in self.efforts:
            raise BadInput(f"unknown reasoning_effort {effort!r}", f"there are: none, {', '.join(self.efforts)}")
        return self.efforts[effort]

    def limited(self, wanted: float | None) -> float | None:
        """What a request may cost, if anything limits it: the pair's limit, or its own. Raises BadInput."""
        limits = [limit for limit in (self.max_cost, wanted) if limit is not None]
        if limits and (unpriced := [role for role in self.models if role not in self.prices]):
            message = f"max_cost needs the prices of all models, and there are none for: {', '.join(unpriced)}"
            raise BadInput(
                message,
                "leave it out, or write prices = { prompt = …, completion = … } under each model in cuecard.toml",
            )
        return min(limits, default=None)

    def models_for(self, plan: Plan) -> Mapping[str, Model]:
        """The models, held to what the request may cost."""
        if plan.max_cost is None:
            return self.models
        return Purse(plan.max_cost, self.prices).models(self.models)

    def _with_parameters(self, policy: Policy, asked: Asked, strategy: str) -> tuple[Policy, tuple[str, ...]]:
        """The policy with what the request's parameters ask of its calls, and those that change nothing."""
        honoured = {name for model in self.models.values() for name in model.abilities.honours}
        if strategy.endswith(":small") or strategy == "vote" or not self._honours("logit_bias"):
            honoured.discard("logit_bias")
        extras, ignored = settled(asked.parameters, self._unknown, honoured)
        return replace(policy, limits=replace(policy.limits, extras=extras)), ignored

    def _honours(self, name: str) -> bool:
        return "large" in self.models and name in self.models["large"].abilities.honours

    def _default(self, asked: Asked) -> str:
        return self.free_form if asked.question.kind is AnswerKind.FREE_TEXT else self.strategy

    async def answer(self, asked: Asked, plan: Plan, calls: list[Call], hear: Hear) -> Outcome:
        """The outcome as the client sees it; `hear` gets each piece of its answer before. `calls`: as in `run.answer`.

        Raises what `run.answer` raises, BrokenStream and NoAnswer.
        """
        policy, models = plan.policy, self.models_for(plan)
        visible = Visible(asked, plan.strategy, hear, strict=policy.strict)
        with self.at_work():
            return visible.ended(await run(asked.question, models, plan.strategy, policy, visible.heard, calls=calls))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While a client's request is under way: until it is over, the models stay open."""
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
        """The configuration has another pair instead, or none."""
        return self._when_over is not None

    def retire(self, when_over: Callable[[], None]) -> None:
        """No more requests come; `when_over` is called when the last one has ended, at once if there is none."""
        self._when_over = when_over
        if not self.under_way:
            when_over()


def _replicas(pool: Pool) -> list[Model]:
    return [replica.model for replica in pool.replicas]
