"""What a model says it was trained on, and which questions are outside of that."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image as PilImage

from cuecard.demo import boards, checkpoint, easyvqa
from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image, Message, Question
from cuecard.models.scope import FILE, Scope
from cuecard.models.spec import EMBEDDED, Embedded

SCOPE = Scope.read(Embedded("demo-small").folder / FILE)


def picture(width: int, height: int) -> Image:
    buffer = io.BytesIO()
    PilImage.new("RGB", (width, height)).save(buffer, "PNG")
    return Image(buffer.getvalue())


BOARD = (picture(128, 128),)


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_scope_that_ships_is_that_of_the_data(name: str) -> None:
    assert Scope.read(Embedded(name).folder / FILE) == checkpoint.scope()


def test_all_that_the_pair_is_examined_on_is_inside() -> None:
    for exercise in boards.exercises(200, 7):
        assert SCOPE.outside(exercise.question) is None
    for item in easyvqa.items("test")[:500]:
        assert SCOPE.outside(item.question()) is None


@pytest.mark.parametrize(
    ("question", "why"),
    [
        (Question("How many red digits are there?"), "no image"),
        (Question("What is 7 times 8?"), "no image"),
        (Question("Describe this.", BOARD), "a word that it was not trained on: 'Describe'"),
        (Question("how many red digits are there?", BOARD), "a word that it was not trained on: 'how'"),
        (Question("图中有什么？", BOARD), "a word that it was not trained on: '图中有什么'"),
        (Question("Which digit is in cell 2?", (picture(640, 480),)), "an image of 640x480"),
        (Question("Which digit is in cell 2?", BOARD * 2), "several images"),
        (Question("Which digit is in cell 2?", BOARD, system="Be brief."), "a system prompt"),
        (Question("Which digit is in cell 2?", BOARD, history=(Message("user", "Hi"),)), "a conversation"),
        (Question("What colour is the digit in cell 2?", BOARD, ("red", "pink")), "a word that it was not trained on:"),
    ],
)
def test_the_reason_outside_the_scope_is_plain_english(question: Question, why: str) -> None:
    assert (SCOPE.outside(question) or "").startswith(why)


def test_a_scope_that_is_broken_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"about": "cats"}))
    with pytest.raises(BadInput, match="is not a scope"):
        Scope.read(tmp_path / FILE)
