"""Programs that serve, each in a process of its own, stopped at the end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import openai

HOME = Path(__file__).parents[2] / ".servers"
"""What install.sh has installed."""
CUECARD = Path(sys.executable).parent / "cuecard"


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str | Path], health: str, log: Path, seconds: float, **env: str
) -> Iterator[subprocess.Popen]:
    """A server, once `health` answers; killed with all its children at the end."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            list(map(str, command)), stdout=out, stderr=out, env=os.environ | env, start_new_session=True
        )
        try:
            _wait(process, health, log, seconds)
            yield process
        finally:
            kill(process)


def _wait(process: subprocess.Popen, health: str, log: Path, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(health, timeout=2).read()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{process.args} did not start:\n{log.read_text(errors='replace')[-3000:]}")


def kill(process: subprocess.Popen) -> None:
    """End a server at once, and whatever it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def gateway(models: Mapping[str, str], folder: Path) -> Iterator[openai.OpenAI]:
    """`cuecard serve` before these servers (role -> its table), and a client of it."""
    port, file = free_port(), folder / "cuecard.toml"
    file.write_text("version = 1\n" + "".join(f"[{role}]\n{table}\n" for role, table in models.items()))
    command = [CUECARD, "serve", "--config", file, "--port", str(port)]
    base = f"http://127.0.0.1:{port}"
    with (
        running(command, f"{base}/health", folder / "gateway", 180),
        openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0, timeout=120) as client,
    ):
        yield client
