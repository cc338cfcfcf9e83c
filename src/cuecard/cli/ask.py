"""`cuecard ask`: one question, answered live."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cuecard.cli import fit as estimates
from cuecard.cli import is_unstyled
from cuecard.cli.options import takes_policy_options, telling_what_is_kept
from cuecard.domain.call import FinishReason, Heard, Usage
from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import Outcome, Route, compare_with_large, outcome_as_object, seconds
from cuecard.domain.question import AnswerKind, Question
from cuecard.models import spec
from cuecard.models.images.decoding import MOST_BYTES
from cuecard.pair import Pair
from cuecard.pair import question as ask_of
from cuecard.strategies import policy_file
from cuecard.strategies.policy_file import Surface, policy_with
from cuecard.strategies.run import STRATEGIES

MOST_TEXT_BYTES = 2**20
DEGRADED = 3
"""The exit code if a model failed and the other one's answer is returned."""

Maybe = typer.Option


@takes_policy_options(Surface.ASK)
def ask(
    question: Annotated[str, typer.Argument(help="What you want to know; `-` reads it from standard input.")],
    *,
    image: Annotated[
        list[str] | None, Maybe(help="An image file (several: repeat it); `-` reads one from standard input.")
    ] = None,
    small: Annotated[str, Maybe(help="The small model, which writes the reasoning.")] = "demo-small",
    large: Annotated[str, Maybe(help="The large model, which gives the answer.")] = "demo-large",
    pair: Annotated[
        Path | None, Maybe(help="A TOML file with a table for each model, instead of --small and --large.")
    ] = None,
    policy: Annotated[
        Path | None, Maybe(help="A policy file, as `cuecard tune` writes it; other options override it.")
    ] = None,
    strategy: Annotated[
        str | None, Maybe(help=f"{', '.join(name for name in STRATEGIES if ':' not in name)}; default: mutual.")
    ] = None,
    options: Mapping[str, Any],
    choice: Annotated[list[str] | None, Maybe(help="An option of a multiple-choice question (repeat it).")] = None,
    kind: Annotated[
        str | None,
        Maybe(help=f"{', '.join(each for each in AnswerKind if each != 'json')}; default: guessed from the wording."),
    ] = None,
    system: Annotated[str | None, Maybe(help="A system prompt.")] = None,
    allow_degraded: Annotated[
        bool, Maybe("--allow-degraded", help="Exit with 0, not 3, when a model failed and the other one answered.")
    ] = False,
    probe: Annotated[
        bool, Maybe("--probe/--no-probe", help="Probe served models that are not known yet; without it defaults apply.")
    ] = True,
    allow_urls: Annotated[bool, Maybe("--allow-urls", help="Fetch images given as http(s) URLs.")] = False,
    estimate: Annotated[
        Path | None,
        Maybe(help="A profile's directory: print the estimated time of each strategy by its fits; no call is made."),
    ] = None,
    as_json: Annotated[bool, Maybe("--json", help="Print one JSON object.")] = False,
) -> None:
    """Answer one question with a pair of models."""
    text, pictures = _inputs(question, image or [])
    # all that can be wrong with the input is found before a model is loaded
    asked = ask_of(text, pictures, choices=choice or (), kind=kind, system=system, allow_urls=allow_urls)
    base = policy_file.read(policy) if policy else policy_file.PolicyFile("mutual")
    chosen = policy_with(base.policy(), **options)
    roles = {"small": small, "large": large} if pair is None else spec.pair_file(pair)
    if estimate is not None:
        estimates.estimate(estimate, asked, roles, chosen.schedule, options.get("budget"), as_json)
        return
    with (
        telling_what_is_kept(lambda: "there is no answer, and nothing is kept") as stop,
        Pair(**roles, strategy=strategy or base.strategy, policy=chosen, probe=probe, tell=_remark) as models,
    ):
        outcome = stop.run(_watch(models, asked, quiet=as_json))
    if as_json:
        write(json.dumps(outcome_as_object(outcome), ensure_ascii=False, indent=2))
    else:
        write(shown(outcome))
        for line in remarks(outcome):
            _remark(line)
    if outcome.route is Route.DEGRADED and not allow_degraded:
        raise typer.Exit(DEGRADED)


def _inputs(question: str, images: list[str]) -> tuple[str, list[Any]]:
    if question == "-" and "-" in images:
        raise BadInput("the question and an image cannot both come from standard input", "give one of them otherwise")
    text = _read(MOST_TEXT_BYTES).decode("utf-8", "surrogateescape") if question == "-" else question
    return text, [_read(MOST_BYTES) if name == "-" else name for name in images]


def _read(most: int) -> bytes:
    """Standard input, which may never end. Raises BadInput."""
    if len(data := sys.stdin.buffer.read(most + 1)) > most:
        raise BadInput(f"standard input holds more than {most // 2**20} MiB", "send less")
    return data


async def _watch(pair: Pair, question: Question, quiet: bool) -> Outcome:
    """Show the small model's reasoning as it comes, dimmed, on standard error; give back the outcome."""
    written, outcome = False, None
    try:
        async for item in pair.stream(question):
            match item:
                case Heard(_, _, piece, True) if not quiet:
                    _print(piece, dim=True)
                    written = True
                case Outcome():
                    outcome = item
    finally:
        if written:
            _print("\n")
    assert outcome is not None
    return outcome


def shown(outcome: Outcome) -> str:
    """The answer as a person reads it: of a choice its label and text."""
    return outcome.answer_text or outcome.answer


def remarks(outcome: Outcome) -> list[str]:
    """What a person should know of an answer, a line each; the last one is how it came about."""
    lines = [] if outcome.outside_scope is None else [f"{outcome.outside_scope}; the answer is a guess"]
    if outcome.truncated:
        tokens = _answer_tokens(outcome)
        where = "at its limit" if tokens is None else f"at {tokens:,} tokens"
        lines.append(f"the answer was cut {where}; raise --answer-tokens")
    spent = ", ".join(f"{model} {usage.completion_tokens or 0}" for model, usage in outcome.usage.items())
    parts = [
        f"{outcome.route}: {outcome.reason}",
        *([] if outcome.kind is None else [f"answer taken as {outcome.kind}"]),
        f"{seconds(outcome.total_s)} {outcome.latency_kind}",
        f"tokens generated: {spent}",
    ]
    if (sentence := compare_with_large(outcome).sentence()) is not None:
        parts.append(sentence)
    return [*lines, " | ".join(parts)]


def _answer_tokens(outcome: Outcome) -> int | None:
    """The tokens of the answer that was cut."""
    cut = [call for call in outcome.calls if call.finish_reason is FinishReason.LENGTH]
    answered = [call for call in cut if outcome.answer.strip() and outcome.answer.strip() in (call.answer or "")] or cut
    used = answered[-1].usage if answered else Usage()
    return None if used.completion_tokens is None else used.completion_tokens - (used.reasoning_tokens or 0)


def write(text: str) -> None:
    """To standard output as it is, byte for byte; what is no text in UTF-8 is replaced."""
    typer.echo((text + "\n").encode("utf-8", "replace"), nl=False)


def _remark(text: str) -> None:
    _print(" ".join(text.split()) + "\n")


def _print(text: str, *, dim: bool = False) -> None:
    """To standard error as it is; dimmed on a terminal that may show styles."""
    styled = dim and sys.stderr.isatty() and not is_unstyled()
    text = text.encode("utf-8", "replace").decode()
    sys.stderr.write(f"\x1b[2m{text}\x1b[0m" if styled else text)
    sys.stderr.flush()
