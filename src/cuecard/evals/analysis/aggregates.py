"""The figures that benchmarks' authors report besides the mean: over pairs, sets, sources and subjects.

Shares from 0 to 1, except MME's points. None if the denominator is 0.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from cuecard.evals.analysis.units import Pope, pope
from cuecard.evals.database import Record
from cuecard.evals.scorers import item_of, read
from cuecard.stats.inference import mean

Figures = dict[str, float | None]


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
    answers = (
        (read(each.reply or "", item_of(each.item)), str(each.item["golds"][0]).strip().lower()) for each in answered
    )
    return asdict(pope(answers))


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
    """How figures are computed, their names, and the caption of a table of them."""

    compute: Callable[[Sequence[ScoredReply]], Figures]
    figures: tuple[str, ...]
    about: str
    by_category: bool = False
    """Whether the figures are also reported for every category."""


AGGREGATES: dict[str, AggregateRule] = {
    "pope": AggregateRule(
        _pope,
        tuple(field.name for field in fields(Pope)),
        "POPE's five figures, yes being positive; an answer that cannot be parsed says neither.",
        by_category=True,
    ),
    "mme": AggregateRule(
        mme,
        ("accuracy_plus", *POINTS),
        "MME's figures: accuracy+ is of images whose two questions are both right; points are 200 a task at most.",
        by_category=True,
    ),
    "hallusion": AggregateRule(
        hallusion,
        ("aAcc", "fAcc", "qAcc"),
        "HallusionBench's figures: right answers; figures, and questions of a set, that are wholly right.",
        by_category=True,
    ),
    "blink": AggregateRule(blink, ("mean_of_tasks",), "BLINK's score, the mean of its tasks' accuracies."),
    "cv-bench": AggregateRule(
        cv_bench, ("two_d", "three_d", "mean"), "CV-Bench's score: the mean of two sources in 2D, and of 2D and 3D."
    ),
    "mmmu": AggregateRule(_means(MMMU, of_parts=False), tuple(MMMU), "Accuracy in MMMU's six disciplines."),
    "ocrbench": AggregateRule(_means(OCRBENCH, of_parts=False), tuple(OCRBENCH), "Accuracy in OCRBench's five tasks."),
    "vmcbench": AggregateRule(
        _means(VMCBENCH, of_parts=True), tuple(VMCBENCH), "VMCBench's groups, each the mean of its sets' accuracies."
    ),
}
"""Figures besides the mean, by the aggregate's name. `circular`, which changes the unit of scoring, is in `units`."""
