"""The house rules that a machine can check."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import typer.main

import cuecard
from cuecard.cli import COMMANDS, app

HTTP = ("aiohttp", "openai", "httpx", "httpx2", "httpcore", "uvicorn", "starlette")
HEAVY = ("torch", "transformers", "matplotlib", "numpy", "sklearn", *HTTP)


def imported_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_core_imports_nothing_heavy():
    assert imported_by("import cuecard").isdisjoint(HEAVY)


def test_the_commands_start_without_torch_or_matplotlib():
    every_command = (
        "import typer.main; from cuecard.cli import app; list(typer.main.get_command(app).commands.values())"
    )
    assert imported_by(every_command).isdisjoint(("torch", "transformers", "matplotlib", "sklearn"))


def test_the_list_of_commands_imports_none_of_them():
    code = "from typer.testing import CliRunner; from cuecard.cli import app; CliRunner().invoke(app, ['--help'])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert not [name for name in done.stdout.split() if name.startswith("cuecard.cli.")]


def test_the_list_of_commands_says_what_their_own_help_says_first():
    for name, command in typer.main.get_command(app).commands.items():
        assert inspect.cleandoc(command.help).split("\n\n")[0].replace("\n", " ") == COMMANDS[name][1], name


def test_models_behind_http_need_no_torch():
    assert imported_by("import cuecard.models.openai").isdisjoint(("torch", "transformers", "matplotlib"))


def test_the_embedded_pair_fits_in_the_wheel():
    weights = Path(cuecard.__file__).parent / "weights"
    size = sum(path.stat().st_size for path in weights.rglob("*") if path.is_file())
    assert 0 < size <= 20 * 2**20


def test_what_the_package_offers_is_there():
    assert all(hasattr(cuecard, name) for name in cuecard.__all__)
