"""Mask a card's key tokens from the answer, or as many others:  python studies/attention/masking.py

Appends each question to `masking.jsonl` in the folder --out (the same command resumes), then writes the table and the
figure.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from pathlib import Path

import ablation
import ablation_figures
import torch

from cuecard.attention.api import Asked
from cuecard.cli.evals.tasks import open_named
from cuecard.evals.runner import chosen
from cuecard.evals.scorers import scores
from cuecard.models import spec
from cuecard.models.base import Limits
from cuecard.report.html import write_csv

HERE = Path(__file__).parent


def asked(task: str, limit: int | None) -> Iterator[Asked]:
    for item in chosen(open_named(task), limit, None):
        right = lambda answer, item=item: scores(answer, item)["ours"]  # noqa: E731
        yield Asked(item.id, item.question, item.cluster, item.category, "; ".join(item.golds), right)


async def work(args: argparse.Namespace) -> None:
    models = {role: spec.load(getattr(args, role)) for role in ("small", "large")}
    try:
        await ablation.run_masking(asked(args.task, args.limit), models, args.out / "masking.jsonl", Limits())
    finally:
        for model in models.values():
            await model.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="boards:count=300,seed=21,mix=jumps")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--small", default="demo-small")
    parser.add_argument("--large", default="demo-large")
    parser.add_argument("--out", type=Path, default=Path("runs/masking"))
    parser.add_argument("--to", type=Path, default=HERE / "cards", help="where masking.csv and masking.svg go")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    asyncio.run(work(args))
    rows = ablation.masking_table(ablation.read(args.out / "masking.jsonl"))
    args.to.mkdir(parents=True, exist_ok=True)
    write_csv(args.to / "masking.csv", rows)
    what = f"{args.task}, {rows[0]['questions']} questions, small {args.small}, large {args.large}"
    drawn = ablation_figures.masking(rows, what)
    (args.to / "masking.svg").write_text(drawn.svg, encoding="utf-8")
    print(drawn.caption)


if __name__ == "__main__":
    main()
