"""Shared code of the client scripts: arguments, questions, and running and printing of cases.

A script registers its cases with `case` and ends with `run()`:

    python openai_chat.py http://127.0.0.1:8400/v1 --picture board.png --without json

It prints `ok NAME` for each case that passes, and exits with status 1 if one fails. A case that needs what the models
behind the gateway cannot do has to fail with the gateway's error message in the client's error: `refused NAME`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

COUNT = "What is 7 times 8? Answer with a number."
DESCRIBE = "Describe what a cat is, in one short sentence."
DIGITS = "How many red digits are there?"
WEATHER = "What is the current weather in Paris?"
FORECAST = "snow, -7 degrees"
"""Result of the tool `get_weather`."""

# feature that models may lack -> text in the gateway's error; None if the gateway answers without the feature
UNABLE = {"json": "do not ", "images": "image", "logprobs": None}

parser = argparse.ArgumentParser()
parser.add_argument("url", help="of the gateway, with /v1")
parser.add_argument("--model", default="cuecard")
parser.add_argument("--key", default="none")
parser.add_argument("--picture", type=Path, help="a PNG file")
parser.add_argument("--without", default="", help=f"what the models cannot do, of {', '.join(UNABLE)}")
parser.add_argument("--only", help="the name of one case")
given = parser.parse_args()

URL: str = given.url.rstrip("/")
MODEL: str = given.model
KEY: str = given.key
WITHOUT = {what for what in given.without.split(",") if what}
Case = Callable[[], Any]
CASES: list[tuple[Case, str]] = []


def case(needs: str = "") -> Callable[[Case], Case]:
    """Register a function, or a coroutine function, as a case; `needs` is a key of UNABLE."""

    def register(function: Case) -> Case:
        CASES.append((function, needs))
        return function

    return register


def picture() -> str:
    """The picture in base64."""
    return base64.b64encode(given.picture.read_bytes()).decode()


def picture_url() -> str:
    return f"data:image/png;base64,{picture()}"


def run() -> None:
    """Run every case, and exit with status 1 if one failed."""
    chosen = [(function, needs) for function, needs in CASES if given.only in (None, function.__name__)]
    with asyncio.Runner() as runner:  # one loop for all cases, because clients keep connections
        outcomes = [
            _passes(function, UNABLE[needs] if needs in WITHOUT else None, runner) for function, needs in chosen
        ]
    sys.exit(not (outcomes and all(outcomes)))


def _passes(function: Case, refusal: str | None, runner: asyncio.Runner) -> bool:
    try:
        result = function()
        if inspect.isawaitable(result):
            runner.run(_wait(result))
    except Exception as error:
        if refusal is not None and refusal in _words(error):
            print(f"refused {function.__name__}", flush=True)
            return True
        traceback.print_exc()
        print(f"failed {function.__name__}", flush=True)
        return False
    if refusal is not None:
        print(f"failed {function.__name__}: it passed, though the models cannot do it", flush=True)
        return False
    print(f"ok {function.__name__}", flush=True)
    return True


async def _wait(result: Any) -> Any:
    return await result


def _words(error: BaseException | None) -> str:
    """Text of an error and of its causes."""
    words = []
    while error is not None:
        words.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(words)
