"""The embedded pair's data and training: contents of rows, growth that keeps the outputs, resuming."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from rich.progress import Progress
from transformers import Qwen3VLForConditionalGeneration

from cuecard.demo import boards, tasks
from cuecard.demo.boards import path
from training import checkpoint, shapes, train
from training import data as training_data
from training import tokenizer as tk
from training.data import Album, Writer
from training.optimisation import Muon, first_head
from training.reasoning import STYLES, solve
from training.recipes import GLANCE, Phase, Recipe

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def writer() -> Writer:
    return Writer(tk.build())


@pytest.fixture(scope="module")
def album() -> Album:
    return Album(lambda pictures: pictures.float().mean((1, 2)), seed=0, count=32, own=STYLES["demo-small"])


def learned(writer: Writer, row: training_data.Row) -> list[str]:
    return [writer.tokenizer.decode(row.ids[start:end]) for start, end in row.learned]


def test_scans_of_the_three_splits_are_apart():
    split = {name: {scan for of in boards.scans_of(name) for scan in of} for name in boards.SPLITS}
    assert sum(map(len, split.values())) == len(set.union(*split.values())) == 1797


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("task", [*boards.TASKS, *boards.LONG_TASKS])
def test_a_reasoning_ends_in_the_answer_and_names_every_cell_on_the_way(task: str, style: str):
    rng = Random(task)
    for _ in range(20):
        board = boards.make_board(rng, "test")
        made = boards.make_task(rng, board.cells, task, wander=task in boards.LONG_TASKS)
        solution = solve(made, board.cells, STYLES[style])
        assert solution.answer == boards.answer(made, board.cells)
        assert solution.reasoning.endswith(f"the answer is {solution.answer}.")
        if made.jumps:
            visited = path(board.cells, made.cells[0], made.jumps)
            shown = [STYLES[style].shows(board.cells, cell)[1:] for cell in visited]
            assert [text for text in shown if text not in solution.reasoning] == []


@pytest.mark.parametrize("style", STYLES)
def test_reasoning_about_a_shape_ends_in_the_answer_of_the_data_set(style: str):
    scenes = tasks.scenes("test")
    for item in tasks.photo_questions("test")[::7]:
        if item.image_path in scenes:
            solution = shapes.solve(item, scenes[item.image_path], STYLES[style])
            assert solution.answer == item.answer
            assert solution.reasoning.endswith(f"the answer is {item.answer}.")


def test_long_boards_are_jumped_over_without_a_cell_twice():
    for jumps, task in enumerate(boards.LONG_TASKS, start=6):
        rng = Random(task)
        cells = boards.make_board(rng, "test", jumps).cells
        (start,) = boards.make_task(rng, cells, task).cells
        assert len(set(path(cells, start, jumps))) == jumps + 1


def test_turns_of_hue_that_are_held_out_are_never_drawn():
    low, high = boards.HELD_OUT_TURN
    turns = [training_data.trained_turn(Random(seed)) for seed in range(500)]
    assert not any(low <= abs(turn) <= high for turn in turns)
    assert min(turns) < -high
    assert max(turns) > high


def test_matrices_are_updated_as_by_the_muon_of_torch():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((48, 16), (16, 32), (48, 16))]
    theirs = [torch.nn.Parameter(matrix.detach().clone()) for matrix in ours]
    optimisers = Muon(ours, lr=0.02), torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.05)
    for _ in range(3):
        for own, other in zip(ours, theirs, strict=True):
            own.grad = torch.randn_like(own)
            other.grad = own.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for own, other in zip(ours, theirs, strict=True):  # torch's Muon iterates in bfloat16
        assert torch.allclose(own, other, atol=3e-3)


@pytest.mark.parametrize("word", ["7", "24", "A", "cell 12", "red"])
def test_what_is_copied_is_one_token_at_the_end_whatever_stands_before_it(writer: Writer, word: str):
    bare, behind = writer.ids(f"\n{word}")[-1], writer.ids(f"is {word}")[-1]
    assert writer.tokenizer.decode(bare).strip() == writer.tokenizer.decode(behind).strip() == word
    if not word.islower():
        assert bare == behind


def test_a_reasoning_row_learns_the_reasoning_the_mark_and_the_answer(writer: Writer, album: Album):
    lesson = album.board_lessons(Random(1), ["jump-2"])[0]
    (text,) = learned(writer, training_data.reason_row(writer, lesson))
    solution = lesson.solution
    assert text == f"<think>\n{solution.reasoning}\n</think>\n\n{solution.answer}{tk.END}"


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


def test_the_supervised_head_is_the_first_head_of_the_model() -> None:
    tokenizer = tk.build()
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(checkpoint.architecture("demo-small", tokenizer)).eval()
    model.set_attn_implementation("eager")
    language, given = model.model.language_model, {}

    def keep(_: torch.nn.Module, __: tuple, inputs: dict) -> None:
        given["attention"] = (inputs["hidden_states"], *inputs["position_embeddings"])

    language.layers[2].self_attn.register_forward_pre_hook(keep, with_kwargs=True)
    ids = torch.tensor([tokenizer("Which digit is in cell 5?").input_ids] * 2)
    with torch.inference_mode():
        weights = language(input_ids=ids, output_attentions=True).attentions[2]
        row, at = torch.tensor([0, 1]), torch.tensor([3, 1])
        scores = first_head(language.layers[2].self_attn, *given["attention"], row, at)
    assert torch.allclose(scores.softmax(-1), weights[row, 0, at], atol=1e-5)


def brief(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Shorten the small model's training: every phase with a few steps."""
    rows = {"look-up": {"look_up_rows": 2}, "both": {"chains": 1, "reason_rows": 2, "read_rows": 1, "drill_rows": 1}}
    phases = (
        Phase("vision", steps),
        Phase("look-up", steps, **rows["look-up"]),
        Phase("both", steps, short_mix=GLANCE, **rows["both"]),
    )
    monkeypatch.setitem(train.RECIPES, "demo-small", Recipe(phases, slips=0.1, stations=(1, 2)))
    monkeypatch.setattr(train, "ALBUM", 32)
    monkeypatch.setattr(train, "CHECKPOINT_STEPS", 1)
    monkeypatch.setattr(train.tasks, "scenes", few(train.tasks.scenes))
    for name in ("BOARDS", "HELD_OUT_BOARDS", "IMAGES"):
        monkeypatch.setattr(train.scope, name, 8)


def few(scenes):
    return lambda split: dict(sorted(scenes(split).items())[:16])


@pytest.mark.slow
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
    for kill_at in (1, 3, 4):  # within a phase, between two phases, and after a phase's first step

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
