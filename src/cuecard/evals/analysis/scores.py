"""Scores of a task: units of scoring, and the figures that the authors of benchmarks report besides the mean.

A unit is a question, or all rotations of one question; units belong to clusters of correlated errors.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

from cuecard.domain.errors import BadInput
from cuecard.evals.analysis.ledger import LOST, LedgerError, name_of
from cuecard.evals.arm import FILE, LIVE, Arm, parse
from cuecard.evals.database import Record, Store
from cuecard.evals.scorers import item_of, read
from cuecard.stats import mean, share
from cuecard.strategies.policy import Policy

PAPER = ("transfer", "mutual")
ALONE = ("short", "reason")
Point = tuple[float, float]
"""(cost, score)"""


@dataclass(frozen=True)
class ScoredTask:
    """A task of a run: its items by id, and its answers by arm. `aggregate`: as in `item.Task`."""

    name: str
    aggregate: str
    items: Mapping[str, Record]
    answers: Mapping[str, Sequence[Record]]
    unresolved: Mapping[str, Mapping[str, str]]
    """By arm, the questions without an answer because the imported files lack a call, each with what is missing."""

    @property
    def all_answers(self) -> Iterator[Record]:
        """The answers of all arms."""
        return chain.from_iterable(self.answers.values())

    @cached_property
    def comparable(self) -> Mapping[str, Sequence[Record]]:
        """The answers of arms without unresolved questions: those that such an arm answered are easier."""
        return {arm: own for arm, own in self.answers.items() if not self.unresolved[arm]}

    def unit(self, id: str) -> str:
        """The unit of a question: with circular evaluation its group of rotations, else the question's id."""
        group = self.items[id].get("group") if self.aggregate == "circular" else None
        return f"group {group}" if group else id

    def graded(self, answers: Iterable[Record], extractor: str | None = None) -> dict[str, float]:
        """The score of each unit by an extractor, by default `ours`; answers without a score are left out."""
        scores: dict[str, float] = {}
        for answer in answers:
            score = answer["score"] if extractor is None else answer["scores"].get(extractor)
            if score is None:
                continue
            unit = self.unit(answer["id"])
            if unit == answer["id"]:
                scores[unit] = float(score)
            else:  # right only if all rotations are right: CircularEval of Liu et al., "MMBench", 2024
                scores[unit] = min(scores.get(unit, 1.0), float(score >= 1))
        return scores

    def graded_both(
        self, ones: Iterable[Record], others: Iterable[Record], extractor: str | None = None
    ) -> tuple[list[str], list[float], list[float]]:
        """The units with a score on both sides, and the scores of each side, as `graded`."""
        one, other = self.graded(ones, extractor), self.graded(others, extractor)
        units = [unit for unit in one if unit in other]
        return units, [one[unit] for unit in units], [other[unit] for unit in units]

    @cached_property
    def _clusters(self) -> Mapping[str, str]:
        known: dict[str, str] = {}
        for id, item in self.items.items():
            known.setdefault(self.unit(id), item["cluster"])
        return known

    def clusters(self, units: Iterable[str]) -> list[str]:
        """The cluster of each unit: errors within a cluster are correlated."""
        return [self._clusters[unit] for unit in units]

    def clusters_of(self, answers: Iterable[Record]) -> list[str]:
        """The cluster of each answer's question."""
        return [self.items[answer["id"]]["cluster"] for answer in answers]


def succeeded(answers: Iterable[Record]) -> list[Record]:
    """The answers that did not fail: failed answers are in every sum, but in no mean."""
    return [answer for answer in answers if answer["status"] != "error"]


def timed(answers: Iterable[Record]) -> bool:
    """Whether the seconds of all answers are known; other tools' files do not have them."""
    return all(answer["latency"]["total_s"] is not None for answer in answers)


def counted(answers: Iterable[Record]) -> bool:
    """Whether every call that was not cancelled and did not fail has a count of generated tokens."""
    calls = (call for answer in answers for call in answer["calls"] if call["finish_reason"] not in LOST)
    return all(call["completion_tokens"] is not None for call in calls)


def generated(answer: Record) -> int:
    """Generated tokens over all models, including cancelled and failed calls."""
    return sum(call["completion_tokens"] or 0 for call in answer["calls"])


def spent(answer: Record) -> int:
    """Prompt and generated tokens over all models, including cached prompt tokens."""
    return generated(answer) + sum(call["prompt_tokens"] or 0 for call in answer["calls"])


def by_role(answers: Sequence[Record]) -> dict[str, float]:
    """Generated tokens per question, by role: small first, large last."""
    sums = Counter[str]()
    for call in (call for answer in answers for call in answer["calls"]):
        sums[call["role"]] += call["completion_tokens"] or 0
    order = sorted(sums, key=lambda role: (role == "large", role != "small", role))
    return {role: sums[role] / len(answers) for role in order}


def family(arm: Arm) -> str:
    """The group of an arm in reports: `small`, `large` (one model alone), `paper`, `baseline` or `placebo`."""
    strategy, _, role = arm.strategy.partition(":")
    if arm.placebo is not None:
        return "placebo"
    if strategy in PAPER:
        return "paper"
    return (role or "large") if strategy in ALONE else "baseline"


def arm_named(arms: Mapping[str, Arm], wanted: str, base: Policy | None = None) -> str:
    """The run's name of an arm (`reason` may be `reason:large` there). Raises BadInput if the run has no such arm."""
    if wanted in arms:
        return wanted
    if wanted.startswith(FILE) and len(same := [name for name in arms if name.rpartition("@")[0] == wanted]) == 1:
        return same[0]
    arm = parse(wanted, base)
    alike = [name for name, each in arms.items() if same_arm(each, arm)]
    if not alike:
        raise BadInput(f"the run has no arm {wanted!r}", f"there are: {', '.join(arms) or 'none'}")
    return alike[0]


def original_arm(arms: Mapping[str, Arm], placebo: str) -> str | None:
    """The name of the same arm without the placebo; None if the run does not have it."""
    name = "/".join(part for part in placebo.split("/") if not part.startswith("placebo="))
    return name if name in arms else _without_placebo(arms, arms[placebo])


def uncut_arm(arms: Mapping[str, Arm], cut: str) -> str | None:
    """The name of the same arm with uncut cards; None if the run does not have it."""
    return _without_placebo(arms, replace(arms[cut], policy=replace(arms[cut].policy, cut=None)))


def _without_placebo(arms: Mapping[str, Arm], own: Arm) -> str | None:
    composed = {name: arm for name, arm in arms.items() if arm.placebo is None and not name.endswith(LIVE)}
    return next((name for name, arm in composed.items() if same_arm(arm, own)), None)


def same_arm(one: Arm, other: Arm) -> bool:
    """Whether two arms are the same except for placebos."""
    return (one.strategy, one.policy, one.equal) == (other.strategy, other.policy, other.equal)


def by_arm(answers: Iterable[Record], task: str) -> dict[str, list[Record]]:
    """The answers to one task by arm, in their given order."""
    found: dict[str, list[Record]] = {}
    for answer in answers:
        if answer["task"] == task:
            found.setdefault(answer["arm"], []).append(answer)
    return found


def scored_tasks(config: Mapping[str, Any], store: Store) -> list[ScoredTask]:
    """The tasks of a run. Raises LedgerError for an answer without item."""
    notes, items = store.notes(), dict[str, dict[str, Record]]()
    answers = dict[str, dict[str, list[Record]]]()
    for item in store.items():
        items.setdefault(item["task"], {})[item["id"]] = item
    for answer in store.answers():
        if answer["id"] not in items.get(answer["task"], {}):
            raise LedgerError(f"{name_of(answer)} answers an item that the run does not have")
        answers.setdefault(answer["task"], {}).setdefault(answer["arm"], []).append(answer)
    found = []
    for name, aggregate in ((task["name"], task["aggregate"]) for task in config["tasks"]):
        own = answers.get(name, {})
        unresolved = {arm: notes.get(f"unresolved {name} {arm}") or {} for arm in (*config["arms"], *own)}
        found.append(ScoredTask(name, aggregate, items.get(name, {}), own, unresolved))
    return found


def beats(one: Point, other: Point) -> bool:
    """Whether (cost, score) is at least as good in both as another, and better in one of the two."""
    return one[0] <= other[0] and one[1] >= other[1] and one != other


def plain(value: Any) -> Any:
    """The value with None for floats that are not finite (such as a ratio to 0 s), which JSON does not allow."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- figures from scores ----------------------------------------------------------------------------------------------


Figures = dict[str, float | None]


def pope(answered: Iterable[tuple[str | None, str]]) -> Figures:
    """(answer, gold) of every question -> the figures of Li et al., "Evaluating object hallucination", 2023.

    Yes is the positive class; `yes_ratio` is its share among all answers, and half of the golds are yes. A figure is
    None if its denominator is 0. An answer that cannot be parsed (None) is wrong, and is neither yes nor no. POPE's own
    script counts every reply without "no" or "not" as yes.
    """
    pairs = list(answered)
    answered_yes = sum(answer == "yes" for answer, _ in pairs)
    gold_yes = sum(gold == "yes" for _, gold in pairs)
    hits = sum(answer == gold == "yes" for answer, gold in pairs)
    precision, recall = share(hits, answered_yes), share(hits, gold_yes)
    both = (precision or 0.0) + (recall or 0.0)
    return {
        "accuracy": share(sum(answer == gold for answer, gold in pairs), len(pairs)),
        "precision": precision,
        "recall": recall,
        "f1": None if precision is None or recall is None else 2 * precision * recall / both if both else 0.0,
        "yes_ratio": share(answered_yes, len(pairs)),
    }


def sensitivity(scored: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    """How much scores depend on the extractor, over replies that all extractors scored; {} if there are none.

    The mean score by each extractor, and the lowest and highest of these means.
    """
    known = [each for each in scored if each and None not in each.values()]
    if not known:
        return {}
    means = {name: sum(each[name] or 0.0 for each in known) / len(known) for name in known[0]}
    return {"by_extractor": means, "low": min(means.values()), "high": max(means.values())}


# --- figures of benchmarks --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoredReply:
    """A stored item, a reply to it, and the reply's score."""

    item: Record
    reply: str | None
    score: float

    def extra(self, name: str) -> Any:
        """The value under this name in the item's `extra`; None if missing."""
        return json.loads(self.item["extra"] or "{}").get(name)


# --- pairs and sets ---------------------------------------------------------------------------------------------------

MME = {
    "perception": "existence, count, position, color, posters, celebrity, scene, landmark, artwork, OCR",
    "cognition": "commonsense_reasoning, numerical_calculation, text_translation, code_reasoning",
}
POINTS = ("perception", "cognition", "total")
"""MME's figures that are points: at most 200 for each of its fourteen tasks."""


def mme(answered: Sequence[ScoredReply]) -> Figures:
    """accuracy+: share of images with both questions right; points of a task: 100 · (accuracy + accuracy+).

    Fu et al., "MME", 2023, 2.3, and `calculation.py`. Points are summed over ten tasks of perception and four of
    cognition. Images with only one answered question are left out; the original script refuses them.
    """
    images = defaultdict[tuple[str, str], list[float]](list)
    for each in answered:
        images[each.item["category"], each.item["group"]].append(each.score)
    pairs = {key: scores for key, scores in images.items() if len(scores) == 2}
    tasks = defaultdict[str, list[list[float]]](list)
    for (task, _), scores in pairs.items():
        tasks[task].append(scores)
    points = {name: 100 * _mean([sum(each) / 2 + (min(each) >= 1) for each in of]) for name, of in tasks.items()}
    own = {name: [points[task] for task in known.split(", ") if task in points] for name, known in MME.items()}
    return {
        "accuracy_plus": mean(float(min(scores) >= 1) for scores in pairs.values()),
        **{name: sum(each) if each else None for name, each in own.items()},
        "total": sum(points.values()) if points else None,
    }


def hallusion(answered: Sequence[ScoredReply]) -> Figures:
    """Shares: right answers (aAcc), figures with all questions right (fAcc), questions right for all figures (qAcc).

    Guan et al., "HallusionBench", 2024, 3.4, and its `utils.py`, which leaves questions without a figure out of fAcc.
    """

    def wholly(part: str) -> float | None:
        right = defaultdict[str, list[float]](list)
        for each in answered:
            if (name := each.extra(part)) is not None:
                right[name].append(each.score)
        return mean(float(min(scores) >= 1) for scores in right.values())

    return {"aAcc": mean(each.score for each in answered), "fAcc": wholly("figure"), "qAcc": wholly("question")}


def _pope(answered: Sequence[ScoredReply]) -> Figures:
    golds = (str(each.item["golds"][0]).strip().lower() for each in answered)
    return pope(zip((read(each.reply or "", item_of(each.item)) for each in answered), golds, strict=True))


# --- means of means ---------------------------------------------------------------------------------------------------


def blink(answered: Sequence[ScoredReply]) -> Figures:
    """The mean of the accuracies of its tasks: `eval/evaluate.py` of Fu et al., "BLINK", 2024."""
    return {"mean_of_tasks": mean(map(_mean, _by(answered).values()))}


def cv_bench(answered: Sequence[ScoredReply]) -> Figures:
    """((accuracy on ADE20K + on COCO) / 2 + accuracy on Omni3D) / 2: Tong et al., "Cambrian-1", 2024, appendix C."""
    of = {source: _mean(scores) for source, scores in _by(answered, "source").items()}
    flat = mean(of[source] for source in ("ADE20K", "COCO") if source in of)
    deep = of.get("Omni3D")
    return {"two_d": flat, "three_d": deep, "mean": None if flat is None or deep is None else (flat + deep) / 2}


def _means(parts: Mapping[str, str], *, of_parts: bool) -> Callable[[Sequence[ScoredReply]], Figures]:
    """Each figure is the mean over its categories: of their accuracies (`of_parts`), or of all their questions."""

    def compute(answered: Sequence[ScoredReply]) -> Figures:
        by = _by(answered)
        own = {name: [by[each] for each in members.split(", ") if each in by] for name, members in parts.items()}
        if of_parts:
            return {name: mean(map(_mean, scores)) for name, scores in own.items()}
        return {name: mean(score for each in scores for score in each) for name, scores in own.items()}

    return compute


def _by(answered: Sequence[ScoredReply], extra: str | None = None) -> Mapping[str, list[float]]:
    """Scores by category, or by a value in the items' `extra`."""
    scores = defaultdict[str, list[float]](list)
    for each in answered:
        scores[str(each.extra(extra) if extra else each.item["category"])].append(each.score)
    return scores


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


MMMU = {
    "art_and_design": "Art, Art_Theory, Design, Music",
    "business": "Accounting, Economics, Finance, Manage, Marketing",
    "science": "Biology, Chemistry, Geography, Math, Physics",
    "health_and_medicine": "Basic_Medical_Science, Clinical_Medicine, Diagnostics_and_Laboratory_Medicine, Pharmacy, "
    "Public_Health",
    "humanities": "History, Literature, Sociology, Psychology",
    "tech_and_engineering": "Agriculture, Architecture_and_Engineering, Computer_Science, Electronics, "
    "Energy_and_Power, Materials, Mechanical_Engineering",
}
"""The six disciplines of Yue et al., "MMMU", 2024, and the subjects of each: `eval/main_eval_only.py`."""
OCRBENCH = {
    "text_recognition": "Regular Text Recognition, Irregular Text Recognition, Artistic Text Recognition, "
    "Handwriting Recognition, Digit String Recognition, Non-Semantic Text Recognition",
    "scene_vqa": "Scene Text-centric VQA",
    "document_vqa": "Doc-oriented VQA",
    "key_information": "Key Information Extraction",
    "handwritten_maths": "Handwritten Mathematical Expression Recognition",
}
"""The five tasks of Liu et al., "OCRBench", 2024: `example.py` of their repository."""
VMCBENCH = {
    "general": "SEEDBench, MMStar, A-OKVQA, VizWiz, MMVet, VQAv2, OKVQA",
    "reasoning": "MMMU, MathVista, ScienceQA, RealWorldQA, GQA, MathVision",
    "ocr": "TextVQA, OCRVQA",
    "documents": "AI2D, ChartQA, DocVQA, InfoVQA, TableVQABench",
}
"""The four groups of data sets of Zhang et al., 2025, each the mean over its sets: VLMEvalKit's `report_vmc_acc`."""


@dataclass(frozen=True)
class AggregateRule:
    """How figures are computed, and the caption of a table of them."""

    compute: Callable[[Sequence[ScoredReply]], Figures]
    about: str
    by_category: bool = False
    """Whether the figures are also reported for every category."""

    @property
    def figures(self) -> tuple[str, ...]:
        """The names of the figures."""
        return tuple(self.compute(()))


AGGREGATES: dict[str, AggregateRule] = {
    "pope": AggregateRule(
        _pope,
        "POPE's five figures, yes being positive; an answer that cannot be parsed says neither.",
        by_category=True,
    ),
    "mme": AggregateRule(
        mme,
        "MME's figures: accuracy+ is of images whose two questions are both right; points are 200 a task at most.",
        by_category=True,
    ),
    "hallusion": AggregateRule(
        hallusion,
        "HallusionBench's figures: right answers; figures, and questions of a set, that are wholly right.",
        by_category=True,
    ),
    "blink": AggregateRule(blink, "BLINK's score, the mean of its tasks' accuracies."),
    "cv-bench": AggregateRule(cv_bench, "CV-Bench's score: the mean of two sources in 2D, and of 2D and 3D."),
    "mmmu": AggregateRule(_means(MMMU, of_parts=False), "Accuracy in MMMU's six disciplines."),
    "ocrbench": AggregateRule(_means(OCRBENCH, of_parts=False), "Accuracy in OCRBench's five tasks."),
    "vmcbench": AggregateRule(
        _means(VMCBENCH, of_parts=True), "VMCBench's groups, each the mean of its sets' accuracies."
    ),
}
"""Figures besides the mean, by the aggregate's name. `circular` changes the unit of scoring instead."""
