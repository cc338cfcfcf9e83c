"""Served models are probed once for their response to prompt formats; results are stored and used."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from cuecard.domain.question import AnswerKind, Question
from cuecard.models import probe, spec
from cuecard.models.base import Limits
from cuecard.models.openai import OpenAIModel
from cuecard.models.prompt import CardFormat, short
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, HttpError, RawResponse, Received, Reply

pytestmark = pytest.mark.slow
THINKING, NOTES, TURN = map(str, CardFormat)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def form_of(request: Received) -> str | None:
    """The card format of a request, or None if it does not hold the probe's card."""
    messages = request.body["messages"]
    if probe.SECRET not in str(messages):
        return None
    roles = [message["role"] for message in messages]
    if roles[-1] == "assistant" and probe.SECRET in messages[-1]["content"]:
        return THINKING
    return TURN if "assistant" in roles[:-1] else NOTES


def reads(*forms: str) -> Callable[[Received], Reply]:
    """A script of a model that reads cards in these formats, and reasons again in all others."""

    def script(request: Received) -> Reply:
        form = form_of(request)
        if form is None:
            return Completion("8")
        return Completion(probe.SECRET) if form in forms else Completion("Let me think about this again. " * 20)

    return script


async def found(script: Callable[[Received], Reply], table: dict[str, Any] | None = None, **server: Any):
    async with MockServer(script, models=["tiny-instruct"], **server) as url:
        model = spec.load({"model": f"{url}#tiny-instruct", **(table or {})})
        assert isinstance(model, OpenAIModel)
        seen = await probe.adapted(model)
        await model.aclose()
    return seen, model


async def test_formats_in_which_the_model_gives_the_short_right_answer_are_kept_the_best_first():
    seen, model = await found(reads(THINKING, NOTES, TURN))
    assert seen.cards == [THINKING, NOTES, TURN]
    assert model.abilities.card_formats == tuple(CardFormat)


async def test_a_format_in_which_the_model_reasons_again_is_not_used():
    seen, model = await found(reads(TURN))
    assert not seen.reads[NOTES].short
    assert model.abilities.card_formats == (CardFormat.TURN,)


async def test_a_model_that_reads_nothing_well_gets_notes():
    _, model = await found(reads())
    assert model.abilities.card_formats == (CardFormat.NOTES, CardFormat.TURN)


async def test_a_server_that_continues_the_assistants_turn_has_brief_answers_opened():
    _, model = await found(reads(THINKING))
    prompt = short(Question("How many?", kind=AnswerKind.NUMBER), model.abilities.style)
    assert prompt.opening == "The answer is"


@pytest.mark.parametrize(
    ("owner", "parameter"), [("llamacpp", "grammar"), ("vllm", "structured_outputs"), ("sglang", "regex")]
)
async def test_a_server_that_decodes_under_a_grammar_is_given_one(owner, parameter):
    sent: list[dict[str, Any]] = []

    def script(request: Received) -> Reply:
        sent.append(request.body)
        return Completion("7") if parameter in request.body else Completion("hello")

    async with MockServer(script, models=["tiny-instruct"], owner=owner) as url:
        model = spec.load(f"{url}#tiny-instruct")
        seen = await probe.adapted(model)
        assert seen.constraint == parameter
        prompt = short(Question("How many?", kind=AnswerKind.NUMBER), model.abilities.style)
        async for _ in model.stream(prompt, Limits()):
            pass
        await model.aclose()
    assert parameter in sent[-1]


async def test_a_server_that_ignores_a_grammar_is_given_none():
    seen, model = await found(lambda request: Completion("hello"), owner="llamacpp")
    assert seen.constraint is None
    assert not model.abilities.style.constrained


async def test_where_nothing_else_keeps_answers_short_a_json_schema_does_and_the_answer_is_taken_out_of_it():
    def script(request: Received) -> Reply:
        return Completion('{"answer": 7}') if "response_format" in request.body else Completion("well " * 50)

    async with MockServer(script, models=["tiny-instruct"], owner="somebody") as url:
        model = spec.load(f"{url}#tiny-instruct")
        assert (await probe.adapted(model)).constraint == "json_schema"
        prompt = short(Question("How many?", kind=AnswerKind.NUMBER), model.abilities.style)
        text = "".join([getattr(event, "text", "") async for event in model.stream(prompt, Limits())])
        await model.aclose()
    assert text == "7"


async def test_a_name_that_the_server_does_not_list_is_reported():
    lines: list[str] = []
    async with MockServer(reads(NOTES), models=["tiny-instruct", "other"]) as url:
        model = spec.load(f"{url}#typo")
        await probe.adapted(model, tell=lines.append)
        await model.aclose()
    assert any("does not list 'typo'" in line and "tiny-instruct, other" in line for line in lines)


async def test_what_was_found_is_stored_and_not_asked_again():
    async with MockServer(reads(NOTES), models=["tiny-instruct"]) as url:
        asked = []
        for _ in range(2):
            model = spec.load(f"{url}#tiny-instruct")
            await probe.settle([model])
            asked.append(len(model.abilities.card_formats))
            await model.aclose()
        assert asked == [1, 1]
        (stored,) = probe.load_results().values()
        assert stored.complete


async def test_a_server_in_both_roles_is_probed_once_and_both_models_behave_as_found():
    requests = []

    def script(request: Received) -> Reply:
        requests.append(request)
        return reads(NOTES)(request)

    counts = []
    for roles in (1, 2):
        requests.clear()
        async with MockServer(script, models=["tiny-instruct"]) as url:
            models = [spec.load(f"{url}#tiny-instruct") for _ in range(roles)]
            await probe.settle(models, wait_s=None)
            assert {model.abilities.card_formats for model in models} == {(CardFormat.NOTES,)}
            for model in models:
                await model.aclose()
        counts.append(len(requests))
    assert counts[0] == counts[1]


async def test_another_model_under_the_same_name_is_probed_again():
    async with MockServer(reads(NOTES), models=["tiny-instruct"], owner="one") as url:
        model = spec.load(f"{url}#tiny-instruct")
        await probe.adapted(model)
        key = probe._key(model)
        model.fingerprint = "of another model"
        assert probe._key(model) not in probe.load_results()
        assert key in probe.load_results()
        await model.aclose()


async def test_findings_of_last_year_are_forgotten(monkeypatch):
    await found(reads(NOTES))
    assert len(probe.load_results()) == 1
    now = time.time()
    monkeypatch.setattr(probe.time, "time", lambda: now + 365 * 24 * 3600)
    assert probe.load_results() == {}


async def test_a_cache_file_that_cannot_be_read_is_an_empty_one():
    probe.results_path().parent.mkdir(parents=True)
    for broken in ("{", "[]", '{"a": 1}', '{"a": {"reads": {"notes": {"x": 1}}}}'):
        probe.results_path().write_text(broken)
        assert probe.load_results() == {}


async def test_what_the_table_says_goes_before_what_was_found():
    _, model = await found(reads(THINKING, NOTES, TURN), {"prefill": False, "cards": ["turn"]})
    assert model.abilities.card_formats == (CardFormat.TURN,)


async def test_a_server_that_is_not_there_stops_nothing():
    model = spec.load("http://127.0.0.1:9/v1#tiny-instruct")
    assert await probe.settle([model]) == []
    seen = await probe.adapted(model)
    assert not seen.reachable
    assert "cannot reach" in seen.problem
    await model.aclose()


async def test_a_server_that_loads_its_model_is_probed_when_it_is_ready():
    busy = RawResponse([b'{"error": {"message": "Loading model"}}'], 503, "application/json")
    server = MockServer(reads(THINKING, NOTES, TURN), models=["tiny-instruct"], pages={"/models": busy})
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        server.pages = {}

    async with server as url:
        model = spec.load(f"{url}#tiny-instruct")
        seen = await probe.adapted(model, tell=tell)
        await model.aclose()
    assert lines[0] == f"waiting for tiny-instruct at {url}, which is not ready yet"
    assert seen.complete


async def test_a_slow_server_does_not_hold_a_request_up_and_its_probe_goes_on():
    def script(request: Received) -> Reply:
        return Completion(probe.SECRET if form_of(request) else "8", delay_s=0.05)

    lines: list[str] = []
    async with MockServer(script, models=["tiny-instruct"]) as url:
        model = spec.load(f"{url}#tiny-instruct")
        (late,) = await probe.settle([model], wait_s=0.01, tell=lines.append)
        assert any("in the background" in line for line in lines)
        assert (await late).complete
        await model.aclose()


async def test_a_probe_that_was_interrupted_goes_on_where_it_stopped():
    async with MockServer(reads(NOTES), models=["tiny-instruct"]) as url:
        model = spec.load(f"{url}#tiny-instruct")
        whole = await probe.adapted(model)
        whole.steps = ["listing", "short", "constraint", "thinking"]
        probe.store_results(probe._key(model), whole)
        server_calls: list[str] = []
        model.stream = _counted(model.stream, server_calls)  # type: ignore[method-assign]
        await probe.adapted(model)
        assert server_calls
        assert not any("pens" in call for call in server_calls)
        await model.aclose()


def _counted(stream: Any, calls: list[str]) -> Any:
    def counting(prompt: Any, limits: Any) -> Any:
        calls.append(str(prompt.turns))
        return stream(prompt, limits)

    return counting


async def test_a_server_that_refuses_images_says_so_in_the_notes():
    def blind(request: Received) -> Reply:
        if "image_url" in str(request.body["messages"]):
            return HttpError(500, {"error": {"message": "this model has no eyes"}})
        return reads(NOTES)(request)

    seen, model = await found(blind)
    assert (seen.images, model.abilities.images) == (False, False)
    assert any("no eyes" in note for note in seen.notes)


@pytest.mark.parametrize("aborts", [True, False])
async def test_whether_a_server_stops_when_its_client_has_gone_is_what_it_counts(aborts):
    def script(request: Received) -> Reply:
        long = "every number" in str(request.body)
        return Completion("1 2 3 4 5 6 7 8 9 " * 50, delay_s=0.05) if long else reads(NOTES)(request)

    seen, _ = await found(script, aborts=aborts)
    assert seen.aborts is aborts


async def test_a_prefix_cache_is_seen_by_what_the_server_counts():
    seen, _ = await found(reads(NOTES), prefix_cache=True)
    assert seen.prefix_cache


async def test_two_processes_that_store_at_once_leave_a_whole_file():
    seen, _ = await found(reads(NOTES))
    await asyncio.gather(*(asyncio.to_thread(probe.store_results, f"{probe.VERSION} key {n}", seen) for n in range(8)))
    assert json.loads(probe.results_path().read_text())


def test_models_in_this_process_are_not_probed(monkeypatch):
    async def work() -> list[Any]:
        return await probe.settle([object()])  # type: ignore[list-item]

    assert asyncio.run(work()) == []
