"""One tree of errors; a class sets whether to retry, the HTTP status, and a hint."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from difflib import get_close_matches
from functools import wraps
from importlib import import_module
from typing import Any, TypeVar


class CuecardError(Exception):
    """Root of all errors that Cuecard raises on purpose."""

    retryable: bool = False
    http_status: int = 500
    hint: str = "this is a defect of cuecard: please report it"
    """What to do; empty if the message already says it."""
    retry_after_s: float | None = None
    """When to try again, if the failing server says so."""
    code: str | None = None
    """The error code for OpenAI's clients; None: the name of the class."""
    param: str | None = None
    """The wrong parameter of the request, such as `cuecard.budget`; None if unknown or more than one."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint or type(self).hint

    @property
    def message(self) -> str:
        """What is wrong, without the hint."""
        return str(self.args[0])

    def __str__(self) -> str:
        """The message and the hint."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class BadInput(CuecardError):
    """The user's question, image, flag or file is not usable."""

    http_status, hint = 400, ""

    def __init__(self, message: str, hint: str | None = None, *, param: str | None = None) -> None:
        super().__init__(message, hint)
        self.param = param


class BeyondAPair(BadInput):
    """A single model could do this, a pair cannot (built-in tools, several choices, …)."""

    hint = "send it to one model by its own name"


class TooLarge(BadInput):
    """The request or an image exceeds a size limit."""

    http_status, hint = 413, "send less"


class TooSlow(BadInput):
    """The client takes too long to send its request."""

    http_status, hint = 408, "send it faster"


class WrongForm(BadInput):
    """The request body is compressed, or not in UTF-8."""

    http_status, hint = 415, "send JSON in UTF-8, not compressed"


class Unauthorised(BadInput):
    """The API key is missing or unknown."""

    http_status, hint = 401, "give an API key"


class Forbidden(BadInput):
    """The request comes from a page of another site, or uses a host name that is not the gateway's."""

    http_status, hint = 403, "ask from where that is allowed"


class RateLimited(CuecardError):
    """A client exceeds its rate limit, or the image decoder is busy."""

    retryable, http_status, hint = True, 429, "wait a little"


class BudgetUsed(RateLimited):
    """A client has used up its daily or monthly budget."""

    code, hint = "budget_exceeded", "wait until it resets"


class BudgetReserved(RateLimited):
    """Running requests have reserved what is left of a client's budget."""

    hint = "try again when they have ended"


class StateUnavailable(CuecardError):
    """The server of the state that gateways share cannot be reached."""

    retryable, http_status, hint = True, 503, "try again in a few seconds"


class PairForbidden(BadInput):
    """An API key is not allowed to use the requested pair."""

    http_status, hint = 403, "name a pair that the key is for"


class ChecksBusy(CuecardError):
    """Too many JSON schemas are being checked."""

    retryable, http_status, hint = True, 503, "try again in a few seconds"


class UnknownModel(BadInput):
    """A request names a model that is not served."""

    http_status, code, hint = 404, "model_not_found", "name one that is served"


class MissingExtra(CuecardError):
    """A feature needs packages that are not installed."""

    http_status, hint = 501, "install the extra that the message names"


def required(module: str, what: str, hint: str = "pip install '.[evals]' in a checkout") -> Any:
    """Import an optional package; `what` (a noun) is the feature that needs it. Raises MissingExtra."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(f"{what} needs {error.name}", hint) from error


class ModelError(CuecardError):
    """A call to a model failed."""

    http_status, hint = 502, "look at the model's own log"


class ModelUnreachable(ModelError):
    """The model's server cannot be reached."""

    retryable, http_status, hint = True, 503, "is the server for this model running?"


class ModelClosed(ModelError):
    """The model was closed before or during the call."""

    http_status, hint = 503, "load it again"


class ModelTimeout(ModelError):
    """The model took longer than its limit."""

    retryable, http_status, hint = True, 504, "raise the time-out, or ask for fewer tokens"


class ModelBusy(ModelError):
    """The model refuses work for now (too many requests, still loading)."""

    retryable, http_status, hint = True, 429, "wait, or lower the concurrency"


class ModelRefused(ModelError):
    """The model's server says that the request is wrong or not allowed."""

    http_status, hint = 502, "check the model's name, key and abilities"


class RequestRefused(ModelRefused):
    """The model's server refuses this request as invalid: too long, an unreadable image, …"""

    http_status, hint = 400, "change the request as the message says"


class ContentFiltered(RequestRefused):
    """The model's server refuses the request because of its content."""

    code, hint = "content_filter", "another wording may pass"


class QuotaExhausted(ModelRefused):
    """The quota at the model's server is used up."""

    http_status, code, hint = 429, "insufficient_quota", "raise the quota at the model's server"


class CostLimit(ModelError):
    """The worst-case cost of the next call exceeds what is left of the request's limit."""

    http_status, code, hint = 402, "max_cost_exceeded", "allow more by max_cost, or ask for fewer tokens"


class BudgetReached(ModelError):
    """The worst case of the next call exceeds what is left of the client's budget."""

    http_status, code, hint = 429, "budget_exceeded", "wait until the budget resets, or ask for fewer tokens"


class BrokenStream(ModelError):
    """The answer broke off, or cannot be parsed."""

    retryable, http_status, hint = True, 502, "try again; if it stays, look at the server's log"


class InvalidAnswer(ModelError):
    """No model's answer is the requested JSON, even after a repair."""

    http_status, code, hint = 502, "invalid_answer", "try again, simplify the schema, or use a model that writes JSON"


class Unsupported(ModelError):
    """The model does not support this (images, scoring, an assistant prefill, …)."""

    http_status, hint = 400, "`cuecard models` shows what each model can do"


class NoAnswer(CuecardError):
    """No model of the pair is left to answer."""

    retryable, http_status, hint = True, 503, "both models failed: see the reasons"

    @classmethod
    def after(cls, failure: ModelError, others: Iterable[ModelError] = ()) -> NoAnswer:
        """The error of a request whose models have failed: retryable if any failure is.

        Else it takes the HTTP status, code and hint of the first failure with a status below 500, or of `failure`.
        """
        failures = [failure, *others]
        meant = next((each for each in failures if each.http_status < 500), failure)
        passing = [each for each in failures if each.retryable]
        shown = failure if passing else meant
        error = cls(f"no model is left to answer: {shown.message}", shown.hint)
        if passing:
            error.retry_after_s = min((each.retry_after_s for each in passing if each.retry_after_s), default=None)
        else:
            error.retryable, error.http_status, error.code = False, meant.http_status, meant.code
        return error


# --- messages of other programs ---------------------------------------------------------------------------------------

LONGEST_MESSAGE = 400
"""Characters of another program's error, in ours."""


def one_line(error: Exception) -> str:
    """A foreign error's message in one line, or its class name; of pydantic's errors the first, with the field."""
    if type(error).__name__ == "ValidationError" and hasattr(error, "errors"):  # pydantic need not be installed
        first = error.errors(include_url=False)[0]
        return ": ".join([*map(str, first["loc"][:1]), str(first["msg"]).removeprefix("Value error, ")])
    return " ".join(str(error).split())[:LONGEST_MESSAGE] or type(error).__name__


# --- hints for unknown names ------------------------------------------------------------------------------------------


_COMPARED_CHARS = 100


def did_you_mean(name: object, known: Iterable[str], otherwise: str | None = None, *, form: str = "{}") -> str:
    """ "did you mean NAME?" with the most similar known name in `form`; if none, `otherwise`, or a list of all."""
    names = list(known)
    if near := get_close_matches(str(name)[:_COMPARED_CHARS], names, 1):
        return f"did you mean {form.format(near[0])}?"
    return f"there are: {', '.join(names)}" if otherwise is None else otherwise


# --- keywords ---------------------------------------------------------------------------------------------------------

T = TypeVar("T", bound=type)


def suggests_keywords(cls: T) -> T:
    """Make a class's constructor raise BadInput, with a suggestion, for an unknown keyword."""
    construct = cls.__init__  # type: ignore[misc]
    known = inspect.signature(cls).parameters

    @wraps(construct)
    def __init__(self: Any, *values: Any, **named: Any) -> None:
        if not named.keys() <= known.keys():
            unknown = next(name for name in named if name not in known)
            raise BadInput(f"{cls.__name__} has no {unknown!r}", did_you_mean(unknown, known))
        construct(self, *values, **named)

    cls.__init__ = __init__  # type: ignore[misc]
    return cls
