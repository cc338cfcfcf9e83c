"""The notebook runs from its first cell to its last."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "attention.ipynb"


async def test_every_cell_of_the_notebook_runs(capsys: pytest.CaptureFixture[str]) -> None:
    room: dict[str, Any] = {}
    for number, cell in enumerate(json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            compiled = compile("".join(cell["source"]), f"cell {number}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if compiled.co_flags & inspect.CO_COROUTINE:
                await eval(compiled, room)
            else:
                exec(compiled, room)
    printed = capsys.readouterr().out
    assert "large, from the card: red" in printed
    assert "as it was: red" in printed
