"""The served pairs: which one a request names, and how they are replaced when the configuration changes."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cuecard.domain.errors import BadInput, CuecardError, PairForbidden
from cuecard.gateway.admission.gate import Gate
from cuecard.gateway.admission.keys import Key
from cuecard.gateway.config.config import Config, unknown_model
from cuecard.gateway.config.pairs import PairTable, Upstream
from cuecard.gateway.service import Occupancy, Service
from cuecard.gateway.upstream.pool import Breaker, Pool, Replica
from cuecard.models import spec
from cuecard.models.base import Model

log = logging.getLogger("cuecard.gateway")


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
        meant = [pair for way in ("virtual", "aliases", "concrete") for pair in self if model in getattr(pair, way)]
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
        every = [one.table() for table in tables.values() for role in table.roles.values() for one in role]
        spec.check_memory({json.dumps(one, sort_keys=True): one for one in every}.values())  # equal ones are shared
        return {
            name: kept.get(name) or Service.configured(name, table, self._cache.pool, self._occupancy)
            for name, table in tables.items()
        }

    def _over(self) -> None:
        """Close unused models: the last request of a retired pair has ended."""
        sweep = asyncio.create_task(self._swept())
        self._sweeps.add(sweep)
        sweep.add_done_callback(self._sweeps.discard)

    async def _swept(self) -> None:
        async with self._changing:
            await self._sweep()

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


POLL_S = 1.0
RESTART = ("server", "images", "audit", "journal", "state")
"""Tables whose changes need a restart of the gateway."""


class Reloader:
    """Applies changes of the configuration file. A change that cannot be read or served is only logged."""

    def __init__(
        self,
        file: Path,
        read: Callable[[], Config],
        running: Config,
        pairs: Pairs,
        gate: Gate,
        *,
        tell: Callable[[str], None],
        poll_s: float = POLL_S,
    ) -> None:
        """`read` reads the file; `running` is the configuration that the gateway started with."""
        self._file, self._read, self._started = file, read, running
        self._pairs, self._gate, self._tell, self._poll_s = pairs, gate, tell, poll_s
        self._applied = self._seen = stamp(file)

    async def follow(self, count: Callable[[str], None], arrived: Callable[[Collection[Model]], Any]) -> None:
        """Reload at each SIGHUP or change of the file, until this is cancelled.

        `count` is called with each result, `ok` or `failed`; `arrived` with the new models.
        """
        signalled, loop = asyncio.Event(), asyncio.get_running_loop()
        with suppress(AttributeError, ValueError, RuntimeError):  # on Windows, or in a thread: only the file is watched
            loop.add_signal_handler(signal.SIGHUP, signalled.set)
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(signalled.wait(), self._poll_s)
                if signalled.is_set() or self._has_changed():
                    signalled.clear()
                    await self._reload(count, arrived)
        finally:
            with suppress(AttributeError, ValueError, RuntimeError):
                loop.remove_signal_handler(signal.SIGHUP)

    def _has_changed(self) -> bool:
        """Whether the file has changed, and was the same in two polls, so that it is not being written."""
        before, self._seen = self._seen, stamp(self._file)
        return self._seen == before != self._applied

    async def _reload(self, count: Callable[[str], None], arrived: Callable[[Collection[Model]], Any]) -> None:
        self._applied = self._seen = stamp(self._file)
        try:
            config = await asyncio.to_thread(self._read)
            if self._started.keys and not config.keys:
                raise BadInput("it has no [[keys]] any more", "restart the gateway to let everybody in")
            if config.ledger_path is not None:
                self._gate.state.keep_in(config.ledger_path)
            new = await self._pairs.renew(config)
        except Exception as error:
            words = error if isinstance(error, CuecardError) else f"{type(error).__name__}: {error}"
            self._tell(f"{self._file} was not taken over, what was read before holds: {words}".replace("\n", " "))
            count("failed")
            return
        self._gate.renew(config.keys)
        self._tell(self._words(config))
        count("ok")
        arrived(new)

    def _words(self, config: Config) -> str:
        words = f"{self._file} was read again: pairs {', '.join(config.pairs)}; {len(config.keys)} keys"
        tables = [(name, getattr(self._started, name), getattr(config, name)) for name in RESTART]
        late = [f"{name}.{key}" for name, was, now in tables for key, value in was if value != getattr(now, key)]
        return f"{words}; these need a restart: {', '.join(late)}" if late else words


def stamp(file: Path) -> tuple[int, int, int] | None:
    """Modification time, size and inode of the file, which change when the file does; None if there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
