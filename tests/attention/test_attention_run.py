"""A run stores each question when it is done, resumes where it stopped, and reports errors in one line."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuecard.attention import api as runs
from cuecard.attention import store
from cuecard.attention.api import Asked, Settings
from cuecard.attention.results import findings
from cuecard.attention.store import LARGE_CARD, LARGE_OWN, NONE, QUERIES, SMALL_OWN, SPANS, Folder, shaded_questions
from cuecard.demo import boards
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput, CuecardError, Unsupported
from cuecard.models.base import Limits
from cuecard.models.local.model import LocalModel
from cuecard.models.local.network import Span

Load = Callable[[str], LocalModel]
COUNT = 4
CONFIG = {"task": "boards", "delta": 0.8, "models": {"small": "demo-small", "large": "demo-large"}}
SETTINGS = Settings(kept=2, raw=True)


def asked(count: int = COUNT) -> list[Asked]:
    return [
        Asked(
            str(place),
            each.question,
            each.question.images[0].digest,
            each.task,
            each.truth,
            lambda answer, each=each: float(answer.strip() == each.truth),
        )
        for place, each in enumerate(boards.exercises(count, 0))
    ]


@pytest.fixture(scope="module")
def ran(load: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("attention") / "run"
    models = {role: load(f"demo-{role}") for role in ("small", "large")}
    with Folder(path, CONFIG, {}) as folder:
        asyncio.run(runs.run(asked(), models, folder, SETTINGS))
    return path


async def test_every_answer_of_every_model_is_measured(ran: Path) -> None:
    found = findings(ran)
    assert list(found.conditions) == [SMALL_OWN, LARGE_OWN, LARGE_CARD, f"large: {NONE}"]
    for name, each in found.conditions.items():
        assert each.answers == each.as_decoded == COUNT
        assert not each.skipped
        np.testing.assert_allclose(each.spans.mean.sum(-1), 1, atol=1e-4)
        on_reasoning = each.spans.mean[0, SPANS.index(Span.REASONING)]
        assert (on_reasoning == 0) == name.endswith(NONE)
    assert found.same_text is not None
    assert found.same_text.mean.shape == (len(QUERIES), 3)
    assert all(of.worst <= 1 for each in found.conditions.values() for of in each.bound.values())
    assert json.loads(json.dumps(found.as_object()))["questions"] == COUNT


async def test_means_over_layers_and_heads_are_those_of_the_figures(ran: Path) -> None:
    of = findings(ran).conditions[LARGE_CARD]
    reasoning = SPANS.index(Span.REASONING)
    np.testing.assert_allclose(of.layer_mass.mean.mean(0), of.spans.mean[:, reasoning], atol=1e-6)
    np.testing.assert_allclose(of.head_mass.mean.mean(-1), of.layer_mass.mean, atol=1e-6)
    np.testing.assert_allclose(of.head_sparsity.mean.mean(-1), of.layer_sparsity.mean, atol=1e-6)
    np.testing.assert_allclose(of.classes.mean[:, :-1].sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(of.positions.mean.sum(-1), 1, atol=1e-5)
    assert sum(kind.questions for kind in of.kinds.values()) == COUNT


async def test_raw_rows_add_up_to_what_is_stored(ran: Path) -> None:
    record = dict(store.records(ran))[0]
    with np.load(ran / "raw" / "000000.npz") as file:
        raw = file[f"{LARGE_CARD}|raw"]  # (layers, heads, queries, keys)
    np.testing.assert_allclose(raw.sum(-1), 1, atol=1e-5)
    mass = record.array(LARGE_CARD, "mass")[:, QUERIES.index("all")]
    np.testing.assert_allclose(raw.mean(2)[..., 0], mass[..., SPANS.index(Span.SINK)], atol=1e-5)


async def test_the_first_questions_are_stored_token_by_token(ran: Path) -> None:
    found = shaded_questions(ran, 0.8, 10)
    assert len(found) == SETTINGS.kept
    shades = found[0].shades[LARGE_CARD]
    assert shades.rows.shape == (2, 13, 5, len(shades.pieces))
    np.testing.assert_allclose(shades.rows[:, 0, 0], shades.rows[:, 1:, 1:].mean((1, 2)), atol=1e-6)
    assert "".join(shades.pieces).strip().startswith("Let us")
    assert found[0].images[0].data.startswith(b"\x89PNG")


async def test_a_run_resumes_where_it_stopped_and_measures_damaged_questions_again(
    ran: Path, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = findings(ran).as_object()
    (ran / "questions" / "000001.npz").write_bytes(b"PK broken")
    (ran / "questions" / "000003.npz").unlink()
    made: list[int] = []

    async def counted(index: int, *rest: Any) -> Any:
        made.append(index)
        return await one(index, *rest)

    one = runs._one
    monkeypatch.setattr(runs, "_one", counted)
    models = {role: load(f"demo-{role}") for role in ("small", "large")}
    with Folder(ran, CONFIG, {}) as folder:
        await runs.run(asked(), models, folder, SETTINGS)
    assert made == [1, 3]
    assert findings(ran).as_object() == before


async def test_another_configuration_is_not_mixed_in(ran: Path) -> None:
    with pytest.raises(BadInput, match=r"holds another run: delta is 0.8 there, 0.5 here"):
        Folder(ran, {**CONFIG, "delta": 0.5}, {})


async def test_a_question_without_reasoning_is_left_out_and_counted(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = asked(2)

    async def quiet(model: Any, prompt: Any, limits: Limits) -> tuple[str, str]:
        thought, answer = await decode(model, prompt, limits)
        return ("", answer) if questions[1].question.text in prompt.turns[-1].text else (thought, answer)

    decode = runs.decode
    monkeypatch.setattr(runs, "decode", quiet)
    with Folder(tmp_path / "run", CONFIG, {}) as folder:
        await runs.run(questions, {"large": load("demo-small")}, folder, SETTINGS)
    found = findings(tmp_path / "run").conditions
    assert found[LARGE_OWN].answers == 1
    assert found[LARGE_OWN].skipped == {"no reasoning to look at: the model gave none": 1}
    assert found[f"large: {NONE}"].answers == 2


async def test_a_recorded_reasoning_is_measured_and_not_written_again(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thought = "Let us look . p1 red 1 ; p2 blue 2"
    requested: list[Mode] = []

    async def watched(model: Any, prompt: Any, limits: Limits) -> tuple[str, str]:
        requested.append(prompt.mode)
        return await decode(model, prompt, limits)

    decode = runs.decode
    monkeypatch.setattr(runs, "decode", watched)
    with Folder(tmp_path / "run", CONFIG, {}) as folder:
        await runs.run([replace(asked(1)[0], reasoning=thought)], {"large": load("demo-large")}, folder, SETTINGS)
    seen = dict(store.records(tmp_path / "run"))[0].conditions[LARGE_OWN]
    assert "".join(seen["pieces"]).split() == thought.split()
    assert requested == [Mode.READ, Mode.SHORT]
    assert not seen["as_decoded"]


async def test_without_a_card_the_other_answers_of_the_large_model_are_still_measured(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def too_long(model: Any, prompt: Any, limits: Limits) -> tuple[str, str]:
        if model is small:
            raise BadInput("the prompt has 5000 tokens")
        return await decode(model, prompt, limits)

    decode, small = runs.decode, load("demo-small")
    monkeypatch.setattr(runs, "decode", too_long)
    with Folder(tmp_path / "run", CONFIG, {}) as folder:
        await runs.run(asked(1), {"large": load("demo-large"), "small": small}, folder, SETTINGS)
    record = dict(store.records(tmp_path / "run"))[0]
    skipped = {name: facts["skipped"] for name, facts in record.conditions.items() if "skipped" in facts}
    assert skipped == {
        SMALL_OWN: "the prompt has 5000 tokens",
        LARGE_CARD: "no reasoning to look at: the card is empty",
    }


async def test_when_no_question_has_reasoning_the_run_says_so(load: Load, tmp_path: Path) -> None:
    quiet = load("qwen3")
    question = without_images(asked(1)[0])
    with Folder(tmp_path / "run", CONFIG, {}) as folder, pytest.raises(BadInput, match="no question had reasoning"):
        await runs.run(
            [question], {"large": quiet}, folder, Settings(limits=Limits(reasoning_tokens=0, answer_tokens=2))
        )


def without_images(one: Asked) -> Asked:
    return replace(one, question=replace(one.question, images=()))


async def test_a_model_without_a_hook_stops_the_run(load: Load, tmp_path: Path) -> None:
    with Folder(tmp_path / "run", CONFIG, {}) as folder, pytest.raises(Unsupported, match="no hook"):
        await runs.run(
            [without_images(asked(1)[0])],
            {"large": load("gpt_neo")},
            folder,
            Settings(limits=Limits(reasoning_tokens=4, answer_tokens=16)),
        )


async def test_rows_that_do_not_sum_to_one_are_a_defect(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runs.Measure.__call__

    def half(self: Any, rows: Any, spans: Any) -> Any:
        made = dict(whole(self, rows, spans))
        return {**made, "mass": made["mass"] / 2}

    monkeypatch.setattr(runs.Measure, "__call__", half)
    with Folder(tmp_path / "run", CONFIG, {}) as folder, pytest.raises(CuecardError, match="does not sum to 1"):
        await runs.run(asked(1), {"large": load("demo-small")}, folder, SETTINGS)


async def test_results_with_sinks_and_windows_are_also_given_without_them(load: Load, tmp_path: Path) -> None:
    question = without_images(asked(1)[0])
    with Folder(tmp_path / "run", CONFIG, {}) as folder:
        await runs.run(
            [question],
            {"large": load("gpt_oss")},
            folder,
            Settings(limits=Limits(reasoning_tokens=30, answer_tokens=3)),
        )
    found = findings(tmp_path / "run").conditions[LARGE_OWN]
    assert found.windows == (24, None, 24, None)
    assert found.learned is not None
    assert found.without_learned is not None
    assert found.spans_full is not None
    reasoning = SPANS.index(Span.REASONING)
    np.testing.assert_allclose(found.spans.mean.sum(-1) + found.learned.mean, 1, atol=1e-4)
    assert (found.without_learned.mean >= found.spans.mean[:, reasoning]).all()
    full = found.layer_mass.mean[[1, 3]].mean(0)
    np.testing.assert_allclose(found.spans_full.mean[:, reasoning], full, atol=1e-6)


@pytest.mark.parametrize("delta", [0, 1, math.nan])
def test_delta_is_between_0_and_1(delta: float) -> None:
    with pytest.raises(BadInput, match="--delta"):
        Settings(delta=delta)


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not the directory of an attention run"):
        findings(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"version": 1, "kind": "attention", "config": CONFIG}))
    with pytest.raises(BadInput, match="has no questions yet"):
        findings(tmp_path)
