"""Weights of a card's words from local models, and answers with some of the words masked."""

from __future__ import annotations

import json
from collections.abc import Callable

import ablation
import numpy as np
import pytest
import torch

from cuecard.attention.api import Asked, borrowed, capture, decode, own
from cuecard.demo import boards
from cuecard.domain.errors import BadInput
from cuecard.domain.question import Question
from cuecard.models.base import Limits, Weighing
from cuecard.models.local.model import LocalModel
from cuecard.models.local.network import Span, spans
from cuecard.models.prompt import CardFormat, reason
from cuecard.strategies.card_selection import CardCut

Load = Callable[[str], LocalModel]
CARD = "Let us look at cell 5: cell 5 shows a red 4. So the answer is 4."


async def test_attention_weighs_a_card_by_the_mean_over_layers_heads_and_queries(load: Load, question: Question):
    model = load("demo-large")
    prompt = borrowed(question, model.abilities.style, CARD, CardFormat.THINKING)
    weighed, usage = await model.weigh(prompt, "4", Weighing.ATTENTION)
    seen = await capture(model, prompt, "4", lambda rows, spans: rows.weights)
    places = seen.spans.of(Span.REASONING)
    wanted = torch.stack(seen.layers).mean((0, 1, 2))[places]
    assert [weight for _, weight in weighed] == pytest.approx(wanted.tolist(), abs=1e-6)
    assert "".join(piece for piece, _ in weighed).strip() == CARD
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(seen.ids), 0)


async def test_weighing_reasoning_just_written_computes_only_the_answer(load: Load, question: Question):
    model = load("demo-small")
    style = model.abilities.style
    thought, answer = await decode(model, reason(question, style), Limits())
    _, usage = await model.weigh(own(question, style, thought), answer, Weighing.ATTENTION)
    assert usage.prompt_tokens is not None
    assert usage.cached_tokens is not None
    assert usage.prompt_tokens - usage.cached_tokens <= 4


@pytest.mark.parametrize("family", ["demo-small", "llama", "gemma3_vision"])
async def test_surprise_is_the_log_probability_of_each_token_behind_what_is_before_it(family: str, load: Load):
    model, question = load(family), Question("How many red digits are there?")
    prompt = own(question, model.abilities.style, CARD)
    weighed, _ = await model.weigh(prompt, "4", Weighing.SURPRISE)
    inputs = model._reader.inputs(prompt)
    with torch.inference_mode():
        logits = model._network.model(input_ids=torch.tensor([inputs.ids]), **inputs.tensors).logits[0].float()
    each = -torch.log_softmax(logits[:-1], -1).gather(-1, torch.tensor(inputs.ids)[1:, None])[:, 0]
    ids, answered = await model.tokens(prompt, "4")
    places = spans(prompt, ids, answered, model.tokenizer, model.image_token).of(Span.REASONING)
    wanted = [float(each[place - 1]) for place in places]
    assert [weight for _, weight in weighed] == pytest.approx(wanted, abs=1e-3)


async def test_an_empty_card_or_answer_is_not_weighed(load: Load, question: Question):
    model = load("demo-small")
    prompt = own(question, model.abilities.style, CARD)
    with pytest.raises(BadInput, match="the answer is empty"):
        await model.weigh(prompt, "", Weighing.ATTENTION)
    with pytest.raises(BadInput, match="no reasoning"):
        await model.weigh(reason(question, model.abilities.style).closed_after(" "), "4", Weighing.ATTENTION)


async def test_a_card_of_the_most_attended_words_is_short_and_is_read(load: Load):
    small, large = load("demo-small"), load("demo-large")
    style = small.abilities.style
    for asked in boards.exercises(3, 5, mix={"jump-2": 1}):
        thought, answer = await decode(small, reason(asked.question, style), Limits())
        weighed, _ = await small.weigh(own(asked.question, style, thought), answer, Weighing.ATTENTION)
        card = CardCut(0.3, "attention")(thought, weighed)
        assert len(card.split()) <= 0.3 * len(thought.split()) + 1
        assert any(answer in word for word in card.split())  # the words that state the answer are among them
        _, read = await decode(large, borrowed(asked.question, style, card, CardFormat.THINKING), Limits())
        assert read


# --- masking ----------------------------------------------------------------------------------------------------------


def test_the_other_hidden_tokens_are_as_many_and_no_key_tokens():
    mass = np.array([0.1, 0.5, 0.0, 0.2, 0.05, 0.15, 0.3, 0.01, 0.02, 0.03])
    sets = ablation.chosen(mass, 0.3, "7")
    assert {len(each) for each in sets.values()} == {3}
    assert set(sets["key"]) == {1, 6, 3}
    assert not set(sets["key"]) & set(sets["other"])
    assert set(sets["least"]) == {2, 7, 8}
    assert set(sets["last"]) == {7, 8, 9}
    assert sets["other"].tolist() == ablation.chosen(mass, 0.3, "7")["other"].tolist()


async def test_hiding_key_tokens_costs_an_answer_more_than_hiding_as_many_others(load: Load, tmp_path):
    models = {"small": load("demo-small"), "large": load("demo-large")}
    asked = [
        Asked(str(place), each.question, str(place), each.task, each.truth, lambda text: 1.0)
        for place, each in enumerate(boards.exercises(3, 9, mix={"jump-2": 1}))
    ]
    path = tmp_path / "masking.jsonl"
    await ablation.run_masking(asked, models, path, Limits())
    records = ablation.read(path)
    rows = {(row["tokens"], row["share"], row["way"]): row for row in ablation.masking_table(records)}
    assert [record["id"] for record in records] == ["0", "1", "2"]
    assert rows["key", 0.3, "hidden"]["nats_lost"] > rows["other", 0.3, "hidden"]["nats_lost"] + 0.1
    assert rows["key", 0.3, "alone"]["unchanged"] == 1.0
    # resumed: the incomplete last line is computed again, to the same figures
    path.write_text(path.read_text()[:-40])
    await ablation.run_masking(asked, models, path, Limits())
    again = ablation.read(path)
    assert json.dumps(again[:2]) == json.dumps(records[:2])
    assert np.allclose(again[2]["masked"], records[2]["masked"], atol=1e-4)
