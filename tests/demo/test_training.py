"""The embedded pair's data and training: rows that say what they should, growth that changes nothing, resuming."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from rich.progress import Progress
from transformers import Qwen3VLForConditionalGeneration

from cuecard.demo import boards, checkpoint, train, training_data
from cuecard.demo import tokenizer as tk
from cuecard.demo.train import Phase, Recipe
from cuecard.demo.training_data import Album, Writer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def writer() -> Writer:
    return Writer(tk.build())


@pytest.fixture(scope="module")
def album() -> Album:
    return Album(lambda pictures: pictures.float().mean((1, 2)), seed=0, count=32)


def learned(writer: Writer, row: training_data.Row) -> list[str]:
    return [writer.tokenizer.decode(row.ids[start:end]) for start, end in row.learned]


def test_scans_of_the_three_splits_are_apart():
    split = {name: {scan for of in boards.scans_of(name) for scan in of} for name in boards.SPLITS}
    assert sum(map(len, split.values())) == len(set.union(*split.values())) == 1797


@pytest.mark.parametrize("task", boards.TASKS)
def test_a_reasoning_ends_in_the_answer_and_names_every_cell_on_the_way(task):
    rng = Random(task)
    for _ in range(50):
        board = boards.make_board(rng, "test")
        made = boards.make_task(rng, board.cells, task)
        solution = boards.solve(made, board.cells)
        assert solution.reasoning.endswith(f"the answer is {solution.answer}.")
        if made.jumps:
            visited = boards.path(board.cells, made.cells[0], made.jumps)
            assert all(
                f"cell {cell + 1} shows a {' '.join(map(str, board.cells[cell]))}" in solution.reasoning
                for cell in visited
            )


@pytest.mark.parametrize("word", ["7", "24", "A", "cell 12", "red"])
def test_what_is_copied_is_one_token_at_the_end_whatever_stands_before_it(writer: Writer, word: str):
    bare, behind = writer.ids(f"\n{word}")[-1], writer.ids(f"is {word}")[-1]
    assert writer.tokenizer.decode(bare).strip() == writer.tokenizer.decode(behind).strip() == word
    if not word.islower():
        assert bare == behind


def test_a_reasoning_row_learns_the_reasoning_the_mark_and_the_answer(writer: Writer, album: Album):
    lesson = album.board_lessons(Random(1), ["jump-2"])[0]
    (told,) = learned(writer, training_data.reason_row(writer, lesson))
    solution = lesson.solution
    assert told == f"<think>\n{solution.reasoning}\n</think>\n\n{solution.answer}{tk.END}"


def test_a_reading_row_learns_nothing_but_the_true_answer_even_of_a_card_with_a_slip(writer: Writer, album: Album):
    for seed in range(20):
        lesson = album.board_lessons(Random(seed), ["jump-3"])[0]
        row = training_data.read_row(Random(seed), writer, lesson, slips=1.0)
        assert learned(writer, row) == [lesson.solution.answer + tk.END]
        assert lesson.slipped in writer.tokenizer.decode(row.ids)


def test_a_chain_of_short_answers_learns_each_answer_and_knows_the_cells_that_lead_to_it(writer: Writer, album: Album):
    asked = album.board_lessons(Random(2), ["jump-1", "count", "jump-2"])
    row = writer.chain(asked)
    assert learned(writer, row) == [lesson.solution.answer + tk.END for lesson in asked]
    assert [cells for _, cells in row.stations] == [lesson.visited for lesson in asked if lesson.visited]


def test_a_grown_model_begins_as_the_same_function():
    tokenizer = tk.build()
    torch.manual_seed(0)
    small, large = (
        Qwen3VLForConditionalGeneration(checkpoint.architecture(name, tokenizer)).eval()
        for name in ("demo-small", "demo-large")
    )
    large.load_state_dict(checkpoint.grow(small.state_dict(), large))
    ids = torch.tensor([tokenizer("Which digit is in cell 5?").input_ids])
    with torch.inference_mode():
        assert torch.allclose(small(ids).logits, large(ids).logits, atol=1e-5)


def brief(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Each phase of the small model, a few steps of each."""
    rows = {"look-up": {"look_up_rows": 2}, "both": {"chains": 1, "reason_rows": 2, "read_rows": 1, "drill_rows": 1}}
    phases = (
        Phase("vision", steps),
        Phase("look-up", steps, **rows["look-up"]),
        Phase("both", steps, short_mix=train.GLANCE, **rows["both"]),
    )
    monkeypatch.setitem(train.RECIPES, "demo-small", Recipe(phases, slips=0.1, stations=(1, 2)))
    monkeypatch.setattr(train, "ALBUM", 32)
    monkeypatch.setattr(train, "CHECKPOINT_STEPS", 1)
    monkeypatch.setattr(train.easyvqa, "scenes", few(train.easyvqa.scenes))


def few(scenes):
    return lambda split: dict(sorted(scenes(split).items())[:16])


def test_training_that_is_killed_goes_on_as_if_nothing_had_happened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    brief(monkeypatch, steps=2)

    def trained(out: Path) -> dict[str, torch.Tensor]:
        out.mkdir(exist_ok=True)
        with Progress(disable=True) as progress:
            train.train("demo-small", out, 0, progress)
        return Qwen3VLForConditionalGeneration.from_pretrained(out / "demo-small").state_dict()

    class Killed(Exception):
        pass

    whole, step = trained(tmp_path / "whole"), train.Trainee.step
    for kill_at in (1, 3, 4):  # within a phase, between two, and after its first step

        def dying(self, *given, taken=iter(range(kill_at))):
            if next(taken, None) is None:
                raise Killed
            return step(self, *given)

        monkeypatch.setattr(train.Trainee, "step", dying)
        with pytest.raises(Killed):
            trained(tmp_path / f"killed at {kill_at}")
        monkeypatch.setattr(train.Trainee, "step", step)
        resumed = trained(tmp_path / f"killed at {kill_at}")
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
