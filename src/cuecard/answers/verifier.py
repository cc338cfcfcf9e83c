"""Whether two expressions are the same by mathematics: math-verify, in a process of its own.

math-verify stops long work with SIGALRM, which works in the main thread only (its issue 55) and not inside one long
integer operation (issue 65: 9^9^9^9). Here it runs in a child that is told no time-out and is killed when it takes
longer than ours; the next question starts a fresh one. So this works in any thread and never hangs. The first call
takes about a second (SymPy's import), later ones milliseconds. A caller is blocked meanwhile: coroutines compare with
`agreement.same_answer`, which awaits a thread.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from cuecard.domain.errors import MissingExtra

START_S, LIMIT_S = 60.0, 5.0
MOST_CHARS = 2_000
"""Of an expression; a longer one is the same as no other."""
_WORKER = Path(__file__).with_name("maths_worker.py")


class Verifier:
    """A child process that compares expressions, one pair at a time, started when it is first asked."""

    def __init__(self, limit_s: float = LIMIT_S, start_s: float = START_S) -> None:
        self.limit_s, self.start_s = limit_s, start_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def same(self, truth: str, given: str) -> bool:
        """Whether `given` is `truth`; False too where it cannot be told in time. Raises MissingExtra."""
        with self._lock:
            if self._child is None or self._child.poll() is not None:
                self._child = _start()
                self._ask({}, self.start_s)
            return self._ask({"truth": truth, "given": given}, self.limit_s)

    def close(self) -> None:
        """End the child; a later question starts another."""
        with self._lock:
            self._end()

    def _ask(self, pair: dict[str, str], limit_s: float) -> bool:
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        watch = threading.Timer(limit_s, child.kill)
        watch.start()
        try:
            child.stdin.write(json.dumps(pair) + "\n")
            child.stdin.flush()
            reply = child.stdout.readline()
        except OSError:
            reply = ""
        finally:
            watch.cancel()
        if not reply:
            self._end()
        return reply.strip() == "true"

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
            self._child.wait()
            self._child = None


def _start() -> subprocess.Popen[str]:
    if find_spec("math_verify") is None:
        raise MissingExtra("comparing expressions needs math-verify: install cuecard[maths]")
    command = [sys.executable, str(_WORKER)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, encoding="utf-8")


_VERIFIER = Verifier()
atexit.register(_VERIFIER.close)


@lru_cache(maxsize=4096)
def same_expression(truth: str, given: str) -> bool:
    """Whether an expression is the true one, by math-verify; not symmetric for intervals. Raises MissingExtra."""
    return max(len(truth), len(given)) <= MOST_CHARS and _VERIFIER.same(truth, given)
