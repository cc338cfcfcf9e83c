"""The tables of an evaluation as the page shows them: rows of texts by column heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cuecard.evals.analysis.examples import Example
from cuecard.evals.analysis.ledger import Ledger, Spending
from cuecard.evals.analysis.results import ArmResults, TaskResults
from cuecard.evals.analysis.scores import AGGREGATES, POINTS
from cuecard.evals.judging import GradedArm, JudgedArm, ListedReply
from cuecard.evals.scorers import EXTRACTORS
from cuecard.report import formatting
from cuecard.report.evaluation import sentences
from cuecard.report.evaluation.sentences import between, share
from cuecard.report.html import Rows, clipped
from cuecard.stats import Interval

SPENT = ("prompt", "cached", "computed", "completion", "reasoning", "wasted")


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
            "points": sentences.signed(100 * each.accuracy.difference.estimate),
            "95% interval": between(each.interval),
            "+/−": f"{each.accuracy.better}/{each.accuracy.worse}",
            "p": f"{each.p_adjusted:.2g}",
            "extractors": "agree" if each.survives else "differ",
            lost: "shown" if each.not_worse.shown else "not shown",
            "speed, 95% interval": _speed(each.times_faster),
            **({"end to end": _ratio(each.times_faster_live)} if live else {}),
        }
        for each in compared
    ]


def _speed(times: Interval | None) -> str:
    return _ratio(times) if times is None else f"{_ratio(times)} ({between(times, 1, '.2f')})"


def _ratio(times: Interval | None) -> str:
    return "–" if times is None else f"{times.estimate:.2f}×"


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
            **({"judged": _judgement(each)} if heads else {}),
        }
        for each in replies[:most]
    ]


def _judgement(reply: ListedReply) -> str:
    if reply.judged is None:
        return "not judged"
    return "no answer" if reply.judged.answer is None else f"{reply.judged.answer} ({reply.judged.score:g})"


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
            **({"joules, estimated": _joules(ledger)} if driven else {}),
        }
        for arm, ledger in books
    ]


def _tokens(spent: Spending) -> dict[str, str]:
    return {"calls": f"{spent.calls:,}", **{name: f"{getattr(spent, f'{name}_tokens'):,}" for name in SPENT}}


def _joules(ledger: Ledger) -> str:
    return "–" if ledger.energy_j is None else f"{ledger.energy_j:,.1f}"


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


@dataclass(frozen=True)
class Scored:
    """Numbers of arms that are right and wrong on a question, without placebos. `kinds`: filter values."""

    right: int
    wrong: int
    kinds: str


def scored(example: Example, task: TaskResults) -> Scored:
    arms = [arm.arm for arm in task.plain if arm.arm in example.answers]
    wrong = [example.wrong(arm) for arm in arms]
    kinds = ["differs"] * (len({example.answers[arm].score for arm in arms}) > 1) + ["wrong"] * any(wrong)
    return Scored(wrong.count(False), wrong.count(True), " ".join(kinds))


def answers(example: Example, task: TaskResults) -> Rows:
    """The answer of each arm."""
    return [
        {
            "arm": given.arm,
            "answer": "–" if given.answer is None else clipped(given.answer, 80),
            "score": "–" if given.score is None else f"{given.score:g}",
            "route": given.route or "error",
            "latency": "–" if given.total_s is None else f"{formatting.duration(given.total_s)} {given.kind}",
            "tokens": ", ".join(f"{role} {count}" for role, count in given.tokens.items()),
        }
        for arm in task.composed
        if (given := example.answers.get(arm.arm)) is not None
    ]


# --- by category ------------------------------------------------------------------------------------------------------


def accuracies(task: Mapping[str, Any], arms: Sequence[str]) -> Rows:
    """Accuracy by arm and category, with the number of questions; under circular evaluation by groups of rotations."""
    counts = _counts(task, arms)
    if len(counts) < 2:
        return []
    return [
        {
            "arm": arm,
            **{
                f"{name} ({count:,})": share(_accuracy(of_arm["by_category"].get(name)))
                for name, count in counts.items()
            },
            "all": share(_accuracy(of_arm)),
        }
        for arm, of_arm in _of(task, arms)
    ]


def figures(task: Mapping[str, Any], arms: Sequence[str]) -> Rows:
    """Figures that a benchmark's authors report, for every arm: over all questions, and by category if available."""
    name = task["aggregate"]
    rule = AGGREGATES.get(name)
    if rule is None:
        return []
    return [
        {
            "arm": arm,
            **({"questions": part_name, "n": f"{part['scored']:,}"} if rule.by_category else {}),
            **{each.replace("_", " "): _figure(each, (part[name] or {}).get(each)) for each in rule.figures},
        }
        for arm, of_arm in _of(task, arms)
        if name in of_arm
        for part_name, part in (("all", of_arm), *(of_arm["by_category"].items() if rule.by_category else ()))
    ]


def about_figures(task: Mapping[str, Any]) -> str:
    """Describe those figures; empty for a task without."""
    rule = AGGREGATES.get(task["aggregate"])
    return rule.about if rule else ""


def figures_by_category(task: Mapping[str, Any]) -> bool:
    """Whether those figures cover every category, so that a table of accuracies is not needed."""
    rule = AGGREGATES.get(task["aggregate"])
    return rule is not None and rule.by_category


def _figure(name: str, value: float | None) -> str:
    return share(value) if value is None or name not in POINTS else f"{value:,.1f}"


def _of(task: Mapping[str, Any], arms: Sequence[str]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(arm, task["arms"][arm]) for arm in arms if arm in task["arms"]]


def _counts(task: Mapping[str, Any], arms: Sequence[str]) -> dict[str, int]:
    """Answers to the questions of each category, of the arm with the most answers."""
    counts: dict[str, int] = {}
    for _, of_arm in _of(task, arms):
        for name, part in of_arm["by_category"].items():
            counts[name] = max(counts.get(name, 0), part["n"])
    return counts


def _accuracy(part: Mapping[str, Any] | None) -> float | None:
    if part is None:
        return None
    value: float | None = part["circular"]["accuracy"] if part.get("circular") else part["accuracy"]
    return value
