"""A model's declared training scope, and the questions outside of it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PilImage

from cuecard.demo import boards, tasks
from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image, Message, Question
from cuecard.models.images.image_scope import ImageScope
from cuecard.models.scope import FILE, IMAGES_FILE, IMAGES_KEPT, QuestionWording, Scope, SeenImages, listed
from cuecard.models.spec import EMBEDDED, Embedded
from training.scope import scope

SCOPE = scope()


def picture(width: int, height: int) -> Image:
    buffer = io.BytesIO()
    PilImage.new("RGB", (width, height)).save(buffer, "PNG")
    return Image(buffer.getvalue())


BOARD, SHAPE = (picture(128, 128),), (picture(64, 64),)


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_scope_that_ships_is_that_of_the_data(name: str) -> None:
    assert Scope.read(Embedded(name).folder / FILE) == SCOPE
    assert set(ImageScope.read(Embedded(name).folder / IMAGES_FILE).kinds) == {"boards", "shapes"}


def test_all_that_the_pair_is_examined_on_is_inside() -> None:
    for exercise in boards.exercises(200, 7) + boards.exercises(100, 7, mix=boards.LONG_MIX):
        assert SCOPE.outside(exercise.question) is None
    for item in tasks.photo_questions("test")[::9]:
        assert SCOPE.outside(item.question()) is None


def test_easy_vqa_has_24_wordings_and_boards_have_nine() -> None:
    sizes = [wording.image_sizes for wording in SCOPE.wordings]
    assert (sizes.count(((64, 64),)), sizes.count(((128, 128),))) == (24, 9)


OTHER = "a wording that it was not trained on"


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
        (Question("What colour is the digit in cell 2?", BOARD, ("red", "teal")), "the option 'teal', where it knows"),
        (Question("How many red digits are there?", BOARD, ("1", "2")), "options for a question that it was trained"),
        (Question("Which digit is in cell 17?", BOARD), "cell '17', where it knows 1 to 16"),
        (Question("Which digit is in cell 0?", BOARD), "cell '0', where it knows 1 to 16"),
        (Question("What is the sum of the digits in row 5?", BOARD), "row '5', where it knows 1 to 4"),
        (
            Question("Start at cell 99 and jump 40 times. Which digit do you reach?", BOARD),
            "cell '99', where it knows 1 to 16",
        ),
        (
            Question("Start at cell 9 and jump 40 times. Which digit do you reach?", BOARD),
            "jumps '40 times', where it knows once, twice, three times, …, twelve times",
        ),
        (Question("How many yellow digits are there?", BOARD), "colour 'yellow', where it knows red, green, blue"),
        (Question("is the shape red digit of cell", BOARD), OTHER),
        (Question("Which digit is in cell 2", BOARD), OTHER),
        (Question("Which digit is in cell 2? Which digit is in cell 3?", BOARD), OTHER),
        (Question("what shape is present?", BOARD), "a question about images of 64x64, asked about one of 128x128"),
        (Question("Which digit is in cell 2?", SHAPE), "a question about images of 128x128, asked about one of 64x64"),
    ],
)
def test_the_reason_outside_the_scope_is_plain_english(question: Question, why: str) -> None:
    assert (SCOPE.outside(question) or "").startswith(why)


def test_space_around_a_question_and_fewer_options_are_no_matter() -> None:
    assert SCOPE.outside(Question(" Which digit is in cell 2?\n", BOARD)) is None
    assert SCOPE.outside(Question("What colour is the digit in cell 2?", BOARD, ("red", "blue"))) is None


def test_a_wording_is_matched_in_bounded_time() -> None:
    values = {"a": ["a" * length for length in range(1, 20)]}
    wording = QuestionWording("{a}" * 40 + "b")
    assert wording.fits("a" * 200 + "b", values)
    assert not wording.fits("a" * 2000, values)
    assert wording.unknown_value("a" * 2000, values) is None


def test_values_are_listed_briefly() -> None:
    assert listed(["1", "2", "3", "4"]) == "1 to 4"
    assert listed(["1", "3", "4"]) == "1, 3, 4"
    assert listed(["red", "blue"]) == "red, blue"
    assert listed(list("abcdefg")) == "a, b, c, …, g"


def test_a_scope_is_read_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps(SCOPE.as_object()))
    assert Scope.read(tmp_path / FILE) == SCOPE


def test_a_scope_without_wordings_knows_sizes_and_words_alone(tmp_path: Path) -> None:
    old = {"about": "boards", "image_sizes": [[128, 128]], "words": ["Which", "digit", "is", "in", "cell"]}
    (tmp_path / FILE).write_text(json.dumps(old))
    read = Scope.read(tmp_path / FILE)
    assert read.outside(Question("Which digit is in cell 99?", BOARD)) is None
    assert read.outside(Question("Which number is in cell 9?", BOARD)) is not None


@pytest.mark.parametrize(
    "more",
    [
        {"words": None},
        {"image_sizes": [128]},
        {"values": ["cell"]},
        {"wordings": ["How many?"]},
        {"wordings": [{"text": "Which {cell}?"}]},
        {"wordings": [{"text": "Which?", "options": "colour"}]},
        {"wordings": [{"text": "Which?", "image_sizes": [1]}]},
    ],
)
def test_a_scope_that_is_broken_is_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    (tmp_path / FILE).write_text(json.dumps({"about": "cats", "image_sizes": [], "words": []} | more))
    with pytest.raises(BadInput, match="is not a scope"):
        Scope.read(tmp_path / FILE)


def test_an_image_is_unlike_those_of_its_size_above_one_and_unknown_ones_are_not() -> None:
    own = scope()
    question, digest = Question("Which digit is in cell 2?", BOARD), BOARD[0].digest
    for distances, why in (
        ({(128, 128): 0.9, (64, 64): 3.0}, None),
        ({(128, 128): 1.1}, "an image unlike those that it was trained on"),
        ({(128, 128): float("nan")}, "an image unlike those that it was trained on"),
        ({}, None),
    ):
        own.seen.keep(digest, distances)
        assert own.outside(question) == why
    assert SCOPE.outside(question) is None


def test_only_the_last_images_are_remembered() -> None:
    seen = SeenImages()
    for number in range(IMAGES_KEPT + 1):
        seen.keep(str(number), {(64, 64): 2.0})
    assert not seen.is_unlike("0", (64, 64))
    assert seen.is_unlike("1", (64, 64))
