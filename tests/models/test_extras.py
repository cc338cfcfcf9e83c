"""Extra parameters of a client's request: in calls to servers, in local models, and in keys of stored calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hearing import hear

from cuecard.domain.call import AnswerToken, spelling
from cuecard.domain.question import AnswerKind, Question
from cuecard.models import prompt as layouts
from cuecard.models.base import Extras, Limits
from cuecard.models.local.transformers_network import TransformersNetwork
from cuecard.models.openai import OpenAIModel
from cuecard.models.openai.response_body import Token, chunk
from cuecard.models.prompt import TAGS
from cuecard.models.replay import key
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion

STORY = Question("Describe the picture.", kind=AnswerKind.FREE_TEXT)
SHORT = layouts.short(STORY, TAGS)


async def bodies(extras: Extras, refuses: tuple[str, ...] = (), **how: Any) -> tuple[list[dict[str, Any]], OpenAIModel]:
    """Request bodies that a server receives from two calls, and the model that made the calls."""
    server = MockServer([Completion("A cat.")], refuses=refuses)
    async with server as url:
        model = OpenAIModel(url, "mock", **({"family": "plain"} | how))
        for _ in range(2):
            assert (await hear(model, SHORT, Limits(extras=extras))).answer == "A cat."
        await model.aclose()
    return server.bodies, model


def test_calls_without_extras_keep_the_keys_that_they_had():
    plain = Limits()
    names = {"answer_tokens", "reasoning_tokens", "temperature", "top_p", "seed", "timeout_s"}
    assert set(plain.as_object()) == names
    assert Limits(**plain.as_object()) == plain
    assert key("m", SHORT, replace(plain, extras=Extras(stop=("a",)))) != key("m", SHORT, plain)
    assert hash(Limits(extras=Extras(stop=("a",)))) != hash(Limits())


async def test_what_a_server_refuses_is_not_sent_again_and_reported():
    sent, model = await bodies(Extras(sampling=(("top_k", 5), ("min_p", 0.1))), refuses=("top_k",))
    assert ["top_k" in body for body in sent] == [True, False, False]
    assert all(body["min_p"] == 0.1 for body in sent)
    assert "the server refuses top_k: answers are drawn without it" in model.abilities.notes
    assert "top_k" not in model.abilities.honours
    assert "min_p" in model.abilities.honours


async def test_what_a_server_refuses_of_a_clients_own_fields_is_left_out_of_that_call_alone():
    sent, model = await bodies(Extras(passed='{"mine": 1, "yours": 2}'), refuses=("mine",))
    assert [("mine" in body, body["yours"]) for body in sent] == [(True, 2), (False, 2)] * 2
    assert not [note for note in model.abilities.notes if "mine" in note]


async def test_a_clients_fields_never_replace_what_is_set_anyway():
    passed = Extras(passed='{"model": "x", "messages": [], "max_tokens": 9999, "stream": false, "theirs": {"a": 1}}')
    sent, _ = await bodies(passed, extra_body={"theirs": {"b": 2}})
    for body in sent:
        assert (body["model"], body["stream"], body["theirs"]) == ("mock", True, {"b": 2})
        assert body["messages"]
        assert body["max_tokens"] == 1024


def test_alternatives_of_a_token_are_read_within_bounds():
    other = {"token": "b", "logprob": -2.0, "bytes": [98]}
    odd = [{"token": "c", "logprob": float("nan")}, {"token": "d", "logprob": 5}, None, 7]
    token = {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": [other, *odd, *[other] * 100]}
    found = chunk({"choices": [{"delta": {"content": "a"}, "logprobs": {"content": [token]}}]}).tokens[0]
    assert found.utf8 == (97,)
    assert 0 < len(found.top) <= 20
    assert set(found.top) == {Token("b", -2.0, (98,))}
    for listed in (None, "x", {}, 7):
        event = {"choices": [{"logprobs": {"content": [token | {"top_logprobs": listed, "bytes": [300, "x"]}]}}]}
        assert chunk(event).tokens == (Token("a", -1.0),)


def test_tokens_spell_an_answer_with_their_bytes_white_space_aside():
    cat = "🐈".encode()
    halves = [AnswerToken("\ufffd", -1.0, tuple(cat[:2])), AnswerToken("\ufffd", -1.0, tuple(cat[2:]))]
    tokens = [
        AnswerToken(" A", -1.0),
        AnswerToken(" ", -1.0),
        *halves,
        AnswerToken(".\n", -1.0),
        AnswerToken("x", -1.0),
    ]
    assert spelling(tokens, "A 🐈.") == tuple(tokens[:5])
    assert spelling(tokens, " A 🐈") == tuple(tokens[:4])
    for other in ("", "A 🐈.y", "B", "A \ufffd", " A 🐈.x and more"):
        assert spelling(tokens, other) == ()


def drawn(**sampling: float) -> set[int]:
    logits, limits = torch.tensor([0.0, 2.0, 1.0, 1.9]), Limits(temperature=1.0, seed=1)
    limits = replace(limits, extras=Extras(sampling=tuple(sampling.items())))
    generator = torch.Generator().manual_seed(1)
    return {TransformersNetwork.choose(logits[None], limits, generator)[0] for _ in range(200)}


@pytest.mark.parametrize(
    ("sampling", "tokens"),
    [({}, {0, 1, 2, 3}), ({"top_k": 2}, {1, 3}), ({"min_p": 0.3}, {1, 2, 3}), ({"top_k": 3, "min_p": 0.9}, {1, 3}),
     ({"top_k": 99}, {0, 1, 2, 3})],
)  # fmt: skip
def test_local_models_draw_from_the_likeliest_tokens(sampling: dict[str, float], tokens: set[int]):
    assert drawn(**sampling) == tokens


@pytest.mark.parametrize("limits", [{"temperature": 1e-300}, {"temperature": 1e-38}, {"top_p": 1e-300}])
def test_the_smallest_temperature_and_nucleus_draw_the_likeliest_token(limits: dict[str, float]):
    given = replace(Limits(temperature=1.0, seed=1), **limits)
    logits, generator = torch.tensor([-1e4, 2.0, 1.0, 1.9]), torch.Generator().manual_seed(1)
    assert {TransformersNetwork.choose(logits[None], given, generator)[0] for _ in range(20)} == {1}
