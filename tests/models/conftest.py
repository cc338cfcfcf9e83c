"""Tiny checkpoints, made once per session, and pictures of boards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
import tiny
import torch

from cuecard.demo import boards
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.models.local.model import LocalModel

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family -> folder of its tiny checkpoint, made at first use."""
    folder, made = tmp_path_factory.mktemp("checkpoints"), {}

    def checkpoint(family: str) -> Path:
        if family not in made:
            torch.manual_seed(0)
            make = tiny.taught if family == "taught" else getattr(tiny, family)
            made[family] = make(folder / family, *((tiny.SAID,) if family == "taught" else ()))
        return made[family]

    return checkpoint


@pytest.fixture(scope="session")
def loaded(checkpoints: Callable[[str], Path]) -> Iterator[Callable[[str], LocalModel]]:
    """Family -> its loaded tiny checkpoint, with an empty prefix cache."""
    models: dict[str, LocalModel] = {}

    def model(family: str) -> LocalModel:
        if family not in models:
            models[family] = LocalModel.load(checkpoints(family), device="cpu")  # with Transformers
        models[family].forget()
        return models[family]

    yield model
    for each in models.values():
        asyncio.run(each.aclose())


@pytest.fixture
def qwen(loaded: Callable[[str], LocalModel]) -> LocalModel:
    """A Qwen3-VL with random weights; it closes its reasoning and ends its answer at random positions."""
    return loaded("qwen3_vl")


@pytest.fixture(scope="session")
def pictures() -> tuple[Image, Image]:
    """A picture of a board, and its negative."""
    board = boards.draw(boards.make_board(Random(0), "test"))
    return boards.png(board), boards.png(255 - board)


@pytest.fixture(scope="session")
def question(pictures: tuple[Image, Image]) -> Question:
    return Question("How many red digits are there?", pictures[:1], (), AnswerKind.NUMBER)
