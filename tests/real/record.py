"""Record both models again:  python tests/real/record.py QWEN_URL SMOLLM_URL

Each URL is the base URL (ending in /v1) of a llama.cpp server with that model: `tests/servers/llamacpp.py`, weights
from `tests/servers/real_models.py`. Calls whose prompts have not changed are kept, so an interrupted recording
continues where it stopped. A judgement is kept while its reply stays the same; others are `"?"` until a person writes
one.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack, aclosing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "servers"))

from calls import (
    CALLS,
    CARD_WRITER,
    QWEN,
    SMOLLM,
    STRICT,
    UNJUDGED,
    Raw,
    Row,
    applies,
    client,
    digest,
    limits,
    load_questions,
    load_rows,
    prompt,
    save_rows,
)
from recording import Exchange, Proxy, recorded
from replaying import replayed

from cuecard.answers.kinds import KINDS
from cuecard.domain.question import Question

AT_ONCE = 3
"""Questions that are recorded at once; the servers have four slots."""


class Recorder:
    """Rows by (question, model, call), saved after each call. Each worker has its own proxies: {model: proxy}."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = {row.key: row for row in rows}

    async def run(self, workers: list[dict[str, Proxy]]) -> None:
        """Record all questions, each with one worker."""
        left = iter(load_questions().items())

        async def work(proxies: dict[str, Proxy]) -> None:
            for name, (question, _) in left:
                await self._question(proxies, name, question)
                print(f"{name}: {requests(workers)} requests", flush=True)

        async with asyncio.TaskGroup() as group:
            for proxies in workers:
                group.create_task(work(proxies))

    async def _question(self, proxies: dict[str, Proxy], name: str, question: Question) -> None:
        """Record a question: reasoning first, then the reads, while its prompt is in the server's cache."""
        for model, proxy in proxies.items():
            for call in (call for call in CALLS if applies(call, question)):
                row = await self._call(proxy, name, question, model, call)
                cut = row.requests[-1].finish_reason == "length"
                if cut and call != "reason" and KINDS[question.kind].brief:
                    await self._call(proxy, name, question, model, call + STRICT)
                else:
                    self.rows.pop((name, model, call + STRICT), None)

    async def _call(self, proxy: Proxy, name: str, question: Question, model: str, call: str) -> Row:
        old, now = self.rows.get((name, model, call)), digest(call, question, model)
        if old is not None and old.prompt == now:
            return old
        made = tuple(map(_raw, await self._make(proxy, name, question, model, call)))
        same = old is not None and [raw.content for raw in old.requests] == [raw.content for raw in made]
        row = Row(name, model, call, now, made, old.judged if same and old is not None else UNJUDGED)
        self.rows[row.key] = row
        save_rows(self.rows.values())
        return row

    async def _make(self, proxy: Proxy, name: str, question: Question, model: str, call: str) -> list[Exchange]:
        """The requests of one call that the server answered with status 200."""
        card = await self._card(name) if call.startswith("read") else ""
        server, before = client(proxy.url, model, call), len(proxy.exchanges)
        try:
            asked = prompt(call, question, card, server.abilities.style)
            async with aclosing(server.stream(asked, limits(question))) as events:
                async for _ in events:
                    pass
        finally:
            await server.aclose()
        return [each for each in proxy.exchanges[before:] if each.status == 200]

    async def _card(self, name: str) -> str:
        row = self.rows[name, CARD_WRITER, "reason"]
        async with replayed([row]) as (_, _, found):
            return found[row.key].reasoning


def _raw(exchange: Exchange) -> Raw:
    usage = exchange.usage
    return Raw(
        exchange.content,
        exchange.reasoning,
        exchange.finish_reason,
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
    )


def requests(workers: list[dict[str, Proxy]]) -> int:
    return sum(len(proxy.exchanges) for proxies in workers for proxy in proxies.values())


def main() -> None:
    urls = dict(zip((QWEN, SMOLLM), sys.argv[1:], strict=True))
    recorder = Recorder(load_rows())
    with ExitStack() as stack:
        workers = [{model: stack.enter_context(recorded(url)) for model, url in urls.items()} for _ in range(AT_ONCE)]
        asyncio.run(recorder.run(workers))
    save_rows(recorder.rows.values())


if __name__ == "__main__":
    main()
