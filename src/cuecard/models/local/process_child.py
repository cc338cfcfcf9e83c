"""The child's side of `ModelProcess`."""

from __future__ import annotations

import threading
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from cuecard.models.local.engine import READY, SEEN, Job
from cuecard.models.local.model import LocalModel


def serve(descriptor: int, given: tuple[str, float | None]) -> None:
    """Run one model's calls, received from a pipe, and send their events back through it, until it closes."""
    connection: Connection[Any, Any] = Connection(descriptor)
    sending = threading.Lock()
    model = LocalModel.load(given[0], prefix_cache_mib=given[1])
    jobs: dict[int, Job] = {}

    def send(number: int, items: list[Any], ended: bool) -> None:
        with sending:
            connection.send((number, items, ended))
        if ended:
            jobs.pop(number, None)

    if (scope := model.abilities.scope) is not None:
        scope.seen.on_keep = lambda digest, distances: send(SEEN, [digest, distances], False)
    send(READY, [], False)
    try:
        while True:
            number, name, arguments = connection.recv()
            if name == "stop":
                break
            if name == "forget":
                model.forget()
            elif name is None:
                if job := jobs.get(number):
                    job.cancelled = True
            else:
                jobs[number] = job = Job(model.steps(name, *arguments), partial(send, number))
                model.engine.take(job)
    except (EOFError, KeyboardInterrupt):
        pass
    finally:
        model.engine.stop()
