"""A pair of models that answers questions."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent import futures
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar, Unpack, get_type_hints

from cuecard.answers import guess_kind, listed_in
from cuecard.domain.call import Heard
from cuecard.domain.errors import BadInput, ModelClosed, did_you_mean
from cuecard.domain.outcome import Outcome
from cuecard.domain.question import AnswerKind, Question, kind_named, kinds_hint
from cuecard.models import probe as probes
from cuecard.models import spec
from cuecard.models.base import Model
from cuecard.models.images import images
from cuecard.models.probe import ProbeResults
from cuecard.strategies.policy import Placed, Policy
from cuecard.strategies.policy_file import PolicyOptions, policy_with
from cuecard.strategies.run import answer, known, streamed

ModelLike = str | Mapping[str, Any] | Model
CHOICES_HINT = 'write them like choices=["red", "green"]'
OWN_OPTIONS = ("small", "large", "strategy", "policy", "probe", "tell")


class AskOptions(PolicyOptions, total=False):
    """The options of one question, by keyword; None means not given. See docs/reference/policy.md."""

    choices: Sequence[str] | None
    kind: str | None
    system: str | None
    allow_urls: bool | None
    strategy: str | None


OPTION_TYPES = get_type_hints(AskOptions)
F = TypeVar("F", bound=Callable[..., Any])


def _names_its_options(function: F) -> F:
    """Adds the options to the function's signature, which `help` and completion show."""
    shown = inspect.signature(function)
    fixed = [each for each in shown.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in OPTION_TYPES.items()
    ]
    function.__signature__ = shown.replace(parameters=[*fixed, *options])  # type: ignore[attr-defined]
    return function


class Pair:
    """A small and a large model that answer as one.

    Each is a specification (`demo-small`, `hf:ORG/NAME`, a directory, `vllm:…`, `http://host:port/v1#name`) or a Model.
    Further roles are more drafters: `Pair("a", "c", drafter="b")`. All calls run on the pair's own event loop, so `ask`
    works everywhere, including notebooks, and `aask` and `stream` in any loop.

    Served models given as a specification are probed before the first question, once per model and machine
    (`models.probe`): how they give short answers, and how they read cards. `probe=False`, or the environment variable
    CUECARD_NO_PROBE, disables this. `tell` gets lines to print about it, and one if both models have the same name.
    """

    def __init__(
        self,
        small: ModelLike,
        large: ModelLike,
        *,
        strategy: str = "mutual",
        policy: Policy | None = None,
        probe: bool = True,
        tell: Callable[[str], None] = lambda text: None,
        **drafters: ModelLike,
    ) -> None:
        known(strategy)
        if not isinstance(policy, Policy | None):
            raise BadInput(
                f"policy is not a Policy: {policy!r}"[:200], "write policy=Policy(…), or give options to ask"
            )
        self.strategy, self.policy = strategy, policy or Policy()
        for name, given in drafters.items():
            _check_role(name, given)
        roles: dict[str, ModelLike] = {"small": small, "large": large, **drafters}
        made = {role: _model(role, given) for role, given in roles.items() if not isinstance(given, str | Mapping)}
        named = {role: given for role, given in roles.items() if isinstance(given, str | Mapping)}
        loaded = spec.load_all(named)
        self.models: dict[str, Model] = {role: loaded[role] if role in named else made[role] for role in roles}
        self._unprobed = [self.models[role] for role in named] if probe and probes.wanted() else []
        self._probing: asyncio.Task[list[asyncio.Task[ProbeResults]]] | None = None
        self._tell = tell
        if (remark := one_model(self.models)) is not None:
            tell(remark)
        self._thread: LoopThread | None = None
        self._open, self._lock = True, threading.Lock()

    @_names_its_options
    def ask(self, text: str | Question, image: Any = None, **options: Unpack[AskOptions]) -> Outcome:
        """Answer one question. A Question holds its choices, kind and system itself. Raises CuecardError.

        Ctrl-C cancels the calls. Inside a coroutine it raises BadInput: await `aask` there.
        """
        _refuse_to_block()
        asked, strategy, policy = self._prepare(text, image, options)
        return self._running().run(self._answered(asked, strategy, policy))

    @_names_its_options
    async def aask(self, text: str | Question, image: Any = None, **options: Unpack[AskOptions]) -> Outcome:
        """As `ask`, without blocking; cancelling it cancels every call."""
        asked, strategy, policy = await self._prepared(text, image, options)
        return await self._running().arun(self._answered(asked, strategy, policy))

    @_names_its_options
    async def stream(
        self, text: str | Question, image: Any = None, **options: Unpack[AskOptions]
    ) -> AsyncGenerator[Heard | Outcome]:
        """Yields every piece of text as it arrives from either model, then the outcome."""
        asked, strategy, policy = await self._prepared(text, image, options)
        here = asyncio.get_running_loop()

        def over_there(listen: Callable[[Heard], None]) -> Coroutine[Any, Any, Outcome]:
            def pass_on(item: Heard) -> None:
                here.call_soon_threadsafe(listen, item)

            return self._running().arun(self._answered(asked, strategy, policy, pass_on))

        async with aclosing(streamed(over_there)) as pieces:
            async for item in pieces:
                yield item

    def close(self) -> None:
        """End every question with ModelClosed and close every model. The next question starts the pair again.

        Errors of closing models are raised together as an ExceptionGroup, after all models are closed.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            was_open, self._open = self._open, False
        if not was_open or (thread is not None and thread.is_of_another_process):
            return  # the models of a process that forked are not this process's to close
        errors = (thread or LoopThread()).stop(self._close_models())
        if errors:
            raise ExceptionGroup("closing the pair's models failed", errors)

    async def aclose(self) -> None:
        """As `close`, without blocking."""
        await asyncio.to_thread(self.close)

    async def _answered(
        self, asked: Question, strategy: str, policy: Policy, listen: Callable[[Heard], None] | None = None
    ) -> Outcome:
        if self._unprobed:
            if self._probing is None:
                self._probing = asyncio.create_task(probes.settle(self._unprobed, tell=self._tell))
            await asyncio.shield(self._probing)
        return await answer(asked, self.models, strategy, policy, listen)

    async def _close_models(self) -> list[Exception]:
        if self._probing is not None:
            late = self._probing.result() if self._probing.done() and not self._probing.cancelled() else []
            for task in (self._probing, *late):
                task.cancel()
            await asyncio.gather(self._probing, *late, return_exceptions=True)
            self._probing = None
        closing = (model.aclose() for model in self.models.values())
        settled = await asyncio.gather(*closing, return_exceptions=True)
        return [result for result in settled if isinstance(result, Exception)]

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    async def __aenter__(self) -> Pair:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.aclose()

    async def _prepared(self, text: str | Question, image: Any, given: AskOptions) -> tuple[Question, str, Policy]:
        """As `_prepare`; images are fetched, read and decoded in a thread."""
        if image is None:
            return self._prepare(text, image, given)
        return await asyncio.to_thread(self._prepare, text, image, given)

    def _prepare(self, text: str | Question, image: Any, given: AskOptions) -> tuple[Question, str, Policy]:
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        asking = {name: options.pop(name) for name in ("choices", "kind", "system", "allow_urls") if name in options}
        strategy = options.pop("strategy", self.strategy)
        known(strategy)
        if unknown := set(options) - set(OPTION_TYPES):
            near = did_you_mean(min(unknown), ("text", "image", *OPTION_TYPES), "help(pair.ask) lists all options")
            raise BadInput(f"unknown option {min(unknown)!r}", near)
        if isinstance(text, Question) and (asking or image is not None):
            raise BadInput("a Question holds its images and options itself", "give a text, or nothing but the Question")
        asked = text if isinstance(text, Question) else question(text, image, **asking)
        policy = policy_with(self.policy, **options)
        policy.accept_of(self.models)  # before a server is probed
        return asked, strategy, policy

    def _running(self) -> LoopThread:
        with self._lock:
            self._open = True
            if self._thread is None:
                self._thread = LoopThread()
            if self._thread.is_of_another_process:
                raise BadInput(
                    "the pair was in use when this process was forked, and its threads stayed behind",
                    "make a Pair in each process",
                )
            return self._thread


def _refuse_to_block() -> None:
    """Raises BadInput if an event loop runs in this thread; a notebook's may be blocked, as it has no other user."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        return
    raise BadInput("ask would block the event loop that runs in this thread", "use `await pair.aask(...)`")


def question(
    text: str,
    image: Any = None,
    *,
    choices: Sequence[str] = (),
    kind: str | None = None,
    system: str | None = None,
    allow_urls: bool = False,
) -> Question:
    """A question from its parts: one image or several, kind and options guessed from the wording if not given.

    Raises BadInput.
    """
    if not isinstance(text, str):
        raise BadInput(
            f"the question is not a text but {_kind_of(text)}", 'write it like "How many red digits are there?"'
        )
    if isinstance(choices, str) or not isinstance(choices, Iterable):
        raise BadInput(f"choices are not a list but {_kind_of(choices)}", CHOICES_HINT)
    choices = tuple(choices)
    if odd := [each for each in choices if not isinstance(each, str)]:
        raise BadInput(f"a choice is not a text but {_kind_of(odd[0])}: {odd[0]!r}"[:200], CHOICES_HINT)
    if doubled := [each for at, each in enumerate(choices) if each.strip() in map(str.strip, choices[:at])]:
        raise BadInput(f"the choice {doubled[0]!r} is there twice"[:200], "write each choice once")
    if not isinstance(system, str | None):
        raise BadInput(f"system is not a text but {_kind_of(system)}", 'write it like system="Be brief."')
    several = isinstance(image, Iterable) and not isinstance(image, str | bytes | bytearray | memoryview | Path)
    given = [] if image is None else list(image) if several else [image]
    pictures = tuple(images.load(one, allow_urls) for one in given)
    if not text.strip():
        raise BadInput("the question is empty", "say what you want to know")
    for each in (text, *choices, system or ""):
        if any("\ud800" <= character <= "\udfff" for character in each):  # how Python decodes what is not UTF-8
            raise BadInput("the question is not text in UTF-8", "is it a file of another kind?")
    labels: tuple[str, ...] = ()
    if not choices:
        found = listed_in(text)
        text, choices, labels = found.text, found.options, found.labels
    wanted = kind_named(kind) if kind else AnswerKind.CHOICE if choices else guess_kind(text, ())
    try:
        return Question(text, pictures, tuple(choices), wanted, system, labels=labels)
    except ValueError as error:
        raise BadInput(str(error), kinds_hint()) from error


def _kind_of(value: object) -> str:
    return type(value).__name__


def _check_role(name: str, given: object) -> None:
    """Check the role of a further model. Raises BadInput if it is an option, or looks like a mistyped one."""
    if name in OPTION_TYPES:
        raise BadInput(f"{name!r} is no option of Pair", f"give it to ask: pair.ask(…, {name}=…)")
    if near := did_you_mean(name, OWN_OPTIONS, ""):
        raise BadInput(f"unknown option {name!r} of Pair", near)
    if not _is_model(given) and (near := did_you_mean(name, OPTION_TYPES, "")):
        raise BadInput(f"unknown option {name!r} of Pair", f"{near} give it to ask")


def _is_model(given: object) -> bool:
    """Whether this is a model, or can be loaded as one: its keyword is then a role."""
    if not isinstance(given, str):
        return isinstance(given, Mapping) or hasattr(given, "stream")
    try:
        spec.parse(given)
    except BadInput:
        return False
    return True


def _model(role: str, given: Model) -> Model:
    if not hasattr(given, "stream"):
        raise BadInput(f"{role!r} is not a model but {_kind_of(given)}", f'write {role}="demo-small", or a Model')
    return given


def one_model(models: Mapping[str, Placed]) -> str | None:
    """A remark if the small and the large model have the same name; None if they differ."""
    if not {"small", "large"} <= models.keys() or models["small"].name != models["large"].name:
        return None
    return (
        f"the small and the large model are both {models['large'].name}: if they are one model, it agrees with itself,"
        " right or wrong, and a token of the one costs what a token of the other does"
    )


# --- the event loop of a pair -----------------------------------------------------------------------------------------


T = TypeVar("T")


def _closed() -> ModelClosed:
    return ModelClosed("the pair was closed before it had answered", "ask again")


class LoopThread:
    """Runs coroutines on an event loop in a thread. `stop` cancels the running ones; their callers get ModelClosed."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping, self._lock = False, threading.Lock()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cuecard pair", daemon=True)
        self._thread.start()
        self._process = os.getpid()

    @property
    def is_of_another_process(self) -> bool:
        """Whether the process that made it was forked to make this one: its thread runs only there."""
        return self._process != os.getpid()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Block until the result. If interrupted (Ctrl-C), cancel the coroutine and wait until it has ended."""
        ended, cancel = self._begin(work)
        try:
            return ended.result()
        except BaseException:
            if not ended.done():
                cancel()
                futures.wait([ended])
            raise

    async def arun(self, work: Coroutine[Any, Any, T]) -> T:
        """As `run`, awaited in another event loop. If cancelled there, cancel the coroutine and wait for its end."""
        ended, cancel = self._begin(work)
        here = asyncio.wrap_future(ended)
        try:
            return await asyncio.shield(here)
        except asyncio.CancelledError:
            if not here.done():
                cancel()
                await asyncio.wait([here])
            here.exception()  # retrieved: the caller gets CancelledError
            raise

    def stop(self, last: Coroutine[Any, Any, T]) -> T:
        """Cancel and await the running coroutines, run a last one, end the thread. Raises ModelClosed if stopped."""
        with self._lock:
            if self._stopping:
                last.close()
                raise _closed()
            self._stopping = True
        try:
            return asyncio.run_coroutine_threadsafe(self._end(last), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _begin(self, work: Coroutine[Any, Any, T]) -> tuple[futures.Future[T], Callable[[], object]]:
        """The coroutine's future, and a function that cancels it from any thread."""
        ended: futures.Future[T] = futures.Future()
        begun: list[asyncio.Task[T]] = []

        def begin() -> None:
            begun.append(task := self._loop.create_task(work))
            self._tasks.add(task)
            task.add_done_callback(end)

        def end(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                ended.set_exception(_closed() if self._stopping else asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                ended.set_exception(error)
            else:
                ended.set_result(task.result())

        with self._lock:  # no coroutine can start after `stop` has cancelled the others
            if self._stopping:
                work.close()
                raise _closed()
            self._loop.call_soon_threadsafe(begin)
        return ended, lambda: self._loop.call_soon_threadsafe(lambda: begun[0].cancel())

    async def _end(self, last: Coroutine[Any, Any, T]) -> T:
        while running := list(self._tasks):
            for task in running:
                task.cancel()
            await asyncio.wait(running)
        return await last
