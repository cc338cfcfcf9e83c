"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest
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


@pytest.mark.parametrize(
    ("arguments", "completing"),
    [
        (["--help"], {}),
        ([], {"_CUECARD_COMPLETE": "complete_bash", "COMP_WORDS": "cuecard re", "COMP_CWORD": "1"}),
    ],
    ids=["help", "completion"],
)
def test_the_list_of_commands_imports_none_of_them(arguments: list[str], completing: dict[str, str]):
    code = f"from cuecard.cli import app; app({arguments}, prog_name='cuecard', standalone_mode=False)"
    done = subprocess.run(
        [sys.executable, "-c", f"import atexit, sys; atexit.register(lambda: print(*sys.modules)); {code}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | completing,
    )
    assert "report" in done.stdout
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


ROOT = Path(__file__).parent.parent
SOURCES = sorted([*Path(cuecard.__file__).parent.rglob("*.py"), *ROOT.glob("training/*.py")])
MOST_FILES, MOST_LINES, MOST_PARAMETERS = 12, 60, 8
UNCLEAR = re.compile(r"\b(told|whoever|who is asked|as good as gone)\b", re.IGNORECASE)
FORMATS = {"replay.py", "store.py"}
"""Files that write field names of stored files."""


def nodes(kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> Iterator[tuple[Path, Any]]:
    for path in SOURCES:
        yield from ((path, node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kind))


def test_the_package_does_not_import_its_training():
    package = Path(cuecard.__file__).parent
    found = [(path, node.module or "") for path, node in nodes(ast.ImportFrom)]
    found += [(path, each.name) for path, node in nodes(ast.Import) for each in node.names]
    assert [path for path, name in found if package in path.parents and name.split(".")[0] == "training"] == []


def test_benchmarks_and_studies_import_names_that_there_are():
    """They run seldom, so that a name that has moved would show late."""
    absent = []
    for path in [*ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("studies/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("cuecard", "training"):
                module = import_module(node.module or "")
                below = {each.name for each in iter_modules(getattr(module, "__path__", []))}
                names = {each.name for each in node.names} - below
                absent += [f"{path.name}: {name}" for name in names if not hasattr(module, name)]
    assert absent == []


def test_a_folder_holds_at_most_a_dozen_files():
    folders = Counter(path.parent for path in SOURCES)
    assert {str(folder): count for folder, count in folders.items() if count > MOST_FILES} == {}


def test_functions_are_short_and_have_few_parameters():
    """Except commands, which have one parameter per option."""
    too_large = []
    for path, node in nodes((ast.FunctionDef, ast.AsyncFunctionDef)):
        given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        parameters = [each for each in given if each.arg not in ("self", "cls")]
        lines = node.end_lineno - node.lineno + 1
        if "cli" not in path.parts and (lines > MOST_LINES or len(parameters) > MOST_PARAMETERS):
            too_large.append(f"{path.name}: {node.name}")
    assert too_large == []


def test_no_two_classes_have_one_name():
    names = Counter(node.name for _, node in nodes(ast.ClassDef) if not node.name.startswith("_"))
    assert [name for name, count in names.items() if count > 1] == []


def test_names_and_prose_use_plain_words():
    unclear = {path.name: UNCLEAR.findall(path.read_text()) for path in SOURCES if path.name not in FORMATS}
    assert {name: words for name, words in unclear.items() if words} == {}
