"""The house rules that a machine can check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cuecard

HTTP = ("aiohttp", "openai", "httpx", "httpx2", "httpcore", "uvicorn", "starlette")
HEAVY = ("torch", "transformers", "matplotlib", "numpy", "sklearn", *HTTP)


def imported_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_core_imports_nothing_heavy():
    assert imported_by("import cuecard").isdisjoint(HEAVY)


def test_the_command_line_starts_without_torch_or_matplotlib():
    assert imported_by("import cuecard.cli").isdisjoint(("torch", "transformers", "matplotlib", "sklearn"))


def test_models_behind_http_need_no_torch():
    assert imported_by("import cuecard.models.openai").isdisjoint(("torch", "transformers", "matplotlib"))


def test_the_embedded_pair_fits_in_the_wheel():
    weights = Path(cuecard.__file__).parent / "weights"
    size = sum(path.stat().st_size for path in weights.rglob("*") if path.is_file())
    assert 0 < size <= 20 * 2**20


def test_what_the_package_offers_is_there():
    assert all(hasattr(cuecard, name) for name in cuecard.__all__)
