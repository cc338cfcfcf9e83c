"""Whether two expressions are the same by mathematics: math-verify, in a process of its own.

math-verify stops long work with SIGALRM, which works in the main thread only (its issue 55) and not inside one long
integer operation (issue 65: 9^9^9^9). Here it runs in a child that is told no time-out and is killed when it takes
longer than ours; the next question starts a fresh one. So this works in any thread and never hangs. The first call
takes about a second (SymPy's import), later ones milliseconds. A caller is blocked meanwhile: coroutines compare with
`agreement.same_answer`, which awaits a thread.
"""

from __future__ import annotations

import atexit
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from cuecard.domain.errors import MissingExtra
from cuecard.worker import START_S, ChildWorker

LIMIT_S = 2.0
MOST_CHARS = 2_000
"""Of an expression; a longer one is the same as no other."""
_SCRIPT = Path(__file__).with_name("maths_worker.py")


class Verifier:
    """A child process that compares expressions, one pair at a time, started when it is first asked."""

    def __init__(self, limit_s: float = LIMIT_S, start_s: float = START_S) -> None:
        self.limit_s = limit_s
        self._worker = ChildWorker(_SCRIPT, start_s, {"PYTHONIOENCODING": "utf-8"})

    def same(self, truth: str, given: str) -> bool:
        """Whether `given` is `truth`; False too where it cannot be told in time. Raises MissingExtra."""
        if find_spec("math_verify") is None:
            raise MissingExtra("comparing expressions needs math-verify", "pip install '.[maths]' in a checkout")
        try:
            reply, _ = self._worker.do({"truth": truth, "given": given}, self.limit_s)
        except (TimeoutError, EOFError):
            return False
        return bool(reply["same"])

    def close(self) -> None:
        """End the child; a later question starts another."""
        self._worker.close()


_VERIFIER = Verifier()
atexit.register(_VERIFIER.close)


@lru_cache(maxsize=4096)
def same_expression(truth: str, given: str) -> bool:
    """Whether an expression is the true one, by math-verify; not symmetric for intervals. Raises MissingExtra."""
    return max(len(truth), len(given)) <= MOST_CHARS and _VERIFIER.same(truth, given)
