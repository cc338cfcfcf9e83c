"""The documentation says what the code does: examples run, generated parts are current, links lead somewhere.

`.venv/bin/python tests/test_docs.py` writes the generated parts anew.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import cache, partial
from importlib.util import find_spec
from math import prod
from pathlib import Path

import pytest
import typer
import typer.rich_utils
from typer.testing import CliRunner

import cuecard
from cuecard.answers.kinds import KINDS
from cuecard.cli import app
from cuecard.demo.tasks import offer
from cuecard.domain import errors
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.evals.tasks.registry import offered
from cuecard.models import prompt as layouts
from cuecard.models import spec
from cuecard.models.base import Limits
from cuecard.models.openai.families import FAMILIES, UNKNOWN, Family
from cuecard.models.prompt import EMBEDDED, PROSE, TAGS, CardFormat, Prompt, Style, neutral
from cuecard.strategies.policy import Policy
from cuecard.strategies.run import STRATEGIES
from figures import FIGURES
from studied import STUDIED

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # for `training`, when this file is a program
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
WIDTH = 120
PART = re.compile(r"(?P<begin><!-- generated: (?P<name>[^>]+?) -->\n)(?P<body>.*?)(?P<end><!-- end -->)", re.DOTALL)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[str]:
    """The fenced blocks of these languages, in order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def fenced(text: str) -> str:
    lines = [line.rstrip() for line in text.strip("\n").split("\n")]
    return "\n".join(["```text", *lines, "```\n"])


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


# --- generated parts: the command line --------------------------------------------------------------------------------


def help_of(command: str) -> str:
    """`cuecard COMMAND --help`, 100 columns wide, without colour."""
    keep = typer.rich_utils.MAX_WIDTH, typer.rich_utils.FORCE_TERMINAL
    typer.rich_utils.MAX_WIDTH, typer.rich_utils.FORCE_TERMINAL = 100, False
    try:
        shown = CliRunner().invoke(app, [*command.split(), "--help"], prog_name="cuecard", color=False)
    finally:
        typer.rich_utils.MAX_WIDTH, typer.rich_utils.FORCE_TERMINAL = keep
    return fenced(shown.output)


# --- generated parts: prompts -----------------------------------------------------------------------------------------

PICTURE = Image(b"one picture")
ASKED = Question("How many red digits are there?", (PICTURE,), ("6", "7", "8", "9"), AnswerKind.CHOICE, "Be brief.")
CARD = "Row 1 shows red (1), green. Row 2 shows red (2). The result is 2."


@cache
def renderer():
    """The embedded pair's chat template; its words do not matter here."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from training.tokenizer import CHAT_TEMPLATE

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), chat_template=CHAT_TEMPLATE)


def rendered(prompt: Prompt) -> str:
    from cuecard.models.local.network import render

    return render(renderer(), prompt)


def prompts(style: Style) -> dict[str, Prompt]:
    return {
        "short": layouts.short(ASKED, style),
        "reason": layouts.reason(ASKED, style),
        **{f"read, {form}": layouts.read(ASKED, CARD, form, style) for form in CardFormat},
    }


def growing() -> Prompt:
    return layouts.growing(ASKED, CARD[:43], CardFormat.THINKING, TAGS)


def closed() -> Prompt:
    return layouts.reason(ASKED, TAGS).closed_after(CARD[:43])


def shared() -> str:
    """How much of each prompt the short one has in common with it."""
    rows = []
    for name, style in (("tags", TAGS), ("prose", PROSE)):
        texts = {mode: rendered(prompt) for mode, prompt in prompts(style).items()}
        for mode, text in texts.items():
            pairs = zip(text, texts["short"], strict=False)
            alike = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(text), len(texts["short"])))
            rows.append((name, mode, str(len(text)), str(alike), f"`{json.dumps(text[:alike][-30:])[1:-1]}`"))
    return table(("style", "prompt", "characters", "shared with `short`", "which end in"), rows)


def control_tokens() -> str:
    given = ("<|im_end|>", "</think>", "<|image_pad|>", "[INST]", "<start_of_turn>", "<<SYS>>", "a < b | c [1]")
    return table(("given", "enters a prompt as"), [(f"`{text}`", f"`{neutral(text)}`") for text in given])


# --- generated parts: errors, families, the embedded pair -------------------------------------------------------------


def tree() -> Iterator[tuple[type[errors.CuecardError], int]]:
    """Every class of the tree with its depth, parents first."""

    def below(kind: type[errors.CuecardError], depth: int) -> Iterator[tuple[type[errors.CuecardError], int]]:
        yield kind, depth
        for child in kind.__subclasses__():
            if child.__module__ == errors.__name__:
                yield from below(child, depth + 1)

    return below(errors.CuecardError, 0)


def error_tree() -> str:
    rows = [
        (
            "↳ " * depth + f"`{kind.__name__}`",
            inspect.getdoc(kind) or "",
            "yes" if kind.retryable else "no",
            str(kind.http_status),
        )
        for kind, depth in tree()
    ]
    hints = [(f"`{kind.__name__}`", kind.hint) for kind, _ in tree() if kind.hint]
    return f"{table(('error', 'says', 'retry', 'HTTP'), rows)}\n{table(('error', 'hint'), hints)}"


def families() -> str:
    return "".join(map(_family, (*FAMILIES, UNKNOWN)))


def _family(family: Family) -> str:
    style = {TAGS: "tags", PROSE: "prose", EMBEDDED: "tags, worded as in the pair's training"}[family.style]
    patterns = re.split(r"\|(?![^()]*\))", family.models)
    names = "no name: chosen with `family`" if family.models == "(?!)" else ", ".join(f"`{p}`" for p in patterns)
    on, off = (f"`{json.dumps(switch)}`" if switch else "nothing" for switch in (family.on, family.off))
    words = [
        f"Names: {names if family.models else 'all others'}.",
        f"Style: {style}.",
        f"Sent to reason: {on}; to answer at once: {off}.",
        *(["Thinking cannot be switched off."] if not family.stops else []),
        *(["Its template opens the reasoning itself."] if family.opens else []),
    ]
    lines = textwrap.wrap(" ".join(words), WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return f"- **{family.name}**\n" + "".join(f"  {line}\n" for line in lines)


def strategies() -> str:
    rows = []
    for name, strategy in STRATEGIES.items():
        function = strategy.func if isinstance(strategy, partial) else strategy
        about = (inspect.getdoc(function) or "").split("\n")[0]
        role = f" The {strategy.keywords['role']} one." if isinstance(strategy, partial) else ""
        rows.append((f"`{name}`", about + role))
    return table(("name", "what it does"), rows)


def kinds() -> str:
    rows = [(f"`{kind}`", rules.about, rules.asks or "anything", str(rules.tokens)) for kind, rules in KINDS.items()]
    return table(("kind", "an answer is", "asked for as", "most tokens"), rows)


def tasks() -> str:
    offer()
    return table(
        ("task", "about", "kinds", "scorer"),
        [(f"`{name}`", opener.about, opener.kinds, opener.scorer) for name, opener in offered().items()],
    )


def parameters() -> str:
    """Parts of both checkpoints in parameters: of the shipped files, or as the code makes them where there are none."""
    from training import checkpoint

    rows = []
    for name in spec.EMBEDDED:
        text, vision = checkpoint.SIZES[name]["text"], checkpoint.SIZES[name]["vision"]
        weights = spec.Embedded(name).folder / "model.safetensors"
        shapes = stored_shapes(weights) if weights.exists() else made_shapes(name)
        seen = sum(prod(shape) for key, shape in shapes.items() if ".visual." in key)
        whole = sum(map(prod, shapes.values()))
        layers = f"{text['num_hidden_layers']} × {text['hidden_size']}", f"{vision['depth']} × {vision['hidden_size']}"
        rows.append((f"`{name}`", *layers, f"{seen:,}", f"{whole - seen:,}", f"{whole:,}"))
    return table(("", "text layers", "vision layers", "vision", "text", "all"), rows)


def stored_shapes(weights: Path) -> dict[str, list[int]]:
    """Shapes from a safetensors header: 8 bytes with its length, then JSON."""
    with weights.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}


def made_shapes(name: str) -> dict[str, list[int]]:
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    from training import checkpoint, tokenizer

    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(checkpoint.architecture(name, tokenizer.build()))
    return {key: list(value.shape) for key, value in model.named_parameters()}


def wordings() -> str:
    from cuecard.demo.boards import BoardTask, wording

    kinds = AnswerKind
    asked = [
        (BoardTask("look-up", "digit", kinds.NUMBER, (4,)), "number"),
        (BoardTask("look-up", "colour", kinds.SHORT_TEXT, (4,)), "short_text; choice of colours"),
        (BoardTask("look-up", "colour", kinds.YES_NO, (4,), "red"), "yes_no"),
        (BoardTask("compare", "larger", kinds.YES_NO, (2, 6)), "yes_no"),
        (BoardTask("count", "count", kinds.NUMBER, (), "red"), "number"),
        (BoardTask("sum", "sum", kinds.NUMBER, (1,)), "number"),
        (BoardTask("jump-1", "digit", kinds.NUMBER, (4,)), "number"),
        (BoardTask("jump-3", "digit", kinds.NUMBER, (4,)), "number"),
        (BoardTask("jump-3", "colour", kinds.SHORT_TEXT, (4,)), "short_text; choice of colours"),
        (BoardTask("jump-3", "colour", kinds.YES_NO, (4,), "red"), "yes_no"),
    ]
    rows = [(f"`{task.task}`", wording(task), kinds) for task, kinds in asked]
    return table(("task", "wording", "kind"), rows)


def terms() -> str:
    from cuecard.report.html import TERMS

    return table(("term", "meaning"), list(TERMS.items()))


def phases() -> str:
    from training.recipes import RECIPES

    head = ("model", "phase", "steps", "look-up rows", "drills", "chains", "reasoning rows", "reading rows")
    rows = []
    for name, recipe in RECIPES.items():
        for phase in recipe.phases:
            counts = (phase.look_up_rows, phase.drill_rows, phase.chains, phase.reason_rows, phase.read_rows)
            rows.append(
                (f"`{name}`", phase.name, f"{phase.steps:,}", *(str(count) if count else "" for count in counts))
            )
    return table(head, rows)


def styles() -> str:
    """A reasoning about the same board and the same image in the words of either model."""
    from cuecard.demo import boards, tasks
    from training import shapes
    from training.reasoning import STYLES, solve

    cells = [(boards.COLOURS[index % 3], (index * 7 + 4) % 10) for index in range(boards.CELLS)]
    jump = boards.BoardTask("jump-2", "digit", AnswerKind.NUMBER, (4,))
    scenes = tasks.scenes("train")
    item = next(each for each in tasks.photo_questions("train") if each.image_path in scenes and shapes.asked_for(each))
    found = []
    for name, style in STYLES.items():
        texts = [solve(jump, cells, style), shapes.solve(item, scenes[item.image_path], style)]
        found += [(f"`{name}`", text.reasoning) for text in texts]
    asked = f"{boards.wording(jump)} and: {item.text}"
    return f"{asked}\n\n{table(('model', 'reasoning'), found)}"


def mixes() -> str:
    from cuecard.demo import boards
    from training import train

    asked = {
        "examined": boards.MIX,
        **{
            f"`{name}`, {phase.name}, short": phase.short_mix
            for name, recipe in train.RECIPES.items()
            for phase in recipe.phases
            if phase.short_mix
        },
        "reasoning and reading": train.REASONED,
    }

    def shares(mix: Mapping[str, int]) -> list[str]:
        long = sum(mix.get(task, 0) for task in boards.LONG_TASKS)
        counts = [*(mix.get(task, 0) for task in boards.TASKS), long]
        return [f"{count / sum(mix.values()):.0%}" for count in counts]

    return table(("questions", *boards.TASKS, "long"), [(name, *shares(mix)) for name, mix in asked.items()])


def all_commands() -> Iterator[str]:
    """Every command, and those under a command."""
    for name, command in typer.main.get_command(app).commands.items():
        yield name
        yield from (f"{name} {below}" for below in getattr(command, "commands", ()))


GENERATORS: dict[str, Callable[[], str]] = {
    "help": lambda: help_of(""),
    **{f"help {name}": lambda name=name: help_of(name) for name in all_commands()},
    **{f"tags: {name}": lambda name=name: fenced(rendered(prompts(TAGS)[name])) for name in prompts(TAGS)},
    **{f"prose: {name}": lambda name=name: fenced(rendered(prompts(PROSE)[name])) for name in prompts(PROSE)},
    "growing": lambda: fenced(rendered(growing())),
    "closed": lambda: fenced(rendered(closed())),
    "shared": shared,
    "control tokens": control_tokens,
    "errors": error_tree,
    "families": families,
    "strategies": strategies,
    "styles": styles,
    "kinds": kinds,
    "tasks": tasks,
    "parameters": parameters,
    "terms": terms,
    "phases": phases,
    "mixes": mixes,
    "wordings": wordings,
    **FIGURES,
    **STUDIED,
}


def regenerate() -> None:
    """Write every generated part anew."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fresh = PART.sub(lambda part: part["begin"] + GENERATORS[part["name"]]() + part["end"], text)
        if fresh != text:
            page.write_text(fresh, encoding="utf-8")
            print(f"written: {page.relative_to(ROOT)}")


# --- the tests --------------------------------------------------------------------------------------------------------

PARTS = [(name, part["name"]) for name in NAMES for part in PART.finditer(text_of(name))]


@pytest.mark.parametrize(("page", "part"), PARTS, ids=[f"{page} {part}" for page, part in PARTS])
def test_a_generated_part_of_the_docs_is_what_the_code_gives(page, part):
    written = next(found["body"] for found in PART.finditer(text_of(page)) if found["name"] == part)
    assert written == GENERATORS[part](), "run .venv/bin/python tests/test_docs.py"


def test_every_generated_part_has_its_place_and_every_command_its_help():
    assert {part for _, part in PARTS} == set(GENERATORS)


def board_in(folder: Path) -> None:
    """The board of the examples, at its path from the root of a checkout."""
    (folder / "docs" / "images").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "images" / "board.png", folder / "docs" / "images")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", [name for name in NAMES if blocks(name, "python")])
def test_the_python_examples_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    board_in(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)


def test_the_first_example_of_the_readme_answers_with_a_number_and_says_how(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    board_in(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(blocks("README.md", "python")[0], "README.md", "exec"), names)
    outcome = names["outcome"]
    assert isinstance(outcome, cuecard.Outcome)
    assert outcome.answer.isdigit()
    assert outcome.answer in capsys.readouterr().out


def commands(program: str) -> list[tuple[str, list[str]]]:
    """(page, words after the program) of every command line in the docs that runs this program."""
    found = []
    for name in NAMES:
        for block in blocks(name, "sh"):
            for line in block.replace("\\\n", " ").split("\n"):
                words = shlex.split(re.sub(r"\s#\s.*", "", line))
                words = words[: next((i for i, word in enumerate(words) if word in ("|", "<", ">")), len(words))]
                while words and "=" in words[0]:
                    words = words[1:]
                if words and words[0].removeprefix(".venv/bin/") == program:
                    found.append((name, words[1:]))
    return found


def test_every_cuecard_command_in_the_docs_has_options_that_exist():
    group = typer.main.get_command(app)
    shown = commands("cuecard")
    assert shown
    for page, words in shown:
        if words[0].startswith("-"):
            assert words[0] in ("--help", "--version"), page
            continue
        assert words[0] in group.commands, f"{page}: cuecard {words[0]}"
        command, rest = group.commands[words[0]], words[1:]
        if hasattr(command, "commands"):
            rest = rest if rest[0] in command.commands else ["file", *rest]  # `cuecard study FILE`
            command, rest = command.commands[rest[0]], rest[1:]
        # raises where an option or an argument does not exist
        command.make_context(words[0], rest)


def test_every_module_and_make_target_in_the_docs_exists():
    makefile = text_of("Makefile")
    for page, words in commands("make"):
        assert all(re.search(rf"^{word}:", makefile, re.MULTILINE) for word in words), f"{page}: make {words}"
    for page, words in commands("python"):
        if words[0] == "-m" and words[1].startswith("cuecard"):
            source = Path(find_spec(words[1]).origin).read_text(encoding="utf-8")
            unknown = [w for w in words[2:] if w.startswith("--") and f'"{w}"' not in source]
            assert not unknown, f"{page}: {words[1]} has no {unknown}"
        elif words[0].endswith(".py"):
            assert (ROOT / words[0]).exists(), f"{page}: {words[0]}"


@pytest.mark.parametrize("page", NAMES)
def test_every_relative_link_of_a_page_leads_to_a_file_and_a_heading(page):
    targets = re.findall(r"\]\(([^)\s]+)\)|<(?:img|a) [^>]*?(?:src|href)=\"([^\"]+)\"", text_of(page))
    for target in (one or other for one, other in targets):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page}: {target}"
        if heading:
            assert heading in anchors(file.read_text(encoding="utf-8")), f"{page}: {target}"


def anchors(text: str) -> set[str]:
    """What the headings of a page are called in links to them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", NAMES)
def test_no_line_of_a_page_is_too_long_and_no_path_of_a_machine_is_named(page):
    text = text_of(page)
    written = re.sub(r"<!-- generated.*?<!-- end -->", "", text, flags=re.DOTALL)  # prompts are as long as they are
    long = [line for line in written.split("\n") if len(line) > WIDTH]
    assert not long
    assert not re.search(r"(?<![\w.~}])/(?:home|root|work|Users|tmp)/", text)


@pytest.mark.parametrize("page", NAMES)
def test_the_prose_of_a_page_names_its_subjects(page):
    text = text_of(page).split("\n## [0.1.0]")[0]  # of the changelog what is not released yet
    prose = re.sub(r"<!-- generated.*?<!-- end -->|^```.*?^```|`[^`\n]+`", "", text, flags=re.DOTALL | re.MULTILINE)
    assert not re.findall(r"\b(?:told|said|whoever|nobody|somebody|everybody)\b", prose, re.IGNORECASE)


def test_every_layer_of_the_import_contract_has_a_row_in_the_room_table_in_the_same_order():
    contracts = tomllib.loads(text_of("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    section = text_of("docs/explanation/architecture.md").split("## Rooms")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert rows == [room.removeprefix("cuecard.") for layer in layers for room in layer.split(" | ")]


def test_every_setting_of_a_policy_stands_in_the_docs_with_its_default():
    text = text_of("docs/reference/policy.md")
    policy, limits = Policy(), Limits()
    settings = [(f.name, getattr(policy, f.name)) for f in fields(Policy) if f.name != "limits"]
    settings += [(f"limits.{f.name}", getattr(limits, f.name)) for f in fields(Limits)]
    for name, default in settings:
        assert f"| `{name}` | `{default}` |" in text, name


def test_every_threat_names_a_test_that_exists():
    section = text_of("docs/explanation/security.md")
    threats = re.findall(r"^- .*?(?=^- |^\n|\Z)", section, re.MULTILINE | re.DOTALL)
    there = {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    named = [set(re.findall(r"`(test_\w+)`", threat)) for threat in threats]
    assert len(named) > 10
    assert all(named)
    assert not set().union(*named) - there


def test_every_strategy_and_every_key_of_a_pair_file_is_described():
    assert not [name for name in STRATEGIES if f"`{name}`" not in text_of("docs/reference/strategies.md")]
    assert not [key for key in spec.KEYS if f"| `{key}` |" not in text_of("docs/reference/configuration.md")]


@pytest.mark.timeout(400)
@pytest.mark.skipif(not find_spec("mkdocstrings"), reason="mkdocs is not installed: `make docs` installs it")
@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    sys.exit(regenerate())
