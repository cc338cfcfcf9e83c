"""Shortened cards, read by the model that wrote them:  python studies/attention/kept.py --help

RUN is a run of `cuecard attention` on that task. Appends each question to `kept.jsonl` there (the same command
resumes), then writes tables and a figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ablation
import ablation_figures
import numpy as np
import torch

from cuecard.answers import extract
from cuecard.attention import store
from cuecard.attention.api import Asked
from cuecard.attention.results import REASONING, Band, band
from cuecard.attention.store import LARGE_OWN, QUERIES
from cuecard.cli.evals.tasks import open_named
from cuecard.domain.question import AnswerKind, Question
from cuecard.evals.runner import chosen
from cuecard.models import spec
from cuecard.models.base import Limits
from cuecard.report.html import write_csv
from cuecard.stats import holm, wilson_bounds


def asked(task: str, limit: int | None) -> Iterator[Asked]:
    for item in chosen(open_named(task), limit, None):
        right = lambda answer, item=item: float(_is(answer, item.golds[0]))  # noqa: E731
        yield Asked(item.id, item.question, item.cluster, item.category, "; ".join(item.golds), right)


def _is(answer: str, gold: str) -> bool:
    """Whether an answer is this number in any notation: the verifiers of reasoning-gym do not accept `65,600`."""
    return _number(answer) is not None and _number(answer) == _number(gold)


def _number(text: str) -> str | None:
    return extract(text, Question("How many?", kind=AnswerKind.NUMBER)).value


def _looked(run: Path) -> list[store.Record]:
    return [record for _, record in store.records(run) if "right" in record.conditions.get(LARGE_OWN, {})]


async def work(args: argparse.Namespace) -> None:
    model = spec.load({"model": args.model, **({"prefill": True} if "://" in args.model else {})})
    try:
        await ablation.run_cuts(
            asked(args.task, args.limit),
            model,
            args.run,
            args.run / "kept.jsonl",
            Limits(timeout_s=None),
            args.shares,
            args.at_once,
            print,
        )
    finally:
        await model.aclose()


def adjusted(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `ablation.cut_differences` with Holm's p over all of them."""
    p = holm({f"{row['card']}|{row['against']}": row["p"] for row in rows})
    return [{**row, "p (Holm)": round(p[f"{row['card']}|{row['against']}"], 4)} for row in rows]


def places(run: Path) -> Iterator[dict[str, Any]]:
    """A row per part of a card: how many cards state their own answer there (see `ablation.ends`)."""
    own = [record.conditions[LARGE_OWN] for record in _looked(run)]
    found = [ablation.ends("".join(each["pieces"]), str(_number(each["answer"]))) for each in own]
    for name in found[0]:
        count = sum(each[name] for each in found)
        low, high = wilson_bounds(count, len(found))
        row = {"part": name, "cards": len(found), "say the answer": count}
        yield {**row, "share": round(count / len(found), 4), "low": round(low, 4), "high": round(high, 4)}


def by_answer(run: Path) -> Iterator[dict[str, Any]]:
    """Reasoning tokens, attention to them, and sparsity (mean over layers and heads), for right and wrong answers."""
    for right in (True, False):
        some = [each for each in _looked(run) if _is(each.conditions[LARGE_OWN]["answer"], each.meta["gold"]) == right]
        clusters = [record.meta["cluster"] for record in some]
        tokens = band(np.array([len(record.conditions[LARGE_OWN]["pieces"]) for record in some], float), clusters)
        yield {"answers": ("wrong", "right")[right], "questions": len(some), "figure": "tokens", **_sides(tokens)}
        for place, queries in enumerate(QUERIES):
            for figure in ("mass", "sparsity"):
                of = np.stack([record.array(LARGE_OWN, figure)[:, place].astype(float) for record in some])
                each = np.nanmean(of[..., REASONING] if figure == "mass" else of, axis=(1, 2))
                where = {"answers": ("wrong", "right")[right], "questions": len(some), "queries": queries}
                yield {**where, "figure": figure, **_sides(band(each, clusters))}


def _sides(of: Band) -> dict[str, float]:
    return {name: round(float(getattr(of, name)), 4) for name in ("mean", "low", "high")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="reads the cards; left out, what is there is summed up")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument(
        "--shares", type=lambda text: [float(each) for each in text.split(",")], default=ablation.CUT_SHARES
    )
    parser.add_argument("--at-once", type=int, default=16, help="cards of one question that are read at once")
    parser.add_argument("--to", type=Path, required=True, help="where the tables and the figure go")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.model:
        asyncio.run(work(args))
    records = ablation.read(args.run / "kept.jsonl")
    args.to.mkdir(parents=True, exist_ok=True)
    rows = ablation.cut_table(records)
    write_csv(args.to / "kept.csv", rows)
    write_csv(args.to / "kept-differences.csv", adjusted(ablation.cut_differences(records)))
    write_csv(args.to / "kept-answers.csv", list(places(args.run)))
    write_csv(args.to / "by-answer.csv", list(by_answer(args.run)))
    names = json.loads((args.run / "run.json").read_text(encoding="utf-8"))["config"]["models"]
    drawn = ablation_figures.kept_words(
        rows, f"{args.task}, {len(records)} questions, {names['large']} reads its own reasoning"
    )
    (args.to / "kept-words.svg").write_text(drawn.svg, encoding="utf-8")
    print(drawn.caption)


if __name__ == "__main__":
    main()
