"""What a served model does when it is prompted, found out by short requests, and kept in the user's cache directory.

    listing    is the name in the server's list
    short      does a short answer stay short, on a question that tempts to reason; are there log probabilities
    constraint does the server decode under a grammar
    thinking, notes, turn
               does the model give the short, right answer from a card in this format
    reasoning  can reasoning be told from the answer
    cache      is a prompt that was computed before clearly faster
    images     are images taken
    aborts     does the server stop when its client has gone

Steps run in this order, what decides answers first. A step is stored as soon as it is done, so a probe that is
interrupted goes on where it stopped. `check`, `serve`, `ask`, `eval`, `profile` and `Pair` share what is stored.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image as PilImage

from cuecard import disk
from cuecard.domain.call import FinishReason, Usage
from cuecard.domain.errors import CuecardError, ModelBusy, ModelError, ModelTimeout, ModelUnreachable, Unsupported
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.models.base import AnswerDelta, Finished, Limits, Model, Progress, ReasoningDelta
from cuecard.models.prompt import CardFormat, Prompt, Turn, read, reason, short

if TYPE_CHECKING:
    from cuecard.models.openai import OpenAIModel

VERSION = 1
"""Of the questions below: the answers to other questions are other findings."""
FRESH_S = 30 * 24 * 3600.0
"""How long findings hold."""
WAIT_S = 6.0
"""How long a request waits for a probe, which then goes on in the background."""
OFF = "CUECARD_NO_PROBE"
"""An environment variable: where it is set, nothing is probed unless it is asked for."""

TEMPTING = Question(
    "A shop sells pens at 3 dollars each. Tom buys 4 pens and pays with a 20 dollar note. How much change does he get?",
    kind=AnswerKind.NUMBER,
)
SECRET = "7319"
SLIP = Question(
    "A number is written on a slip of paper. What is twice that number, increased by 15?", kind=AnswerKind.NUMBER
)
CARD = (
    "The slip of paper says 3652. Twice that number is 3652 * 2 = 7304. "
    f"Increased by 15, that is 7304 + 15 = {SECRET}. So the result is {SECRET}."
)
"""What stands only in the card is in the answer of a model that reads it."""
LIMITS = Limits(reasoning_tokens=64, timeout_s=60)
PREFILL_S = 1.5
"""About how long the prompt may take to compute that shows whether a prefix is kept."""
TOKENS_A_NUMBER = 5
"""About so many: many tokenizers spell each digit."""
ABORT_S = 2


@dataclass
class Reading:
    """One card read: whether the answer was the card's, and whether it was short."""

    right: bool
    short: bool
    tokens: int | None
    seconds: float


@dataclass
class Findings:
    """What one served model showed. None: it could not be told, or was not probed yet."""

    steps: list[str] = field(default_factory=list)
    """Those that are done."""
    at: float = 0.0
    """When, in seconds since 1970."""
    problem: str | None = None
    """Why the server does not answer."""
    listed: bool | None = None
    """The model's name is in the server's list."""
    served: list[str] = field(default_factory=list)
    """The names in the server's list, where the model's is not among them."""
    owner: str | None = None
    """What the list calls the owner of the model, which tells servers apart."""
    short_answers: bool | None = None
    """A short call brings a short answer, and no reasoning before it."""
    short_tokens: int | None = None
    logprobs: bool | None = None
    constraint: str | None = None
    """How the server is asked to decode under a grammar, one of `constraints.Dialect`."""
    reads: dict[str, Reading] = field(default_factory=dict)
    """By card format."""
    prefill: bool | None = None
    """It continues a given reasoning: what stands only there is in the answer."""
    reasoning: bool | None = None
    """A reasoning call brings reasoning that can be told from the answer."""
    images: bool | None = None
    prefix_cache: bool | None = None
    """It reports tokens that it did not compute again."""
    first_s: float | None = None
    again_s: float | None = None
    """Seconds to the first token of a prompt, and of the same prompt again."""
    aborts: bool | None = None
    """It stops when its client has gone, by its own count."""
    notes: list[str] = field(default_factory=list)

    @property
    def reachable(self) -> bool:
        return bool(self.steps) and self.problem is None

    @property
    def complete(self) -> bool:
        return set(STEPS) <= set(self.steps)

    @property
    def pays(self) -> bool:
        """Computing a prompt ahead pays: the second time is clearly faster."""
        return bool(self.prefix_cache and self.first_s and self.again_s and self.again_s < 0.7 * self.first_s)

    @property
    def cards(self) -> list[str]:
        """The formats that gave the short, right answer, the best first; empty where none did."""
        return [form for form in CardFormat if (tried := self.reads.get(form)) and tried.right and tried.short]

    @property
    def settings(self) -> dict[str, Any]:
        """What follows for the model, under the names of its table."""
        found = {
            "images": self.images,
            "logprobs": self.logprobs,
            "prefill": self.prefill,
            "prefix_cache": self.pays if "cache" in self.steps else None,
            "constraint": self.constraint,
            "cards": self.cards or None,
        }
        return {name: value for name, value in found.items() if value is not None}


# --- probing ----------------------------------------------------------------------------------------------------------


def wanted() -> bool:
    """Whether served models are probed where nobody says otherwise."""
    return not os.environ.get(OFF)


async def settle(
    models: Iterable[Model],
    *,
    wait_s: float | None = WAIT_S,
    fresh: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> list[asyncio.Task[Findings]]:
    """Have the served models among these behave as probes find, or have found before.

    Waits `wait_s` for probes that are under way; the tasks of those that go on are given back, for the caller to cancel
    or await. `fresh`: probe again, whatever is stored. Never raises for a server that fails: its calls will say why.
    """
    from cuecard.models.openai import OpenAIModel

    each = list({id(model): model for model in models if isinstance(model, OpenAIModel)}.values())
    tasks = [asyncio.create_task(adapted(model, fresh=fresh, tell=tell)) for model in each]
    if not tasks:
        return []
    try:
        _, late = await asyncio.wait(tasks, timeout=wait_s)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise
    if late:
        tell("probing goes on in the background; until it is over, unproven settings are the defaults")
    return list(late)


async def adapted(
    model: OpenAIModel, *, fresh: bool = False, tell: Callable[[str], None] = lambda text: None
) -> Findings:
    """Probe one model as far as it is not known, and have it behave accordingly. Each step is stored as it is done."""
    found = await _listing(model)
    if found.problem is not None:
        return found
    key = _key(model, found)
    if not fresh and (stored := load().get(key)) is not None:
        found = stored
    model.adapt(found)
    if found.listed is False:
        tell(_not_listed(model, found))
    if not found.complete:
        tell(f"probing {model.name} at {model.url}, once: how it answers, and how it reads cards")
    for name in STEPS:
        if name in found.steps:
            continue
        try:
            await STEPS[name](model, found)
        except CuecardError as error:
            if error.retryable or name == "short":
                found.problem = str(error)
                return found
            found.notes.append(f"{name}: {error}")
        found.steps.append(name)
        found.at = time.time()
        model.adapt(found)
        with suppress(OSError, CuecardError):  # it is a cache
            await asyncio.to_thread(store, key, found)
    return found


def _not_listed(model: OpenAIModel, found: Findings) -> str:
    names = ", ".join(found.served[:8])
    return f"{model.url} does not list {model.served_name!r}; it lists: {names}. It may answer with another model"


async def _listing(model: OpenAIModel) -> Findings:
    """What the server's list of models says. Servers without one are asked all the same."""
    found = Findings(at=time.time())
    try:
        entries = await model.listing()
    except ModelError as error:
        if error.retryable:
            found.problem = str(error)
        entries = []
    names = [str(entry.get("id")) for entry in entries]
    own = next((entry for entry in entries if model.served_name in _names(entry)), None)
    if names:
        found.listed = own is not None
        found.served = [] if own else names
    about = own or (entries[0] if entries else {})
    found.owner = str(about["owned_by"]) if about.get("owned_by") else None
    steady = {name: value for name, value in about.items() if name not in ("created", "permission", "status")}
    found.steps.append("listing")
    found.notes = []
    model.fingerprint = hashlib.sha256(json.dumps(steady, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return found


def _names(entry: Mapping[str, Any]) -> list[object]:
    """What a model of the list can be called."""
    aliases = entry.get("aliases")
    return [entry.get("id"), *(aliases if isinstance(aliases, list) else ())]


async def _short(model: OpenAIModel, found: Findings) -> None:
    heard = await _hear(model, short(TEMPTING, model.abilities.style))
    found.logprobs = heard.logprob is not None
    found.short_answers = bool(heard.answer) and not heard.reasoning and heard.finish is FinishReason.STOP
    found.short_tokens = heard.usage.completion_tokens
    found.first_s = heard.first_s


async def _constraint(model: OpenAIModel, found: Findings) -> None:
    """A grammar of numbers, where the model is asked for a word: only a server that decodes under it gives a number."""
    from cuecard.models.openai.constraints import Dialect

    dialects = {"llamacpp": Dialect.GRAMMAR, "vllm": Dialect.STRUCTURED_OUTPUTS, "sglang": Dialect.REGEX}
    dialect = dialects.get((found.owner or "").lower())
    if dialect is None and not found.short_answers:
        dialect = Dialect.JSON_SCHEMA
    if dialect is None:
        return
    asked = Question("Write the word hello.", kind=AnswerKind.NUMBER)
    async with _variant(model, constraint=str(dialect)) as constrained:
        prompt = replace(short(asked, constrained.abilities.style), turns=(Turn("user", asked.text),))
        heard = await _hear(constrained, prompt)
    if heard.answer.strip()[:1].isdigit() or heard.answer.strip()[:1] in "-+−$€£¥":
        found.constraint = str(dialect)


def _reads(form: CardFormat) -> Callable[[OpenAIModel, Findings], Any]:
    async def step(model: OpenAIModel, found: Findings) -> None:
        changed = {"prefill": True} if form is CardFormat.THINKING else {}
        async with _variant(model, **changed) as reader:
            began = time.perf_counter()
            try:
                heard = await _hear(reader, read(SLIP, CARD, form, reader.abilities.style))
            except (ModelError, Unsupported) as error:
                if form is CardFormat.THINKING:
                    found.prefill = False
                raise error
        right, whole = SECRET in heard.answer.replace(",", ""), heard.finish is FinishReason.STOP
        tokens = heard.usage.completion_tokens
        found.reads[form] = Reading(right, whole, tokens, round(time.perf_counter() - began, 3))
        if form is CardFormat.THINKING:
            found.prefill = right

    return step


async def _reasoning(model: OpenAIModel, found: Findings) -> None:
    style = model.abilities.style
    if style.in_prose:  # it reasons where it is asked to, and all that it writes is reasoning
        found.reasoning = True
    else:
        found.reasoning = bool((await _hear(model, reason(TEMPTING, style))).reasoning)


async def _images(model: OpenAIModel, found: Findings) -> None:
    buffer = io.BytesIO()
    PilImage.new("RGB", (64, 64), (220, 30, 30)).save(buffer, "PNG")
    asked = Question("What colour is this?", (Image(buffer.getvalue()),), kind=AnswerKind.SHORT_TEXT)
    async with _variant(model, images=True) as seeing:
        try:
            await _hear(seeing, short(asked, seeing.abilities.style))
            found.images = True
        except (ModelUnreachable, ModelTimeout, ModelBusy):
            raise
        except ModelError as error:  # with whichever status a server refuses what it cannot see
            found.images = False
            found.notes.append(f"images: {error}")


async def _cache(model: OpenAIModel, found: Findings) -> None:
    """A prompt that takes about PREFILL_S to compute, and the same prompt again."""
    pace = 60 / found.first_s if found.first_s else 1000.0  # tokens a second, from a prompt of about so many
    count = max(24, min(400, round(PREFILL_S * pace / TOKENS_A_NUMBER)))
    numbers = ", ".join(str(7 * index % 1000) for index in range(count))
    fresh = Question(f"{time.time_ns()}. Which number comes next? {numbers}", kind=AnswerKind.NUMBER)
    prompt = short(fresh, model.abilities.style)
    first, again = await _hear(model, prompt), await _hear(model, prompt)
    found.first_s, found.again_s = first.first_s, again.first_s
    cached = again.usage.cached_tokens
    found.prefix_cache = None if cached is None else cached > 0


async def _aborts(model: OpenAIModel, found: Findings) -> None:
    if (before := await model.aborted()) is None:
        return
    asked = Question("Count from 1 to 2000, and write every number down.", kind=AnswerKind.FREE_TEXT)
    async with aclosing(model.stream(short(asked, model.abilities.style), LIMITS)) as events:
        await anext(events)  # the server has taken it on
        await asyncio.sleep(0.2)
    found.aborts = False
    for _ in range(ABORT_S * 10):
        await asyncio.sleep(0.1)
        if ((await model.aborted()) or 0) > before:
            found.aborts = True
            break


STEPS: Mapping[str, Callable[[OpenAIModel, Findings], Any]] = {
    "short": _short,
    "constraint": _constraint,
    **{str(form): _reads(form) for form in CardFormat},
    "reasoning": _reasoning,
    "cache": _cache,
    "images": _images,
    "aborts": _aborts,
}


@dataclass
class _Heard:
    """One call, whole."""

    reasoning: str = ""
    answer: str = ""
    usage: Usage = field(default_factory=Usage)
    logprob: float | None = None
    finish: FinishReason | None = None
    first_s: float | None = None


async def _hear(model: Model, prompt: Prompt) -> _Heard:
    clock = asyncio.get_running_loop().time
    began, heard = clock(), _Heard()
    async with aclosing(model.stream(prompt, LIMITS)) as events:
        async for event in events:
            match event:
                case ReasoningDelta(text):
                    heard.reasoning += text
                case AnswerDelta(text):
                    heard.answer += text
                case Progress(usage):
                    heard.usage = usage
                case Finished(usage, finish, logprob):
                    heard.usage, heard.finish, heard.logprob = usage, finish, logprob
            if isinstance(event, ReasoningDelta | AnswerDelta) and heard.first_s is None:
                heard.first_s = clock() - began
    return heard


@asynccontextmanager
async def _variant(model: OpenAIModel, **changed: Any) -> AsyncGenerator[OpenAIModel]:
    """The same model with other settings, closed at the end."""
    other = model.variant(**changed)
    try:
        yield other
    finally:
        await other.aclose()


# --- what was found, in the user's cache directory --------------------------------------------------------------------


def path() -> Path:
    """The file of all findings: in XDG_CACHE_HOME, or where the system keeps a user's caches."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "cuecard" / "probes.json"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "cuecard" / "probes.json"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "cuecard" / "probes.json"


def load() -> dict[str, Findings]:
    """What is stored and not too old, by server, model and version. A file that cannot be read is an empty one."""
    try:
        data = json.loads(path().read_text(encoding="utf-8"))
        return {key: found for key, each in data.items() if time.time() - (found := _findings(each)).at < FRESH_S}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def store(key: str, found: Findings) -> None:
    """Add findings to the file. Raises OSError."""
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    known = {name: asdict(each) for name, each in load().items()}
    disk.save(file, known | {key: asdict(found)})


def _findings(data: Mapping[str, Any]) -> Findings:
    known = {each.name for each in fields(Findings)}
    found = Findings(**{name: value for name, value in data.items() if name in known})
    found.reads = {str(form): Reading(**each) for form, each in data.get("reads", {}).items()}
    return found


def _key(model: OpenAIModel, found: Findings) -> str:
    """Server, model and version: another model under the same name at the same address is probed again."""
    return f"{VERSION} {model.url}#{model.served_name} {model.fingerprint}"


def known(models: Sequence[OpenAIModel]) -> list[Findings | None]:
    """What is stored of these models, whichever version of them it was."""
    stored, starts = load(), [f"{VERSION} {model.url}#{model.served_name} " for model in models]
    return [next((found for key, found in stored.items() if key.startswith(start)), None) for start in starts]
