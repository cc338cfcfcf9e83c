"""The process of a local Ray cluster: each line on its standard input is a command, each line of output the result.

The cluster needs no dashboard, and little memory. It ends with the standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import aclosing

from cuecard.domain.call import Usage
from cuecard.models.base import Limits, Model, ReasoningDelta
from cuecard.models.prompt import Prompt

ATTEMPTS = 5
"""Ray gives its own processes 15 s to start, which may be too little on a busy machine."""


class Driver:
    """The commands, in the process of the cluster."""

    def __init__(self) -> None:
        import ray

        for attempt in range(1, ATTEMPTS + 1):
            try:
                ray.init(num_cpus=4, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
                return
            except Exception:
                ray.shutdown()
                if attempt == ATTEMPTS:
                    raise

    def ready(self) -> None:
        """Nothing: the cluster has started."""

    def run(self, application: str) -> None:
        """As the command `serve run --non-blocking`."""
        from ray.serve.scripts import cli

        cli.main(["run", "--non-blocking", application], standalone_mode=False)

    def healthy(self) -> bool:
        """Whether all deployments of the application are healthy, with replicas of this version only."""
        from ray import serve

        application = serve.status().applications["cuecard"]
        assert application.status not in ("DEPLOY_FAILED", "UNHEALTHY"), application
        states = [deployment.replica_states for deployment in application.deployments.values()]
        return application.status == "RUNNING" and all(set(state) == {"RUNNING"} for state in states)

    def left(self, question: int, reasoning: str) -> list[int]:
        """Leave a stream of the large model after its first token, and wait until the replica has no call.

        Tokens of the prompt with a whole reasoning, and how many of them the replica has computed then.
        """
        import ray

        from cuecard.demo import boards
        from cuecard.models import prompt

        model = self._model("large")
        asked, style = boards.exercises(question + 1, 0)[question].question, model.abilities.style
        asyncio.run(leave(model, prompt.reason(asked, style)))
        actors = [each["name"] for each in ray.util.list_named_actors(all_namespaces=True)]
        replicas = [ray.get_actor(name, "serve") for name in actors if name.startswith("SERVE_REPLICA::cuecard#large#")]
        while any(ray.get([replica.get_num_ongoing_requests.remote() for replica in replicas])):
            time.sleep(0.1)
        usage = asyncio.run(model.warm(prompt.resume(asked, reasoning, style, continues=True)))
        return [usage.prompt_tokens or 0, usage.cached_tokens or 0]

    def _model(self, role: str) -> Model:
        from ray import serve

        from cuecard.deploy.ray import RemoteModel

        handle = serve.get_deployment_handle(role, "cuecard")
        return RemoteModel(handle, "cuecard", *handle.describe.remote("cuecard").result())

    def together(self, count: int) -> int:
        """Make so many calls at once within one request, as a gateway does; how many of them end."""
        from ray.serve import context

        context._serve_request_context.set(context._RequestContext(_internal_request_id="request"))
        return len(asyncio.run(warmed(self._model("large"), count)))


async def warmed(model: Model, count: int) -> list[Usage]:
    """What each of so many calls at once used, each about a question of its own."""
    from cuecard.demo import boards
    from cuecard.models import prompt

    prompts = [prompt.short(exercise.question, model.abilities.style) for exercise in boards.exercises(count, 0)]
    return await asyncio.gather(*(model.warm(each) for each in prompts))


async def leave(model: Model, prompt: Prompt) -> None:
    """Close a stream after its first token."""
    async with aclosing(model.stream(prompt, Limits())) as events:
        async for event in events:
            if isinstance(event, ReasoningDelta):
                return


def serve() -> None:
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints to standard output
    driver = Driver()
    for line in sys.stdin:
        given = json.loads(line)
        try:
            result = {"value": getattr(driver, given.pop("command"))(**given)}
        except BaseException as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), file=results, flush=True)


if __name__ == "__main__":
    serve()
