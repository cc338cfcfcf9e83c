"""Gateways in processes of their own, with scripted models that fail at random: tests run several, or kill them.

Run as a program, this is their parent: it has imported all that they need, and forks one for each line on its standard
input. So a start takes little time.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

PARENT_S, START_S = 100.0, 60.0
"""Seconds within which the parent and a gateway start, on a machine that is busy with other work."""


class GatewayProcesses:
    """Starts and kills gateways; all end with the context."""

    def __enter__(self) -> GatewayProcesses:
        command, environment = [sys.executable, "-W", "ignore", __file__], os.environ | {"CUECARD_NO_PROBE": "1"}
        pipe = subprocess.PIPE
        self._parent = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self._running: set[int] = set()
        return self

    def __exit__(self, *failure: object) -> None:
        for pid in list(self._running):
            self.kill(pid)
        assert self._parent.stdin
        assert self._parent.stdout
        self._parent.stdin.close()
        self._parent.wait()
        self._parent.stdout.close()

    def start(self, port: int, **settings: Any) -> int:
        """Start a gateway, and wait until it answers; returns its process id. Settings: see `serve`."""
        assert self._parent.stdin
        assert self._parent.stdout
        self._parent.stdin.write(json.dumps({"port": port, **settings}) + "\n")
        self._parent.stdin.flush()
        pid = int(self._parent.stdout.readline())
        self._running.add(pid)
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=START_S):
                return pid
            time.sleep(0.02)
        raise AssertionError("a gateway does not start")

    def kill(self, pid: int, how: signal.Signals = signal.SIGKILL) -> None:
        """End a gateway, and wait until it has ended."""
        self._running.discard(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, how)
            while True:
                os.kill(pid, 0)
                time.sleep(0.01)


def serve(settings: dict[str, Any]) -> None:
    """Serve until this is ended.

    `port`; `journal`: a path; `faults`: the share of calls that fail; `state`: arguments of SharedState; `keys`: fields
    of each key; `calls`: policy options.
    """
    import uvicorn
    from gateways import service

    from cuecard.gateway.admission.connections import LimitedProtocol
    from cuecard.gateway.admission.limits import Gate
    from cuecard.gateway.admission.shared_state import SharedState
    from cuecard.gateway.app import AppSettings, application
    from cuecard.gateway.pairs import Pairs
    from cuecard.gateway.records import Journal
    from cuecard.gateway.tables import Key
    from cuecard.strategies.policy import Policy
    from cuecard.strategies.policy_file import policy_with

    async def main() -> None:
        state = SharedState(**settings["state"]) if "state" in settings else None
        models = {role: faulty(role, settings.get("faults", 0.0)) for role in ("small", "large")}
        pairs = Pairs([service(models, policy=policy_with(Policy(), **settings.get("calls", {})))])
        journal = Journal(Path(settings["journal"]), content=True) if "journal" in settings else None
        gate = Gate([Key(**each) for each in settings.get("keys", ())], state)
        app = application(pairs, AppSettings(gate=gate, journal=journal))
        config = uvicorn.Config(app, http=LimitedProtocol, log_level="error", port=settings["port"], access_log=False)
        await uvicorn.Server(config).serve()

    asyncio.run(main())


def faulty(role: str, share: float) -> Any:
    """A scripted model; this share of its calls fails: at once, after some tokens, or by a time-out."""
    from cuecard.domain.call import Mode
    from cuecard.domain.errors import BrokenStream, ModelUnreachable
    from cuecard.models.prompt import Prompt
    from cuecard.models.replay import Says, ScriptedModel

    rng = random.Random(f"{role} {os.getpid()}")

    def says(prompt: Prompt) -> Says:
        thought = " ".join(["so"] * rng.randint(5, 200))
        answer = str(rng.randint(1, 2)) if prompt.mode is Mode.SHORT else "3"
        fault = {}
        if rng.random() < share:
            error, after = rng.choice([BrokenStream, ModelUnreachable])("the model fails"), rng.randint(0, 40)
            fault = rng.choice([{"error": error}, {"error": error, "after_tokens": after}, {"hangs": True}])
        return Says(answer, thought, confidence_logprob=-0.05, token_s=0.0001, **fault)

    return ScriptedModel(role, says, prefix_sessions=role == "large")


def _main() -> None:
    import gateways  # noqa: F401 - imported before the fork, as all else that it imports

    import cuecard.gateway.admission.shared_state  # noqa: F401

    with suppress(ImportError):
        import redis.asyncio  # noqa: F401
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children that have ended leave nothing
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(2, 1)
            serve(json.loads(line))
            return
        print(pid, flush=True)


if __name__ == "__main__":
    _main()
