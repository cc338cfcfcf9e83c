"""Probes of served models by short requests; results are cached in the user's cache directory.

    listing    is the name in the server's list
    short      does a short answer stay short, on a question that invites reasoning; are there log probabilities
    constraint does the server decode under a grammar
    thinking, notes, turn
               does the model give the short, right answer from a card in this format
    reasoning  can reasoning be separated from the answer
    cache      is a repeated prompt clearly faster
    images     are images accepted
    aborts     does the server stop when its client disconnects

Steps run in this order; those that affect answers come first. Each step is stored as soon as it is done, so an
interrupted probe resumes at its next step. `check`, `serve`, `ask`, `eval`, `profile` and `Pair` share stored results.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image as PilImage

from cuecard import disk
from cuecard.domain.call import Call, FinishReason
from cuecard.domain.errors import CuecardError, ModelBusy, ModelError, ModelTimeout, ModelUnreachable
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.models.base import CallRecorder, Limits, Model
from cuecard.models.prompt import CardFormat, Prompt, Turn, read, reason, short

if TYPE_CHECKING:
    from cuecard.models.openai import OpenAIModel


FRESH_S = 30 * 24 * 3600.0
"""Seconds for which stored results are valid."""


@dataclass
class CardTrial:
    """One trial of a card format. `right`: the answer was the card's; `short`: it ended by itself."""

    right: bool
    short: bool
    tokens: int | None
    seconds: float


@dataclass
class ProbeResults:
    """Probe results of one served model. None: undecided, or not probed yet."""

    steps: list[str] = field(default_factory=list)
    """Steps that are done."""
    at: float = 0.0
    """Time of the last step, in seconds since 1970."""
    problem: str | None = None
    """Why the server does not answer."""
    listed: bool | None = None
    """The model's name is in the server's list."""
    served: list[str] = field(default_factory=list)
    """The names in the server's list; empty if the model's name is among them."""
    owner: str | None = None
    """`owned_by` in the server's list, which identifies the kind of server (vllm, sglang, llamacpp)."""
    short_answers: bool | None = None
    """A short call returns a short answer, without reasoning before it."""
    short_tokens: int | None = None
    logprobs: bool | None = None
    constraint: str | None = None
    """How a request asks the server to decode under a grammar, one of `families.Dialect`."""
    reads: dict[str, CardTrial] = field(default_factory=dict)
    """By card format."""
    prefill: bool | None = None
    """The server continues a given reasoning: the answer has a result that only the reasoning contains."""
    reasoning: bool | None = None
    """A reasoning call returns reasoning that can be separated from the answer."""
    images: bool | None = None
    prefix_cache: bool | None = None
    """The server reports cached tokens for a repeated prompt."""
    first_s: float | None = None
    again_s: float | None = None
    """TTFT in seconds of a prompt, and of the same prompt again."""
    aborts: bool | None = None
    """The server aborts a request when its client disconnects, by its own count."""
    notes: list[str] = field(default_factory=list)

    @property
    def reachable(self) -> bool:
        return bool(self.steps) and self.problem is None

    @property
    def complete(self) -> bool:
        return set(_STEPS) <= set(self.steps)

    @property
    def pays(self) -> bool:
        """Whether warming pays: the TTFT of a repeated prompt is below 70% of that of the first."""
        return bool(self.prefix_cache and self.first_s and self.again_s and self.again_s < 0.7 * self.first_s)

    @property
    def cards(self) -> list[str]:
        """The formats with the right, short answer, best first; empty if there are none."""
        return [form for form in CardFormat if (tried := self.reads.get(form)) and tried.right and tried.short]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that follow from the results, under the keys of a model's table."""
        found = {
            "images": self.images,
            "logprobs": self.logprobs,
            "prefill": self.prefill,
            "prefix_cache": self.pays if "cache" in self.steps else None,
            "constraint": self.constraint,
            "cards": self.cards or None,
        }
        return {name: value for name, value in found.items() if value is not None}


def results_path() -> Path:
    """The file of all results: in XDG_CACHE_HOME, or in the system's cache directory of the user."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "cuecard" / "probes.json"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "cuecard" / "probes.json"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "cuecard" / "probes.json"


def load_results() -> dict[str, ProbeResults]:
    """Stored results that are not too old, by server, model and version; empty if the file cannot be read."""
    try:
        data = json.loads(results_path().read_text(encoding="utf-8"))
        return {key: found for key, each in data.items() if time.time() - (found := _probe_results(each)).at < FRESH_S}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def store_results(key: str, found: ProbeResults) -> None:
    """Add results to the file. Raises OSError."""
    file = results_path()
    file.parent.mkdir(parents=True, exist_ok=True)
    known = {name: asdict(each) for name, each in load_results().items()}
    disk.save(file, known | {key: asdict(found)})


def _probe_results(data: Mapping[str, Any]) -> ProbeResults:
    known = {each.name for each in fields(ProbeResults)}
    found = ProbeResults(**{name: value for name, value in data.items() if name in known})
    found.reads = {str(form): CardTrial(**each) for form, each in data.get("reads", {}).items()}
    return found


VERSION = 1
"""Version of the questions below; stored results of other versions are not used."""
WAIT_S = 6.0
"""Seconds that a request waits for a probe, which then continues in the background."""
LOADING_S = 120.0
"""Seconds to wait for a server that is loading its model (503)."""
OFF = "CUECARD_NO_PROBE"
"""An environment variable: if set, models are probed only on request."""

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
"""Only a model that reads the card can answer with its result."""
LIMITS = Limits(reasoning_tokens=64, timeout_s=60)
PREFILL_S = 1.5
"""Approximate prefill time, in seconds, of the prompt that tests prefix caching."""
TOKENS_A_NUMBER = 5
"""Approximate: many tokenizers use one token per digit."""
ABORT_S = 2


# --- probing ----------------------------------------------------------------------------------------------------------


def wanted() -> bool:
    """Whether served models are probed by default."""
    return not os.environ.get(OFF)


async def settle(
    models: Iterable[Model],
    *,
    wait_s: float | None = WAIT_S,
    tell: Callable[[str], None] = lambda text: None,
) -> list[asyncio.Task[ProbeResults]]:
    """Adapt the served models among `models` to probe results, cached or new.

    Waits `wait_s` for running probes and returns the tasks of those that continue, for the caller to cancel or await.
    Never raises if a server fails: later calls to it report why.
    """
    from cuecard.models.openai import OpenAIModel

    alike: dict[tuple[str, str], list[OpenAIModel]] = {}
    for model in {id(model): model for model in models if isinstance(model, OpenAIModel)}.values():
        alike.setdefault((model.url, model.served_name), []).append(model)
    tasks = [asyncio.create_task(adapted(*each, tell=tell)) for each in alike.values()]
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
    model: OpenAIModel, *alike: OpenAIModel, fresh: bool = False, tell: Callable[[str], None] = lambda text: None
) -> ProbeResults:
    """Run the steps that have no stored result for one model, store each when it is done, and adapt the model.

    `alike`: further objects that represent the same served model, which are adapted too.
    """

    def adapt() -> None:
        for each in (model, *alike):
            each.fingerprint = model.fingerprint
            each.adapt(results.settings, short_answers=results.short_answers)

    results = await _listing(model, tell)
    if results.problem is not None:
        tell(f"{model.name} could not be probed ({results.problem}); defaults hold")
        return results
    key = _key(model)
    if not fresh and (stored := load_results().get(key)) is not None:
        results = stored
    adapt()
    if results.listed is False:
        names = ", ".join(results.served[:8])
        tell(f"{model.url} does not list {model.served_name!r}; it lists: {names}. It may answer with another model")
    if not results.complete:
        tell(f"probing {model.name} at {model.url}, once: how it answers, and how it reads cards")
    for name, step in _STEPS.items():
        if name in results.steps:
            continue
        try:
            await step(model, results)
        except CuecardError as error:
            if error.retryable or name == "short":
                results.problem = str(error)
                tell(f"the probe of {model.name} stopped ({error.message}): it goes on the next time")
                return results
            results.notes.append(f"{name}: {error}")
        results.steps.append(name)
        results.at = time.time()
        adapt()
        with suppress(OSError, CuecardError):  # it is a cache
            await asyncio.to_thread(store_results, key, results)
    return results


async def _loaded(model: OpenAIModel, tell: Callable[[str], None]) -> list[Mapping[str, Any]]:
    """The server's list of models; waits up to `LOADING_S` while the server is not ready."""
    start, announced = time.monotonic(), False
    while True:
        try:
            return await model.listing()
        except ModelBusy:
            if time.monotonic() - start > LOADING_S:
                raise
            if not announced:
                tell(f"waiting for {model.name} at {model.url}, which is not ready yet")
            announced = True
            await asyncio.sleep(1)


async def _listing(model: OpenAIModel, tell: Callable[[str], None]) -> ProbeResults:
    """Results from the server's list of models. A server without one is probed all the same."""
    results = ProbeResults(at=time.time())
    try:
        entries = await _loaded(model, tell)
    except ModelError as error:
        if error.retryable:
            results.problem = str(error)
        entries = []
    names = [str(entry.get("id")) for entry in entries]
    own = next((entry for entry in entries if model.served_name in _names(entry)), None)
    if names:
        results.listed = own is not None
        results.served = [] if own else names
    about = own or (entries[0] if entries else {})
    results.owner = str(about["owned_by"]) if about.get("owned_by") else None
    steady = {name: value for name, value in about.items() if name not in ("created", "permission", "status")}
    results.steps.append("listing")
    model.fingerprint = hashlib.sha256(json.dumps(steady, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return results


def _names(entry: Mapping[str, Any]) -> list[object]:
    """The names of a model in a server's list: its id, and llama.cpp's aliases."""
    aliases = entry.get("aliases")
    return [entry.get("id"), *(aliases if isinstance(aliases, list) else ())]


async def _short(model: OpenAIModel, results: ProbeResults) -> None:
    call = await _collect(model, short(TEMPTING, model.abilities.style))
    results.logprobs = call.answer_logprob is not None
    results.short_answers = bool(call.answer) and not call.reasoning and call.finish_reason is FinishReason.STOP
    results.short_tokens = call.usage.completion_tokens
    results.first_s = call.first_token_s


async def _constraint(model: OpenAIModel, results: ProbeResults) -> None:
    """Request a word under a grammar of numbers: only a server that decodes under the grammar returns a number."""
    from cuecard.models.openai.families import Dialect

    dialects = {"llamacpp": Dialect.GRAMMAR, "vllm": Dialect.STRUCTURED_OUTPUTS, "sglang": Dialect.REGEX}
    dialect = dialects.get((results.owner or "").lower())
    if dialect is None and not results.short_answers:
        dialect = Dialect.JSON_SCHEMA
    if dialect is None:
        return
    asked = Question("Write the word hello.", kind=AnswerKind.NUMBER)
    async with aclosing(model.variant(constraint=str(dialect))) as constrained:
        prompt = replace(short(asked, constrained.abilities.style), turns=(Turn("user", asked.text),))
        call = await _collect(constrained, prompt)
    first = (call.answer or "").strip()[:1]
    if first.isdigit() or first in "-+−$€£¥":
        results.constraint = str(dialect)


async def _read_card(form: CardFormat, model: OpenAIModel, results: ProbeResults) -> None:
    changed = {"prefill": True} if form is CardFormat.THINKING else {}
    async with aclosing(model.variant(**changed)) as reader:
        began = time.perf_counter()
        try:
            call = await _collect(reader, read(SLIP, CARD, form, reader.abilities.style))
        except ModelError:
            if form is CardFormat.THINKING:
                results.prefill = False
            raise
    right, whole = SECRET in (call.answer or "").replace(",", ""), call.finish_reason is FinishReason.STOP
    tokens = call.usage.completion_tokens
    results.reads[form] = CardTrial(right, whole, tokens, round(time.perf_counter() - began, 3))
    if form is CardFormat.THINKING:
        results.prefill = right


async def _reasoning(model: OpenAIModel, results: ProbeResults) -> None:
    style = model.abilities.style
    if style.in_prose:  # it reasons when asked to, and all that it writes is reasoning
        results.reasoning = True
    else:
        results.reasoning = bool((await _collect(model, reason(TEMPTING, style))).reasoning)


async def _images(model: OpenAIModel, results: ProbeResults) -> None:
    buffer = io.BytesIO()
    PilImage.new("RGB", (64, 64), (220, 30, 30)).save(buffer, "PNG")
    asked = Question("What colour is this?", (Image(buffer.getvalue()),), kind=AnswerKind.SHORT_TEXT)
    async with aclosing(model.variant(images=True)) as seeing:
        try:
            await _collect(seeing, short(asked, seeing.abilities.style))
            results.images = True
        except (ModelUnreachable, ModelTimeout, ModelBusy):
            raise
        except ModelError as error:  # servers refuse images with various statuses
            results.images = False
            results.notes.append(f"images: {error}")


async def _cache(model: OpenAIModel, results: ProbeResults) -> None:
    """Send a prompt with a prefill of about PREFILL_S, then the same prompt again."""
    pace = 60 / results.first_s if results.first_s else 1000.0  # tokens a second, from a prompt of about this length
    count = max(24, min(400, round(PREFILL_S * pace / TOKENS_A_NUMBER)))
    numbers = ", ".join(str(7 * index % 1000) for index in range(count))
    fresh = Question(f"{time.time_ns()}. Which number comes next? {numbers}", kind=AnswerKind.NUMBER)
    prompt = short(fresh, model.abilities.style)
    first, again = await _collect(model, prompt), await _collect(model, prompt)
    results.first_s, results.again_s = first.first_token_s, again.first_token_s
    cached = again.usage.cached_tokens
    results.prefix_cache = None if cached is None else cached > 0


async def _aborts(model: OpenAIModel, results: ProbeResults) -> None:
    if (before := await model.aborted()) is None:
        return
    asked = Question("Count from 1 to 2000, and write every number down.", kind=AnswerKind.FREE_TEXT)
    async with aclosing(model.stream(short(asked, model.abilities.style), LIMITS)) as events:
        await anext(events)  # the server has accepted it
        await asyncio.sleep(0.2)
    results.aborts = False
    for _ in range(ABORT_S * 10):
        await asyncio.sleep(0.1)
        if ((await model.aborted()) or 0) > before:
            results.aborts = True
            break


_STEPS: Mapping[str, Callable[[OpenAIModel, ProbeResults], Any]] = {
    "short": _short,
    "constraint": _constraint,
    **{str(form): partial(_read_card, form) for form in CardFormat},
    "reasoning": _reasoning,
    "cache": _cache,
    "images": _images,
    "aborts": _aborts,
}
"""The steps of a probe, in order: those that affect answers come first."""


async def _collect(model: Model, prompt: Prompt) -> Call:
    """One call, whole; times are seconds since it began."""
    clock = asyncio.get_running_loop().time
    began, recorder = clock(), CallRecorder("", model.name, prompt.mode, 0.0)
    async with aclosing(model.stream(prompt, LIMITS)) as events:
        async for event in events:
            recorder.take(event, clock() - began)
    return recorder.call


def _key(model: OpenAIModel) -> str:
    """Server, model and version: another model under the same name at the same address is probed again."""
    return f"{VERSION} {model.url}#{model.served_name} {model.fingerprint}"
