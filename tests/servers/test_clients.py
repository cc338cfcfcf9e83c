"""Every snippet of docs/clients, run with `cuecard serve` and the embedded pair."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from programs import HOME

from cuecard import Pair
from cuecard.domain.question import AnswerKind, Image, Question

pytestmark = pytest.mark.servers
CLIENTS = Path(__file__).parents[2] / "docs" / "clients"


@pytest.fixture(scope="module")
def truth(picture: Path) -> str:
    """The pair's answer in one process."""
    with Pair("demo-small", "demo-large") as pair:
        asked = Question("How many red digits are there?", (Image(picture.read_bytes()),), kind=AnswerKind.NUMBER)
        return pair.ask(asked).answer


COMMANDS = {
    "ask.py": [sys.executable],
    "responses.py": [sys.executable],
    "anthropic_messages.py": [HOME / "clients" / "anthropic_messages" / "bin" / "python"],
    "langchain_chat.py": [HOME / "clients" / "langchain_agents" / "bin" / "python"],
    "ask.mjs": ["node"],
    "curl.sh": ["sh"],
    "llm.sh": ["sh"],
}


def test_the_first_example_of_the_page_prints_what_it_says(embedded: str):
    """The board in docs/images has five red digits."""
    page = (CLIENTS.parent / "how-to" / "clients.md").read_text(encoding="utf-8")
    example = page.split("```py\n")[1].split("```")[0].replace("http://127.0.0.1:8400/v1", embedded)
    root = CLIENTS.parents[1]
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=60, cwd=root)
    assert done.stdout == "5 confirmed\n", done.stderr
    assert f"It prints `{done.stdout.strip()}`" in page


def test_every_snippet_is_run():
    assert {path.name for path in CLIENTS.iterdir()} == set(COMMANDS)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_snippet_prints_the_answer(name: str, embedded: str, picture: Path, truth: str, tmp_path: Path):
    script = CLIENTS / name
    if name.endswith(".mjs"):  # Node searches packages beside the script
        script = Path(shutil.copy(script, HOME / "clients" / "openai_node" / name))
    path = f"{HOME / 'clients' / 'llm_cli' / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        [*COMMANDS[name], script, embedded, picture],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PATH": path, "LLM_USER_PATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)["choices"][0]["message"]["content"] if name == "curl.sh" else done.stdout
    assert output.strip().endswith(truth)
