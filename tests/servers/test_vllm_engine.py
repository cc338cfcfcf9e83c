"""Models that vLLM runs in process, in vLLM's own environment: the models' contract, and test_vllm_in_process.py."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from programs import HOME

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not (HOME / "vllm.ready").exists(), reason="tests/servers/install.sh vllm has not run"),
]
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    "TORCH_COMPILE_DISABLE": "1",  # compiling vLLM's samplers takes minutes, whether the engine is eager or not
}


def in_vllm(*arguments: str) -> None:
    """Run tests with the Python that has vLLM, which imports this package's sources."""
    quiet = ["-o", "filterwarnings=default"]  # vLLM warns of its own deprecations
    command = [HOME / "vllm" / "bin" / "python", "-m", "pytest", "-n0", "-rs", "--timeout", "1800", *quiet, *arguments]
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=3500, env=environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    assert "passed" in done.stdout


def test_a_model_in_vllm_keeps_the_contract_of_models():
    in_vllm("tests/models/test_contract.py", "-k", "in_vllm")


def test_what_a_model_in_vllm_does_beyond_the_contract():
    in_vllm("tests/servers/test_vllm_in_process.py", "-m", "servers")


def test_the_measurement_of_a_pair_runs_without_a_gpu(tmp_path):
    out, environment = tmp_path / "pair.json", os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT / "src")}
    command = [ROOT / "benchmarks" / "gpu_pair.sh", out]
    python = {"PYTHON": str(HOME / "vllm" / "bin" / "python")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=3500, env=environment | python)
    assert done.returncode == 0, done.stderr[-8000:]
    found = json.loads(out.read_text())
    assert found["arms"]["mutual, agreed"]["routes"] == ["agreed"]
    assert found["arms"]["mutual, not agreed"]["routes"] == ["transferred"]
    assert all(found["arms"][f"transfer, {way}"]["handoff_s"] > 0 for way in ("streamed", "one token", "at once"))
    assert found["mutual"].keys() == {"0.5", "0.86"}
