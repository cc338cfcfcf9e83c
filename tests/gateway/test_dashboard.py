"""The dashboard in a browser, operated by keyboard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import openai
import pytest
from browser import CHROMIUM, Tab, browser
from gateways import COUNT, THOUGHT, gateway, model
from PIL import Image

from cuecard.domain.errors import ModelRefused, ModelUnreachable
from cuecard.gateway.metrics import MINUTES, Audit, GatewayMetrics
from cuecard.gateway.pairs import Pairs, Service
from cuecard.gateway.tables import Key, make
from cuecard.models.base import Model
from cuecard.models.pool import Breaker, Pool, Replica
from cuecard.models.replay import Says, ScriptedModel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (chromium, chromium-browser, google-chrome)"),
]
PHONE, DESK = 390, 1280

# WCAG 2.2: relative luminance, and contrast of each text with its background (alpha blended over the layers below)
CONTRASTS = """
(() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((value, i) => value * a + below[i] * (1 - a));
  const ground = (node) => {
    if (!node) return [255, 255, 255];
    const colour = parse(getComputedStyle(node).backgroundColor);
    return colour[3] === 1 ? colour.slice(0, 3) : over(colour, ground(node.parentElement));
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrasts = [];
  for (const node of document.querySelectorAll("body *")) {
    const text = [...node.childNodes].filter((c) => c.nodeType === 3).map((c) => c.data.trim()).join("") || node.value;
    if (!text || !node.checkVisibility() || node.disabled || node.tagName === "OPTION") continue;
    const below = ground(node);
    const both = [light(below), light(over(parse(getComputedStyle(node).color), below))];
    const [dark, bright] = both.sort((a, b) => a - b);
    contrasts.push([(bright + 0.05) / (dark + 0.05), text]);
  }
  return contrasts;
})()
"""
CONTROLS = """
[...document.querySelectorAll("a[href], button, input, select, textarea, summary")]
  .filter((node) => node.checkVisibility() && !node.disabled)
  .map((node) => node.id || node.textContent)
"""
FOCUSED = "document.activeElement.id || document.activeElement.textContent"


def pooled(models: dict[str, Model]) -> dict[str, Model]:
    return {role: Pool([Replica(one, Breaker(lambda: 0.0))], Random(0)) for role, one in models.items()}


def pair(**how: Any) -> dict[str, Model]:
    """A pair in pools; its short answers differ."""
    return pooled({"small": model("tiny", "2", "4", **how), "large": model("huge", "5", "3", **how)})


@asynccontextmanager
async def dashboard(folder: Path, models: dict[str, Model], **how: Any) -> AsyncIterator[tuple[Tab, str, Any]]:
    """A tab, the dashboard's URL, and a client. Fails if the page logs an error or sends requests to other hosts."""
    async with gateway(models, **how) as client, browser(folder) as tab:
        root = str(client.base_url).removesuffix("v1/")
        yield tab, f"{root}dashboard", client
        assert not tab.complaints
        assert {url for url in tab.requests if not url.startswith((root, "data:", "about:"))} == set()


async def ask(client: openai.AsyncOpenAI, *models: str) -> None:
    for name in models:
        await client.chat.completions.create(model=name, messages=[{"role": "user", "content": COUNT}])


async def text(tab: Tab, selector: str) -> str:
    return str(await tab.js(f"document.querySelector({selector!r}).innerText"))


async def test_the_page_shows_that_there_was_no_request_yet(tmp_path):
    async with dashboard(tmp_path, pair()) as (tab, url, _):
        for width in (DESK, PHONE):
            await tab.open(url, width)
            await tab.until("document.querySelector('#state').textContent === 'live'")
            assert "Nothing has been asked yet" in await text(tab, "main")
            assert await tab.js("document.documentElement.scrollWidth <= innerWidth")


async def test_requests_are_time_lines_and_routes_are_shown_over_time_as_they_come(tmp_path):
    async with dashboard(tmp_path, pair(token_s=0.005)) as (tab, url, client):
        await tab.open(url)
        await tab.until("document.querySelector('#state').textContent === 'live'")
        await ask(client, "cuecard", "cuecard/mutual-eager", "cuecard/cascade", "huge")
        with pytest.raises(openai.NotFoundError):
            await ask(client, "cuecrad")
        await tab.until("document.querySelectorAll('#requests details').length === 4")
        assert await tab.js("document.querySelectorAll('#requests .bar.small:not(.wait)').length") >= 3
        assert await tab.js("document.querySelectorAll('#requests .bar.large:not(.wait)').length") >= 3
        assert await tab.js("document.querySelectorAll('#requests .bar.alone').length") >= 1
        # within a lane, bars neither overlap nor extend beyond it
        assert await tab.js("""[...document.querySelectorAll('.lane')].every((lane) => {
            const boxes = [...lane.children].map((bar) => bar.getBoundingClientRect()), { right } = lane.getBoundingClientRect();
            return boxes.every((box, i) => box.right <= right + 3 && (!i || box.left >= boxes[i - 1].right - 3));
        })""")  # noqa: E501
        shown = await tab.js("[...document.querySelectorAll('#chart i')].map((part) => part.className)")
        assert set(shown) == {"transferred", "direct"}
        assert "4 requests in the last hour" in await tab.js("document.querySelector('#chart').ariaLabel")
        tiles = await text(tab, "#tiles")
        assert "saved, estimated" in tiles
        assert "1: A request names a model that is not served." in tiles
        assert "UnknownModel" not in tiles
        assert "tiny" in (servers := await text(tab, "#servers"))
        assert servers.count("up") == 2


async def test_failures_are_shown_with_their_descriptions(tmp_path):
    def broken(name: str) -> Model:
        return ScriptedModel(name, lambda _: Says(error=ModelRefused("out of order")))

    async with dashboard(tmp_path, {"small": broken("tiny"), "large": broken("huge")}) as (tab, url, client):
        with pytest.raises(openai.APIStatusError):
            await ask(client, "cuecard")
        await tab.open(url)
        await tab.until("document.querySelector('#chart i.failed')")
        tiles = await text(tab, "#tiles")
        assert "1: No model of the pair is left to answer." in tiles
        assert "NoAnswer" not in tiles


async def test_a_request_that_is_opened_stays_open_and_focused_when_others_come(tmp_path):
    async with dashboard(tmp_path, pair()) as (tab, url, client):
        await ask(client, "cuecard")
        await tab.open(url)
        await tab.until("document.querySelector('#requests summary')")
        await tab.js("document.querySelector('#requests summary').focus()")
        await tab.press("Enter", 13, "\r")
        await ask(client, "huge")
        await tab.until("document.querySelectorAll('#requests details').length === 2")
        assert "small reasons" in await text(tab, "#requests details[open]")
        assert await tab.js("document.activeElement.matches('[open] > summary')")


async def test_the_playground_shows_both_models_at_work(tmp_path):
    (picture := tmp_path / "cats.png").write_bytes(b"")
    Image.new("RGB", (32, 32), "red").save(picture)
    models = pair(token_s=0.03)
    async with dashboard(tmp_path, models) as (tab, url, _):
        await tab.open(url)
        await tab.until("document.querySelector('#model').options.length")
        await tab.choose("#image", picture)
        await tab.until("document.querySelector('#preview').naturalWidth === 32")
        await tab.js(f"document.querySelector('#question').value = {COUNT!r}")
        await tab.js("document.querySelector('#question').focus()")
        await tab.press("Enter", 13, "\r", modifiers=2)
        await tab.until("document.querySelector('#reasoning').textContent")
        assert await text(tab, "#reasoning-state") == "being written …"
        assert await text(tab, "#answer") == ""
        await tab.until("document.querySelector('#stop').disabled")
        assert await text(tab, "#reasoning") == THOUGHT
        assert await text(tab, "#answer") == "3"
        assert "small model" in await text(tab, "#reasoning-state")
        assert "transferred" in await text(tab, "#how")
        assert await tab.js("document.querySelectorAll('#timeline .bar').length") >= 4
        prompts = models["small"].replicas[0].model.prompts  # type: ignore[attr-defined]
        assert Image.open(BytesIO(prompts[0].turns[-1].images[0].data)).size == (32, 32)


async def test_the_example_can_be_sent_and_its_answer_stopped_by_keyboard(tmp_path):
    async with dashboard(tmp_path, pair(token_s=0.5)) as (tab, url, _):
        await tab.open(url, PHONE)
        await tab.until("document.querySelector('#model').options.length")
        await tab.js("document.querySelector('#example').click()")
        await tab.until("document.querySelector('#preview').naturalWidth > 0")
        assert "red digits" in await tab.js("document.querySelector('#question').value")
        await tab.js("document.querySelector('#go').focus()")
        await tab.press("Enter", 13, "\r")
        await tab.until("!document.querySelector('#stop').disabled")
        await tab.press("Tab", 9)
        assert await tab.js(FOCUSED) == "stop"
        await tab.press("Enter", 13, "\r")
        await tab.until("document.querySelector('#stop').disabled")
        assert await text(tab, "#how") == "stopped"
        assert await tab.js(FOCUSED) == "go"


async def test_the_playground_and_the_servers_state_show_a_failure(tmp_path):
    models = pooled({name: model(name, "3", error=ModelUnreachable("gone")) for name in ("small", "large")})
    for pool in models.values():
        pool.replicas[0].breaker = Breaker(lambda: 0.0, failures=1)  # type: ignore[attr-defined]
    async with gateway(models) as client, browser(tmp_path) as tab:
        await tab.open(str(client.base_url).replace("v1/", "dashboard"))
        await tab.until("document.querySelector('#model').options.length")
        assert await tab.js("document.querySelector('#question').value") == ""  # the pair cannot answer it
        await tab.js(f"document.querySelector('#question').value = {COUNT!r}")
        await tab.js("document.querySelector('#go').click()")
        await tab.until("document.querySelector('#how').className === 'bad'")
        assert "no model is left" in await text(tab, "#how")
        await tab.until("document.querySelectorAll('#servers .down').length === 2")
        await tab.js("document.querySelector('#example').click()")
        await tab.until("document.querySelector('#reply').hidden")  # the error belongs to the previous image


async def test_of_several_pairs_each_server_is_shown_with_its_own(tmp_path):
    pairs = Pairs([Service(pair()), Service(pair(), name="vision")])
    async with gateway(pairs=pairs) as client, browser(tmp_path) as tab:
        await ask(client, "cuecard", "vision")
        await tab.open(str(client.base_url).replace("v1/", "dashboard"), PHONE)
        await tab.until("document.querySelectorAll('#servers tbody tr').length === 4")
        servers = await text(tab, "#servers")
        assert "cuecard, small" in servers
        assert "vision, large" in servers
        assert "vision, large 1" not in servers
        assert await tab.js("document.documentElement.scrollWidth <= innerWidth")


async def test_without_a_key_the_page_sends_no_more_requests_until_one_is_typed(tmp_path):
    secret, digest = make()
    async with gateway(pair(), keys=[Key(name="ann", sha256=digest)]) as client, browser(tmp_path) as tab:
        await tab.open(str(client.base_url).replace("v1/", "dashboard"))
        await tab.until("document.querySelector('#access').open")
        await asyncio.sleep(2.5)  # the page polls every two seconds
        assert sum(url.endswith("/stats") for url in tab.requests) == 1
        await tab.js("document.querySelector('#key').focus()")
        await tab.send("Input.insertText", text=secret)
        await tab.press("Enter", 13, "\r")
        await tab.until("document.querySelector('#state').textContent === 'live'")


@pytest.mark.parametrize(("width", "scheme"), [(DESK, "light"), (DESK, "dark"), (PHONE, "light"), (PHONE, "dark")])
async def test_all_is_readable_reachable_by_tab_and_no_wider_than_the_window(tmp_path, monkeypatch, width, scheme):
    found = {"checked": 40, "differed": 9, "rate": 0.225, "low": 0.123, "high": 0.375, "waiting": 1, "alarming": True}
    monkeypatch.setattr(Audit, "as_dict", lambda audit: found | {"failed": 0, "skipped": 0})
    async with dashboard(tmp_path, pair()) as (tab, url, client):
        await ask(client, "cuecard", "cuecard/mutual-thrifty", "huge")
        await tab.open(url, width, scheme=scheme)
        await tab.until("document.querySelector('#model').options.length")
        await tab.js("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        await tab.js("document.querySelector('#example').click(), document.querySelector('#go').click()")
        await tab.until("document.querySelector('#answer').textContent && document.querySelector('#stop').disabled")
        await tab.until("document.querySelectorAll('#requests details').length === 4")
        assert "12% to 38%" in await text(tab, "#audit")
        contrasts = await tab.js(CONTRASTS)
        assert len(contrasts) > 60
        assert [pair for pair in contrasts if pair[0] < 4.5] == []
        assert await tab.js("document.documentElement.scrollWidth <= innerWidth")
        reached, controls = [], await tab.js(CONTROLS)
        await tab.js("document.activeElement.blur(), scrollTo(0, 0)")
        for _ in range(3 * len(controls)):
            await tab.press("Tab", 9)
            reached.append(await tab.js(FOCUSED))
        assert [each for each in controls if each not in reached] == []
        assert "Ask" in controls


def test_minutes_past_the_hour_are_forgotten(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.time", lambda: now)
    seen = GatewayMetrics()
    for minute in range(3 * MINUTES):
        now = 60.0 * minute
        seen.failed(ValueError())
    result = seen.stats()["minutes"]
    assert [minute["routes"] for minute in result] == [{"failed": 1}] * MINUTES
    assert result[-1]["at"] == now
    assert len(seen.minutes) == MINUTES
