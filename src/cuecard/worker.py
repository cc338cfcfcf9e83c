"""A child process that does one job at a time: killed when a job takes longer than its limit, and replaced.

A job and its reply are a line of JSON each, with as many bytes behind it as its `bytes` counts.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
START_S = 60.0
Reply = tuple[Mapping[str, Any], bytes]


class ChildWorker:
    """Runs a script, which answers `{}` once it is ready; started by the first job, and blocks its callers."""

    def __init__(self, script: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._command = [sys.executable, "-P", str(script), *arguments]
        self._environment = {"PYTHONIOENCODING": "utf-8", **(environment or {})}
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def do(self, job: Mapping[str, Any], limit_s: float, data: bytes = b"") -> Reply:
        """The reply to a job. Raises TimeoutError when it is late, EOFError when the child ends without one."""
        with self._lock:
            if self._child is None or self._child.poll() is not None:
                self._end()
                self._child = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=os.environ | self._environment,
                    start_new_session=True,  # Ctrl-C is for this process, which ends its children itself
                )
                self._reply(self._child, {}, START_S, b"")
            return self._reply(self._child, job, limit_s, data)

    def close(self) -> None:
        """End the child; a later job starts another."""
        with self._lock:
            self._end()

    def _reply(self, child: subprocess.Popen[bytes], job: Mapping[str, Any], limit_s: float, data: bytes) -> Reply:
        assert child.stdin is not None
        assert child.stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            child.kill()

        watch = threading.Timer(limit_s, give_up)
        watch.start()
        try:
            child.stdin.write(json.dumps({**job, "bytes": len(data)}).encode() + b"\n" + data)
            child.stdin.flush()
            reply = json.loads(child.stdout.readline())
            more = child.stdout.read(reply["bytes"])
            if len(more) < reply["bytes"]:
                raise EOFError
        except (OSError, ValueError, EOFError) as error:
            self._end()
            raise (TimeoutError if late.is_set() else EOFError) from error
        finally:
            watch.cancel()
            if late.is_set():  # perhaps just after the reply
                self._end()
        return reply, more

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
            self._child.wait()
            self._child = None


async def off_the_loop(threads: ThreadPoolExecutor, work: Callable[..., T], *given: Any) -> T:
    """The result of blocking work, done in a thread; in virtual time, whose clock waits for no thread, on the spot."""
    loop = asyncio.get_running_loop()
    return work(*given) if getattr(loop, "virtual", False) else await loop.run_in_executor(threads, work, *given)
