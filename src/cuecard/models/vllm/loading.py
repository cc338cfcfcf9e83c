"""How vLLM loads a model: settings, the check that engines fit into one device, and one start of its AsyncLLM.

Settings need no vLLM. A start is a thread that waits for the engine, with the log of its processes, which has the cause
of a failure; it can be given up half-way.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields
from multiprocessing.process import BaseProcess
from typing import Any
from urllib.parse import parse_qsl

from cuecard import disk
from cuecard.domain.errors import LONGEST_MESSAGE, BadInput, CuecardError, ModelRefused, did_you_mean, one_line

USUAL_SHARE, MOST_SHARE = 0.45, 0.95
"""The share of a device's memory that an engine reserves by default, and the most that all of them may reserve."""

OWNED = {
    "model": "model",
    "gpu_memory_utilization": "gpu_memory",
    "max_model_len": "max_len",
    "dtype": "dtype",
    "revision": "revision",
    "enforce_eager": "eager",
}
"""Engine arguments that have a setting of their own, by which memory is added up and models are identified."""


@dataclass(frozen=True)
class EngineSettings:
    """How vLLM loads a model."""

    gpu_memory: float = USUAL_SHARE
    """Share of the device's memory for weights and KV cache, above 0, at most `MOST_SHARE`."""
    max_len: int | None = None
    """Maximum tokens of a prompt and its answer; None: the model's own."""
    dtype: str | None = None
    revision: str | None = None
    eager: bool = False
    """Skip compilation and CUDA graphs: starts faster, answers slower."""
    constraint: str | None = None
    """`structured_outputs`: brief answers are decoded under the grammar of their kind."""
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of vLLM's AsyncEngineArgs."""

    def __post_init__(self) -> None:
        if not 0 < self.gpu_memory <= MOST_SHARE:
            raise BadInput(f"gpu_memory is {self.gpu_memory:g}", f"give a share above 0, at most {MOST_SHARE:g}")
        if self.max_len is not None and self.max_len < 1:
            raise BadInput(f"max_len is {self.max_len}", "give a number of tokens above 0")
        if self.constraint not in (None, "structured_outputs"):
            raise BadInput(f"unknown constraint {self.constraint!r} for vLLM", "write structured_outputs")

    def arguments(self, source: str) -> dict[str, Any]:
        """Keyword arguments for AsyncEngineArgs, with vLLM installed. Raises BadInput for an unknown one."""
        from vllm.engine.arg_utils import AsyncEngineArgs

        known = {each.name for each in fields(AsyncEngineArgs)}
        if unknown := set(self.engine_args) - known:
            raise BadInput(f"vLLM has no engine argument {min(unknown)!r}", did_you_mean(min(unknown), known, ""))
        if owned := sorted(set(self.engine_args) & set(OWNED)):
            raise BadInput(f"{owned[0]} is set by {OWNED[owned[0]]}, not in engine_args", f"write {OWNED[owned[0]]}=…")
        own = {name: getattr(self, setting) for name, setting in OWNED.items() if name != "model"}
        given = {name: value for name, value in own.items() if value is not None}
        return {"model": source, "disable_log_stats": True, **given, **self.engine_args}


KEYS: Mapping[str, type] = disk.kinds_of(EngineSettings)
"""Keys of a model's table, and the settings in a specification, with their types."""


def parsed(query: str, where: str) -> dict[str, Any]:
    """The settings after `?` in a specification: `gpu_memory=0.4&max_len=8192`. Raises BadInput."""
    found = {name: _value(text, KEYS.get(name, str)) for name, text in parse_qsl(query, keep_blank_values=True)}
    with disk.in_file(where):
        disk.check_table(found, KEYS)
    return found


def _value(text: str, kind: type) -> Any:
    """A value in JSON, or the text itself."""
    try:
        return text if kind is str else json.loads(text)
    except (ValueError, RecursionError):
        return text


def check_memory(engines: Iterable[tuple[str, float]]) -> None:
    """Raises BadInput if engines (name, memory share), all on one device, reserve more than `MOST_SHARE` together."""
    shares = list(engines)
    total = sum(share for _, share in shares)
    if len(shares) > 1 and total > MOST_SHARE + 1e-9:
        each = " and ".join(f"{name} ({share:g})" for name, share in shares)
        raise BadInput(
            f"{each} reserve {total:.2f} of the device's memory together; at most {MOST_SHARE:g} fits",
            f"lower gpu_memory, for example {shares[-1][0]}?gpu_memory={_rest(shares):g}",
        )


def _rest(shares: list[tuple[str, float]]) -> float:
    """What is left for the last engine; an equal part if nothing useful is."""
    left = MOST_SHARE - sum(share for _, share in shares[:-1])
    return round(left if left >= 0.1 else MOST_SHARE / len(shares), 2)


# --- one start of an engine -------------------------------------------------------------------------------------------

GIVE_UP_S, POLL_S = 15.0, 0.1
"""Seconds that a start has to end after its processes are killed, and between two looks."""
LOG_S = 2.0
"""Seconds that the log of ended processes has to arrive."""
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
        from multiprocessing import resource_tracker  # for POSIX

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
        return ModelRefused(f"{self._source} does not load: {cause[:LONGEST_MESSAGE]}", hint)


def unguarded() -> BadInput:
    """The error of a script that loads a model while another process imports it."""
    return BadInput(UNGUARDED, 'load it inside `if __name__ == "__main__":`')


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

    def first() -> str:
        replaced.close()
        copying.join(LOG_S)
        return next(iter(found), "")

    copying = threading.Thread(target=_copy, args=(read, os.dup(kept), found), name="vllm log", daemon=True)
    copying.start()
    with ExitStack() as replaced:
        replaced.callback(os.close, kept)
        replaced.callback(os.dup2, kept, 2)
        yield first


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
