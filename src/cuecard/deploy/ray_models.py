"""Models in the replicas of a Ray Serve deployment: their side, and the gateway's.

A gateway calls a model's methods in a replica through a deployment handle. Prompts and events are the values of the
Model protocol, so a remote model streams, warms, scores and reports log probabilities as one in the gateway's process.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from ray import exceptions, serve
from ray.serve.exceptions import BackPressureError, RayServeException

from cuecard.domain.call import Usage
from cuecard.domain.errors import CuecardError, ModelBusy, ModelError, ModelUnreachable
from cuecard.models import spec
from cuecard.models.base import Abilities, Event, Finished, Limits, Model, Weighed, Weighing
from cuecard.models.local.engine import VARIABLE, first_line
from cuecard.models.prompt import Prompt, conversation
from cuecard.models.scope import Size

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
        response, ended = handle.run.remote(self._id, method, prompt, *arguments), False
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
        text = f"{self.name} on Ray: {first_line(error)[:300]}"
        if isinstance(error, BackPressureError):
            raise ModelBusy(text) from error
        if isinstance(error, exceptions.RayTaskError):
            raise ModelError(text, "look at the replica's log") from error
        raise ModelUnreachable(text, ELSEWHERE) from error
