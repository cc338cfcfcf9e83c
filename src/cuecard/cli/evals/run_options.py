"""Options of all commands that make a run: tasks, models, and the execution of calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from cuecard.cli.options import takes_policy_options
from cuecard.domain.errors import BadInput
from cuecard.evals.runner.ray_workers import Sizes
from cuecard.evals.study import CALL_S, Study
from cuecard.strategies.policy import Surface

Live = Annotated[bool, Option("--live", help="Run every arm end to end as well, timed as a whole.")]
Prices = Annotated[
    list[str] | None, Option(help="MODEL=PROMPT,COMPLETION[,CACHED] per million tokens (one for each model).")
]


@dataclass(frozen=True)
class StudyOptions:
    """What a study consists of, besides its arms and policy options."""

    tasks: Annotated[list[str], Argument(help="Tasks: names that `cuecard tasks` lists.")]
    out: Annotated[Path, Option(help="The run's directory; an existing run is resumed.")]
    small: Annotated[str, Option(help="The small model, which writes the reasoning.")] = "demo-small"
    large: Annotated[str, Option(help="The large model, which gives the answer.")] = "demo-large"
    limit: Annotated[int | None, Option(help="Most questions of each task.")] = None
    sample: Annotated[
        int | None, Option(help="Draw questions at random with this seed, instead of taking the first ones.")
    ] = None
    live: Live = False
    at_once: Annotated[
        int | None, Option(help="Most calls at once. Default: 1 with a model in this process, else 8.")
    ] = None

    def study(self, arms: Sequence[str], options: Mapping[str, Any]) -> Study:
        given = dict(vars(self))
        models = {role: given.pop(role) for role in ("small", "large")}
        return Study(models=models, arms=arms, options=options, **given)


@dataclass(frozen=True)
class How:
    """How to run a study."""

    retry_errors: Annotated[
        bool, Option("--retry-errors", help="Repeat failed calls, and answers with such calls.")
    ] = False
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print the estimated cost (calls, tokens, time) and make no call.")
    ] = False
    probe: Annotated[
        bool,
        Option("--probe/--no-probe", help="Probe served models that are not known yet; without it defaults apply."),
    ] = True
    as_json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False

    @property
    def on(self) -> Sizes | None:
        """Workers of a Ray cluster, else this process only."""
        return None


@dataclass(frozen=True)
class HowOnRay(How):
    """How to run a study, in this process or on a Ray cluster."""

    ray: Annotated[bool, Option("--ray", help="Make the calls on a Ray cluster; only this process stores them.")] = (
        False
    )
    ray_workers: Annotated[
        int | None, Option(help="Workers of the cluster that make calls, each with its own models. [default: 1]")
    ] = None
    ray_address: Annotated[
        str | None, Option(help="The cluster: HOST:PORT, or auto. Default: a cluster on this machine for this run.")
    ] = None
    ray_apart: Annotated[
        bool, Option("--ray-apart", help="Run each model of a worker in its own process, where there is room.")
    ] = False
    ray_gpus: Annotated[float | None, Option(help="GPUs that each process of a worker is given.")] = None

    @cached_property
    def on(self) -> Sizes | None:
        """As of `How`. Raises BadInput for an option of the cluster without `--ray`."""
        given = {
            "workers": self.ray_workers,
            "address": self.ray_address,
            "apart": self.ray_apart or None,
            "gpus": self.ray_gpus,
        }
        known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if known and not self.ray:
            raise BadInput(f"--ray-{min(known)} is about a Ray cluster", "give --ray too")
        return Sizes(**known) if self.ray else None


takes_study_options = takes_policy_options(
    Surface.STUDY,
    {
        "budget": "Most tokens of reasoning, where an arm does not say.",
        "timeout_s": "Most seconds a call may take, waiting at its server included.",
    },
    timeout_s=CALL_S,
)
