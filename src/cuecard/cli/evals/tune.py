"""`cuecard tune`: of a run's policies the cheapest that surely keeps the accuracy, as a file that can be served."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from rich.console import Console
from rich.table import Column, Table

from cuecard.domain.errors import BadInput
from cuecard.evals.analysis import tune as tuning
from cuecard.evals.analysis.ledger import Price
from cuecard.evals.analysis.tune import (
    Candidate,
    CandidateResult,
    Goal,
    Tuning,
    base_of,
    candidates,
    file_of,
    observations,
)
from cuecard.evals.analysis.units import arm_named
from cuecard.evals.storage.requests import is_timed
from cuecard.evals.study import folder
from cuecard.stats.bootstrap import Interval, ratio_interval
from cuecard.strategies import policy_file
from cuecard.strategies.policy_file import Origin

WANTED = ("latency", "cost", "tokens")
Maybe = typer.Option


def tune(
    run: Annotated[Path, typer.Argument(help="The directory of a run of `cuecard eval`.")],
    keep: Annotated[float, Maybe(help="The share of the baseline's accuracy that must be kept.")] = 0.99,
    margin: Annotated[float, Maybe(help="What may be lost besides: 0.01 is one point of accuracy.")] = 0.0,
    confidence: Annotated[float, Maybe(help="How sure it must be.")] = 0.95,
    chosen_for: Annotated[str, Maybe("--for", help="What is to be least: latency, cost or tokens.")] = "latency",
    against: Annotated[str, Maybe(help="The arm whose accuracy is to be kept.")] = "reason:large",
    task: Annotated[list[str] | None, Maybe(help="Only this task of the run (several: repeat it).")] = None,
    price: Annotated[
        list[str] | None, Maybe(help="MODEL=PROMPT,COMPLETION[,CACHED] per million tokens (one for each model).")
    ] = None,
    out: Annotated[Path | None, Maybe(help="Where to write the policy, for ask --policy and cuecard.toml.")] = None,
    as_json: Annotated[bool, Maybe("--json", help="Print one JSON object.")] = False,
) -> None:
    """Choose the fastest or cheapest policy that surely keeps the accuracy. Exit code 1: no cheaper one surely does."""
    if chosen_for not in WANTED:
        raise BadInput(f"nothing can be chosen for {chosen_for!r}", f"there are: {', '.join(WANTED)}")
    goal, prices = Goal(keep, margin, confidence), dict(Price.parse(each) for each in price or ())
    found, seen, baseline = _seen(run, against, chosen_for, prices, set(task or ()))
    tuned = tuning.tune(seen, baseline, goal)
    if tuned.chosen is not None and out is not None:
        policy = file_of(found[tuned.chosen.arm].arm)
        policy_file.write(out, replace(policy, origin=_origin(run, tuned, tuned.chosen, chosen_for, found)))
    if as_json:
        kept = None if tuned.chosen is None else asdict(_speed_up(seen, tuned, tuned.chosen))
        typer.echo(
            json.dumps(asdict(tuned) | {"times_cheaper": kept, "for": chosen_for, "method": tuning.METHOD}, indent=2)
        )
    else:
        kinds = {str(answer["latency"]["kind"]) for each in found.values() for answer in each.answers.values()}
        unit = f"seconds, {' or '.join(sorted(kinds))}" if chosen_for == "latency" else chosen_for
        _show(tuned, seen, unit, out)
        if lost := {name: each.failed for name, each in found.items() if each.failed}:
            counts = ", ".join(f"{name} {count}" for name, count in lost.items())
            Console(stderr=True, highlight=False).print(f"answers that failed, and count as wrong: {counts}")
    if tuned.chosen is None:
        raise typer.Exit(1)


def _seen(
    run: Path, against: str, chosen_for: str, prices: dict[str, Price], tasks: set[str]
) -> tuple[dict[str, Candidate], tuning.Table, str]:
    """What the run has answered, as candidates and as a table, and the run's own name of the baseline."""
    about, store = folder.opened(run)
    if not is_timed(about["config"]):
        store.close()
        how = "imported" if "imported" in about["config"] else "made with several calls at once on a local model"
        raise BadInput(f"{run} was {how}, and the times of its answers are not known", "tune a run of cuecard eval")
    base = base_of(about["config"])
    try:
        items = [item for item in store.items() if not tasks or item["task"] in tasks]
        found = candidates((each for each in store.answers() if not tasks or each["task"] in tasks), base)
    finally:
        store.close()
    if not items:
        raise BadInput(f"{run} has no items" + (f" of {', '.join(sorted(tasks))}" if tasks else ""), "let it run first")
    baseline = arm_named({name: each.arm for name, each in found.items()}, against, base)
    by = cast(Literal["latency", "cost", "tokens"], chosen_for)
    return found, tuning.table(observations(found, items, baseline, prices), by), baseline


def guarantee(tuned: Tuning) -> str:
    """What was shown, in words."""
    return (
        f"with {100 * tuned.goal.confidence:g}% confidence at least {tuned.goal} of {tuned.baseline.arm}, "
        f"on questions drawn like these {tuned.questions}"
    )


def _origin(run: Path, tuned: Tuning, chosen: CandidateResult, chosen_for: str, found: dict[str, Candidate]) -> Origin:
    tasks = sorted({task for task, _ in found[chosen.arm].answers})
    return Origin(
        run=run.name,
        arm=chosen.arm,
        baseline=tuned.baseline.arm,
        questions=tuned.questions,
        clusters=tuned.clusters,
        keep=tuned.goal.keep,
        margin=tuned.goal.margin,
        confidence=tuned.goal.confidence,
        p=chosen.p,
        method=tuning.METHOD,
        chosen_for=chosen_for,
        guarantee=f"{guarantee(tuned)} ({', '.join(tasks)})",
    )


def _speed_up(seen: tuning.Table, tuned: Tuning, chosen: CandidateResult) -> Interval:
    base, best = (seen.costs[seen.arms.index(arm)] for arm in (tuned.baseline.arm, chosen.arm))
    return ratio_interval(base, best, seen.clusters, tuned.goal.confidence)


def _show(tuned: Tuning, seen: tuning.Table, unit: str, out: Path | None) -> None:
    console = Console(highlight=False, soft_wrap=True)
    shown = Table(Column(overflow="fold"), "accuracy", unit, "test", "needs", box=None)
    baseline = tuned.baseline
    shown.add_row(baseline.arm, f"{baseline.accuracy:.3f}", f"{baseline.cost:.4g}", "the baseline", "")
    rows = [look for look in tuned.candidates if look.p is not None or (look.needs and look.cost < baseline.cost)]
    for look in rows:
        needs = f"{look.needs:,}" if look.needs else "–"
        shown.add_row(look.arm, f"{look.accuracy:.3f}", f"{look.cost:.4g}", _tested(look), needs)
    console.print(shown)
    console.print("needs: about how many questions would show it, if it is what it looks like", style="dim")
    third = f"{tuned.explored} of {tuned.questions} questions ({tuned.clusters} clusters) set the order of the tests"
    console.print(third, style="dim")
    if left := len(tuned.candidates) - len(rows):
        console.print(f"and {left} that cost more than the baseline or look as if they lost too much", style="dim")
    if (chosen := tuned.chosen) is not None:
        times = _speed_up(seen, tuned, chosen)
        span = f", {100 * times.confidence:g}% interval {times.low:.2f} to {times.high:.2f}" if times.low else ""
        console.print(f"[bold]{chosen.arm}[/]: {guarantee(tuned)}")
        console.print(f"{unit}, a question: {baseline.cost:.4g} → {chosen.cost:.4g} ({times.estimate:.2f}x{span})")
        console.print(f"written to {out}" if out else "--out FILE writes it down", markup=False, style="dim")
        return
    wanted = [look for look in rows if look.needs]
    console.print(f"no cheaper policy is sure to keep {tuned.goal} of {baseline.arm}: the data do not suffice")
    if wanted:
        least = min(wanted, key=lambda look: look.needs or 0)
        console.print(f"about {least.needs:,} questions would show it of {least.arm}")
    else:
        console.print("none looks as if it did, so more questions would hardly help")


def _tested(look: CandidateResult) -> str:
    if look.p is None:
        return "not tested"
    return f"{'passed' if look.passed else 'failed'}, p = {look.p:.2g}"
