"""Pairs on Ray Serve: a deployment for each role, which loads and runs its models, and stateless gateways before them.

serve run cuecard.deploy.ray:build small=demo-small large=demo-large
serve deploy deploy/ray.yaml
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from pydantic import Field, ValidationError
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import RayServeException

from cuecard.deploy.ray_models import RemoteModel, RoleReplica, Tables
from cuecard.domain.errors import BadInput, CuecardError
from cuecard.gateway.app import application, assembled, gate_of
from cuecard.gateway.config import Config, chosen
from cuecard.gateway.pairs import Pairs, loaded
from cuecard.gateway.tables import StrictTable
from cuecard.models import probe, spec
from cuecard.models.base import Model
from cuecard.models.pool import Breaker

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
