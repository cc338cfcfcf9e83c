"""The page of an attention run: self-contained, usable with mouse and keyboard, and the command that writes it."""

from __future__ import annotations

import asyncio
import csv
import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

sys.path.append(str(Path(__file__).parents[1] / "gateway"))

import families
from browser import CHROMIUM, Tab, browser

from cuecard.cli import app
from cuecard.domain.errors import BadInput, CuecardError, Unsupported
from cuecard.report import attention_report, html
from cuecard.report.attention_report import opened, page

pytestmark = pytest.mark.slow

COUNT = 3
PAIR = ("--task", "boards", "--model", "demo-large", "--small", "demo-small")


def cuecard(*argv: Any) -> str:
    shown = CliRunner().invoke(app, [str(each) for each in argv], prog_name="cuecard", catch_exceptions=False)
    if isinstance(shown.exception, CuecardError):
        raise shown.exception
    assert shown.exit_code == 0, shown.output
    return shown.output


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("attention") / "run"
    cuecard("attention", *PAIR, "--limit", COUNT, "--out", path)
    return path


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_draws_the_three_figures_and_writes_their_tables(ran: Path) -> None:
    figures = {file.name for file in (ran / "figures").iterdir()}
    assert figures == {
        "captions.txt",
        *(f"attention-{number}.{kind}" for number in (3, 4, 5) for kind in ("png", "svg")),
    }
    with (ran / "tables" / "figure-3.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["figure"] for row in rows} == {"mass", "sparsity", "sparsity of the mean over heads"}
    assert all(0 <= float(row["low"]) <= float(row["mean"]) <= float(row["high"]) <= 1 for row in rows)
    assert json.loads((ran / "findings.json").read_text())["questions"] == COUNT


def test_only_the_figures_that_are_wanted_are_drawn(ran: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    printed = cuecard(
        *("attention", "--task", "boards", "--model", "demo-small", "--limit", 1, "--figures", "4", "--out", out)
    )
    assert sorted(file.stem for file in (out / "figures").glob("*.svg")) == ["attention-4"]
    assert "large: own reasoning" in " ".join(printed.split())


def test_more_questions_go_on_from_those_that_are_there(ran: Path, tmp_path: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in (ran / "questions").iterdir()}
    found = json.loads(cuecard("attention", *PAIR, "--limit", COUNT, "--out", ran, "--json"))
    assert found["questions"] == COUNT
    assert {file.name: file.stat().st_mtime_ns for file in (ran / "questions").iterdir()} == before


@pytest.mark.parametrize(
    ("argv", "kind", "message"),
    [
        (("--figures", "2"), BadInput, "there is no figure '2' here"),
        (("--delta", "1.5"), BadInput, "--delta 1.5 is not between 0 and 1"),
        (("--model", "http://127.0.0.1:9/v1#x"), Unsupported, "does not run in this process"),
        (("--task", "bords"), BadInput, "unknown task 'bords'"),
    ],
)
def test_an_impossible_request_is_a_one_line_error(
    tmp_path: Path, argv: tuple[str, str], kind: type[CuecardError], message: str
) -> None:
    options = {"--task": "boards", "--model": "demo-small", "--limit": "1", "--out": str(tmp_path / "run")}
    options[argv[0]] = argv[1]
    with pytest.raises(kind, match=message):
        cuecard("attention", *(each for pair in options.items() for each in pair))


def test_a_checkpoint_without_a_hook_is_refused_in_one_line(tmp_path: Path) -> None:
    checkpoint = families.saved("gpt_neo", tmp_path / "neo")
    (tmp_path / "ask.jsonl").write_text(json.dumps({"question": "How many?", "answer": "7", "kind": "number"}) + "\n")
    task = f"jsonl:{tmp_path / 'ask.jsonl'}"
    with pytest.raises(Unsupported, match="GPTNeoForCausalLM has no hook for its attention"):
        cuecard(*("attention", "--task", task, "--model", checkpoint, "--budget", 4, "--out", tmp_path / "run"))


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_of_a_report_needs_no_network(ran: Path) -> None:
    cuecard("report", ran)
    text = (ran / "report.html").read_text(encoding="utf-8")
    assert 'src="http' not in text
    assert text.count("<script") == 2
    assert (
        html.policy((files("cuecard.report") / "templates" / attention_report.SCRIPT).read_text(encoding="utf-8"))
        in text
    )


def test_text_of_models_and_users_is_never_markup(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = opened(ran, 1)
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    look = shown.questions[0]
    shades = next(iter(look.shades.values()))
    object.__setattr__(shades, "answer", evil)
    object.__setattr__(shades, "pieces", [evil, *shades.pieces[1:]])
    object.__setattr__(look, "meta", {**look.meta, "text": evil, "category": evil})
    text = page(shown, [])
    assert text.count("<script") == 2
    assert "<img src=x" not in text


def test_a_page_holds_as_many_questions_as_fit(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_report, "MOST_BYTES", 1)
    text = page(opened(ran, 3), [])
    looks = json.loads(text.split('id="looks">')[1].split("</script>")[0])
    assert len(looks) == 1


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
CARD = "document.getElementById('card').textContent"
TOLD = "document.getElementById('status').textContent"


async def choose(tab: Tab, name: str, value: str) -> None:
    await tab.js(
        f"(() => {{ const box = document.getElementById('{name}'); box.value = '{value}';"
        " box.dispatchEvent(new Event('change')); })()"
    )


@needs_chromium
def test_tokens_are_shaded_by_the_layer_and_head_that_are_chosen(ran: Path, tmp_path: Path) -> None:
    cuecard("report", ran)

    async def work() -> None:
        async with browser(tmp_path) as tab:
            await tab.open((ran / "report.html").as_uri())
            first = await tab.js(TOLD)
            card = await tab.js(CARD)
            assert card.strip().startswith("Let us")
            shade = "[...document.querySelectorAll('#card span')].map((s) => s.style.getPropertyValue('--s')).join()"
            mean = await tab.js(shade)
            await choose(tab, "layer", "1")
            await choose(tab, "head", "2")
            assert await tab.js(shade) != mean
            assert await tab.js(TOLD) != first
            # the same text, which can be selected and copied
            copied = "(getSelection().selectAllChildren(document.getElementById('card')), getSelection().toString())"
            assert (await tab.js(copied)).split() == card.split()
            await tab.js("document.getElementById('card').focus()")
            await tab.press("ArrowRight", 39)
            assert await tab.js("document.getElementById('question').value") == "1"
            assert await tab.js("document.getElementById('layer').value") == "1"
            await tab.press("ArrowLeft", 37)
            assert await tab.js(CARD) == card
            await choose(tab, "condition", "large: small\\'s card")
            assert "large: small's card" in await tab.js("document.getElementById('answered').textContent")
            assert tab.complaints == []
            assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []

    asyncio.run(work())


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_can_be_read_on_it(ran: Path, tmp_path: Path, scheme: str) -> None:
    from test_dashboard import CONTRASTS

    cuecard("report", ran)

    async def work() -> None:
        async with browser(tmp_path) as tab:
            await tab.open((ran / "report.html").as_uri(), width=390, scheme=scheme)
            assert await tab.js("document.documentElement.scrollWidth") <= 390
            # contrast of the page's text colour on the darkest shade
            ground = (
                "(() => { const s = document.querySelector('#card span'); s.style.setProperty('--s', 1);"
                " const box = document.createElement('canvas').getContext('2d', {willReadFrequently: true});"
                " for (const c of [getComputedStyle(document.querySelector('.browser')).backgroundColor,"
                " getComputedStyle(s).backgroundColor]) { box.fillStyle = c; box.fillRect(0, 0, 1, 1); }"
                " s.style.background = `rgb(${[...box.getImageData(0, 0, 1, 1).data].slice(0, 3)})`; })()"
            )
            await tab.js("document.querySelectorAll('#card span').forEach((s) => s.style.background = 'none')")
            await tab.js(ground)
            poor = [text for contrast, text in await tab.js(CONTRASTS) if contrast < 4.5]
            assert poor == []

    asyncio.run(work())
