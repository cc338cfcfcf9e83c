"""The served pairs: strategy and policy of each request, and how pairs are replaced when the configuration changes."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

from cuecard.domain.errors import BadInput, PairForbidden
from cuecard.domain.question import AnswerKind
from cuecard.gateway.config import PAIR, Config, unknown_model, virtual_models
from cuecard.gateway.tables import Key, PairSettings, PairTable, Prices, Upstream, check_memory
from cuecard.gateway.wire.parameters import Unknown, reading, settled
from cuecard.gateway.wire.request import ParsedRequest
from cuecard.models import spec
from cuecard.models.base import Model
from cuecard.models.pool import Breaker, Pool, Replica
from cuecard.strategies import card_selection
from cuecard.strategies.policy import Policy
from cuecard.strategies.policy_file import policy_with
from cuecard.strategies.run import known

log = logging.getLogger("cuecard.gateway")
PARAMS = {
    "answer_tokens": "max_completion_tokens",
    "deadline_s": "cuecard.max_latency_ms",
    **{name: name for name in ("temperature", "top_p", "seed")},
}
"""Setting -> the request parameter that sets it; the `cuecard` object has the other settings."""


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
    settings: PairSettings = field(default_factory=PairSettings)
    """What its requests do by default; the policy's options are in `policy`."""
    policy: Policy = field(default_factory=Policy)
    prices: Mapping[str, Prices] = field(default_factory=dict)
    """By role, of roles that have prices."""
    occupancy: Occupancy = field(default_factory=Occupancy)

    def __post_init__(self) -> None:
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
        own = PairSettings(**{each: getattr(table, each) for each in PairSettings.model_fields})
        return cls(pools, name=name, settings=own, policy=policy, prices=table.prices, occupancy=occupancy)

    @property
    def served(self) -> list[Model]:
        """Every model; of a pool, the models of its replicas."""
        pooled = [model.replicas for model in self.models.values() if isinstance(model, Pool)]
        alone = [model for model in self.models.values() if not isinstance(model, Pool)]
        return [*alone, *(replica.model for replicas in pooled for replica in replicas)]

    def role_of(self, name: str) -> str | None:
        """The role of a model by its own name; None for a name of the pair, or an unknown one."""
        return None if name in self.virtual or name in self.settings.aliases else self.concrete.get(name)

    @property
    def known_as(self) -> list[str]:
        """All names of this pair, and of its models."""
        return [name for names in self.names for name in names]

    @property
    def names(self) -> tuple[Collection[str], Collection[str], Collection[str]]:
        """Names of the pair, its aliases, and names of its models."""
        return self.virtual, self.settings.aliases, self.concrete

    def plan(self, parsed: ParsedRequest) -> RequestPlan:
        """Strategy and policy of a request, from its `cuecard` object, its model's name, or the configuration.

        Raises BadInput, UnknownModel.
        """
        settings, most_s = dict(parsed.settings), self.policy.deadline_s
        if most_s is not None and "deadline_s" in settings:
            settings["deadline_s"] = min(most_s, settings["deadline_s"])
        wanted, max_cost = settings.pop("strategy", None), self.limited(settings.pop("max_cost", None))
        if (effort := settings.pop("effort", None)) is not None:
            if effort not in self.settings.efforts:
                hint = f"there are: none, {', '.join(self.settings.efforts)}"
                raise BadInput(f"unknown reasoning_effort {effort!r}", hint, param="reasoning_effort")
            settings.setdefault("budget", self.settings.efforts[effort])
        if parsed.model in self.virtual or parsed.model in self.settings.aliases:
            named, schedule = self.virtual.get(parsed.model, (None, None))
            is_free = parsed.question.kind is AnswerKind.FREE_TEXT
            strategy = wanted or named or (self.settings.free_form if is_free else self.settings.strategy)
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
        large_honours = "large" in self.models and "logit_bias" in self.models["large"].abilities.honours
        honoured = {name for model in self.models.values() for name in model.abilities.honours}
        if strategy.endswith(":small") or strategy == "vote" or not large_honours:
            honoured.discard("logit_bias")
        extras, ignored = settled(parsed.parameters, Unknown(self.settings.unknown_parameters), honoured)
        policy = replace(policy, limits=replace(policy.limits, extras=extras))
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

    def limited(self, wanted: float | None) -> float | None:
        """The most that a request may cost: the lower of the pair's limit and its own. Raises BadInput."""
        limits = [limit for limit in (self.settings.max_cost, wanted) if limit is not None]
        if limits and (unpriced := [role for role in self.models if role not in self.prices]):
            message = f"max_cost needs the prices of all models, and there are none for: {', '.join(unpriced)}"
            hint = "leave it out, or write prices = { prompt = …, completion = … } under each model in cuecard.toml"
            raise BadInput(message, hint, param="cuecard.max_cost")
        return min(limits, default=None)

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


# --- pairs and their models -------------------------------------------------------------------------------------------

Load = Callable[[Mapping[str, Any], str], tuple[Model, Breaker]]
"""From a model's table and its role to the model and its circuit breaker. Raises BadInput, MissingExtra, ModelError."""


def loaded(table: Mapping[str, Any], role: str) -> tuple[Model, Breaker]:
    """The model of a table, in this process or as a client of its server."""
    return spec.load(table, role), Breaker(time.monotonic)


class ModelCache:
    """Loaded models by their tables in the configuration: equal tables share one model."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._models: dict[str, tuple[Model, Breaker]] = {}
        self._pools: dict[tuple[tuple[str, float, int | None], ...], Pool] = {}

    def pool(self, upstreams: Sequence[Upstream], role: str) -> Pool:
        """The model of a role, with its connections and breakers. Raises BadInput, MissingExtra, ModelError."""
        tables = [json.dumps(one.table(), sort_keys=True) for one in upstreams]
        key = tuple((table, one.weight, one.most_at_once) for table, one in zip(tables, upstreams, strict=True))
        if key not in self._pools:
            for table, one in zip(tables, upstreams, strict=True):
                if table not in self._models:
                    self._models[table] = self._load(one.table(), role)
            self._pools[key] = Pool([Replica(*self._models[table], weight, most) for table, weight, most in key])
        return self._pools[key]

    def keep_for(self, pairs: Sequence[Service]) -> list[Model]:
        """Forget the models that none of these pairs uses, and return them to be closed."""
        pools = {id(model) for pair in pairs for model in pair.models.values()}
        there = {id(model) for pair in pairs for model in pair.served}
        unused = [model for model, _ in self._models.values() if id(model) not in there]
        self._models = {table: kept for table, kept in self._models.items() if id(kept[0]) in there}
        self._pools = {key: pool for key, pool in self._pools.items() if id(pool) in pools}
        return unused


class Pairs:
    """The pairs by name, in the order of the configuration."""

    def __init__(self, services: Sequence[Service], occupancy: Occupancy | None = None, load: Load = loaded) -> None:
        self._services = {service.name: service for service in services}
        self._occupancy = occupancy or services[0].occupancy
        self._tables: Mapping[str, PairTable] = {}
        self._cache = ModelCache(load)
        self._retired: list[Service] = []
        self._changing = asyncio.Lock()
        self._sweeps: set[asyncio.Task[None]] = set()

    @classmethod
    def configured(cls, config: Config, load: Load = loaded) -> Pairs:
        """The pairs of a configuration, with models that `load` returns. Raises BadInput, MissingExtra, ModelError."""
        pairs = cls([], Occupancy(), load)
        pairs._services, pairs._tables = pairs._made(config.pairs), config.pairs
        return pairs

    def __iter__(self) -> Iterator[Service]:
        return iter(self._services.values())

    @property
    def first(self) -> Service:
        return next(iter(self))

    def of(self, model: str, key: Key) -> Service:
        """The pair that a request's model names: a pair's name first, then an alias, then a concrete model.

        If several pairs have this name, it is the first that the key may use. Raises UnknownModel, PairForbidden.
        """
        meant = [pair for way in (0, 1, 2) for pair in self if model in pair.names[way]]
        if not meant:
            raise unknown_model(model, self.known_as(key))
        allowed = [pair for pair in meant if key.may_use(pair.name)]
        if not allowed:
            hint = f"it is for: {', '.join(sorted(key.pairs or ()))}"
            raise PairForbidden(f"the API key {key.name} is not for the model {model!r}", hint, param="model")
        return allowed[0]

    def known_as(self, key: Key) -> list[str]:
        """The model names that a request with this key may use."""
        return list(dict.fromkeys(name for pair in self if key.may_use(pair.name) for name in pair.known_as))

    async def renew(self, config: Config) -> list[Model]:
        """Serve the pairs of another configuration, and return the new models; running requests keep their models.

        Unchanged pairs are kept. Raises as `configured`, and then nothing changes.
        """
        async with self._changing:
            before = {id(model) for pair in self for model in pair.served}
            try:
                services = await asyncio.to_thread(self._made, config.pairs)
            except BaseException:
                await self._sweep()
                raise
            gone = [pair for pair in self if pair not in services.values()]
            self._services, self._tables = services, config.pairs
            self._retired += gone
        for pair in gone:
            pair.retire(self._over)
        return [model for pair in self for model in pair.served if id(model) not in before]

    def _made(self, tables: Mapping[str, PairTable]) -> dict[str, Service]:
        """A service for each pair: the old one if nothing has changed."""
        kept = {name: self._services[name] for name in self._services if tables.get(name) == self._tables.get(name)}
        check_memory(tables)
        return {
            name: kept.get(name) or Service.configured(name, table, self._cache.pool, self._occupancy)
            for name, table in tables.items()
        }

    def _over(self) -> None:
        """Close unused models: the last request of a retired pair has ended."""

        async def swept() -> None:
            async with self._changing:
                await self._sweep()

        sweep = asyncio.create_task(swept())
        self._sweeps.add(sweep)
        sweep.add_done_callback(self._sweeps.discard)

    async def _sweep(self) -> None:
        """Close the models that no pair and no request uses."""
        self._retired = [pair for pair in self._retired if pair.under_way]
        await _closed(self._cache.keep_for([*self, *self._retired]))

    async def aclose(self) -> None:
        """Close every model."""
        for sweep in list(self._sweeps):
            await asyncio.wait([sweep])
        served = [model for pair in (*self, *self._retired) for model in pair.served]
        await _closed({id(model): model for model in served}.values())


async def _closed(models: Collection[Model]) -> None:
    for ended in await asyncio.gather(*(model.aclose() for model in models), return_exceptions=True):
        if isinstance(ended, BaseException):
            log.warning("a model could not be closed: %s", ended)
