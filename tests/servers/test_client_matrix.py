"""Clients of other projects with two gateways: Qwen2.5-Coder-1.5B in llama.cpp, and the embedded pair.

Each script in clients/, for Python or Node, runs in its own environment and prints one line per case.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import HOME, gateway, llamacpp
from real_models import QWEN

pytestmark = [pytest.mark.servers, pytest.mark.timeout(3600)]
HERE = Path(__file__).parent / "clients"
SCRIPTS = sorted(path for path in HERE.iterdir() if path.suffix in (".py", ".mjs") and path.stem != "cases")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with llamacpp(QWEN, tmp_path_factory.mktemp("qwen"), context=32768) as served:
        table = f'model = "{served.spec}"'
        with gateway({"small": table, "large": table}, tmp_path_factory.mktemp("gateway")) as client:
            yield str(client.base_url)


def command_of(script: Path, environment: Path) -> list[str | Path]:
    """The command that runs a script. Scripts for Node are copied, because Node searches packages beside the script."""
    if script.suffix == ".py":
        return [environment / "bin" / "python", script]
    shutil.copy(HERE / "cases.mjs", environment)
    return ["node", shutil.copy(script, environment)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    ("models", "unable"), [("qwen", "images"), ("embedded", "json,logprobs")], ids=["qwen", "embedded"]
)
def test_a_client_works(
    script: Path, models: str, unable: str, picture: Path, request: pytest.FixtureRequest, tmp_path: Path
):
    arguments = [request.getfixturevalue(models), "--picture", picture, "--without", unable]
    command = [*command_of(script, HOME / "clients" / script.stem), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=3000, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
