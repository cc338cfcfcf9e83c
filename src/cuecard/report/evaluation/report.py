"""The report of an evaluation: one page that needs no network and no scripts, its figures and its tables as files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuecard.evals.analysis import examples
from cuecard.evals.analysis.comparisons import signed
from cuecard.evals.analysis.examples import Example, Request
from cuecard.evals.analysis.ledger import Ledger, Spending
from cuecard.evals.analysis.results import ArmResults, RunResults, TaskResults
from cuecard.evals.analysis.scores import AGGREGATES, POINTS, by_role, counted
from cuecard.evals.database import Store
from cuecard.evals.judging import GradedArm, JudgedArm, ListedReply, judged_run
from cuecard.evals.scorers import EXTRACTORS
from cuecard.report import formatting, html
from cuecard.report.evaluation import sentences
from cuecard.report.evaluation.figures import figures
from cuecard.report.evaluation.sentences import between, share
from cuecard.report.html import Report, Row, Rows, clipped, interval_columns
from cuecard.stats import Interval

MOST_UNPARSED = 40
"""Maximum number of replies of a task that the page lists."""
SPENT = ("prompt", "cached", "computed", "completion", "reasoning", "wasted")


@dataclass(frozen=True)
class Evaluation:
    """What a report shows of a run. `summary`: as in `summary.json`; `most`: questions of a task shown in detail."""

    name: str
    results: RunResults
    summary: Mapping[str, Any]
    known: Mapping[str, Sequence[Example]]
    """All questions, by task."""
    requests: Sequence[Request]
    about: Sequence[tuple[str, str]]
    most: int
    unfinished: str | None = None
    """What is missing from an unfinished run."""
    run: Path | None = None
    """The directory with the results of judges, if there are any."""


def report(shown: Evaluation, store: Store) -> Report:
    """The page, its figures, and its tables as rows."""
    results, tasks = shown.results, shown.summary["tasks"]
    drawings, answers = figures(results, shown.requests), examples.rows(store)
    judging = judged_run(store, [task.task for task in results.tasks], shown.run)
    verdicts = [sentences.verdict(task) for task in results.tasks]
    title, lead = f"Evaluation: {shown.name}", sentences.lead(results)
    page = html.page(
        "evaluation.html",
        html.Heading(title, lead, verdicts, shown.about, shown.unfinished),
        results=results,
        summary=shown.summary,
        requests=shown.requests,
        galleries=examples.galleries(results, shown.known),
        questions={
            task.task: examples.most_telling(shown.known[task.task], [arm.arm for arm in task.plain], shown.most)
            for task in results.tasks
        },
        judging=judging,
        image_of=store.image,
        drawings=drawings,
        sentences=sentences,
        tables=globals(),
        aggregates=AGGREGATES,
        most=MOST_UNPARSED,
        stale=sentences.stale(shown.summary["scorer"]),
    )
    rows: dict[str, Sequence[Row]]
    rows = {name: [row for task in results.tasks for row in rows_of(task)] for name, rows_of in TABLES.items()}
    rows |= {"categories": categories(tasks), "answers": answers}
    rows["unparsed"] = [_listed(each) for each in judging.unparsed]
    if judging.grades:
        rows["graded"] = [_listed(each) for each in judging.grades]
    return Report(page, [each for some in drawings.values() for each in some], rows)


# --- tables as rows of values, for files ------------------------------------------------------------------------------


def _arms(task: TaskResults) -> list[Row]:
    return [
        {
            "task": task.task,
            **_fields(arm, "arm", "family", "answered", "errors", "units"),
            **interval_columns("accuracy", arm.accuracy),
            "unresolved": arm.unresolved,
            "bounds_low": arm.bounds and arm.bounds[0],
            "bounds_high": arm.bounds and arm.bounds[1],
            **interval_columns("generated_tokens", arm.generated),
            "all_tokens": arm.spent,
            **interval_columns("seconds", arm.latency),
            **_fields(arm, "p50_s", "p90_s"),
            "handoff_s": arm.handoff_mean_s,
            "latency": arm.kind and str(arm.kind),
            **_fields(arm, "price", "unparsed", "truncated"),
            "on_front": " ".join(arm.fronts),
        }
        for arm in task.arms.values()
    ]


def _differences(task: TaskResults) -> list[Row]:
    return [
        {
            "task": task.task,
            **_fields(each, "family", "arm", "against", "pairs"),
            **interval_columns("difference", each.interval),
            **_fields(each.accuracy, "better", "worse", "test", "p"),
            **_fields(each, "p_adjusted", "significant"),
            "margin": each.not_worse.margin,
            "not_worse_p": each.not_worse.p,
            "not_worse_shown": each.not_worse.shown,
            "survives_extractors": each.survives,
            **{f"difference_{name}": one.difference for name, one in each.extractors.items()},
            **interval_columns("times_faster", each.times_faster),
            "latency": each.kind and str(each.kind),
            **interval_columns("times_faster_live", each.times_faster_live),
            **interval_columns("generated_tokens", each.tokens),
        }
        for each in task.differences
    ]


def _routes(task: TaskResults) -> list[Row]:
    return [
        {
            "task": task.task,
            "arm": arm.arm,
            **_fields(route, "route", "questions", "share", "accuracy"),
            **{f"generated_{role}": route.tokens.get(role, 0.0) for role in arm.by_role},
            "mean_s": route.mean_s,
            "latency": arm.kind and str(arm.kind),
        }
        for arm in task.arms.values()
        for route in arm.routes
    ]


def _extractors(task: TaskResults) -> list[Row]:
    return [{"task": task.task, "arm": arm.arm, **arm.extractors} for arm in task.arms.values() if arm.extractors]


def _rules(task: TaskResults) -> list[Row]:
    return [
        {
            "task": task.task,
            **_fields(rule, "rule", "questions", "accepted", "wrong", "shared"),
            **interval_columns("false_accepts", rule.false_accepts if rule.accepted else None),
        }
        for rule in task.rules
    ]


def _ledger(task: TaskResults) -> list[Row]:
    return [
        {"task": task.task, "arm": arm.arm, **row}
        for arm in task.arms.values()
        if arm.ledger is not None
        for row in arm.ledger.as_object()["rows"]
    ]


TABLES: Mapping[str, Callable[[TaskResults], list[Row]]] = {
    "arms": _arms,
    "differences": _differences,
    "routes": _routes,
    "extractors": _extractors,
    "acceptance": _rules,
    "ledger": _ledger,
}


def _listed(reply: ListedReply) -> Row:
    judged = reply.judged
    return {
        **_fields(reply, "task", "id", "reply", "truncated"),
        "arms": " ".join(reply.arms),
        "right": " | ".join(reply.golds),
        "judge": judged and f"{judged.judge}@{judged.revision}",
        "judged_answer": judged and judged.answer,
        "judged_score": judged and judged.score,
    }


def _fields(value: Any, *names: str) -> Row:
    return {name: getattr(value, name) for name in names}


def categories(tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per arm and category of every task of `summary.json`."""
    return [
        {
            "task": task,
            "arm": arm,
            "category": name,
            "answered": part["n"],
            "scored": part["scored"],
            "accuracy": part["accuracy"],
            **(
                {"groups": part["circular"]["groups"], "circular": part["circular"]["accuracy"]}
                if part.get("circular")
                else {}
            ),
            **(part.get(of_task["aggregate"]) or {} if of_task["aggregate"] in AGGREGATES else {}),
        }
        for task, of_task in tasks.items()
        for arm, of_arm in of_task["arms"].items()
        for name, part in of_arm["by_category"].items()
    ]


# --- tables of the page: rows of texts by column heads ----------------------------------------------------------------


def results(task: TaskResults) -> Rows:
    """Results of every arm but placebos and arms run end to end."""
    roles = list(dict.fromkeys(role for arm in task.plain for role in arm.by_role))
    failed = any(arm.errors for arm in task.plain)
    return [
        {
            "arm": arm.arm,
            **({"failed": f"{arm.errors:,} of {arm.answered:,}"} if failed else {}),
            "right": sentences.right(arm),
            "95% interval": between(arm.accuracy) if arm.accuracy else "–",
            **_generated(arm.by_role, roles),
            "latency": sentences.seconds(arm.cost("latency")),
            "p90": sentences.seconds(arm.p90_s),
            "on the front of": ", ".join(arm.fronts),
        }
        for arm in task.plain
    ]


def _generated(tokens: Mapping[str, float], roles: Iterable[str]) -> dict[str, str]:
    return {f"tokens, {role}": f"{tokens.get(role, 0):.1f}" for role in roles}


def against(task: TaskResults, margin: float) -> Rows:
    """Every arm against the baseline; `end to end` for arms that were also run so."""
    lost = f"loses < {100 * margin:g} point{'' if margin == 0.01 else 's'}"
    compared = [each for each in task.differences if each.family == "arms"]
    live = any(each.times_faster_live is not None for each in compared)
    return [
        {
            "arm": each.arm,
            "points": signed(100 * each.accuracy.difference.estimate),
            "95% interval": between(each.interval),
            "+/−": f"{each.accuracy.better}/{each.accuracy.worse}",
            "p": f"{each.p_adjusted:.2g}",
            "extractors": "agree" if each.survives else "differ",
            lost: "shown" if each.not_worse.shown else "not shown",
            "speed, 95% interval": _ratio(each.times_faster, ends=True),
            **({"end to end": _ratio(each.times_faster_live)} if live else {}),
        }
        for each in compared
    ]


def _ratio(times: Interval | None, ends: bool = False) -> str:
    if times is None:
        return "–"
    return f"{times.estimate:.2f}×" + (f" ({between(times, 1, '.2f')})" if ends else "")


def routes(arm: ArmResults) -> Rows:
    """Routes of one arm, as table 10 of the paper, with the total below."""
    rows = [
        {
            "route": route.route,
            "questions": f"{route.questions:,}",
            "share": share(route.share),
            "right": share(route.accuracy),
            **_generated(route.tokens, arm.by_role),
            "latency": sentences.seconds(route.mean_s),
        }
        for route in arm.routes
    ]
    total = {"route": "all", "questions": f"{arm.answered:,}", "share": share(1.0), "right": sentences.right(arm)}
    took = sentences.seconds(arm.cost("latency"))
    return [*rows, {**total, **_generated(arm.by_role, arm.by_role), "latency": took}]


def reading(task: TaskResults) -> Rows:
    """Accuracy of the same replies by each extractor, and the share that was not parsed or cut off."""
    return [
        {
            "arm": arm.arm,
            **{name: share(arm.extractors.get(name)) for name in EXTRACTORS},
            "between": f"{100 * (arm.span[1] - arm.span[0]):.1f} points",
            "not parsed": share(arm.unparsed),
            "cut off": share(arm.truncated),
        }
        for arm in task.composed
        if arm.extractors
    ]


def judged(arms: Sequence[JudgedArm]) -> Rows:
    """Accuracy as scored, and, apart from it, with the answers that a judge read in unparsed replies."""
    return [
        {
            "arm": arm.arm,
            "not parsed": f"{arm.unparsed:,} of {arm.scored:,}",
            "judged": f"{arm.judged:,}",
            "right, read": share(arm.read),
            "right, with the judge": share(arm.with_judge) if arm.judged else "–",
        }
        for arm in arms
    ]


def graded(arms: Sequence[GradedArm]) -> Rows:
    """Mean grades of open answers, overall and by category."""
    names = sorted({name for arm in arms for name in arm.by_category})
    return [
        {
            "arm": arm.arm,
            "grade": f"{share(arm.mean.estimate)} ({between(arm.mean)})",
            "graded": f"{arm.graded:,} of {arm.answered:,}",
            "failed": f"{arm.failed:,}",
            **{name: share(arm.by_category.get(name)) for name in names},
        }
        for arm in arms
    ]


def by_hand(replies: Sequence[ListedReply], most: int) -> Rows:
    """The first unparsed replies; of long ones the ends, where answers usually are."""
    heads = any(each.judged for each in replies)
    return [
        {
            "question": each.id,
            "reply": each.reply if len(each.reply) <= 400 else f"…{each.reply[-400:]}",
            "right": " or ".join(each.golds) or "not known",
            "arms": ", ".join(each.arms),
            **({"judged": each.judgement} if heads else {}),
        }
        for each in replies[:most]
    ]


def accepting(task: TaskResults) -> Rows:
    """Accepted and falsely accepted answers of each acceptance rule; rules with the same counts share a row."""
    rules: dict[tuple[str, ...], list[str]] = {}
    for rule in task.rules:
        cells = (
            f"{rule.accepted:,} of {rule.questions:,}",
            f"{rule.wrong:,}",
            share(rule.false_accepts.estimate) if rule.accepted else "–",
            between(rule.false_accepts) if rule.accepted else "–",
            f"{rule.shared:,}",
        )
        rules.setdefault(cells, []).append(rule.rule)
    heads = ("accepted", "wrong", "false accepts", "95% interval", "wrong alike in both")
    return [{"rule": ", ".join(names), **dict(zip(heads, cells, strict=True))} for cells, names in rules.items()]


def live(arms: Mapping[str, Mapping[str, Any]]) -> Rows:
    """Composed against measured latency, for every arm that was also run end to end."""
    return [
        {
            "arm": arm,
            "questions": f"{each['questions']:,}",
            "composed": sentences.seconds(each["composed_mean_s"]),
            "measured": sentences.seconds(each["measured_mean_s"]),
            "ratio": "–" if each["ratio"] is None else f"{each['ratio']:.2f}",
            "same answer": share(each["same_answer"]),
            "same route": share(each["same_route"]),
        }
        for arm, each in arms.items()
    ]


def spending(task: TaskResults) -> Rows:
    """Total cost of every arm on the whole task."""
    books = [(arm, arm.ledger) for arm in task.composed if arm.ledger is not None]
    priced = any(arm.price is not None for arm, _ in books)
    driven = any(ledger.energy_j is not None for _, ledger in books)
    return [
        {
            "arm": arm.arm,
            **_tokens(ledger.total),
            "models' seconds": f"{ledger.total.seconds:,.1f}",
            "askers' seconds": f"{ledger.latency_s:,.1f}",
            **({"price": "–" if ledger.price is None else f"{ledger.price:.4g}"} if priced else {}),
            **({"joules, estimated": "–" if ledger.energy_j is None else f"{ledger.energy_j:,.1f}"} if driven else {}),
        }
        for arm, ledger in books
    ]


def _tokens(spent: Spending) -> dict[str, str]:
    return {"calls": f"{spent.calls:,}", **{name: f"{getattr(spent, f'{name}_tokens'):,}" for name in SPENT}}


def booked(ledger: Ledger) -> Rows:
    """One arm's ledger by route, model, mode and stage."""
    keys = [((row.route, row.model, row.mode, row.stage), row.spent) for row in ledger.rows]
    return [
        {
            **dict(zip(("route", "model", "mode", "stage"), key, strict=True)),
            **_tokens(spent),
            "seconds": f"{spent.seconds:,.2f}",
        }
        for key, spent in [*keys, (("all", "", "", ""), ledger.total)]
    ]


# --- one question -----------------------------------------------------------------------------------------------------


def scored(example: Example, task: TaskResults) -> tuple[int, int, str]:
    """Numbers of arms that are right and wrong on a question, without placebos, and values for the filter."""
    arms = [arm.arm for arm in task.plain if arm.arm in example.answers]
    wrong = [example.wrong(arm) for arm in arms]
    kinds = ["differs"] * (len({example.answers[arm]["score"] for arm in arms}) > 1) + ["wrong"] * any(wrong)
    return wrong.count(False), wrong.count(True), " ".join(kinds)


def answers(example: Example, task: TaskResults) -> Rows:
    """The answer of each arm."""
    rows = []
    for given in (example.answers[arm.arm] for arm in task.composed if arm.arm in example.answers):
        took, tokens = given["latency"]["total_s"], by_role([given]) if counted([given]) else {}
        row = {
            "arm": given["arm"],
            "answer": "–" if given["answer"] is None else clipped(given["answer"], 80),
            "score": "–" if given["score"] is None else f"{given['score']:g}",
            "route": given["route"] or "error",
            "latency": "–" if took is None else f"{formatting.duration(took)} {given['latency']['kind']}",
            "tokens": ", ".join(f"{role} {count:.0f}" for role, count in tokens.items()),
        }
        rows.append(row)
    return rows


# --- by category ------------------------------------------------------------------------------------------------------


def accuracies(arms: Mapping[str, Mapping[str, Any]]) -> Rows:
    """Accuracy by arm and category, with the number of questions; under circular evaluation by groups of rotations.

    `arms`: as in `summary.json`. The number of a category is that of the arm with the most answers.
    """
    counts: dict[str, int] = {}
    for name, part in (item for arm in arms.values() for item in arm["by_category"].items()):
        counts[name] = max(counts.get(name, 0), part["n"])
    if len(counts) < 2:
        return []
    return [
        {
            "arm": name,
            **{f"{each} ({count:,})": _accuracy(arm["by_category"].get(each)) for each, count in counts.items()},
            "all": _accuracy(arm),
        }
        for name, arm in arms.items()
    ]


def _accuracy(part: Mapping[str, Any] | None) -> str:
    return share(None if part is None else (part.get("circular") or part)["accuracy"])


def benchmark_figures(aggregate: str, arms: Mapping[str, Mapping[str, Any]]) -> Rows:
    """Figures that a benchmark's authors report, for every arm: over all questions, and by category if available."""
    rule = AGGREGATES.get(aggregate)
    if rule is None:
        return []
    return [
        {
            "arm": name,
            **({"questions": part_name, "n": f"{part['scored']:,}"} if rule.by_category else {}),
            **{each.replace("_", " "): _figure(each, (part[aggregate] or {}).get(each)) for each in rule.figures},
        }
        for name, arm in arms.items()
        if aggregate in arm
        for part_name, part in (("all", arm), *(arm["by_category"].items() if rule.by_category else ()))
    ]


def _figure(name: str, value: float | None) -> str:
    return share(value) if value is None or name not in POINTS else f"{value:,.1f}"
