"""`cuecard tune`: the cheapest policy of a run that keeps the accuracy with confidence, and its acceptance table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from cuecard import disk
from cuecard.cli import make_console
from cuecard.cli.evals.study import Prices, beta_text
from cuecard.cli.options import plain_table
from cuecard.domain.errors import BadInput
from cuecard.evals.analysis import acceptance
from cuecard.evals.analysis import tune as tuning
from cuecard.evals.analysis.acceptance import FittedTable, ShortAnswers
from cuecard.evals.analysis.ledger import Price, by_model, check_models
from cuecard.evals.analysis.scores import arm_named
from cuecard.evals.analysis.tune import (
    Candidate,
    CandidateResult,
    Goal,
    Key,
    Observation,
    Tuning,
    calibrated,
    candidates,
)
from cuecard.evals.arm import LIVE, base_of, policies_of
from cuecard.evals.database import Record, Store
from cuecard.evals.requests import is_timed
from cuecard.evals.run_folder import opened_run
from cuecard.models.acceptance_table import SHARED
from cuecard.stats import Interval, ratio_interval
from cuecard.strategies import policy_file
from cuecard.strategies.policy import CALIBRATED
from cuecard.strategies.policy_file import Origin


@dataclass(frozen=True)
class Seen:
    """The answers of a run: as candidates, as a table, and the short answers of both models."""

    found: dict[str, Candidate]
    table: tuning.Table
    baseline: str
    """Name of the baseline in the run."""
    fitted: FittedTable | None
    """The acceptance table, fitted on the explored questions only."""
    lacking: str
    """Why there is no acceptance table."""
    notes: tuple[str, ...]
    """What is left out, and why, one sentence each."""


SHORT = ("mutual", "short:small", "short:large", "short")
"""Strategies whose short calls a table is fitted on."""


def tune(
    run: Annotated[Path, typer.Argument(help="The directory of a run of `cuecard eval`.")],
    keep: Annotated[float, typer.Option(help="The share of the baseline's accuracy that must be kept.")] = 0.99,
    margin: Annotated[float, typer.Option(help="What may be lost besides: 0.01 is one point of accuracy.")] = 0.0,
    confidence: Annotated[float, typer.Option(help="Confidence of the guarantee.")] = 0.95,
    chosen_for: Annotated[tuning.Measure, typer.Option("--for", help="What is to be least.")] = "latency",
    against: Annotated[str, typer.Option(help="The arm whose accuracy must be kept.")] = "reason:large",
    task: Annotated[list[str] | None, typer.Option(help="Only this task of the run (several: repeat it).")] = None,
    price: Prices = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the policy, for ask --policy and cuecard.toml.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="Where to write an acceptance table of all questions; without --out nothing else is done."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Choose the fastest or cheapest policy that keeps the accuracy, with a confidence. Exit code 1: none does."""
    goal, prices = Goal(keep, margin, confidence), by_model("--price", price or (), Price.parse)
    if table is not None:
        _write_table(run, set(task or ()), table, as_json and out is None)
        if out is None:
            return
    looked = _seen(run, against, chosen_for, prices, set(task or ()))
    found, seen = looked.found, looked.table
    tuned = tuning.tune(seen, looked.baseline, goal)
    accepting = None if looked.fitted is None else looked.fitted.table
    if tuned.chosen is not None and out is not None:
        policy = tuning.file_of(found[tuned.chosen.arm].arm, accepting)
        policy_file.write(out, replace(policy, origin=_origin(run, tuned, looked, chosen_for)))
    if as_json:
        kept = None if tuned.chosen is None else asdict(_speed_up(seen, tuned, tuned.chosen))
        more: dict[str, Any] = {"times_cheaper": kept, "for": chosen_for, "method": tuning.METHOD}
        more["table"] = None if accepting is None else accepting.as_object()
        more |= {"data": tuning.data_digest(seen), "notes": list(looked.notes)}
        typer.echo(json.dumps(asdict(tuned) | more, indent=2))
    else:
        on = f"the {tuned.explored} questions that no policy is tested on"
        if looked.fitted is not None:
            _show_fitted(looked.fitted, f"fitted on {on}")
        else:
            line = f"no acceptance table: {looked.lacking} (of {on})"
            make_console(soft_wrap=True).print(line, markup=False)
        kinds = {str(answer["latency"]["kind"]) for each in found.values() for answer in each.answers.values()}
        unit = f"seconds, {' or '.join(sorted(kinds))}" if chosen_for == "latency" else chosen_for
        _show_tuned(tuned, seen, unit, out)
        for note in looked.notes:
            make_console(stderr=True, soft_wrap=True).print(note, markup=False)
    if tuned.chosen is None:
        raise typer.Exit(1)


def _seen(run: Path, against: str, chosen_for: tuning.Measure, prices: dict[str, Price], tasks: set[str]) -> Seen:
    with opened_run(run) as (config, store):
        if not is_timed(config):
            how = "imported" if "imported" in config else "made with several calls at once on a local model"
            raise BadInput(f"{run} was {how}, and the times of its answers are not known", "tune a run of cuecard eval")
        base = base_of(config)
        items, answers = _asked(run, store, tasks)
        rotated = {task["name"] for task in config.get("tasks", ()) if task["aggregate"] == "circular"}
        items = [item if item["task"] in rotated else {**item, "group": None} for item in items]  # others count alone
        found, short = candidates(answers, base, policies_of(config)), _short(items, answers, store)
    check_models("--price", prices, answers)
    baseline = arm_named({name: each.arm for name, each in found.items()}, against, base)
    notes = _left_out(found, baseline)
    seen, unpriced = _costed(tuning.observations(found, items, baseline, prices), chosen_for, baseline)
    notes += [f"no price is known of all calls of these, which are left out: {', '.join(unpriced)}"] if unpriced else []
    try:
        fitted = _fitted(run, config, short, tuning.explored_clusters(seen))
    except BadInput as lacking:
        return Seen(found, seen, baseline, None, lacking.message, tuple(notes))
    # calibrated candidates answer the same questions, so the explored ones stay the same
    if more := calibrated(found, short, fitted.table):
        found = {**more, **found}
        seen, _ = _costed(tuning.observations(found, items, baseline, prices), chosen_for, baseline)
    return Seen(found, seen, baseline, fitted, "", tuple(notes))


def _costed(seen: Sequence[Observation], chosen_for: tuning.Measure, baseline: str) -> tuple[tuning.Table, list[str]]:
    """The table, and the arms that are left out because some of their costs are unknown. Raises BadInput."""
    unknown = {each.arm for each in seen if each.cost is None} if chosen_for == "cost" else set[str]()
    if baseline in unknown:  # then the table reports it
        unknown = set()
    return tuning.table((each for each in seen if each.arm not in unknown), chosen_for), sorted(unknown)


def _left_out(found: Mapping[str, Candidate], baseline: str) -> list[str]:
    """Questions that are left out, and answers that count as wrong because their calls failed, in words."""
    notes = []
    if out := len(tuning.left_out(found, baseline)):
        notes.append(f"{out:,} questions are left out: {baseline} failed on them, or an answer to them has no score")
    if lost := {name: each.failed for name, each in found.items() if each.failed}:
        counts = ", ".join(f"{name} {count}" for name, count in lost.items())
        notes.append(f"answers that failed, which count as wrong and cost no less than {baseline}: {counts}")
    return notes


def _asked(run: Path, store: Store, tasks: set[str]) -> tuple[list[Record], list[Record]]:
    """The items of these tasks (none given: of all), and their answers. Raises BadInput if there are no items."""
    items = [item for item in store.items() if not tasks or item["task"] in tasks]
    if not items:
        raise BadInput(f"{run} has no items" + (f" of {', '.join(sorted(tasks))}" if tasks else ""), "let it run first")
    return items, [each for each in store.answers() if not tasks or each["task"] in tasks]


# --- the acceptance table ---------------------------------------------------------------------------------------------


def _short(items: Iterable[Record], answers: Iterable[Record], store: Store) -> dict[Key, ShortAnswers]:
    arms = (each for each in answers if each["arm"].partition("/")[0] in SHORT and not each["arm"].endswith(LIVE))
    return acceptance.called_short(items, arms, store.call)


def _fitted(
    run: Path, config: Mapping[str, Any], short: Mapping[Key, ShortAnswers], clusters: set[str] | None = None
) -> FittedTable:
    """The acceptance table of a run's models; `clusters`: those it is fitted on. Raises BadInput."""
    if not short:
        why = "an acceptance table needs short answers of both models, and the run has none"
        raise BadInput(why, "add the arms short:small and short:large to it")
    own = {key: each for key, each in short.items() if clusters is None or each.cluster in clusters}
    small, large = (config["models"][role] for role in ("small", "large"))
    fitted = acceptance.fit(list(own.values()), small["name"], large["name"])
    tasks, revisions = tuple(sorted({task for task, _ in own})), (small["revision"], large["revision"])
    about = replace(fitted.table, tasks=tasks, run=run.resolve().name)
    return replace(fitted, table=replace(about, small_revision=revisions[0], large_revision=revisions[1]))


def _write_table(run: Path, tasks: set[str], path: Path, as_json: bool) -> None:
    """Fit a table on all questions of a run, write it and show it. Raises BadInput, CannotStore."""
    with opened_run(run) as (config, store):
        fitted = _fitted(run, config, _short(*_asked(run, store, tasks), store))
    disk.save(path, fitted.table.as_object())
    if as_json:
        typer.echo(json.dumps(fitted.table.as_object(), indent=2))
        return
    _show_fitted(fitted, f"fitted on {fitted.table.questions:,} questions of {', '.join(fitted.table.tasks)}")
    make_console(soft_wrap=True).print(f"written to {path}", markup=False, style="dim")


def _show_fitted(fitted: FittedTable, on: str) -> None:
    console, made = make_console(soft_wrap=True), fitted.table
    console.print(f"acceptance table of {made.small} and {made.large}, {on}", markup=False)
    heads = ("questions", "large right", "Brier", "ECE", "accepted", "wrong")
    rows = (
        (
            "all" if each.kind == SHARED else each.kind,
            f"{each.questions:,}",
            f"{100 * each.accuracy:.1f}%",
            f"{each.brier:.3f}",
            f"{each.ece:.3f}",
            f"{100 * each.accepted / each.questions:.1f}%",
            f"{each.wrong:,}",
        )
        for each in fitted.kinds
    )
    console.print(plain_table(("kind", *(Column(head, justify="right") for head in heads)), rows))
    console.print(f"accepted: by {CALIBRATED}; all figures are cross-fitted", style="dim")
    alike = fitted.shared.alike_given_wrong
    console.print(beta_text(asdict(fitted.shared.beta), None if alike is None else asdict(alike)), style="dim")


# --- the policy -------------------------------------------------------------------------------------------------------


def guarantee(tuned: Tuning) -> str:
    """The guarantee of a tuning in words."""
    return (
        f"with {100 * tuned.goal.confidence:g}% confidence at least {tuned.goal} of {tuned.baseline.arm}, "
        f"on questions drawn like these {tuned.questions}"
    )


def _origin(run: Path, tuned: Tuning, looked: Seen, chosen_for: str) -> Origin:
    """The origin of a policy that a tuning chose."""
    chosen = tuned.chosen
    assert chosen is not None
    tasks = sorted({task for task, _ in looked.found[chosen.arm].answers})
    return Origin(
        run=run.name,
        arm=chosen.arm,
        baseline=tuned.baseline.arm,
        questions=tuned.questions,
        clusters=tuned.clusters,
        **asdict(tuned.goal),
        p=chosen.p,
        method=tuning.METHOD,
        chosen_for=chosen_for,
        data=tuning.data_digest(looked.table),
        guarantee=f"{guarantee(tuned)} ({', '.join(tasks)})",
    )


def _speed_up(seen: tuning.Table, tuned: Tuning, chosen: CandidateResult) -> Interval:
    base, best = (seen.costs[seen.arms.index(arm)] for arm in (tuned.baseline.arm, chosen.arm))
    return ratio_interval(base, best, seen.clusters, tuned.goal.confidence)


def _show_tuned(tuned: Tuning, seen: tuning.Table, unit: str, out: Path | None) -> None:
    console = make_console(soft_wrap=True)
    shown = Table(Column(overflow="fold"), "accuracy", unit, "test", "needs", box=None)
    baseline = tuned.baseline
    shown.add_row(baseline.arm, f"{baseline.accuracy:.3f}", f"{baseline.cost:.4g}", "the baseline", "")
    rows = [look for look in tuned.candidates if look.p is not None or (look.needs and look.cost < baseline.cost)]
    for look in rows:
        needs = f"{look.needs:,}" if look.needs else "–"
        tested = "not tested" if look.p is None else f"{'passed' if look.passed else 'failed'}, p = {look.p:.2g}"
        shown.add_row(look.arm, f"{look.accuracy:.3f}", f"{look.cost:.4g}", tested, needs)
    console.print(shown)
    console.print("needs: questions that the test would take, if its accuracy is the observed one", style="dim")
    third = f"{tuned.explored} of {tuned.questions} questions ({tuned.clusters} clusters) order the tests"
    console.print(third, style="dim")
    if left := len(tuned.candidates) - len(rows):
        console.print(f"not shown: {left} that cost more than the baseline or lose too much accuracy", style="dim")
    if (chosen := tuned.chosen) is not None:
        times = _speed_up(seen, tuned, chosen)
        span = f", {100 * times.confidence:g}% interval {times.low:.2f} to {times.high:.2f}" if times.low else ""
        console.print(f"[bold]{chosen.arm}[/]: {guarantee(tuned)}")
        console.print(f"{unit}, a question: {baseline.cost:.4g} → {chosen.cost:.4g} ({times.estimate:.2f}x{span})")
        console.print(f"written to {out}" if out else "--out FILE writes it down", markup=False, style="dim")
        return
    # a later candidate may need fewer than the run has, as tests in a fixed order end with the first that fails
    wanted = [look for look in rows if look.needs and look.p is not None] or [look for look in rows if look.needs]
    console.print(f"no cheaper policy is shown to keep {tuned.goal} of {baseline.arm}")
    if wanted:
        least = min(wanted, key=lambda look: look.needs or 0)
        console.print(f"{least.arm} would need about {least.needs:,} questions")
    else:
        console.print("more questions would hardly help: every candidate loses too much accuracy")
