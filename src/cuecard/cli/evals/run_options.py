"""Options of all commands that make a run: tasks, models, and the execution of calls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TASKS = Annotated[list[str], typer.Argument(help="Tasks: names that `cuecard tasks` lists.")]
OUT = Annotated[Path, typer.Option(help="The run's directory; an existing run is resumed.")]
SMALL = Annotated[str, typer.Option(help="The small model, which writes the reasoning.")]
LARGE = Annotated[str, typer.Option(help="The large model, which gives the answer.")]
LIMIT = Annotated[int | None, typer.Option(help="Most questions of each task.")]
SAMPLE = Annotated[
    int | None, typer.Option(help="Draw questions at random with this seed, instead of taking the first ones.")
]
LIVE = Annotated[bool, typer.Option("--live", help="Run every arm end to end as well, timed as a whole.")]
AT_ONCE = Annotated[
    int | None, typer.Option(help="Most calls at once. Default: 1 with a model in this process, else 8.")
]
RETRY_ERRORS = Annotated[bool, typer.Option("--retry-errors", help="Repeat failed calls, and answers with such calls.")]
DRY_RUN = Annotated[
    bool, typer.Option("--dry-run", help="Print the estimated cost (calls, tokens, time) and make no call.")
]
AS_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
PROBE = Annotated[
    bool,
    typer.Option("--probe/--no-probe", help="Probe served models that are not known yet; without it defaults apply."),
]
RAY = Annotated[bool, typer.Option("--ray", help="Make the calls on a Ray cluster; only this process stores them.")]
RAY_WORKERS = Annotated[
    int | None, typer.Option(help="Workers of the cluster that make calls, each with its own models. [default: 1]")
]
RAY_ADDRESS = Annotated[
    str | None, typer.Option(help="The cluster: HOST:PORT, or auto. Default: a cluster on this machine for this run.")
]
RAY_APART = Annotated[
    bool, typer.Option("--ray-apart", help="Run each model of a worker in its own process, where there is room.")
]
RAY_GPUS = Annotated[float | None, typer.Option(help="GPUs that each process of a worker is given.")]
