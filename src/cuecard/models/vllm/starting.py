"""One start of vLLM's AsyncLLM: a thread that waits for it, its log, the cause of a failure, giving it up half-way."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

from cuecard.domain.errors import BadInput, CuecardError, ModelRefused

GIVE_UP_S, POLL_S = 15.0, 0.1
"""Seconds that a start has to end after its processes are killed, and between two looks."""
LOG_S = 2.0
"""Seconds that the log of ended processes has to arrive."""
MOST_CHARACTERS = 400
"""Of another program's error, in ours."""
UNGUARDED = "this model is loaded by a script when it is imported, and its engine's process imports the script"
SETTINGS = "is the checkpoint whole? are max_len, dtype and engine_args right?"
PROCESS = "is the checkpoint whole? gpu_memory and max_len are vLLM's gpu_memory_utilization and max_model_len"
CAUSE = re.compile(r"^(?:\(.+?\) ERROR [^\]]*\] )?(?:\w+\.)*\w+(?:Error|Exception): (?P<text>.+)")
"""A line of the log with an exception: bare, or after vLLM's prefix."""
FOLLOWS = ("initialization failed", "please check the stack trace")
"""Words of exceptions that follow from one in another process."""
_one_at_a_time = threading.Lock()


class EngineStart:
    """Starts an engine in a thread. `engine`: the AsyncLLM; or BadInput, ModelRefused. `pids`: its processes."""

    def __init__(self, source: str, arguments: Mapping[str, Any]) -> None:
        self._source, self._arguments = source, arguments
        self._before: set[BaseProcess] | None = None
        self._given_up = False
        self.pids: Sequence[int] = ()
        self.engine = Future[Any]()
        threading.Thread(target=self._run, name=f"start of {source}", daemon=True).start()

    async def give_up(self) -> None:
        """Kill the processes, and wait until the start has failed or its engine is shut down."""
        self._given_up = True
        for _ in range(int(GIVE_UP_S / POLL_S)):
            if self.engine.done():
                return
            for each in self._processes():
                each.kill()
            await asyncio.sleep(POLL_S)

    def _run(self) -> None:
        try:
            with _one_at_a_time:  # vLLM measures the free memory while it starts
                self._before = set(multiprocessing.active_children())
                engine = self._started()
                self.pids = [each.pid for each in self._processes() if each.pid]
                self._before = None
            if self._given_up:
                engine.shutdown(timeout=0.0)
            self.engine.set_result(engine)
        except BaseException as error:
            self._before = None
            self.engine.set_exception(error)

    def _processes(self) -> list[BaseProcess]:
        before = self._before
        return [] if before is None else [each for each in multiprocessing.active_children() if each not in before]

    def _started(self) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        resource_tracker.ensure_running()  # it would unblock the signal, and keep the log open
        # Ctrl-C at a terminal goes to all processes; the engine has to live until the running requests are drained
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            config = AsyncEngineArgs(**self._arguments).create_engine_config()
        except Exception as error:
            raise self._refused(one_line(error), SETTINGS) from error
        with heard_errors() as causes:
            try:
                return AsyncLLM.from_vllm_config(
                    config,
                    enable_log_requests=self._arguments.get("enable_log_requests", False),
                    disable_log_stats=self._arguments.get("disable_log_stats", True),
                )
            except Exception as error:
                cause = causes() or ("its process has ended" if _follows(str(error)) else one_line(error))
                if UNGUARDED in cause:
                    raise unguarded() from error
                raise self._refused(cause, PROCESS) from error

    def _refused(self, cause: str, hint: str) -> CuecardError:
        return ModelRefused(f"{self._source} does not load: {cause[:MOST_CHARACTERS]}", hint)


def unguarded() -> BadInput:
    """The error of a script that loads a model while another process imports it."""
    return BadInput(UNGUARDED, 'load it inside `if __name__ == "__main__":`')


def one_line(error: Exception) -> str:
    """An error's message in one line; of pydantic's errors the first one, with the field."""
    if _is_invalid(error):
        first = error.errors(include_url=False)[0]  # type: ignore[attr-defined]
        text = str(first["msg"]).removeprefix("Value error, ")
        return ": ".join([*map(str, first["loc"][:1]), text])
    return " ".join(str(error).split())[:MOST_CHARACTERS] or type(error).__name__


def _is_invalid(error: Exception) -> bool:
    """Whether this is a ValidationError of pydantic, which need not be installed here."""
    return type(error).__name__ == "ValidationError" and hasattr(error, "errors")


def _follows(text: str) -> bool:
    return any(words in text for words in FOLLOWS)


@contextmanager
def heard_errors() -> Iterator[Callable[[], str]]:
    """Within, standard error also passes through here; the function returns the first error of an ended process.

    vLLM's processes write the cause of a failed start to their log only. They keep the pipe for life.
    """
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield lambda: ""
        return
    read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)
    found: list[str] = []
    copying = threading.Thread(target=_copy, args=(read, os.dup(kept), found), name="vllm log", daemon=True)
    copying.start()
    replaced = True

    def restore() -> None:
        nonlocal replaced
        if replaced:
            os.dup2(kept, 2)
            os.close(kept)
        replaced = False

    def first() -> str:
        restore()
        copying.join(LOG_S)
        return next(iter(found), "")

    try:
        yield first
    finally:
        restore()


def _copy(read: int, write: int, found: list[str]) -> None:
    """Copy a log to its end; collect the messages of exceptions that do not follow from others."""
    rest = b""
    while chunk := os.read(read, 65536):
        with suppress(OSError):
            os.write(write, chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            text = line.decode("utf-8", "replace")
            if UNGUARDED in text:
                found.insert(0, UNGUARDED)
            elif (match := CAUSE.match(text)) and not _follows(match["text"]):
                found.append(match["text"])
        del found[8:]
    os.close(read)
    os.close(write)
