"""Cards cut to some of their words: the cuts, the read calls, and the comparison of answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ablation
import ablation_figures
import pytest
from test_attention_run import CONFIG, SETTINGS, asked

from cuecard.attention import api as runs
from cuecard.attention.store import Folder
from cuecard.models.base import Limits
from cuecard.models.local.model import LocalModel

REASONING = "There are 3 boxes. Each has 1,200 pens, so 3 * 1200 = 3600. The answer is \\boxed{3,600}."
WEIGHED = [(word, float(place == 4)) for place, word in enumerate(ablation.words(REASONING))]


def test_a_card_can_be_without_its_conclusion_or_without_its_answer() -> None:
    made = ablation.cards(REASONING, WEIGHED, "3600")
    assert made["last sentence removed"] == "There are 3 boxes. Each has 1,200 pens, so 3 * 1200 = 3600."
    assert made["answer struck out"] == "There are 3 boxes. Each has 1,200 pens, so 3 * 1200 = The answer is"
    assert made["last 0.1"] == "is \\boxed{3,600}."
    assert made["attention 0.1"].startswith("Each ")
    assert made["first 0.2"] == "There are 3 boxes."


def test_a_number_is_found_however_it_is_written() -> None:
    assert ablation.says("so \\boxed{3,600}.", "3600")
    assert ablation.says("3600.00", "3600")
    assert not ablation.says("13600 and 360", "3600")
    assert not ablation.says("3600", "None")
    assert ablation.ends(REASONING, "3600") == {"last": True, "before": False, "last sentence removed": True}


async def test_every_card_is_read_once_and_compared_with_the_whole_one(
    load: Callable[[str], LocalModel], tmp_path: Path
) -> None:
    model, questions = load("demo-large"), asked(3)
    with Folder(tmp_path / "run", CONFIG, {}) as folder:
        await runs.run(questions, {"large": model}, folder, SETTINGS)
    await ablation.run_cuts(questions[:2], model, tmp_path / "run", tmp_path / "kept.jsonl", Limits())
    before = ablation.read(tmp_path / "kept.jsonl")
    with (tmp_path / "kept.jsonl").open("a") as file:
        file.write('{"id": "broken')
    await ablation.run_cuts(questions, model, tmp_path / "run", tmp_path / "kept.jsonl", Limits())
    records = ablation.read(tmp_path / "kept.jsonl")
    assert records[:2] == before
    assert [record["id"] for record in records] == ["0", "1", "2"]

    rows = {row["card"]: row for row in ablation.cut_table(records)}
    assert rows["whole"]["same"] == 1
    assert rows["none"]["words"] == 0
    assert rows["last 0.3"]["words"] == pytest.approx(0.3 * rows["whole"]["words"], abs=1)
    differences = {(row["card"], row["against"]): row for row in ablation.cut_differences(records)}
    against = differences["random 0.1", "whole"]
    assert against["difference"] == pytest.approx((against["better"] - against["worse"]) / 3, abs=1e-3)
    assert ("attention 0.3", "last 0.3") in differences

    drawn = ablation_figures.kept_words(list(rows.values()), "boards, 3 questions")
    assert "attention 0.1: " in drawn.svg
