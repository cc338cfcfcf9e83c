"""A profile of a server: requests, readings, resuming, and one-line errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import pytest
from markupsafe import escape
from rich.console import Console
from typer.testing import CliRunner

from cuecard.cli import app
from cuecard.cli.profile import show
from cuecard.domain.errors import BadInput, ModelError, ModelRefused, ModelUnreachable, Unsupported
from cuecard.latency import readings
from cuecard.latency.rounds import ProfileEnd
from cuecard.latency.server_profile import ServerProfile, profile
from cuecard.latency.server_requests import DEFINITIONS, TimedClient, served
from cuecard.models.spec import Served
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, Count, Cut, HttpError, Pace, Received, Reply, Stall

pytestmark = pytest.mark.slow

SAYS = Completion("four five six", reasoning="one two three", thinks=True, pace=Pace(bundle=2))
MACHINE = {"date": "2026-11-25"}


async def profiled(url: str, out: Path, **more: Any) -> ProfileEnd:
    asked = {"output_tokens": (1, 6), "image_px": (None, 64), "requests": 3, "repeats": 2, "precision": 1e-9}
    wish = ServerProfile([Served(url, "mock")], **{**asked, "chance": Random(5), **more})
    return await profile(wish, out, MACHINE, lambda progress: None)


def stored(out: Path) -> list[readings.Reading]:
    return [each for each in readings.read(out) if not each.warmup]


async def test_readings_hold_every_event_with_its_tokens_and_what_the_server_counted(tmp_path: Path) -> None:
    async with MockServer([SAYS], prefix_cache=True, visual_px=32, running_usage=True) as url:
        end = await profiled(url, tmp_path)
    made = stored(tmp_path)
    assert len(made) == 2 * 2 * 3 * 2
    assert end.readings == len(made) + 4  # warm-up
    for each in made:
        assert each.error is None
        assert each.seen.output_tokens == each.point.output_tokens
        assert each.seen.visual_tokens == (4 if each.point.image_px else 0)
        assert sum(each.parts_s.values()) == pytest.approx(each.total_s)
        brought = [(kind, tokens) for _, kind, tokens in each.events or () if tokens]
        longer = [("reasoning", 1), ("reasoning", 2), ("answer", 2), ("answer", 1)]
        assert brought == (longer if each.point.output_tokens == 6 else [("reasoning", 1)])
        assert (each.first_answer_s is None) == (each.point.output_tokens == 1)


def test_the_mock_servers_schedule_is_prompt_tokens_then_tokens_then_stalls() -> None:
    pace = Pace(first_s=0.1, prompt_token_s=0.001, token_s=0.01, stalls_s={0: 0.2, 2: 0.5})
    assert [pace.due_s(100, token) for token in range(4)] == pytest.approx([0.4, 0.41, 0.92, 0.93])


async def test_the_mock_server_records_each_token_that_it_sends_and_none_before_it_is_due() -> None:
    pace = Pace(first_s=0.01, token_s=0.002, stalls_s={3: 0.02}, bundle=2)
    server = MockServer([replace(SAYS, pace=pace)])
    async with server as url:
        client = TimedClient(url, None, 10.0)
        assert (
            await client.ask(b'{"model": "mock", "stream": true, "messages": [{"role": "user", "content": "a"}]}')
        ).error is None
        await client.aclose()
    record = server.received[0].as_object()
    assert [(kind, count) for _, kind, count in record["sent"]] == [
        ("role", 0), ("reasoning", 1), ("reasoning", 2), ("content", 2), ("content", 1), ("finish", 0), ("done", 0)
    ]  # fmt: skip
    for (at, *_), token in zip(record["sent"][1:5], (0, 2, 4, 5), strict=True):
        assert at - record["at_s"] >= pace.due_s(1, token) - 1e-6


async def test_fresh_prompts_are_new_from_the_first_words_on_and_cached_ones_are_the_same(tmp_path: Path) -> None:
    for fresh in (True, False):
        async with MockServer([SAYS], prefix_cache=True, visual_px=32) as url:
            await profiled(url, tmp_path / str(fresh), fresh=fresh)
        for each in stored(tmp_path / str(fresh)):
            cached, prompt = each.observed["cached_tokens"], each.observed["prompt_tokens"]
            assert cached <= 2 if fresh else cached == prompt - 1


async def test_lengths_are_forced_or_left_to_the_model(tmp_path: Path) -> None:
    for forced in (True, False):
        server = MockServer([SAYS], running_usage=True)
        async with server as url:
            await profiled(url, tmp_path / str(forced), output_tokens=(9,), ignore_eos=forced)
        assert {each.seen.output_tokens for each in stored(tmp_path / str(forced))} == {9 if forced else 6}
        assert all(body.get("min_tokens") == (body["max_tokens"] if forced else None) for body in server.bodies)


async def test_refused_parameters_are_left_out_and_noted(tmp_path: Path) -> None:
    refused = ("ignore_eos", "min_tokens", "continuous_usage_stats")
    server = MockServer([SAYS], refuses=refused)
    async with server as url:
        end = await profiled(url, tmp_path, output_tokens=(9,))
    assert not {*refused} & {*server.bodies[-1], *server.bodies[-1]["stream_options"]}
    assert [note for note in end.notes if "refuses ignore_eos" in note]
    assert [note for note in end.notes if "shorter than asked for" in note]


async def test_an_open_loop_shows_waiting_at_the_client_apart(tmp_path: Path) -> None:
    slow = replace(SAYS, pace=Pace(first_s=0.01))
    async with MockServer([slow]) as url:
        await profiled(url, tmp_path, rate=(1000.0,), concurrency=(1,), output_tokens=(1,), image_px=(None,))
    for each in served(tmp_path):
        assert each.metrics["queue"].percentiles[90] >= 0.01
        assert each.metrics["TTFT"].percentiles[50] >= 0.01


async def test_a_password_in_the_address_is_written_nowhere(tmp_path: Path) -> None:
    server = MockServer([SAYS])
    async with server as url:
        await profiled(url.replace("://", "://me:secret@"), tmp_path, output_tokens=(1,), repeats=1)
    assert server.received[0].headers["authorization"].startswith("Basic ")
    assert "secret" not in json.dumps(readings.about(tmp_path))


async def test_the_table_of_a_narrow_terminal_cuts_no_figure(tmp_path: Path) -> None:
    async with MockServer([replace(SAYS, pace=Pace(first_s=0.01))], prefix_cache=True) as url:
        more: dict[str, Any] = {"rate": (1000.0,), "concurrency": (1,), "output_tokens": (6,), "fresh": False}
        await profiled(url, tmp_path, **more, repeats=1)
    printed = StringIO()
    show(Console(file=printed, width=80), tmp_path)
    assert "queue" in printed.getvalue()
    assert "…" not in printed.getvalue()


async def test_a_profile_resumes_where_it_stopped(tmp_path: Path) -> None:
    server = MockServer([SAYS])
    async with server as url:
        await profiled(url, tmp_path, repeats=1)
        first, asked = len(stored(tmp_path)), len(server.received)
        assert (await profiled(url, tmp_path, repeats=1)).readings == 0
        assert len(server.received) == asked + 2  # the handshake, with and without an image
        await profiled(url, tmp_path, repeats=2)
        assert len(stored(tmp_path)) == 2 * first
        with pytest.raises(BadInput, match="requests"):
            await profiled(url, tmp_path, requests=4)


async def test_a_request_that_fails_is_stored_with_why_and_the_others_count(tmp_path: Path) -> None:
    def script(request: Received) -> Reply:
        count[0] += 1
        return replace(SAYS, after=Cut(3)) if count[0] == 5 else SAYS

    count = [0]
    async with MockServer(script) as url:
        end = await profiled(url, tmp_path, output_tokens=(6,), image_px=(None,), repeats=1)
    assert [each.error is None for each in stored(tmp_path)].count(False) == 1
    assert "1 requests failed" in end.notes[-1]
    assert served(tmp_path)[0].failed == 1


async def test_a_server_that_falls_silent_ends_the_profile_at_the_limit_of_a_request(tmp_path: Path) -> None:
    def script(request: Received) -> Reply:
        return SAYS if len(server.received) < 3 else Stall()

    server = MockServer(script)
    async with server as url:
        with pytest.raises(ModelError, match="longer than its limit"):
            await profiled(url, tmp_path, output_tokens=(6,), image_px=(None,), limit_s=0.2)


async def test_servers_that_cannot_be_profiled_are_refused_at_once(tmp_path: Path) -> None:
    async with MockServer([replace(SAYS, count=Count.MISSING)]) as url:
        with pytest.raises(Unsupported, match="without telling how many tokens"):
            await profiled(url, tmp_path)
    async with MockServer([HttpError(401, {"error": {"message": "no key"}})]) as url:
        with pytest.raises(ModelRefused, match="no key"):
            await profiled(url, tmp_path)
    with pytest.raises(ModelUnreachable):
        await profiled("http://127.0.0.1:9/v1", tmp_path)
    async with MockServer([SAYS]) as url:
        with pytest.raises(BadInput, match="the same name"):
            await profile(
                ServerProfile([Served(url, "mock")] * 2, (1,), (None,)), tmp_path, MACHINE, lambda progress: None
            )
    assert not readings.is_profile(tmp_path)


@pytest.fixture
def url() -> Iterator[str]:
    """The URL of a server in its own thread, because the command has its own event loop."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = MockServer([SAYS], visual_px=32, running_usage=True)
    yield asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
    asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def run(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(args))
    return result.exit_code, result.output


GRID = ("--output-tokens", "1,6", "--image-size", "0,64", "--repeats", "1", "--requests", "2")


def test_the_command_prints_percentiles(tmp_path: Path, url: str) -> None:
    code, output = run("profile", f"{url}#mock", "--out", str(tmp_path), *GRID, "--concurrency", "2")
    assert code == 0, output
    assert all(head in output for head in ("TTFT", "TTFO", "TPOT", "ITL", "E2EL", "p99", "several tokens"))
    code, output = run("profile", f"{url}#mock", "--out", str(tmp_path), *GRID, "--concurrency", "2", "--json")
    assert code == 0, output
    points = json.loads(output)["points"]
    assert len(points) == 4
    assert {*points[-1]["metrics"]["TPOT, vLLM"]} == {"mean", "p50", "p90", "p99"}


@pytest.mark.parametrize("lengths", ["6", "1,6"])
def test_the_report_shows_and_defines_every_metric_be_there_a_fit_or_not(
    tmp_path: Path, url: str, lengths: str
) -> None:
    grid = ("--output-tokens", lengths, "--image-size", "0", "--repeats", "1", "--requests", "2")
    code, output = run("profile", f"{url}#mock", "--out", str(tmp_path), *grid)
    assert code == 0, output
    code, output = run("report", str(tmp_path))
    assert code == 0, output
    page, table = (tmp_path / "report.html").read_text(), (tmp_path / "tables" / "server.csv").read_text()
    for name, definition in DEFINITIONS.items():
        if name != "queue":  # a closed loop has no queue
            assert str(escape(definition)) in page
            assert name in table
    assert (tmp_path / "fits").exists() == (lengths == "1,6")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("demo-small",), "timed differently"),
        (("--dtype", "float32"), "--dtype does not apply to servers"),
        (("--rate", "never"), "are not numbers above 0"),
        (("--concurrency", "0"), "are not whole numbers"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path: Path, url: str, args: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(app, ["profile", f"{url}#mock", *args, "--out", str(tmp_path)])
    assert isinstance(result.exception, BadInput)
    assert message in str(result.exception)


def test_options_of_servers_are_refused_for_models_of_this_process(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["profile", "demo-small", "--rate", "2", "--out", str(tmp_path)])
    assert isinstance(result.exception, BadInput)
