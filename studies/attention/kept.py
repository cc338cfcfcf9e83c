"""Cards cut short, read by the model that wrote them:  python studies/attention/kept.py --help

RUN is a run of `cuecard attention` on that task. Writes `kept.jsonl` there question by question (stopped, it goes on),
then tables and a figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cuecard.attention import kept, masking
from cuecard.attention.run import Asked
from cuecard.cli.tasks import open_named
from cuecard.evals.run import chosen
from cuecard.evals.scorers import scores
from cuecard.evals.statistics import holm
from cuecard.models import spec
from cuecard.models.base import Limits
from cuecard.planning.proportions import wilson
from cuecard.report.attention_cards import kept_words
from cuecard.report.tables import write_csv


def asked(task: str, limit: int | None) -> Iterator[Asked]:
    for item in chosen(open_named(task), limit, None):
        right = lambda answer, item=item: scores(answer, item)["ours"]  # noqa: E731
        yield Asked(item.id, item.question, item.cluster, item.category, "; ".join(item.golds), right)


async def work(args: argparse.Namespace) -> None:
    model = spec.load(args.model)
    try:
        await kept.run(asked(args.task, args.limit), model, args.run, args.run / "kept.jsonl", Limits(), print)
    finally:
        await model.aclose()


def adjusted(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `kept.differences` with Holm's p over all of them."""
    p = holm({f"{row['card']}|{row['against']}": row["p"] for row in rows})
    return [{**row, "p (Holm)": round(p[f"{row['card']}|{row['against']}"], 4)} for row in rows]


def places(records: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """How many cards say their own answer where."""
    for name in records[0]["says"]:
        count = sum(record["says"][name] for record in records)
        low, high = wilson(count, len(records))
        row = {"part": name, "cards": len(records), "say the answer": count}
        yield {**row, "share": round(count / len(records), 4), "low": round(low, 4), "high": round(high, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="reads the cards; left out, what is there is summed up")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--to", type=Path, required=True, help="where the tables and the figure go")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.model:
        asyncio.run(work(args))
    records = masking.read(args.run / "kept.jsonl")
    args.to.mkdir(parents=True, exist_ok=True)
    rows = kept.table(records)
    write_csv(args.to / "kept.csv", rows)
    write_csv(args.to / "kept-differences.csv", adjusted(kept.differences(records)))
    write_csv(args.to / "kept-answers.csv", list(places(records)))
    names = json.loads((args.run / "run.json").read_text(encoding="utf-8"))["config"]["models"]
    drawn = kept_words(rows, f"{args.task}, {len(records)} questions, {names['large']} reads its own reasoning")
    (args.to / "kept-words.svg").write_text(drawn.svg, encoding="utf-8")
    print(drawn.caption)


if __name__ == "__main__":
    main()
