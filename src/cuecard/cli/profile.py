"""`cuecard profile`: the latency of requests by component, in this process or behind servers; resumable."""

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
from rich.table import Column, Table
from rich.text import Text

from cuecard import disk
from cuecard.cli import make_console
from cuecard.cli.options import (
    LINE_S,
    Stopping,
    closing_models,
    parts,
    positive_numbers,
    progress_bar,
    telling_what_is_kept,
    whole_numbers,
)
from cuecard.domain.errors import BadInput, required
from cuecard.latency import server_profile
from cuecard.latency.readings import ABOUT
from cuecard.latency.rounds import COMPILED, FUSED, USUAL, Grid, drifted
from cuecard.latency.server_profile import LEAST_REQUESTS, ServerProfile
from cuecard.latency.server_requests import PERCENTILES, served
from cuecard.models import probe as probes
from cuecard.models.openai import OpenAIModel
from cuecard.models.spec import Served, parse, secret
from cuecard.report.formatting import machine

Maybe = typer.Option
EACH = 4
"""Requests per point and round, for each concurrent request."""
SHOWN = ("queue", "TTFT", "TTFO", "TPOT, vLLM", "ITL", "E2EL")
"""Metrics in the table; the report has all of them."""
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
    console = make_console(stderr=True)
    if at_servers := _at_servers(models):
        _refuse(
            {"--batch": batch != "1", "--attention": attention, "--compile": compiled, "--dtype": dtype,
             "--layers": layers, "--random-weights": random_weights, "--device": device,
             "--cached-tokens": cached_tokens}, "servers",
        )  # fmt: skip
        at_once = whole_numbers("--concurrency", concurrency, least=1) if concurrency else ()
        wish = ServerProfile(
            models=[spec for model in models if isinstance(spec := parse(model), Served)],
            rate=(None,) if rate is None else positive_numbers("--rate", rate),
            concurrency=at_once or ((1,) if rate is None else (None,)),
            requests=requests or max(LEAST_REQUESTS, EACH * max(at_once, default=1)),
            api_key=None if api_key is None else secret(api_key),
            ignore_eos=ignore_eos,
            fresh=fresh,
            limit_s=timeout_s,
            **shape,
            **limits,
        )
        if probe and probes.wanted():
            asyncio.run(_probe(wish, partial(console.print, markup=False)))
        end = _measured(console, out, lambda say, stop: stop.run(server_profile.profile(wish, out, machine(), say)))
    else:
        only = {"--rate": rate, "--concurrency": concurrency, "--requests": requests, "--api-key": api_key}
        _refuse({**only, "--heed-eos": not ignore_eos, "--cached": not fresh}, "models of this process")
        inside = required(
            "cuecard.latency.inside.profile", "profiling in this process", "pip install '.[local]' in a checkout"
        )
        cached = whole_numbers("--cached-tokens", cached_tokens, least=0) if cached_tokens else (None,)
        batches, ways = whole_numbers("--batch", batch, least=1), _attention(attention, compiled)
        grid = Grid(**shape, cached_text_tokens=cached, batch=batches, attention=ways)
        wish = inside.InProcessProfile(
            models, grid, parts(dtype or ""), device=device, random=random_weights, layers=layers, **limits
        )
        end = _measured(console, out, lambda say, stop: inside.profile(wish, out, machine(), say))
    if as_json:
        ended = {key: value for key, value in vars(end).items() if key != "notes"} | {"drifted": drifted(end.drift)}
        typer.echo(json.dumps(ended | ({"points": metrics_of(out)} if at_servers else {}), indent=2))
        return
    if at_servers:
        show(make_console(), out)
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

    def kept() -> str:
        if (out / ABOUT).exists():
            return f"what is measured is kept in {out}, and the same command goes on from there"
        return "nothing is measured yet, and nothing is kept"

    with telling_what_is_kept(kept) as stop, bar:
        return work(say, stop)


def _at_servers(models: Sequence[str]) -> bool:
    """Whether these models are behind servers. Raises BadInput for a mixture."""
    there = [model.startswith(("http://", "https://")) for model in models]
    if any(there) and not all(there):
        raise BadInput("servers and models of this process are timed differently", "profile them apart, each in --out")
    return any(there)


def _refuse(given: Mapping[str, Any], of: str) -> None:
    """Raises BadInput for a given option that does not apply to these models."""
    if wrong := next((option for option, value in given.items() if value), None):
        raise BadInput(f"{wrong} does not apply to {of}", f"leave {wrong} out")


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


# --- servers ----------------------------------------------------------------------------------------------------------


async def _probe(wanted: ServerProfile, tell: Callable[[str], None]) -> None:
    """Probe the servers' models that have no cached results, before anything is timed."""
    models = [OpenAIModel(each.base_url, each.name, api_key=wanted.api_key) for each in wanted.models]
    async with closing_models(models):
        await probes.settle(models, wait_s=None, tell=tell)


def metrics_of(out: Path) -> list[dict[str, Any]]:
    """Every point with its metrics, for JSON, in seconds."""
    return [
        {
            "model": each.model,
            **{name: value for name, value in vars(each.point).items() if value is not None},
            "requests": each.requests,
            "failed": each.failed,
            "prompt_tokens": each.prompt,
            "output_tokens": each.output,
            "cached_tokens": each.cached,
            "metrics": {name: spread.as_dict() for name, spread in each.metrics.items()},
        }
        for each in served(out)
    ]


def show(console: Console, out: Path) -> None:
    """For each point a line per percentile, in milliseconds."""
    if not (points := served(out)):
        return
    names = [name for name in SHOWN if any(name in each.metrics for each in points)]
    heads = [
        Column(name.partition(",")[0], justify="right", no_wrap=True) for name in names
    ]  # the other columns fold first
    first = [Column(name, overflow="fold") for name in ("model", "load", "image", "read", "wrote", "n", "ms")]
    shown = Table(*first, *heads, box=None)
    for each in points:
        shown.add_row(
            Text(each.model),
            each.load,
            "" if each.point.image_px is None else f"{each.point.image_px}",
            f"{each.prompt:.0f}" + (f" ({each.cached:.0f} cached)" if (each.cached or 0) >= 0.5 else ""),
            f"{each.output:.0f}",
            f"{each.requests}" + (f" + {each.failed} failed" if each.failed else ""),
            "\n".join(f"p{p}" for p in PERCENTILES),
            *(
                "\n".join(f"{1000 * each.metrics[name].percentiles[p]:.4g}" for p in PERCENTILES)
                if name in each.metrics
                else ""
                for name in names
            ),
        )
    console.print(shown)
    tokens = ((each.model, each.metrics.get("tokens an event")) for each in points)
    for model in sorted({model for model, each in tokens if each is not None and each.mean > 1.05}):
        console.print(Text(f"{model}: some events bring several tokens: ITL is between events, TPOT between tokens"))
