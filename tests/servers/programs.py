"""Server programs as child processes, stopped at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import openai
from real_models import QWEN, SMOLLM, Weights

sys.path.append(str(Path(__file__).parents[1]))

from processes import free_port

HOME = Path(__file__).parents[2] / ".servers"
"""Folder of the programs that install.sh installs."""
CUECARD = Path(sys.executable).parent / "cuecard"
NAMES = {QWEN: "qwen2.5-coder-1.5b-instruct", SMOLLM: "smollm2-135m-instruct"}
"""Served model name; the library derives the model's family from it."""


@contextmanager
def running(
    command: Sequence[str | Path], health: str, log: Path, seconds: float, **env: str
) -> Iterator[subprocess.Popen]:
    """A server process that answers at `health`; killed with all its children at the end."""
    with log.open("ab") as out:
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
    """Kill a server and all its child processes."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@dataclass(frozen=True)
class Served:
    """A served model: base URL, name in requests, process of the server."""

    url: str
    name: str
    process: subprocess.Popen

    @property
    def spec(self) -> str:
        """Model specification for `--small` and `--large`."""
        return f"{self.url}#{self.name}"


@contextmanager
def llamacpp(
    weights: Weights, folder: Path, *, port: int | None = None, slots: int = 4, context: int = 8192
) -> Iterator[Served]:
    """llama.cpp's server with one pretrained model, on one thread. Its log is in `folder`."""
    port, name = port or free_port(), NAMES[weights]
    script, file = Path(__file__).parent / "llamacpp.py", HOME / "gguf" / weights.file
    command = [HOME / "python" / "bin" / "python", script, file, str(port), "--alias", name]
    sizes = ["--slots", str(slots), "--context", str(context)]
    base = f"http://127.0.0.1:{port}"
    with running([*command, *sizes], f"{base}/health", folder / f"{name}-{port}", 120) as process:
        yield Served(f"{base}/v1", name, process)


@contextmanager
def gateway(models: Mapping[str, str], folder: Path) -> Iterator[openai.OpenAI]:
    """A client of `cuecard serve` with these models (role -> table of the configuration file)."""
    port, file = free_port(), folder / "cuecard.toml"
    file.write_text("version = 1\n" + "".join(f"[{role}]\n{table}\n" for role, table in models.items()))
    command = [CUECARD, "serve", "--config", file, "--port", str(port)]
    base = f"http://127.0.0.1:{port}"
    with (
        running(command, f"{base}/health", folder / "gateway", 180),
        openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0, timeout=120) as client,
    ):
        yield client
