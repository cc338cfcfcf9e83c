"""`cuecard profile`: the latency of requests by component; stopped profiles can be resumed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cuecard import disk
from cuecard.cli.options import LINE_S, Stopping, parts, progress_bar, stopping, whole_numbers
from cuecard.domain.errors import BadInput, MissingExtra
from cuecard.latency.readings import ABOUT
from cuecard.latency.rounds import COMPILED, FUSED, USUAL, Grid, drifted
from cuecard.models import probe as probes
from cuecard.report.page.machine import machine

Maybe = typer.Option
ATTENTION = ("sdpa", "eager", FUSED, COMPILED, USUAL)


def profile(
    models: Annotated[
        list[str],
        typer.Argument(
            help="demo-small, hf:ORG/NAME, a directory, a preset (qwen3-vl-2b, …-tiny), or http://HOST:PORT/v1#NAME."
        ),
    ],
    out: Annotated[Path, Maybe(help="The profile's directory; an existing profile is resumed.")],
    output_tokens: Annotated[str, Maybe(help="Exact numbers of tokens to write, separated by commas.")] = "1,8,32,128",
    image_size: Annotated[str, Maybe(help="Sides of the image in pixels; 0 is no image.")] = "128,448",
    text_tokens: Annotated[str, Maybe(help="Prompt tokens after the image; for servers, words.")] = "48",
    cached_tokens: Annotated[
        str | None, Maybe(help="Tokens between image and text that are cached together with the image.")
    ] = None,
    batch: Annotated[str, Maybe(help="Concurrent requests of the same shape.")] = "1",
    attention: Annotated[
        str | None,
        Maybe(help="sdpa, eager, fused, compiled. Default: fused in float32, else sdpa."),
    ] = None,
    compiled: Annotated[
        bool,
        Maybe("--compile", help="--attention compiled: fused and compiled; on a GPU one CUDA graph for each token."),
    ] = False,
    dtype: Annotated[str | None, Maybe(help="float32, bfloat16, float16. Default: float32 on a CPU.")] = None,
    layers: Annotated[
        int | None,
        Maybe(help="Time slices of this many layers and of half as many; the whole model is estimated from both."),
    ] = None,
    random_weights: Annotated[
        bool, Maybe("--random-weights", help="Use random weights: latency does not depend on their values.")
    ] = False,
    device: Annotated[str | None, Maybe(help="cpu, cuda, cuda:1, mps. Default: the fastest that there is.")] = None,
    repeats: Annotated[int, Maybe(help="Most rounds.", min=1)] = 12,
    precision: Annotated[
        float,
        Maybe(help="A point is done when the half-width of its mean's 95% interval is at most this share of the mean."),
    ] = 0.03,
    max_minutes: Annotated[float | None, Maybe(help="Stop measuring after this time.")] = None,
    rate: Annotated[
        str | None,
        Maybe(help="Servers: arrival rates of random requests (open loop), per second, separated by commas."),
    ] = None,
    concurrency: Annotated[
        str | None,
        Maybe(help="Servers: requests at once (default: 1); with --rate the most at once (default: any number)."),
    ] = None,
    requests: Annotated[
        int | None,
        Maybe(help="Servers: requests of a point in a round. Default: 8, or 4 for each request at once.", min=1),
    ] = None,
    ignore_eos: Annotated[
        bool,
        Maybe(
            "--ignore-eos/--heed-eos", help="Servers: write exactly this many tokens, or stop where the model stops."
        ),
    ] = True,
    fresh: Annotated[
        bool, Maybe("--fresh/--cached", help="Servers: send a new prompt each time, or the same one again.")
    ] = True,
    timeout_s: Annotated[float, Maybe(help="Servers: the time limit of one request.")] = 300.0,
    probe: Annotated[
        bool, Maybe("--probe/--no-probe", help="Servers: probe models that are not known yet, before they are timed.")
    ] = True,
    api_key: Annotated[
        str | None, Maybe(help="Servers: their API key; '${NAME}' is read from the environment.")
    ] = None,
    as_json: Annotated[bool, Maybe("--json", help="Print the outcome as one JSON object.")] = False,
) -> None:
    """Time models component by component, or servers under load, in interleaved rounds; store every reading."""
    disk.check_folder(out, ABOUT)
    shape: dict[str, Any] = {
        "output_tokens": whole_numbers("--output-tokens", output_tokens, least=1),
        "image_px": tuple(px or None for px in whole_numbers("--image-size", image_size, least=0)),
        "text_tokens": whole_numbers("--text-tokens", text_tokens, least=1),
    }
    max_s = None if max_minutes is None else 60 * max_minutes
    limits: dict[str, Any] = {"repeats": repeats, "precision": precision, "max_s": max_s}
    console = Console(stderr=True, highlight=False)
    if served := _served(models):
        _refuse(
            {"--batch": batch != "1", "--attention": attention, "--compile": compiled, "--dtype": dtype,
             "--layers": layers, "--random-weights": random_weights, "--device": device,
             "--cached-tokens": cached_tokens}, "servers",
        )  # fmt: skip
        at_once = whole_numbers("--concurrency", concurrency, least=1) if concurrency else ()
        more = {"ignore_eos": ignore_eos, "fresh": fresh, "limit_s": timeout_s}
        wish = served.wish(models, rate, at_once, requests, api_key, **more, **shape, **limits)
        if probe and probes.wanted():
            asyncio.run(served.probe(wish, partial(console.print, markup=False)))
        end = _measured(console, out, lambda say, stop: stop.run(served.profile(wish, out, machine(), say)))
    else:
        only = {"--rate": rate, "--concurrency": concurrency, "--requests": requests, "--api-key": api_key}
        _refuse({**only, "--heed-eos": not ignore_eos, "--cached": not fresh}, "models of this process")
        inside = _inside()
        cached = whole_numbers("--cached-tokens", cached_tokens, least=0) if cached_tokens else (None,)
        batches, ways = whole_numbers("--batch", batch, least=1), _attention(attention, compiled)
        grid = Grid(**shape, cached_text_tokens=cached, batch=batches, attention=ways)
        wish = inside.InProcessProfile(
            models, grid, parts(dtype or ""), device=device, random=random_weights, layers=layers, **limits
        )
        end = _measured(console, out, lambda say, stop: inside.profile(wish, out, machine(), say))
    if as_json:
        ended = {key: value for key, value in vars(end).items() if key != "notes"} | {"drifted": drifted(end.drift)}
        typer.echo(json.dumps(ended | ({"points": served.metrics_of(out)} if served else {}), indent=2))
        return
    if served:
        served.show(Console(highlight=False), out)
    _show(console, end, out)


def _measured(console: Console, out: Path, work: Callable[[Callable[[Any], None], Stopping], Any]) -> Any:
    """Run with a bar on a terminal, with occasional lines elsewhere; exits if stopped."""
    printed_s = time.monotonic()
    # drawn between readings only: drawing in another thread would disturb the timing
    bar = progress_bar(console, transient=True, auto_refresh=False)
    task = bar.add_task("loading", total=None)

    def say(progress: Any) -> None:
        nonlocal printed_s
        about, total = f"{progress.now} · {progress.left_s:.0f} s left at most", progress.done + progress.left
        if not console.is_terminal and time.monotonic() - printed_s > LINE_S:
            console.print(about)
            printed_s = time.monotonic()
        bar.update(task, completed=progress.done, total=total, description=about, refresh=True)

    with stopping() as stop:
        try:
            with bar:
                return work(say, stop)
        except KeyboardInterrupt:
            there = (out / ABOUT).exists()
            kept = f"what is measured is kept in {out}, and the same command goes on from there"
            console.print(f"stopped; {kept if there else 'nothing is measured yet, and nothing is kept'}")
            raise typer.Exit(stop.code) from None


def _served(models: Sequence[str]) -> Any:
    """Import the module that measures servers, if these models are behind some. Raises BadInput for a mixture."""
    there = [model.startswith(("http://", "https://")) for model in models]
    if not any(there):
        return None
    if not all(there):
        raise BadInput("servers and models of this process are timed differently", "profile them apart, each in --out")
    from cuecard.cli.latency import server  # imports HTTP

    return server


def _refuse(given: Mapping[str, Any], of: str) -> None:
    """Raises BadInput for a given option that does not apply to these models."""
    if wrong := next((option for option, value in given.items() if value), None):
        raise BadInput(f"{wrong} does not apply to {of}", f"leave {wrong} out")


def _inside() -> Any:
    """Import the module that measures in this process. Raises MissingExtra."""
    try:
        from cuecard.latency.inside import profile
    except ImportError as error:
        raise MissingExtra(
            f"profiling in this process needs {error.name}", "pip install '.[local]' in a checkout"
        ) from error
    return profile


def _attention(text: str | None, compiled: bool) -> tuple[str, ...]:
    """The attention backends to time. Raises BadInput."""
    found = parts(text or (COMPILED if compiled else USUAL))
    if wrong := [each for each in found if each not in ATTENTION]:
        raise BadInput(f"unknown attention {wrong[0]!r}", f"there are {', '.join(ATTENTION)}")
    return found if COMPILED in found or not compiled else (*found, COMPILED)


def _show(console: Console, end: Any, out: Path) -> None:
    for note in end.notes:
        console.print(note)
    console.print(f"{end.readings} readings made, in {out}")
    if end.wide:
        why = "the time is over" if end.out_of_time else "the rounds are over"
        console.print(f"{end.wide} points have a wider interval than asked for: {why}; the same command goes on")
    for model in drifted(end.drift):
        console.print(f"[yellow]drift:[/] {model} ended at {end.drift[model]:.2f} times the time it began with")
    console.print(f"next: cuecard fit {out}", style="dim")
