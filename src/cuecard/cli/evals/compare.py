"""`cuecard compare`: two runs, paired on the questions that both have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from cuecard.evals.analysis.compare_runs import ArmComparison, RunComparison, compare_runs
from cuecard.evals.study import folder
from cuecard.stats.bootstrap import Interval

MOST_NAMED = 8


def compare(
    first: Annotated[Path, typer.Argument(help="The directory of a run.")],
    second: Annotated[Path, typer.Argument(help="The directory of another, whose gain over the first is shown.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Two runs, arm by arm: paired differences with intervals and tests, and what differs between the runs."""
    about, store = folder.opened(first)
    try:
        other, another = folder.opened(second)
        try:
            compared = compare_runs((about["config"], store), (other["config"], another))
        finally:
            another.close()
    finally:
        store.close()
    if as_json:
        typer.echo(json.dumps(compared.as_object(), indent=2, ensure_ascii=False))
    else:
        _show(compared, first, second)


def _show(compared: RunComparison, first: Path, second: Path) -> None:
    console = Console(highlight=False)
    for task in dict.fromkeys(each.task for each in compared.arms):
        arms = [each for each in compared.arms if each.task == task]
        counts = sorted({each.questions for each in arms})
        asked = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        kinds = " and ".join(dict.fromkeys(kind or "not known" for each in arms for kind in each.kinds))
        console.print(Text(f"\n{task}, {asked} questions: {second} less {first}", style="bold"))
        console.print(_accuracies(arms))
        console.print(_costs(arms, kinds))
        for each in (each for each in arms if any(each.unresolved)):
            unknown = " and ".join(map(str, each.unresolved))
            console.print(
                Text(f"{each.arm}: {unknown} questions cannot be resolved; compared are the others, the easy ones")
            )
    console.print("p: two-sided, adjusted by Holm's method over all arms and tasks; intervals are 95%", style="dim")
    for what, names in (("first", compared.only_first), ("second", compared.only_second)):
        if names:
            console.print(Text(f"only in the {what}: {_some(names)}", style="dim"))
    for task, count in compared.left_out.items():
        console.print(Text(f"{task}: {count} questions are not the same in both runs, and are left out"))
    if compared.configuration:
        console.print(Text(f"\nconfiguration (there: {first}, here: {second})", style="bold"))
        for line in compared.configuration:
            console.print(Text(f"  {line}"))
    else:
        console.print(Text("the configurations are the same", style="dim"))


def _accuracies(arms: list[ArmComparison]) -> Table:
    heads = ("first, %", "second", "points", "95%", "+/−", "p", "same")
    shown = Table(Column("arm", overflow="fold"), *heads, box=None)
    for each in arms:
        made = each.accuracy
        cells = ["–"] * 5
        if made is not None:
            cells = [
                _percent(each.first_accuracy),
                _percent(each.second_accuracy),
                f"{100 * made.difference.estimate:+.1f}",
                _between(made.difference, 100, ".1f"),
                f"{made.better}/{made.worse}",
            ]
        shown.add_row(Text(each.arm), *cells, _p(each, "accuracy"), f"{100 * each.same_answer:.0f}%")
    return shown


def _costs(arms: list[ArmComparison], kinds: str) -> Table:
    heads = ("first, s", "second", "speed", "95%", "p", "tokens", "p")
    shown = Table(Column("arm", overflow="fold"), *heads, box=None, caption=f"seconds are {kinds}")
    for each in arms:
        shown.add_row(
            Text(each.arm),
            *_seconds(each),
            _p(each, "seconds"),
            "–" if each.tokens is None else f"{each.tokens.difference.estimate:+.1f}",
            _p(each, "tokens"),
        )
    return shown


def _seconds(each: ArmComparison) -> list[str]:
    if each.seconds is None or each.times_faster is None:
        return ["–"] * 4
    return [
        f"{each.seconds.first:.3f}",
        f"{each.seconds.second:.3f}",
        f"{each.times_faster.estimate:.2f}×",
        _between(each.times_faster, 1, ".2f"),
    ]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _between(interval: Interval, scale: float, form: str) -> str:
    if interval.low is None or interval.high is None:
        return "–"
    return f"{scale * interval.low:{form}} to {scale * interval.high:{form}}"


def _p(each: ArmComparison, what: str) -> str:
    p = each.p_adjusted.get(what)
    return "–" if p is None else f"{p:.2g}"


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
