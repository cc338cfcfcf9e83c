"""Starting vLLM's engine, with a double of vLLM: the cause of a failure, Ctrl-C, giving up, scripts without a guard."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import vllm_double
from pydantic import BaseModel, Field, ValidationError

from cuecard.domain.errors import BadInput, ModelRefused, one_line
from cuecard.models.vllm.engine import EngineHost
from cuecard.models.vllm.loading import UNGUARDED, EngineSettings, EngineStart

FAILED = "Engine core initialization failed. See root cause above. Failed core proc(s): {}"
LOG = """
(Worker pid=7) WARNING 12-01 13:18:54 [utils.py:597] Failed to create a kernel. Exception: no memory descriptor
(Worker pid=7) ERROR 12-01 13:21:37 [multiproc_executor.py:953] Traceback (most recent call last):
(Worker pid=7) ERROR 12-01 13:21:37 [multiproc_executor.py:953] RuntimeError: Cannot find any model weights with `x`
(EngineCore pid=6) ERROR 12-01 13:21:39 [core.py:1510] Exception: WorkerProc initialization failed due to an exception
Exception: WorkerProc initialization failed due to an exception in a background process.
"""


class Child:
    """The engine's process, which logs something and ends, or lives for a minute; the start waits for its end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, log: str | None = None) -> None:
        vllm_double.install(monkeypatch)
        self.log, self.process = log, None
        config = SimpleNamespace(create_engine_config=lambda: None)
        modules = {
            "vllm.engine.arg_utils": {"AsyncEngineArgs": lambda **given: config},
            "vllm.v1.engine.async_llm": {"AsyncLLM": SimpleNamespace(from_vllm_config=self.start)},
        }
        for name, contents in modules.items():
            monkeypatch.setitem(sys.modules, name, SimpleNamespace(**contents))

    def start(self, config: object, **options: object) -> Any:
        spawn = multiprocessing.get_context("spawn")
        work, given = (time.sleep, 60) if self.log is None else (sys_stderr, self.log)
        self.process = spawn.Process(target=work, args=(given,), daemon=True)
        self.process.start()
        self.process.join()
        raise RuntimeError(FAILED)

    def status(self) -> str:
        """Linux's description of the process, as soon as it exists."""
        while self.process is None or not self.process.pid:
            time.sleep(0.01)
        return Path(f"/proc/{self.process.pid}/status").read_text()


def sys_stderr(text: str) -> None:
    os.write(2, text.encode())


async def test_the_cause_of_a_failed_start_is_read_from_the_log_of_its_process(monkeypatch, capfd):
    Child(monkeypatch, LOG)
    with pytest.raises(ModelRefused, match="a/b does not load: Cannot find any model weights with `x`") as caught:
        await asyncio.wrap_future(EngineStart("a/b", {}).engine)
    assert "gpu_memory" in caught.value.hint
    assert LOG in capfd.readouterr().err, "the log arrives whole"


async def test_without_a_cause_in_the_log_the_process_has_ended(monkeypatch):
    Child(monkeypatch, "killed\n")
    with pytest.raises(ModelRefused, match="a/b does not load: its process has ended"):
        await asyncio.wrap_future(EngineStart("a/b", {}).engine)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's process table")
async def test_a_start_that_is_given_up_kills_its_process_which_is_deaf_to_ctrl_c(monkeypatch):
    child = Child(monkeypatch)
    start = EngineStart("a/b", {})
    lines = (await asyncio.to_thread(child.status)).splitlines()
    blocked = next(int(line.split()[1], 16) for line in lines if line.startswith("SigBlk"))
    assert blocked & 2, "SIGINT is blocked"
    begun = time.monotonic()
    await start.give_up()
    assert time.monotonic() - begun < 10
    assert wait([start.engine], 0).done
    assert not child.process.is_alive()


async def test_errors_are_one_line():
    class Settings(BaseModel):
        max_num_seqs: int = Field(ge=1)

    with pytest.raises(ValidationError) as caught:
        Settings(max_num_seqs=0)
    assert one_line(caught.value) == "max_num_seqs: Input should be greater than or equal to 1"
    assert one_line(ValueError("Grammar error:\n  (?<=a)b\n")) == "Grammar error: (?<=a)b"
    assert one_line(ValueError()) == "ValueError"


def test_a_process_without_standard_error_starts_engines_too():
    program = "from cuecard.models.vllm.loading import heard_errors\nwith heard_errors() as first: print(repr(first()))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.close(2), timeout=60)
    assert done.stdout == "''\n"


def test_the_process_of_an_engine_does_not_load_its_models_again(monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(BadInput, match=UNGUARDED) as caught:
        EngineHost("a", "a/b", EngineSettings())
    assert "__main__" in caught.value.hint


async def test_a_script_that_makes_its_pair_when_it_is_imported_learns_of_it(monkeypatch):
    Child(monkeypatch, f"cuecard.domain.errors.BadInput: {UNGUARDED} (…)\nException: initialization failed\n")
    with pytest.raises(BadInput, match=UNGUARDED):
        await asyncio.wrap_future(EngineStart("a/b", {}).engine)
