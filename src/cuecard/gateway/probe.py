"""What a server can do, found out by asking it: a handful of short requests, each of which shows one thing."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image as PilImage

from cuecard.domain.call import Usage
from cuecard.domain.errors import BadInput, CuecardError, ModelError, Unsupported
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.gateway.config import Config
from cuecard.models import spec
from cuecard.models.base import AnswerDelta, Event, Finished, Limits, Model, Progress, ReasoningDelta
from cuecard.models.openai import OpenAIModel
from cuecard.models.prompt import CardFormat, Prompt, read, reason, short

SECRET = "7319"
NUMBER = Question("Which number is on the slip of paper?", kind=AnswerKind.NUMBER)
LONG = Question("Which number comes next? " + ", ".join(map(str, range(400))), kind=AnswerKind.NUMBER)
"""Long enough to fill several blocks of a prefix cache."""
ABORT_S = 2
LIMITS = Limits(answer_tokens=16, reasoning_tokens=256, timeout_s=60)


@dataclass
class Findings:
    """What one server showed. None: it could not be told."""

    reachable: bool = False
    problem: str | None = None
    short_answers: bool | None = None
    """A short call brings an answer, and no reasoning before it."""
    reasoning: bool | None = None
    """A reasoning call brings reasoning that can be told from the answer."""
    images: bool | None = None
    logprobs: bool | None = None
    prefill: bool | None = None
    """It goes on with a given reasoning: what stands only there is in the answer."""
    prefix_cache: bool | None = None
    """It reports tokens that it did not compute again."""
    first_s: float | None = None
    again_s: float | None = None
    """Seconds to the first token of a long prompt, and of the same prompt again."""
    aborts: bool | None = None
    """It gives up what it generates when its client has gone, by its own count."""
    notes: list[str] = field(default_factory=list)

    @property
    def pays(self) -> bool:
        """Computing a prompt ahead is worth its while: the second time is clearly faster."""
        return bool(self.prefix_cache and self.first_s and self.again_s and self.again_s < 0.7 * self.first_s)

    @property
    def settings(self) -> dict[str, bool]:
        """What follows for the server's table in cuecard.toml."""
        found = {"images": self.images, "logprobs": self.logprobs, "prefill": self.prefill, "prefix_cache": self.pays}
        return {name: value for name, value in found.items() if value is not None}


@dataclass
class Heard:
    """One call, whole."""

    reasoning: str = ""
    answer: str = ""
    usage: Usage = field(default_factory=Usage)
    logprob: float | None = None
    first_s: float | None = None


async def probe(load: Callable[..., Model]) -> Findings:
    """Ask a server what it can do. `load` makes its model, with settings of its table changed."""
    found = Findings()
    try:
        async with _open(load) as model:
            spoken = await _hear(model, short(NUMBER, model.abilities.style))
    except CuecardError as error:
        found.problem = str(error)
        return found
    found.reachable = True
    found.short_answers = bool(spoken.answer) and not spoken.reasoning
    found.logprobs = spoken.logprob is not None
    steps: list[tuple[str, Callable[[Findings, Callable[..., Model]], Awaitable[None]]]] = [
        ("reasoning", _reasoning),
        ("images", _images),
        ("prefill", _prefill),
        ("prefix cache", _prefix_cache),
        ("aborts", _aborts),
    ]
    for name, step in steps:
        try:
            await step(found, load)
        except CuecardError as error:
            found.notes.append(f"{name}: {error.message}")
    return found


async def of_servers(config: Config, known: Mapping[str, Findings]) -> dict[str, Findings]:
    """What the servers of a configuration show, but for those that are known; models in this process need no asking."""
    served = {one.model: one for ones in config.roles.values() for one in ones if one.model not in known}
    served = {name: one for name, one in served.items() if isinstance(spec.parse(name), spec.Served)}

    def load(table: Mapping[str, Any], **changed: Any) -> Model:
        return spec.load({**changed, **table})

    asked = [probe(partial(load, one.table())) for one in served.values()]
    return dict(zip(served, await asyncio.gather(*asked), strict=True))


async def _reasoning(found: Findings, load: Callable[..., Model]) -> None:
    async with _open(load) as model:
        heard = await _hear(model, reason(NUMBER, model.abilities.style))
        found.reasoning = bool(heard.reasoning)


async def _images(found: Findings, load: Callable[..., Model]) -> None:
    buffer = io.BytesIO()
    PilImage.new("RGB", (64, 64), (220, 30, 30)).save(buffer, "PNG")
    asked = Question("What colour is this?", (Image(buffer.getvalue()),), kind=AnswerKind.SHORT_TEXT)
    async with _open(load, images=True) as model:
        try:
            await _hear(model, short(asked, model.abilities.style))
            found.images = True
        except Unsupported:
            found.images = False
        except ModelError as error:
            found.images = False
            found.notes.append(f"images: {error.message}")


async def _prefill(found: Findings, load: Callable[..., Model]) -> None:
    card = f"The slip of paper says {SECRET}. So the answer is {SECRET}."
    async with _open(load, prefill=True) as model:
        try:
            heard = await _hear(model, read(NUMBER, card, CardFormat.THINKING, model.abilities.style))
        except ModelError as error:
            found.prefill = False
            found.notes.append(f"prefill: {error.message}")
        else:
            found.prefill = SECRET in heard.answer


async def _prefix_cache(found: Findings, load: Callable[..., Model]) -> None:
    fresh = Question(f"{time.time_ns()}. {LONG.text}", kind=LONG.kind)
    async with _open(load) as model:
        prompt = short(fresh, model.abilities.style)
        first, again = await _hear(model, prompt), await _hear(model, prompt)
    found.first_s, found.again_s = first.first_s, again.first_s
    cached = again.usage.cached_tokens
    found.prefix_cache = None if cached is None else cached > 0


async def _aborts(found: Findings, load: Callable[..., Model]) -> None:
    async with _open(load) as model:
        if not isinstance(model, OpenAIModel) or (before := await model.aborted()) is None:
            return
        asked = Question("Count from 1 to 2000, and write every number down.", kind=AnswerKind.FREE_TEXT)
        prompt = short(asked, model.abilities.style)
        async with aclosing(model.stream(prompt, replace(LIMITS, answer_tokens=1024))) as events:
            await anext(events)  # the server has taken it on
            await asyncio.sleep(0.2)
        found.aborts = False
        for _ in range(ABORT_S * 10):
            await asyncio.sleep(0.1)
            if ((await model.aborted()) or 0) > before:
                found.aborts = True
                break


@asynccontextmanager
async def _open(load: Callable[..., Model], **changed: Any) -> AsyncGenerator[Model]:
    """A model of the probe's own, closed at the end."""
    model = load(**changed)
    try:
        yield model
    finally:
        await model.aclose()


async def _hear(model: Model, prompt: Prompt) -> Heard:
    clock = asyncio.get_running_loop().time
    began, heard = clock(), Heard()
    async with aclosing(model.stream(prompt, LIMITS)) as events:
        async for event in events:
            _take(event, heard, clock() - began)
    return heard


def _take(event: Event, heard: Heard, at_s: float) -> None:
    match event:
        case ReasoningDelta(text):
            heard.reasoning += text
        case AnswerDelta(text):
            heard.answer += text
        case Progress(usage):
            heard.usage = usage
        case Finished(usage, _, logprob):
            heard.usage, heard.logprob = usage, logprob
    if isinstance(event, ReasoningDelta | AnswerDelta) and heard.first_s is None:
        heard.first_s = at_s


# --- what was found, kept beside the configuration --------------------------------------------------------------------


def beside(config: Path) -> Path:
    """Where the findings about a configuration's servers are kept."""
    return config.with_suffix(".probe.json")


def save(path: Path, found: Mapping[str, Findings]) -> None:
    """Write what was found, by specification. Raises BadInput."""
    told = {"version": 1, "at": time.time(), "servers": {name: asdict(each) for name, each in found.items()}}
    try:
        path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from error


def saved(path: Path) -> dict[str, Findings]:
    """What was found before, by specification; nothing if nobody has looked. Raises BadInput."""
    if not path.exists():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {name: Findings(**each) for name, each in told["servers"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} is broken: {error}", "delete it, and run cuecard check again") from error
