"""Reload of the configuration file while the gateway runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from gateways import COUNT, gateway

from cuecard.gateway.admission.limits import Gate
from cuecard.gateway.app import Reloader
from cuecard.gateway.config import read
from cuecard.gateway.pairs import Pairs
from cuecard.gateway.tables import digest
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, Pace


def table(url: str, name: str, key: str = "one") -> str:
    model = f'model = "{url}#mock"\nfamily = "plain"'
    return (
        f'version = 1\n[[keys]]\nname = "team"\nsha256 = "{digest(key)}"\n'
        f"[pairs.{name}]\n[pairs.{name}.small]\n{model}\n[pairs.{name}.large]\n{model}\n"
    )


class Running:
    """A gateway that reloads a configuration file."""

    def __init__(self, file: Path, http: httpx2.AsyncClient, lines: list[str]) -> None:
        self.file, self.lines, self._http = file, lines, http

    async def ask(self, model: str, key: str = "one") -> httpx2.Response:
        body = {"model": model, "messages": [{"role": "user", "content": COUNT}]}
        return await self._http.post("v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})

    async def metrics(self) -> str:
        return (await self._http.get("metrics", headers={"authorization": "Bearer one"})).text

    def write(self, text: str) -> None:
        part = self.file.with_suffix(".part")
        part.write_text(text)
        part.replace(self.file)

    async def until(self, done: Callable[[], bool]) -> None:
        while not done():  # noqa: ASYNC110 - the file is polled
            await asyncio.sleep(0.02)


@asynccontextmanager
async def following(tmp_path: Path, text: str) -> AsyncIterator[Running]:
    file, lines = tmp_path / "cuecard.toml", list[str]()
    file.write_text(text)
    config = read(file)
    pairs, gate = Pairs.configured(config), Gate(config.keys)
    reloader = Reloader(file, lambda: read(file), config, pairs, gate, tell=lines.append, poll_s=0.05)
    async with gateway(pairs=pairs, gate=gate, reloader=reloader) as client:
        root = str(client.base_url).removesuffix("v1/")
        async with httpx2.AsyncClient(base_url=root, timeout=20) as http:
            yield Running(file, http, lines)


async def test_a_new_file_brings_new_pairs_and_keys(tmp_path):
    async with MockServer([Completion("3")]) as url, following(tmp_path, table(url, "vision")) as running:
        assert (await running.ask("vision")).status_code == 200
        running.write(table(url, "sight", key="two"))
        await running.until(lambda: bool(running.lines))
        statuses = [
            (await running.ask(name, key)).status_code
            for name, key in (("sight", "two"), ("vision", "two"), ("sight", "one"))
        ]
    assert statuses == [200, 404, 401]
    assert "pairs sight; 1 keys" in running.lines[0]


@pytest.mark.parametrize("broken", ["version = 1\n[pair", "version = 1\n", 'version = 1\n[pair]\nstrategy = "x"\n'])
async def test_a_broken_file_changes_nothing_and_leaves_one_line(broken, tmp_path):
    async with MockServer([Completion("3")]) as url, following(tmp_path, table(url, "vision")) as running:
        running.write(broken)
        await running.until(lambda: bool(running.lines))
        assert (await running.ask("vision")).status_code == 200
        metrics = await running.metrics()
    [line] = running.lines
    assert "was not taken over" in line
    assert "\n" not in line
    assert 'config_reloads_total{result="failed"} 1.0' in metrics


async def test_a_request_under_way_ends_on_the_models_that_it_began_with(tmp_path):
    slow, fast = MockServer([Completion("3", pace=Pace(first_s=1.0))]), MockServer([Completion("4")])
    async with slow as old, fast as new, following(tmp_path, table(old, "vision")) as running:
        under_way = asyncio.create_task(running.ask("vision"))
        await slow.arrived.wait()
        running.write(table(new, "vision"))
        await running.until(lambda: bool(running.lines))
        after = (await running.ask("vision")).json()
        before = (await under_way).json()
    assert [each["choices"][0]["message"]["content"] for each in (before, after)] == ["3", "4"]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
async def test_a_hang_up_reads_the_file_at_once(tmp_path):
    async with MockServer([Completion("3")]) as url, following(tmp_path, table(url, "vision")) as running:
        await running.ask("vision")
        signal.raise_signal(signal.SIGHUP)
        await running.until(lambda: bool(running.lines))
    assert "was read again" in running.lines[0]
