"""Exchange of files with inspect_ai, lm-evaluation-harness, lmms-eval and VLMEvalKit.

`install.sh` installs them into an environment. Tests of tools that are not installed are skipped with the reason.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from programs import HOME

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
PYTHON = HOME / "exchange" / "bin" / "python"


@pytest.mark.parametrize("tool", ["inspect_ai", "lm_eval", "lmms_eval", "vlmevalkit"])
def test_files_are_exchanged_with_the_tool_itself(tool):
    if not PYTHON.exists():
        pytest.skip("tests/servers/install.sh has not made .servers/exchange")
    command = [
        PYTHON,
        "-m",
        "pytest",
        "-n0",
        "-rs",
        "--timeout",
        "900",
        "tests/evals/test_interop_tools.py",
        "-k",
        tool,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=1700, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if "passed" not in done.stdout:
        pytest.skip(done.stdout.strip().splitlines()[-2])
