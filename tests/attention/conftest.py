"""Fixtures of the attention tests: the embedded pair, and checkpoints of different families."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "models"))

import families
import tiny

import cuecard
from cuecard.demo import boards
from cuecard.domain.question import Question
from cuecard.models.local.model import LocalModel

WEIGHTS = Path(cuecard.__file__).parent / "weights"
VISION = ("gemma3_vision", "qwen3_vl", "qwen2_5_vl", "llava")


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LocalModel]:
    """A function that loads a family's checkpoint, or one of the pair, with an empty cache."""
    folder, made = tmp_path_factory.mktemp("checkpoints"), {}

    def model(family: str) -> LocalModel:
        if family not in made:
            if family.startswith("demo-"):
                source = WEIGHTS / family
            elif family in VISION:
                source = getattr(tiny, family.removesuffix("_vision"))(folder / family)
            else:
                source = families.saved(family, folder / family)
            made[family] = LocalModel.load(source, device="cpu")  # with Transformers
        made[family].forget()
        return made[family]

    return model


@pytest.fixture(scope="session")
def question() -> Question:
    return boards.exercises(3, 0)[2].question
