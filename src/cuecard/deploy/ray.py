"""Pairs on Ray Serve: a deployment for each role, which loads and runs its models, and stateless gateways before them.

serve run cuecard.deploy.ray:build small=demo-small large=demo-large
serve deploy deploy/ray.yaml

A gateway calls a model's methods in a replica through a deployment handle. Prompts and events are the values of the
Model protocol, so a remote model streams, warms, scores and reports log probabilities as one in the gateway's process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
import weakref
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from contextvars import Context
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import click
from pydantic import Field, ValidationError
from ray import exceptions, serve
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError, RayServeException

from cuecard.domain.call import Usage
from cuecard.domain.errors import BadInput, CuecardError, ModelBusy, ModelError, ModelUnreachable
from cuecard.gateway.app import application, assembled, gate_of
from cuecard.gateway.config import Config, chosen
from cuecard.gateway.pairs import Pairs, loaded
from cuecard.gateway.tables import StrictTable
from cuecard.models import probe, spec
from cuecard.models.base import Abilities, Event, Finished, Limits, Model, Weighed, Weighing
from cuecard.models.local.engine import VARIABLE
from cuecard.models.pool import Breaker
from cuecard.models.prompt import Prompt, conversation
from cuecard.models.scope import Size

log = logging.getLogger("ray.serve")  # its lines are in the logs of replicas

BY_SESSION = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
MODELS = {
    "ray_actor_options": {"num_cpus": 0.5},
    "max_ongoing_requests": 16,
    "autoscaling_config": {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 4},
    "graceful_shutdown_timeout_s": 120.0,
}
"""Options of the deployments of models, which `deployments` in a YAML file overrides."""
GATEWAYS = {
    "ray_actor_options": {"num_cpus": 0.5},
    "max_ongoing_requests": 256,
    "autoscaling_config": {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 64},
    "graceful_shutdown_timeout_s": 120.0,
}
LOOK_AGAIN_S = 1.0


class RefusedArguments(click.ClickException, RayServeException):  # type: ignore[misc]
    """Arguments that cannot be used. `serve run`, and the status after `serve deploy`, show the message alone."""


class Arguments(StrictTable):
    """What `build` takes: `args` in a YAML file, or NAME=VALUE for `serve run`."""

    config: str | dict[str, Any] | None = None
    """The path of a cuecard.toml on the machine that builds, or its tables; None: the embedded pair."""
    small: str | None = None
    """The small model of the pair `cuecard`, instead of the configured one; `large` likewise."""
    large: str | None = None
    models_per_replica: int | None = Field(None, ge=1)
    """How many of its role's models a replica holds at once; None: all."""


@dataclass(frozen=True)
class Placement:
    """Which deployment has which models. Models on servers have none: gateways call their servers."""

    roles: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=dict)
    """Role -> id -> table. The id is the pair's name, so that a rolling update may change the pair's model."""
    places: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Table of the configuration -> role and id; pairs with equal tables share a model, in the first one's role."""

    @classmethod
    def of(cls, config: Config) -> Placement:
        """Raises BadInput."""
        placed = cls()
        for name, pair in config.pairs.items():
            for role, upstreams in pair.roles.items():
                for number, one in enumerate(upstreams):
                    key = _key(table := one.table())
                    if key not in placed.places and not isinstance(spec.parse(one.model), spec.Served):
                        model_id = f"{name}-{number}" if number else name
                        placed.places[key] = role, model_id
                        placed.roles.setdefault(role, {})[model_id] = spec.anywhere(table)
        return placed


def _key(table: Mapping[str, Any]) -> str:
    return json.dumps(table, sort_keys=True)


def build(args: dict[str, Any]) -> serve.Application:
    """The application: deployments `small`, `large` and `third`, as far as pairs have such models, and `gateway`.

    Raises RefusedArguments.
    """
    try:
        given = Arguments.model_validate(args)
        source = Path(given.config) if isinstance(given.config, str) else given.config
        config = chosen(source, given.small, given.large)
        if config.ledger_path is not None:
            raise BadInput("budgets of keys need a state that all gateways share", "write url under [state]")
        placed = Placement.of(config)
    except ValidationError as errors:
        first = errors.errors()[0]
        raise RefusedArguments(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from errors
    except CuecardError as error:
        raise RefusedArguments(str(error)) from error
    most = given.models_per_replica
    handles = {role: _deployed(role, tables, most or len(tables)) for role, tables in placed.roles.items()}
    gateway = serve.deployment(serve.ingress()(GatewayReplica), name="gateway", **GATEWAYS)
    return gateway.bind(config, placed.places, handles)


def _deployed(role: str, tables: Tables, most: int) -> serve.Application:
    """The deployment of a role. If a replica holds all models, sessions choose it; else the models that it holds."""
    options = dict(MODELS)
    if most >= len(tables):
        options["request_router_config"] = RequestRouterConfig(request_router_class=BY_SESSION)
    return serve.deployment(RoleReplica, name=role, **options).bind(role, tables, most)


class GatewayReplica:
    """A gateway as an ASGI application behind Ray's HTTP proxy."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, config: Config, places: Mapping[str, tuple[str, str]], handles: Mapping[str, Any]
    ) -> None:
        """`places`: as in Placement; `handles`: by role. Raises BadInput, MissingExtra, ModelError."""
        models = {key: await _remote(handles[role], model_id) for key, (role, model_id) in places.items()}

        def load(table: Mapping[str, Any], role: str) -> tuple[Model, Breaker]:
            if (model := models.get(_key(table))) is None:
                return loaded(table, role)
            # Ray keeps calls from replicas that fail, and calls wait for new ones: the breaker never opens
            return model, Breaker(time.monotonic, failures=sys.maxsize)

        if (path := config.journal.path) is not None:  # gateways on one machine do not share a file
            own = path.with_stem(f"{path.stem}-{serve.get_replica_context().replica_id.unique_id}")
            config = config.model_copy(update={"journal": config.journal.model_copy(update={"path": own})})
        pairs, tell = Pairs.configured(config, load), log.info if probe.wanted() else None
        self._app = application(pairs, assembled(config, pairs, gate_of(config), config.server.host, tell))

    def __serve_build_asgi_app__(self) -> Any:
        """Called by `serve.ingress`."""
        return self._app


async def _remote(handle: Any, model_id: str) -> RemoteModel:
    """The model in a deployment; waits until a rolling update has reached a replica that has it."""
    while True:
        if (found := await handle.options(multiplexed_model_id=model_id).describe.remote(model_id)) is not None:
            return RemoteModel(handle, model_id, *found)
        await asyncio.sleep(LOOK_AGAIN_S)


# --- models in replicas -----------------------------------------------------------------------------------------------


Tables = Mapping[str, Mapping[str, Any]]
"""Models of a role: id -> table, as for `spec.load`."""
ELSEWHERE = "Ray starts another replica: try again"


@dataclass(eq=False)
class HeldModel:
    """A loaded model; it is closed when it is no longer held and its last call has ended."""

    model: Model


@dataclass(frozen=True)
class SeenImage:
    """Distances of an image from the training images of a model, as in `SeenImages`."""

    digest: str
    distances: Mapping[Size, float]


class RoleReplica:
    """A process that holds models of one role, and makes their calls."""

    async def __init__(self, role: str, tables: Tables, most: int) -> None:  # type: ignore[misc]  # Ray awaits it
        """`most`: how many of the models are held at once; if all, they are loaded now. Raises as `spec.load`."""
        os.environ.setdefault(VARIABLE, "1")  # this process is the models' own
        loop, described = asyncio.get_running_loop(), dict[str, tuple[str, Abilities]]()

        async def load(model_id: str) -> HeldModel:
            model = await asyncio.to_thread(spec.load, tables[model_id], role)
            held = HeldModel(model)
            weakref.finalize(held, lambda: asyncio.run_coroutine_threadsafe(model.aclose(), loop)).atexit = False
            described[model_id] = model.name, replace(model.abilities, place=f"Ray deployment {role}")
            return held

        self._tables, self._described = tables, described
        self._held = serve.multiplexed(load, max_num_models_per_replica=most)
        for model_id in tables if most >= len(tables) else ():
            await self._held(model_id)

    async def describe(self, model_id: str) -> tuple[str, Abilities] | None:
        """Name and abilities of a model; None in a replica of another version, which does not have it."""
        if model_id in self._tables and model_id not in self._described:
            await self._held(model_id)
        return self._described.get(model_id)

    async def run(self, model_id: str, method: str, *arguments: Any) -> AsyncGenerator[list[Any]]:
        """The events of a model's `stream`, or the one result of another method; all that is there in one list.

        The last item of a call that fails is its error.
        """
        fresh = asyncio.Queue[Any]()
        task = asyncio.create_task(self._call(fresh, model_id, method, *arguments))
        try:
            ended = False
            while not ended:
                items = [await fresh.get(), *(fresh.get_nowait() for _ in range(fresh.qsize()))]
                if ended := items[-1] is None:
                    items.pop()
                yield items
            await task
        finally:
            task.cancel()

    async def _call(self, fresh: asyncio.Queue[Any], model_id: str, method: str, *arguments: Any) -> None:
        try:
            if model_id not in self._tables:
                raise ModelUnreachable(f"a replica of another version has no {model_id}", ELSEWHERE)
            held = await self._held(model_id)
            if method == "stream":
                async with aclosing(held.model.stream(*arguments)) as events:
                    async for event in events:
                        if isinstance(event, Finished):
                            self._report_images(fresh, held.model, arguments[0])
                        fresh.put_nowait(event)
            else:
                fresh.put_nowait(await getattr(held.model, method)(*arguments))
        except CuecardError as error:
            fresh.put_nowait(error)
        finally:
            fresh.put_nowait(None)

    def _report_images(self, fresh: asyncio.Queue[Any], model: Model, prompt: Prompt) -> None:
        """The distances of a prompt's images, by which the gateway finds questions outside the model's scope."""
        if (scope := model.abilities.scope) is not None:
            for image in prompt.images:
                if (distances := scope.seen.of(image.digest)) is not None:
                    fresh.put_nowait(SeenImage(image.digest, distances))


class RemoteModel:
    """A model in the replicas of a deployment. Closing a stream cancels its call in the replica.

    A call whose replica is lost raises ModelUnreachable, so that a pool makes it again, in another replica, unless it
    has begun to answer.
    """

    def __init__(self, handle: Any, model_id: str, name: str, abilities: Abilities) -> None:
        self._handle, self._id, self.name, self.abilities = handle, model_id, name, abilities

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        async with aclosing(self._run("stream", prompt, limits)) as events:
            async for event in events:
                yield event

    async def warm(self, prompt: Prompt) -> Usage:
        usage: Usage = await self._once("warm", prompt)
        return usage

    async def score(self, prompt: Prompt, answer: str) -> float:
        return float(await self._once("score", prompt, answer))

    async def weigh(self, prompt: Prompt, answer: str, by: Weighing) -> tuple[Weighed, Usage]:
        """As `Weigher.weigh`."""
        pieces, usage = await self._once("weigh", prompt, answer, by)
        return pieces, usage

    def forget(self) -> None:
        """Does nothing, as for a server."""

    async def aclose(self) -> None:
        """Does nothing: the model serves other gateways."""

    async def _once(self, method: str, *arguments: Any) -> Any:
        results = [result async for result in self._run(method, *arguments)]
        if not results:
            raise ModelError(f"{self.name} gave nothing back")
        return results[0]

    async def _run(self, method: str, prompt: Prompt, *arguments: Any) -> AsyncGenerator[Any]:
        session = conversation(prompt).hex()
        handle = self._handle.options(stream=True, session_id=session, multiplexed_model_id=self._id)
        # Ray takes the id of a call from the context, and its router matches waiting calls by id: in the context of a
        # gateway's request, one of two calls that wait at once would never be routed
        response = Context().run(handle.run.remote, self._id, method, prompt, *arguments)
        ended = False
        try:
            async for items in response:
                for item in items:
                    match item:
                        case SeenImage(digest, distances):
                            if self.abilities.scope is not None:
                                self.abilities.scope.seen.keep(digest, distances)
                        case CuecardError():
                            ended = True
                            raise item
                        case _:
                            yield item
            ended = True
        except (exceptions.RayError, RayServeException) as error:
            ended = True
            self._failed(error)
        finally:
            if not ended:
                with suppress(Exception):  # the replica may be lost
                    response.cancel()

    def _failed(self, error: Exception) -> NoReturn:
        """Raises ModelBusy, ModelUnreachable, or ModelError for an error of the replica's own code."""
        cause = getattr(error, "cause", None) or error  # a task's error itself has the replica's traceback as text
        first = next(iter(str(cause).splitlines()), type(cause).__name__)
        text = f"{self.name} on Ray: {first[:300]}"
        if isinstance(error, BackPressureError):
            raise ModelBusy(text) from error
        if isinstance(error, exceptions.RayTaskError):
            raise ModelError(text, "look at the replica's log") from error
        raise ModelUnreachable(text, ELSEWHERE) from error
