"""Images unlike the training images: distance of their visual tokens from usual ones, and the resulting warning."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from cuecard.demo import boards, tasks
from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image, Question
from cuecard.models.base import Limits, Progress, outside
from cuecard.models.images.image_scope import ImageKind, ImageScope
from cuecard.models.local import engine
from cuecard.models.local.embedded_layers import VisionTower
from cuecard.models.local.engine import ModelProcess
from cuecard.models.local.model import LocalModel
from cuecard.models.prompt import EMBEDDED, reason, short
from cuecard.models.scope import IMAGES_FILE
from cuecard.models.spec import Embedded
from cuecard.strategies.run import answer
from training import scope as trained

UNLIKE = "an image unlike those that it was trained on"
SIZE = (32, 32)


def drawn(seed: int, count: int = 400) -> np.ndarray:
    """(count, 4, 6) random tokens with correlated components."""
    chance = np.random.default_rng(seed)
    mixed = np.random.default_rng(0).normal(size=(6, 6))
    return (chance.normal(size=(count, 4, 6)) @ mixed + np.arange(4)[:, None]).astype(np.float32)


KIND = ImageKind.fit([SIZE], drawn(1), [drawn(2)])


def test_of_usual_images_one_in_a_hundred_is_far_away() -> None:
    far = [KIND.distance(tokens) > 1 for tokens in drawn(3, 2000)]
    assert 0.003 < np.mean(far) < 0.03


def test_one_token_that_is_far_away_and_many_that_deviate_alike_are_unusual() -> None:
    mean = KIND.mean
    assert KIND.distance(mean) < 0.1
    outlier = mean.copy()
    outlier[0] += 30
    assert KIND.distance(outlier) > 1
    alike = mean + np.linalg.inv(KIND.whitening)[0] * 2.9  # each token alone is usual
    assert np.square((alike - mean) @ KIND.whitening).mean() < KIND.limits[0]
    assert KIND.distance(alike) > 1


def test_images_of_another_number_of_tokens_are_not_compared() -> None:
    scope = ImageScope({"squares": KIND})
    assert KIND.distance(np.zeros((5, 6), np.float32)) is None
    assert scope.distances(np.zeros((5, 6))) == {}
    assert set(scope.distances(KIND.mean)) == {SIZE}


def test_of_two_kinds_of_one_size_the_nearer_one_counts() -> None:
    moved = ImageKind(KIND.image_sizes, KIND.mean + 50, KIND.whitening, KIND.limits)
    both = ImageScope({"a": KIND, "b": moved})
    assert both.distances(KIND.mean) == ImageScope({"a": KIND}).distances(KIND.mean)
    assert both.distances(moved.mean)[SIZE] < 1


def test_images_that_do_not_vary_are_no_kind() -> None:
    constant = np.ones((50, 4, 6), np.float32)
    with pytest.raises(ValueError, match="all alike"):
        ImageKind.fit([SIZE], constant, [constant])


def test_a_file_holds_the_same_numbers_in_the_same_bytes(tmp_path: Path) -> None:
    scope = ImageScope({"squares": KIND})
    for name in ("one.npz", "other.npz"):
        scope.write(tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "other.npz").read_bytes()
    again = ImageScope.read(tmp_path / "one.npz")
    for tokens in drawn(4, 20):
        assert again.distances(tokens) == scope.distances(tokens)


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / IMAGES_FILE
    arrays = {"image_sizes": [[32, 32]], "mean": KIND.mean, "whitening": KIND.whitening, "limits": KIND.limits}
    for broken in (
        arrays | {"whitening": KIND.whitening[1:]},
        arrays | {"limits": np.zeros(2)},
        arrays | {"mean": KIND.mean * np.nan},
        {"mean": KIND.mean},
    ):
        np.savez(path, **{f"squares.{name}": values for name, values in broken.items()})
        with pytest.raises(BadInput, match="is not a scope of images"):
            ImageScope.read(path)
    path.write_bytes(b"PK broken")
    with pytest.raises(BadInput, match="is not a scope of images"):
        ImageScope.read(path)


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with an image scope that is fitted on a few images."""
    made = tmp_path_factory.mktemp("scoped") / "demo-small"
    shutil.copytree(Embedded("demo-small").folder, made)
    with pytest.MonkeyPatch.context() as patched:
        for name, few in (("BOARDS", 100), ("HELD_OUT_BOARDS", 60), ("IMAGES", 200)):
            patched.setattr(trained, name, few)
        trained.main([str(made)])
    return made


def board(seed: int) -> Image:
    return boards.png(boards.draw(boards.make_board(Random(seed), "test")))


def noise(side: int) -> Image:
    return boards.png(np.random.default_rng(side).integers(0, 256, (side, side, 3)).astype(np.uint8))


def asked(image: Image) -> Question:
    return Question("Which digit is in cell 5?", (image,))


async def heard(model: LocalModel, question: Question) -> str | None:
    """The scope warning about a question after its prefill, or None."""
    await model.warm(short(question, EMBEDDED))
    return outside(question, [model])


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"device": "cpu"}, {"device": "cpu", "dtype": "bfloat16"}])
async def test_a_model_tells_foreign_images_once_it_has_seen_them(folder: Path, settings: dict[str, str]) -> None:
    model = LocalModel.load(folder, **settings)
    assert outside(asked(noise(128)), [model]) is None
    assert UNLIKE in (await heard(model, asked(noise(128))) or "")
    assert UNLIKE in (await heard(model, Question("what shape is present?", (noise(64),))) or "")
    said = [await heard(model, asked(board(seed))) for seed in range(8)]
    said += [await heard(model, item.question()) for item in tasks.photo_questions("test")[::1300]]
    assert sum(each is not None for each in said) <= 1
    await model.aclose()


@pytest.mark.slow
async def test_numpy_and_transformers_find_the_same_distances(folder: Path) -> None:
    models = [LocalModel.load(folder), LocalModel.load(folder, device="cpu")]
    for image in (board(1), noise(128)):
        found = []
        for model in models:
            await heard(model, asked(image))
            found.append(model.abilities.scope.seen._distances[image.digest][128, 128])
        assert found[0] == pytest.approx(found[1], rel=1e-3)
    for model in models:
        await model.aclose()


@pytest.mark.slow
async def test_no_image_is_computed_for_the_scope_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, passes, see = LocalModel.load(folder), [], VisionTower.see
    monkeypatch.setattr(VisionTower, "see", lambda *given: passes.append(1) or see(*given))
    question = asked(noise(128))
    outcome = await answer(question, {"small": model, "large": model}, "short:small")
    assert UNLIKE in (outcome.outside_scope or "")
    again = await answer(question, {"small": model, "large": model}, "transfer")
    assert UNLIKE in (again.outside_scope or "")
    assert len(passes) == 1
    await model.aclose()


@pytest.mark.slow
async def test_a_folder_without_the_file_has_no_opinion_of_images(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns(IMAGES_FILE))
    model = LocalModel.load(bare)
    assert await heard(model, asked(noise(128))) is None
    await model.aclose()


@pytest.fixture
async def apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalModel]:
    """The model in a child process."""
    monkeypatch.delenv(engine.VARIABLE, raising=False)
    monkeypatch.setattr(engine.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr("cuecard.models.local.model.ModelProcess", lambda *given: ModelProcess(*given, calls_before=0))
    model = LocalModel.load(folder)
    async with asyncio.timeout(60):
        while not model._process.takes_calls():  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(0.02)
    yield model
    await model.aclose()


@pytest.mark.slow
async def test_what_a_process_of_its_own_sees_is_known_here(apart: LocalModel) -> None:
    assert UNLIKE in (await heard(apart, asked(noise(128))) or "")
    assert await heard(apart, asked(board(1))) is None
    assert not apart._prefixes._held, "the process has computed it"


@pytest.mark.slow
async def test_a_call_that_is_left_has_told_what_it_saw(apart: LocalModel) -> None:
    question = asked(noise(128))
    async for event in (events := apart.stream(reason(question, EMBEDDED), Limits())):
        if isinstance(event, Progress):
            break
    await events.aclose()
    assert UNLIKE in (outside(question, [apart]) or "")
