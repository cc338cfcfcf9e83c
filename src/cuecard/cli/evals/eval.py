"""`cuecard eval`: strategies on tasks, every call made once; stopped at any time, it goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cuecard.cli.evals.study import (
    PROBE,
    RAY,
    RAY_ADDRESS,
    RAY_APART,
    RAY_GPUS,
    RAY_WORKERS,
    How,
    perform,
    workers,
)
from cuecard.cli.options import takes_policy_options
from cuecard.evals.study.study import ARMS, CALL_S, Study
from cuecard.strategies.policy import Surface

Maybe = typer.Option


@takes_policy_options(
    Surface.STUDY,
    {
        "budget": "Most tokens of reasoning, where an arm does not say.",
        "timeout_s": "Most seconds a call may take, waiting at its server included.",
    },
    timeout_s=CALL_S,
)
def evaluate(
    tasks: Annotated[list[str], typer.Argument(help="Tasks, as `cuecard tasks` lists them.")],
    *,
    out: Annotated[Path, Maybe(help="The run's directory; one that is there already is gone on with.")],
    strategies: Annotated[
        str, Maybe(help="Arms, with commas between: mutual, transfer/notes/budget=128, transfer/placebo=empty.")
    ] = ",".join(ARMS),
    small: Annotated[str, Maybe(help="The model that writes the reasoning.")] = "demo-small",
    large: Annotated[str, Maybe(help="The model that speaks the answer.")] = "demo-large",
    limit: Annotated[int | None, Maybe(help="Most questions of each task.")] = None,
    sample: Annotated[int | None, Maybe(help="Draw them by chance, with this seed, instead of the first.")] = None,
    live: Annotated[bool, Maybe("--live", help="Run every arm end to end as well, timed as a whole.")] = False,
    at_once: Annotated[
        int | None, Maybe(help="Most calls at once; by itself 1 with a model in this process, else 8.")
    ] = None,
    options: Mapping[str, Any],
    retry_errors: Annotated[
        bool, Maybe("--retry-errors", help="Make failed calls, and answers with such calls, again.")
    ] = False,
    dry_run: Annotated[bool, Maybe("--dry-run", help="Say what it will cost: calls, tokens, time. Estimated.")] = False,
    probe: PROBE = True,
    ray: RAY = False,
    ray_workers: RAY_WORKERS = None,
    ray_address: RAY_ADDRESS = None,
    ray_apart: RAY_APART = False,
    ray_gpus: RAY_GPUS = None,
    as_json: Annotated[bool, Maybe("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate strategies on tasks: go on where it stopped, then sum up."""
    wanted = Study(
        models={"small": small, "large": large},
        tasks=tasks,
        arms=strategies.split(","),
        out=out,
        limit=limit,
        sample=sample,
        at_once=at_once,
        live=live,
        options=options,
    )
    on = workers(ray, ray_workers, ray_address, ray_apart, ray_gpus)
    perform(wanted, How(retry_errors, dry_run, as_json, on, probe))
